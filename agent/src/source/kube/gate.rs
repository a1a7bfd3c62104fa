//! The first-list gate: nothing leaves before the first list of every kind is complete.

use std::collections::{BTreeSet, HashSet};
use std::hash::{Hash, Hasher};

use sluice_policy::model::{Change, PodName, PolicyName, ServiceName};

use crate::manifest::kinds::Kind;

/// Holds changes back until all is known; open from then on.
#[derive(Debug)]
pub(super) struct Gate {
    /// Kinds whose first list is not complete.
    missing: BTreeSet<Kind>,
    /// While it is closed, only the last change of each object: it may be closed for long.
    held: HashSet<Held>,
    /// While it is open.
    passing: Vec<Change>,
}

/// A change, equal to every other of the same object. Of 100,000 pods a key beside each would take as
/// much memory again as their names.
#[derive(Debug)]
struct Held(Change);

/// What a change is about.
#[derive(PartialEq, Eq, Hash)]
enum Key<'a> {
    Namespace(&'a str),
    Pod(&'a PodName),
    Policy(&'a PolicyName),
    Service(&'a ServiceName),
    Endpoint(&'a PodName),
    OwnHost,
}

impl Held {
    const fn key(&self) -> Key<'_> {
        match &self.0 {
            Change::Namespace(name, _) => Key::Namespace(name.as_str()),
            Change::Pod(name, _) => Key::Pod(name),
            Change::Policy(name, _) => Key::Policy(name),
            Change::Service(name, _) => Key::Service(name),
            Change::Endpoint(name, _) => Key::Endpoint(name),
            Change::OwnHost(_) => Key::OwnHost,
        }
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl Hash for Held {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

impl Gate {
    /// Closed until every one of these kinds is complete.
    pub(super) fn new(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self { missing: kinds.into_iter().collect(), held: HashSet::new(), passing: Vec::new() }
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
                self.held.remove(&Held(change));
            } else {
                self.held.replace(Held(change));
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
        let mut changes: Vec<Change> = held.into_iter().map(|Held(change)| change).collect();
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
