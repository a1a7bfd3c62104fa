//! What is valid in the policies and yet hardly meant.

use sluice_policy::lint;

use super::Cluster;
use crate::manifest::Warning;

impl Cluster {
    /// What is valid in the policies and yet hardly meant.
    pub fn policy_warnings(&self) -> Vec<Warning> {
        let addresses = self.services.iter().flat_map(|(name, service)| {
            let name = format!("{}/{}", name.namespace, name.name);
            service.addresses.iter().map(move |address| (*address, name.clone()))
        });
        let found = lint::warnings(&self.world, &addresses.collect());
        let warning = |found: lint::Warning| Warning {
            object: found.policy.to_string(),
            field: found.field,
            message: found.message,
        };
        found.into_iter().map(warning).collect()
    }
}
