//! Pods that a policy isolates and that are not enforced: for how long.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sluice_policy::model::PodName;
use tokio::time::Instant;

/// How long such a pod keeps the agent from being ready. A pod that never can be enforced here must not
/// stop the DaemonSet's rollout, and with it the repair that it brings, for ever; one that only was not
/// attached yet is by then.
pub(super) const HOLD: Duration = Duration::from_secs(60);

/// Since when each of them is lacking.
#[derive(Debug, Default)]
pub(super) struct Lacking {
    since: BTreeMap<PodName, Instant>,
}

impl Lacking {
    /// These are lacking now, and no others.
    pub(super) fn note(&mut self, pods: BTreeSet<PodName>) {
        self.since.retain(|pod, _| pods.contains(pod));
        let now = Instant::now();
        for pod in pods {
            self.since.entry(pod).or_insert(now);
        }
    }

    /// True while a pod that is lacking keeps the agent from being ready.
    pub(super) fn holds_up(&self, pod: &PodName) -> bool {
        self.since.get(pod).is_none_or(|since| since.elapsed() < HOLD)
    }
}
