//! What is valid in the policies in force here, and yet hardly meant.

use std::collections::BTreeSet;

use super::Agent;
use crate::reconcile::kernel::Kernel;

impl<K: Kernel> Agent<K> {
    /// Looks for names of ports that resolve nowhere, where something has changed since the last time.
    /// That walks over all pods for each of them, so it is not for every event.
    pub(super) fn look_for_unresolved_ports(&mut self) {
        if !std::mem::take(&mut self.changed_since_looked) {
            return;
        }
        let now = self.reconciler.unresolved_ports();
        let is_new = |policy, why| self.unresolved_ports.get(policy) != Some(why);
        for (policy, why) in now.iter().filter(|(policy, why)| is_new(*policy, *why)) {
            tracing::warn!("{policy}: {why}");
        }
        self.unresolved_ports = now;
    }

    /// All warnings, each once: a source may have found the same.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut warnings: BTreeSet<String> = self.objects.warnings.iter().cloned().collect();
        let unresolved = self.unresolved_ports.iter();
        warnings.extend(unresolved.map(|(policy, why)| format!("{policy}: {why}")));
        warnings.into_iter().collect()
    }
}
