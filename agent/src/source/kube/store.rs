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

use sluice_policy::lint;
use sluice_policy::model::{Change, PodName, PolicyKind, PolicyName, ServiceName};

use super::crowd::Crowd;
use super::events::{Reason, Regarding};
use super::services::Services;
use super::wire::Object;
use crate::convert::arrival::Arrival;
use crate::convert::networkpolicy::NetworkPolicy;
use crate::convert::{Fault, Item};
use crate::manifest::kinds::Kind;
use crate::source::objects::kind_label;
use crate::source::{InvalidPod, ObjectState, Objects};

/// What is wrong with an object, and what follows.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Trouble {
    /// The object.
    pub(super) regarding: Regarding,
    /// What follows, in a word.
    pub(super) reason: Reason,
    /// What is wrong, in words.
    pub(super) note: String,
}

/// What [`Store::troubles`] and [`Store::outcome`] follow from: where it is the same, so are they.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Revision {
    /// Of the troubles.
    pub(super) troubles: u64,
    /// How many objects there are of each kind.
    objects: Vec<usize>,
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
    /// How often [`Self::troubles`] may have changed.
    trouble_changes: u64,
    /// Pods of this node of which nothing could ever be read.
    invalid_pods: BTreeMap<PodName, InvalidPod>,
    /// Of the objects that the agent may find something wrong with, to name them in Events: pods of
    /// this node that have an address (about one that has none yet nobody can do anything), and policies
    /// that name ports.
    uids: BTreeMap<(Kind, Box<str>), Box<str>>,
    /// UIDs of this node's pods as container runtimes know them, and whether they are others than were
    /// told.
    runtime_uids: BTreeMap<PodName, String>,
    runtime_uids_stirred: bool,
    crowd: Crowd,
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

/// When something of an object could be read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    Now,
    Before,
    Never,
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
        let Object { name, uid, runtime_uid, arrival: Arrival { item, faults, node } } = object;
        let read = match (&item, self.was_read(kind, &name)) {
            (Some(_), _) => Read::Now,
            (None, true) => Read::Before,
            (None, false) => Read::Never,
        };
        self.note_trouble(kind, &name, uid.clone(), read, &faults);
        self.note_invalid_pod(kind, &name, node.filter(|_| read == Read::Never));
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
                let has_address = pod.node == self.node && !pod.addresses.is_empty();
                self.note_uid(kind, &name, uid, has_address);
                Change::Pod(pod.name.clone(), Some(pod.to_model()))
            }
            Some(Item::NetworkPolicy(policy)) => {
                let NetworkPolicy { name: policy_name, policy, inert: _ } = *policy;
                self.note_uid(kind, &name, uid, lint::names_ports(&policy));
                Change::Policy(policy_name, Some(policy))
            }
            Some(Item::Service(service)) => {
                self.see(kind, &name, UNREAD);
                let service = self.services.put(service, whole);
                return self.service_change(&service).into_iter().collect();
            }
            Some(Item::EndpointSlice(slice)) => {
                self.see(kind, &name, UNREAD);
                let touched = self.services.put_slice(&name, slice, whole);
                return touched.iter().filter_map(|s| self.service_change(s)).collect();
            }
            // Nothing depends on what a node is like, only on whether ours is there; and of what
            // nothing can be read, the last that could be stays, but nobody is led to where a service
            // led then.
            Some(Item::Node(_) | Item::Workload(_) | Item::PolicyTest(_)) | None => {
                self.see_again(kind, &name);
                let touched = match kind {
                    Kind::Service => self.services.spoil(service_name(&name)),
                    Kind::EndpointSlice => self.services.spoil_slice(&name),
                    _ => None,
                };
                return touched.and_then(|s| self.service_change(&s)).into_iter().collect();
            }
        };
        let print = self.hasher.hash_one(&change);
        if self.see(kind, &name, print) { vec![change] } else { Vec::new() }
    }

    /// An object is gone.
    pub(super) fn remove(&mut self, kind: Kind, name: &str) -> Vec<Change> {
        self.settle_trouble(kind, name);
        self.uids.remove(&(kind, name.into()));
        let known = self.kinds.entry(kind).or_default();
        if known.objects.remove(name).is_none() {
            return Vec::new();
        }
        self.crowd.leave(kind, name);
        let (namespace, own) = name.split_once('/').unwrap_or(("", name));
        let (namespace, own) = (namespace.to_owned(), own.to_owned());
        match kind {
            Kind::Namespace => vec![Change::Namespace(own, None)],
            Kind::Pod => {
                let pod = PodName { namespace, name: own };
                self.invalid_pods.remove(&pod);
                self.runtime_uids_stirred |= self.runtime_uids.remove(&pod).is_some();
                vec![Change::Pod(pod, None)]
            }
            Kind::NetworkPolicy => {
                let kind = PolicyKind::NetworkPolicy;
                let policy = PolicyName { kind, namespace: Some(namespace), name: own };
                vec![Change::Policy(policy, None)]
            }
            Kind::Service => {
                let service = service_name(name);
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

    /// See [`Revision`]. Cheap, however many objects and troubles there are.
    pub(super) fn revision(&self) -> Revision {
        Revision {
            troubles: self.trouble_changes,
            objects: self.kinds.values().map(|known| known.objects.len()).collect(),
        }
    }

    /// Nothing is wrong with an object any more.
    fn settle_trouble(&mut self, kind: Kind, name: &str) {
        let settled = self.troubles.remove(&(kind, name.into()));
        self.trouble_changes += u64::from(settled.is_some());
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
                Reason::LastVersionKept => ObjectState::Kept,
                Reason::NotRead => ObjectState::Rejected,
                // Of pods, not of their objects.
                Reason::NotEnforced | Reason::PodClosed | Reason::MixedBackends => continue,
                // It counts as it is written.
                Reason::UnresolvedNamedPort => continue,
            };
            *counts.entry((label, state)).or_default() += 1;
            if let Some(whole) = counts.get_mut(&(label, ObjectState::Converted)) {
                *whole = whole.saturating_sub(1);
            }
        }
        Objects { counts, invalid_pods: self.invalid_pods.clone(), ..Objects::default() }
    }

    /// The node of this agent is in the cluster.
    pub(super) fn knows_own_node(&self) -> bool {
        let nodes = self.kinds.get(&Kind::Node);
        nodes.is_some_and(|nodes| nodes.objects.contains_key(self.node.as_str()))
    }

    /// A pod of this node that has an address, or a policy that names ports, as Events name it.
    pub(super) fn regarding(&self, kind: Kind, name: &str) -> Option<Regarding> {
        let uid = self.uids.get(&(kind, name.into()))?.clone();
        Some(Regarding { kind, name: name.into(), uid })
    }

    /// How many agents, at most, have as much reason as this one to say what is wrong with an object.
    /// Means something only where all pods are known.
    pub(super) fn voices(&self, kind: Kind, name: &str) -> u32 {
        let (namespace, own) = name.split_once('/').unwrap_or((name, ""));
        let is_here = match kind {
            // Only that of this node is watched.
            Kind::Node => return 1,
            Kind::Pod => {
                let pod = PodName { namespace: namespace.into(), name: own.into() };
                if self.runtime_uids.contains_key(&pod) || self.invalid_pods.contains_key(&pod) {
                    return 1;
                }
                // The agent of its node has reason enough.
                false
            }
            _ => {
                let first = PodName { namespace: namespace.into(), name: String::new() };
                let next = self.runtime_uids.range(first..).next();
                next.is_some_and(|(pod, _)| pod.namespace == namespace)
            }
        };
        if is_here { self.crowd.of(namespace) } else { self.crowd.all() }
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
                self.crowd.enter(kind, name);
                true
            }
        }
    }

    /// Notes that an object is there, and nothing else of it.
    fn see_again(&mut self, kind: Kind, name: &str) {
        let known = self.kinds.entry(kind).or_default();
        let round = known.round;
        match known.objects.get_mut(name) {
            Some(seen) => seen.round = round,
            None => {
                known.objects.insert(name.into(), Seen { print: UNREAD, round });
                self.crowd.enter(kind, name);
            }
        }
    }

    /// An object is there, and was converted to something.
    fn was_read(&self, kind: Kind, name: &str) -> bool {
        let seen = self.kinds.get(&kind).and_then(|known| known.objects.get(name));
        seen.is_some_and(|seen| seen.print != UNREAD)
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

    /// Notes the uid of an object where it is of use.
    fn note_uid(&mut self, kind: Kind, name: &str, uid: Box<str>, is_of_use: bool) {
        if is_of_use {
            self.uids.insert((kind, name.into()), uid);
        } else {
            self.uids.remove(&(kind, name.into()));
        }
    }

    /// `node` is that of a pod of which nothing could ever be read.
    fn note_invalid_pod(&mut self, kind: Kind, name: &str, node: Option<String>) {
        if kind != Kind::Pod || (node.is_none() && self.invalid_pods.is_empty()) {
            return;
        }
        let (namespace, own) = name.split_once('/').unwrap_or(("", name));
        let pod = PodName { namespace: namespace.into(), name: own.into() };
        match node.filter(|node| *node == self.node) {
            Some(node) => {
                let trouble = self.troubles.get(&(kind, name.into()));
                let reason = trouble.map(|trouble| trouble.note.clone()).unwrap_or_default();
                self.invalid_pods.insert(pod, InvalidPod { node: Some(node), reason });
            }
            None => {
                self.invalid_pods.remove(&pod);
            }
        }
    }

    fn note_trouble(
        &mut self,
        kind: Kind,
        name: &str,
        uid: Box<str>,
        read: Read,
        faults: &[Fault],
    ) {
        if faults.is_empty() {
            self.settle_trouble(kind, name);
            return;
        }
        self.trouble_changes += 1;
        let (reason, consequence) = consequence(kind, read);
        let note = format!("{}; {consequence}", in_words(faults));
        let regarding = Regarding { kind, name: name.into(), uid };
        self.troubles.insert((kind, name.into()), Trouble { regarding, reason, note });
    }

    /// Names of the objects of a kind.
    #[cfg(test)]
    pub(super) fn names(&self, kind: Kind) -> BTreeSet<String> {
        let known = self.kinds.get(&kind);
        known.into_iter().flat_map(|known| known.objects.keys()).map(ToString::to_string).collect()
    }
}

/// Faults of one object that are told one by one. Whoever may write a policy may write one with tens of
/// thousands, and every agent keeps, logs and shows what is told.
const FAULTS_TOLD: usize = 16;

/// The first faults, and how many there are besides.
fn in_words(faults: &[Fault]) -> String {
    let told = faults.iter().take(FAULTS_TOLD);
    let mut words = told.map(ToString::to_string).collect::<Vec<_>>().join("; ");
    if faults.len() > FAULTS_TOLD {
        words.push_str(&format!("; and {} further faults", faults.len() - FAULTS_TOLD));
    }
    words
}

/// The fingerprint of an object of which nothing was ever read, and of those that become nothing by
/// themselves.
const UNREAD: u64 = 0;

fn service_name(name: &str) -> ServiceName {
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    ServiceName { namespace: namespace.into(), name: name.into() }
}

/// What becomes of an object that could not be read in full.
const fn consequence(kind: Kind, read: Read) -> (Reason, &'static str) {
    match (kind, read) {
        (Kind::Service | Kind::EndpointSlice, _) => {
            (Reason::ServiceClosed, "isolated pods cannot reach the service by its own addresses")
        }
        (Kind::NetworkPolicy, Read::Now) => {
            (Reason::PolicyClosed, "closed: the pods that it selects are isolated")
        }
        (_, Read::Now) => (Reason::PartlyRead, "the rest of it counts"),
        (_, Read::Before) => {
            (Reason::LastVersionKept, "the last version that could be read stays in force")
        }
        (_, Read::Never) => (Reason::NotRead, "it does not count"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_with_thousands_of_faults_is_told_of_in_a_few_lines_with_their_number() {
        let object = |faults: usize| {
            let fault = |i| Fault { field: format!("spec.x[{i}]"), reason: "is wrong".into() };
            let faults = (0..faults).map(fault).collect();
            let arrival = Arrival { item: None, faults, node: None };
            Object { name: "x/p".into(), uid: "u".into(), runtime_uid: None, arrival }
        };
        let note = |faults| {
            let mut store = Store::new("n".into());
            store.put(Kind::NetworkPolicy, object(faults));
            store.troubles().next().map(|trouble| trouble.note.clone()).unwrap_or_default()
        };
        let few = note(FAULTS_TOLD);
        assert!(few.contains("spec.x[15]") && !few.contains("further"), "{few}");
        let many = note(20_000);
        assert!(many.contains("; and 19984 further faults; "), "{many}");
        assert!(many.len() < few.len() + 40, "{} bytes", many.len());
    }
}
