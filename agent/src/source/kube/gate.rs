//! The first-list gate: nothing leaves before the first list of every kind is complete.

use std::collections::BTreeSet;

use sluice_policy::model::Change;

use crate::manifest::kinds::Kind;

/// Holds changes back until all is known; open from then on.
#[derive(Debug)]
pub(super) struct Gate {
    /// Kinds whose first list is not complete.
    missing: BTreeSet<Kind>,
    held: Vec<Change>,
}

impl Gate {
    /// Closed until every one of these kinds is complete.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self { missing: kinds.into_iter().collect(), held: Vec::new() }
    }

    /// True once all first lists are complete.
    pub(super) fn is_open(&self) -> bool {
        self.missing.is_empty()
    }

    /// True once the first list of this kind is complete.
    pub(super) fn has(&self, kind: Kind) -> bool {
        !self.missing.contains(&kind)
    }

    /// The list of a kind is complete.
    pub(super) fn complete(&mut self, kind: Kind) {
        self.missing.remove(&kind);
    }

    /// Takes changes on their way.
    pub(super) fn hold(&mut self, changes: Vec<Change>) {
        self.held.extend(changes);
    }

    /// The changes that may go on: none while the gate is closed. What rules and selectors look at
    /// comes before what they apply to, which costs the compiler least; changes of one object keep
    /// their order.
    pub(super) fn release(&mut self) -> Vec<Change> {
        if !self.is_open() {
            return Vec::new();
        }
        let mut changes = std::mem::take(&mut self.held);
        changes.sort_by_key(rank);
        changes
    }
}

const fn rank(change: &Change) -> u8 {
    match change {
        Change::Namespace(..) => 0,
        Change::Pod(..) => 1,
        Change::Policy(..) => 2,
        Change::Service(..) => 3,
        Change::Endpoint(..) => 4,
        Change::OwnHost(..) => 5,
    }
}

#[cfg(test)]
mod tests {
    use sluice_policy::model::{Labels, Pod, PodName};

    use super::*;

    #[test]
    fn nothing_passes_before_the_last_list_and_everything_after_it() {
        let mut gate = Gate::new([Kind::Pod, Kind::Namespace]);
        let name = PodName { namespace: "x".into(), name: "a".into() };
        let pod = Change::Pod(name, Some(Pod::default()));
        let namespace = Change::Namespace("x".into(), Some(Labels::default()));
        gate.hold(vec![pod.clone()]);
        gate.complete(Kind::Pod);
        assert_eq!((gate.release(), gate.is_open(), gate.has(Kind::Pod)), (vec![], false, true));
        gate.hold(vec![namespace.clone()]);
        assert_eq!(gate.release(), []);
        gate.complete(Kind::Namespace);
        assert_eq!(gate.release(), [namespace, pod.clone()]);
        assert_eq!(gate.release(), []);
        gate.hold(vec![pod.clone()]);
        assert_eq!(gate.release(), [pod]);
    }
}
