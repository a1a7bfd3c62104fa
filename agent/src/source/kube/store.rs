//! What is known of the cluster, as far as it is needed to say what changes.
//!
//! The objects themselves are the compiler's. Here each has its name and a fingerprint of what it was
//! converted to, so that an event that changes nothing for policy goes no further (most pod events
//! are of that kind), and so that a full list tells what is gone.

use std::collections::BTreeMap;
#[cfg(test)]
use std::collections::BTreeSet;
use std::collections::hash_map::{HashMap, RandomState};
use std::hash::BuildHasher as _;

use sluice_policy::model::{Change, PodName, PolicyKind, PolicyName, ServiceName};

use super::events::{Reason, Regarding};
use super::services::Services;
use super::wire::Object;
use crate::convert::arrival::Arrival;
use crate::convert::networkpolicy::NetworkPolicy;
use crate::convert::{Fault, Item};
use crate::manifest::kinds::Kind;
use crate::source::objects::kind_label;
use crate::source::{ObjectState, Objects};

/// What is wrong with an object, and what follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The object.
    pub(super) regarding: Regarding,
    /// What follows, in a word.
    pub(super) reason: Reason,
    /// What is wrong, in words.
    pub(super) note: String,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Store {
    node: String,
    kinds: BTreeMap<Kind, Known>,
    services: Services,
    /// Fingerprints of services, which are made of several objects.
    service_prints: HashMap<ServiceName, u64>,
    troubles: BTreeMap<(Kind, Box<str>), Trouble>,
    /// Of the pods of this node: to name them in Events.
    uids: BTreeMap<Box<str>, Box<str>>,
    /// The same, as container runtimes know them, and whether they are others than were told.
    runtime_uids: BTreeMap<PodName, String>,
    runtime_uids_stirred: bool,
    /// Keys of its own: nobody can find two objects with one fingerprint.
    hasher: RandomState,
}

/// The objects of a kind.
#[derive(Debug, Default)]
struct Known {
    objects: HashMap<Box<str>, Seen>,
    /// Number of full lists that were begun.
    round: u32,
}

/// An object that is there.
#[derive(Clone, Copy, Debug)]
struct Seen {
    print: u64,
    /// The last round in which it was named.
    round: u32,
}

impl Store {
    /// Nothing is known yet. `node` is the one whose pods are enforced here.
    pub(super) fn new(node: String) -> Self {
        Self { node, ..Self::default() }
    }

    /// A full list of a kind begins. Until it is complete, everything that was known stays.
    pub(super) fn begin(&mut self, kind: Kind) {
        self.kinds.entry(kind).or_default().round += 1;
    }

    /// A full list is complete: returns what follows from all that it did not name.
    pub(super) fn complete(&mut self, kind: Kind) -> Vec<Change> {
        let known = self.kinds.entry(kind).or_default();
        let round = known.round;
        let unnamed = known.objects.iter().filter(|(_, seen)| seen.round != round);
        let mut gone: Vec<Box<str>> = unnamed.map(|(name, _)| name.clone()).collect();
        gone.sort();
        gone.iter().flat_map(|name| self.remove(kind, name)).collect()
    }

    /// An object is there, or has changed.
    pub(super) fn put(&mut self, kind: Kind, object: Object) -> Vec<Change> {
        let Object { name, uid, runtime_uid, arrival: Arrival { item, faults } } = object;
        self.note_trouble(kind, &name, uid.clone(), item.as_ref(), &faults);
        let whole = faults.is_empty();
        let change = match item {
            Some(Item::Namespace(namespace)) => {
                Change::Namespace(namespace.name, Some(namespace.labels))
            }
            Some(Item::Pod(pod)) => {
                if pod.node == self.node {
                    let runtime_uid = runtime_uid.as_ref().unwrap_or(&uid).to_string();
                    let before = self.runtime_uids.insert(pod.name.clone(), runtime_uid.clone());
                    self.runtime_uids_stirred |= before != Some(runtime_uid);
                }
                self.note_uid(&name, &pod.node, uid);
                Change::Pod(pod.name.clone(), Some(pod.to_model()))
            }
            Some(Item::NetworkPolicy(policy)) => {
                let NetworkPolicy { name, policy, inert: _ } = *policy;
                Change::Policy(name, Some(policy))
            }
            Some(Item::Service(service)) => {
                self.see(kind, &name, 0);
                let service = self.services.put(service, whole);
                return self.service_change(&service).into_iter().collect();
            }
            Some(Item::EndpointSlice(slice)) => {
                self.see(kind, &name, 0);
                let touched = self.services.put_slice(&name, slice, whole);
                return touched.iter().filter_map(|s| self.service_change(s)).collect();
            }
            // Nothing depends on what a node is like, only on whether ours is there; and of what
            // nothing can be read, the last that could be stays.
            Some(Item::Node(_) | Item::Workload(_) | Item::PolicyTest(_)) | None => {
                self.see(kind, &name, 0);
                return Vec::new();
            }
        };
        let print = self.hasher.hash_one(&change);
        if self.see(kind, &name, print) { vec![change] } else { Vec::new() }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, kind: Kind, name: &str) -> Vec<Change> {
        self.troubles.remove(&(kind, name.into()));
        let known = self.kinds.entry(kind).or_default();
        if known.objects.remove(name).is_none() {
            return Vec::new();
        }
        let (namespace, own) = name.split_once('/').unwrap_or(("", name));
        let (namespace, own) = (namespace.to_owned(), own.to_owned());
        match kind {
            Kind::Namespace => vec![Change::Namespace(own, None)],
            Kind::Pod => {
                self.uids.remove(name);
                let pod = PodName { namespace, name: own };
                self.runtime_uids_stirred |= self.runtime_uids.remove(&pod).is_some();
                vec![Change::Pod(pod, None)]
            }
            Kind::NetworkPolicy => {
                let kind = PolicyKind::NetworkPolicy;
                let policy = PolicyName { kind, namespace: Some(namespace), name: own };
                vec![Change::Policy(policy, None)]
            }
            Kind::Service => {
                let service = ServiceName { namespace, name: own };
                self.services.remove(&service);
                self.service_change(&service).into_iter().collect()
            }
            Kind::EndpointSlice => {
                let touched = self.services.remove_slice(name);
                touched.and_then(|service| self.service_change(&service)).into_iter().collect()
            }
            _ => Vec::new(),
        }
    }

    /// Everything that is wrong with the objects now.
    pub(super) fn troubles(&self) -> impl Iterator<Item = &Trouble> {
        self.troubles.values()
    }

    /// What became of the objects.
    pub(super) fn outcome(&self) -> Objects {
        let mut counts = BTreeMap::new();
        for (kind, known) in &self.kinds {
            let whole = known.objects.len() as u64;
            counts.insert((kind_label(kind.as_str()), ObjectState::Converted), whole);
        }
        for trouble in self.troubles.values() {
            let label = kind_label(trouble.regarding.kind.as_str());
            let state = match trouble.reason {
                Reason::PolicyClosed | Reason::ServiceClosed => ObjectState::Closed,
                Reason::PartlyRead => ObjectState::Partial,
                Reason::NotRead => ObjectState::Rejected,
                // Of pods, not of their objects.
                Reason::NotEnforced | Reason::PodClosed | Reason::MixedBackends => continue,
            };
            *counts.entry((label, state)).or_default() += 1;
            if let Some(whole) = counts.get_mut(&(label, ObjectState::Converted)) {
                *whole = whole.saturating_sub(1);
            }
        }
        Objects { counts, ..Objects::default() }
    }

    /// The node of this agent is in the cluster.
    pub(super) fn knows_own_node(&self) -> bool {
        let nodes = self.kinds.get(&Kind::Node);
        nodes.is_some_and(|nodes| nodes.objects.contains_key(self.node.as_str()))
    }

    /// A pod of this node, as Events name it.
    pub(super) fn regarding(&self, pod: &str) -> Option<Regarding> {
        let uid = self.uids.get(pod)?.clone();
        Some(Regarding { kind: Kind::Pod, name: pod.into(), uid })
    }

    /// UIDs of this node's pods as container runtimes know them, where they may be others than those that
    /// this returned last.
    pub(super) fn stirred_uids(&mut self) -> Option<BTreeMap<PodName, String>> {
        std::mem::take(&mut self.runtime_uids_stirred).then(|| self.runtime_uids.clone())
    }

    /// Notes that an object is there; true where its fingerprint is another than before.
    fn see(&mut self, kind: Kind, name: &str, print: u64) -> bool {
        let known = self.kinds.entry(kind).or_default();
        let seen = Seen { print, round: known.round };
        match known.objects.get_mut(name) {
            Some(before) => std::mem::replace(before, seen).print != print,
            None => {
                known.objects.insert(name.into(), seen);
                true
            }
        }
    }

    fn service_change(&mut self, name: &ServiceName) -> Option<Change> {
        let change = Change::Service(name.clone(), self.services.resolved(name));
        if matches!(change, Change::Service(_, None)) {
            return self.service_prints.remove(name).map(|_| change);
        }
        let print = self.hasher.hash_one(&change);
        let before = self.service_prints.insert(name.clone(), print);
        (before != Some(print)).then_some(change)
    }

    fn note_uid(&mut self, pod: &str, node: &str, uid: Box<str>) {
        if node == self.node {
            self.uids.insert(pod.into(), uid);
        }
    }

    fn note_trouble(
        &mut self,
        kind: Kind,
        name: &str,
        uid: Box<str>,
        item: Option<&Item>,
        faults: &[Fault],
    ) {
        let key = (kind, name.into());
        if faults.is_empty() {
            self.troubles.remove(&key);
            return;
        }
        let (reason, consequence) = consequence(kind, item.is_some());
        let wrong: Vec<String> = faults.iter().map(ToString::to_string).collect();
        let note = format!("{}; {consequence}", wrong.join("; "));
        let regarding = Regarding { kind, name: name.into(), uid };
        self.troubles.insert(key, Trouble { regarding, reason, note });
    }

    /// Names of the objects of a kind.
    #[cfg(test)]
    pub(super) fn names(&self, kind: Kind) -> BTreeSet<String> {
        let known = self.kinds.get(&kind);
        known.into_iter().flat_map(|known| known.objects.keys()).map(ToString::to_string).collect()
    }
}

/// What becomes of an object that could not be read in full.
const fn consequence(kind: Kind, is_readable: bool) -> (Reason, &'static str) {
    match (kind, is_readable) {
        (Kind::NetworkPolicy, true) => {
            (Reason::PolicyClosed, "closed: the pods that it selects are isolated")
        }
        (Kind::Service | Kind::EndpointSlice, true) => {
            (Reason::ServiceClosed, "isolated pods cannot reach the service by its own addresses")
        }
        (_, true) => (Reason::PartlyRead, "the rest of it counts"),
        (_, false) => (Reason::NotRead, "what was read of it last stays in force"),
    }
}
