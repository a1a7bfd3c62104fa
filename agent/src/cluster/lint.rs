//! What is valid in the policies and yet hardly meant.

use sluice_policy::lint;

use super::Cluster;
use crate::manifest::Warning;

impl Cluster {
    /// What is valid in the policies and yet hardly meant.
    pub fn policy_warnings(&self) -> Vec<Warning> {
        let warning = |found: lint::Warning| Warning {
            object: found.policy.to_string(),
            field: found.field,
            message: found.message,
        };
        lint::warnings(&self.world).into_iter().map(warning).collect()
    }
}
