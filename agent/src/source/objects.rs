//! What became of the objects of a source: counts for metrics, and what an operator must know.

use std::collections::BTreeMap;

use sluice_policy::model::PodName;

use crate::manifest::kinds::Kind;

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ObjectState {
    /// It counts as it is written.
    Converted,
    /// It counts, but for fields that are unknown.
    Partial,
    /// It is invalid now; its last good version counts.
    Kept,
    /// It is a policy that cannot be converted: the pods that it selects are isolated. Or a service or
    /// slice that cannot be read in full: the service leads nowhere.
    Closed,
    /// It does not count at all: it is invalid, in the input twice, or of a kind that is known and not
    /// enforced.
    Rejected,
}

impl ObjectState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Converted, Self::Partial, Self::Kept, Self::Closed, Self::Rejected];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Converted => "converted",
            Self::Partial => "partial",
            Self::Kept => "kept",
            Self::Closed => "closed",
            Self::Rejected => "rejected",
        }
    }
}

/// A pod whose object cannot be converted, and never could.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidPod {
    /// Its node, where at least that can be read.
    pub node: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// What became of all objects of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Objects {
    /// How many, by [`kind_label`] and state; zeros may be left out.
    pub counts: BTreeMap<(&'static str, ObjectState), u64>,
    /// Pods that run, perhaps here, and cannot be enforced because nothing is known of them.
    pub invalid_pods: BTreeMap<PodName, InvalidPod>,
    /// What is valid and yet hardly meant, each with the object's name.
    pub warnings: Vec<String>,
}

impl Objects {
    /// Takes in what became of further objects.
    pub fn add(&mut self, other: &Self) {
        let Self { counts, invalid_pods, warnings } = other;
        for (of, count) in counts {
            *self.counts.entry(*of).or_default() += count;
        }
        let pods = invalid_pods.iter().map(|(name, pod)| (name.clone(), pod.clone()));
        self.invalid_pods.extend(pods);
        self.warnings.extend(warnings.iter().cloned());
    }

    /// Counts an object. `object` begins with its kind, as in `NetworkPolicy y/web`.
    pub fn count(&mut self, object: &str, state: ObjectState) {
        let kind = object.split(' ').next().unwrap_or_default();
        *self.counts.entry((kind_label(kind), state)).or_default() += 1;
    }
}

/// Policy kinds of others that are known by name.
const FOREIGN_POLICIES: [&str; 6] = [
    "ClusterNetworkPolicy",
    "AdminNetworkPolicy",
    "BaselineAdminNetworkPolicy",
    "CiliumNetworkPolicy",
    "CiliumClusterwideNetworkPolicy",
    "GlobalNetworkPolicy",
];

/// The metric label of a kind. Whoever writes manifests can make up kinds; those that are not known
/// share the label `other`, so that labels stay bounded.
pub fn kind_label(kind: &str) -> &'static str {
    match Kind::from_name(kind) {
        Some(known) => known.as_str(),
        None => FOREIGN_POLICIES.into_iter().find(|known| *known == kind).unwrap_or("other"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_are_made_up_share_a_label() {
        let mut objects = Objects::default();
        for object in ["NetworkPolicy x/p", "MyNetworkPolicy x/p", "CiliumNetworkPolicy q", "", "v"]
        {
            objects.count(object, ObjectState::Rejected);
        }
        let counts: Vec<_> =
            objects.counts.iter().map(|((kind, _), count)| (*kind, *count)).collect();
        assert_eq!(counts, [("CiliumNetworkPolicy", 1), ("NetworkPolicy", 1), ("other", 3)]);
    }
}
