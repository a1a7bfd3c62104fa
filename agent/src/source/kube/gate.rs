//! The first-list gate: nothing leaves before the first list of every kind is complete.

use std::collections::{BTreeSet, HashMap};

use sluice_policy::model::{Change, PodName, PolicyName, ServiceName};

use crate::manifest::kinds::Kind;

/// Holds changes back until all is known; open from then on.
#[derive(Debug)]
pub(super) struct Gate {
    /// Kinds whose first list is not complete.
    missing: BTreeSet<Kind>,
    /// While it is closed, only the last change of each object: it may be closed for long.
    held: HashMap<Key, Change>,
    /// While it is open.
    passing: Vec<Change>,
}

/// What a change is about.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Namespace(String),
    Pod(PodName),
    Policy(PolicyName),
    Service(ServiceName),
    Endpoint(PodName),
    OwnHost,
}

impl Key {
    fn of(change: &Change) -> Self {
        match change {
            Change::Namespace(name, _) => Self::Namespace(name.clone()),
            Change::Pod(name, _) => Self::Pod(name.clone()),
            Change::Policy(name, _) => Self::Policy(name.clone()),
            Change::Service(name, _) => Self::Service(name.clone()),
            Change::Endpoint(name, _) => Self::Endpoint(name.clone()),
            Change::OwnHost(_) => Self::OwnHost,
        }
    }
}

impl Gate {
    /// Closed until every one of these kinds is complete.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self { missing: kinds.into_iter().collect(), held: HashMap::new(), passing: Vec::new() }
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
        if self.is_open() {
            self.passing.extend(changes);
            return;
        }
        for change in changes {
            // Of what comes and goes while it is closed nobody has heard, and there may be no end of it.
            if is_removal(&change) {
                self.held.remove(&Key::of(&change));
            } else {
                self.held.insert(Key::of(&change), change);
            }
        }
    }

    /// The changes that may go on: none while the gate is closed. What rules and selectors look at
    /// comes before what they apply to, which costs the compiler least; changes of one object keep
    /// their order.
    pub(super) fn release(&mut self) -> Vec<Change> {
        if !self.is_open() {
            return Vec::new();
        }
        let held = std::mem::take(&mut self.held);
        let mut changes: Vec<Change> = held.into_values().collect();
        changes.append(&mut self.passing);
        changes.sort_by_key(rank);
        changes
    }
}

const fn is_removal(change: &Change) -> bool {
    matches!(
        change,
        Change::Namespace(_, None)
            | Change::Pod(_, None)
            | Change::Policy(_, None)
            | Change::Service(_, None)
            | Change::Endpoint(_, None)
    )
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

    #[test]
    fn what_comes_and_goes_while_the_gate_is_closed_leaves_nothing_behind() {
        let mut gate = Gate::new([Kind::Namespace]);
        for i in 0..1000 {
            let name = PodName { namespace: "x".into(), name: format!("a-{i}") };
            gate.hold(vec![Change::Pod(name.clone(), Some(Pod::default()))]);
            gate.hold(vec![Change::Pod(name, None)]);
        }
        assert_eq!(gate.held.len(), 0);
        gate.complete(Kind::Namespace);
        assert_eq!(gate.release(), []);
    }

    #[test]
    fn of_an_object_that_changes_while_the_gate_is_closed_the_last_change_is_kept() {
        let mut gate = Gate::new([Kind::Namespace]);
        let labels = |value| Some(Labels::from([("purpose", value)]));
        for value in ["a", "b", "c"] {
            gate.hold(vec![Change::Namespace("x".into(), labels(value))]);
        }
        gate.complete(Kind::Namespace);
        assert_eq!(gate.release(), [Change::Namespace("x".into(), labels("c"))]);
    }
}
