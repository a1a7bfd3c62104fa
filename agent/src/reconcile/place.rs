//! Who has which place, and what becomes of interfaces whose pod is not there any more.
//!
//! What runs is what must be enforced, not what has an object. Beside the source's pods, these are
//! held for as long as their interface is there and no other pod has it:
//!
//! * **A pod whose object is gone** (a forced deletion), is another one by now (created again under its
//!   name, or with other addresses), or says that it has finished. It goes on under a name that no
//!   object can have, with its last labels: the policies that there are select it by these, also after
//!   a restart of the agent, which notes them. It is no peer of any policy, and every other pod has a
//!   better claim to its addresses.
//! * **A pod of which only the place is known**, from the notes or the kernel, because its object went
//!   while no agent ran: closed in both directions.
//! * **A pod more than there are places**: closed in both directions if a policy isolates it in any,
//!   together with others like it, in a slot that is kept for that.
//! * **A namespace with a local pod's address that is nobody's** ([`crate::endpoint::assign()`]): closed
//!   in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sluice_common::abi::{Direction, ENDPOINT_MAX};
use sluice_policy::model::{
    Change, LocalEndpoint, Namespaces, Pod, PodName, PodSelector, Policy, PolicyKind, PolicyName,
    Selector, Tier,
};

use super::{Kernel, Reconciler};
use crate::endpoint::links::IfIndex;
use crate::endpoint::slots::Incarnation;
use crate::endpoint::{Found, Interface, LocalPod, Unenforced, assign};
use crate::state::GonePod;

/// Namespace of what is closed. No object can be in it.
const CLOSED: &str = "(closed)";

/// Something that is enforced although no object of the source says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) interfaces: Vec<Interface>,
    pub(super) why: Why,
    incarnation: Incarnation,
}

/// See the module's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Why {
    Gone,
    Unknown,
    CarriesAddressOf(PodName),
}

impl Why {
    pub(super) const fn is_closed(&self) -> bool {
        match self {
            Self::Gone => false,
            Self::Unknown | Self::CarriesAddressOf(_) => true,
        }
    }

    /// One word, none of those of [`Unenforced::label`].
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Gone => "object-gone",
            Self::Unknown => "object-unknown",
            Self::CarriesAddressOf(_) => "interface-of-nobody",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str(
                "its object is gone or finished and its interface is still there: policies go on to \
                 select it by its last labels",
            ),
            Self::Unknown => f.write_str(
                "its object went while no agent ran and its interface is still there: what would \
                 apply to it is not known",
            ),
            Self::CarriesAddressOf(pod) => {
                write!(f, "it carries an address of pod {pod} and is not known to be that pod's")
            }
        }
    }
}

impl<K: Kernel> Reconciler<K> {
    /// A pod that is to be looked for on this node.
    pub(super) fn is_local(&self, pod: &Pod) -> bool {
        pod.node == self.node && !pod.host_network && !pod.finished
    }

    /// Notes what the source says of a pod. `further` changes follow from it.
    pub(super) fn take_in_pod(
        &mut self,
        name: &PodName,
        pod: Option<&Pod>,
        further: &mut Vec<Change>,
    ) {
        let local = pod.filter(|pod| self.is_local(pod));
        let local = local.map(|pod| LocalPod {
            addresses: pod.addresses.clone(),
            created: pod.created,
            deleting: pod.deleting,
        });
        self.unplaced |= self.local.get(name) != local.as_ref();
        if self.local.contains_key(name) {
            let place = self.slots.places().get(name).map(|place| &place.incarnation);
            let goes_on =
                |p: &LocalPod| place.is_none_or(|i| i.goes_on_in(p.created, &p.addresses));
            if !local.as_ref().is_some_and(goes_on) {
                self.part(name, further);
            }
        }
        match local {
            Some(local) => self.local.insert(name.clone(), local),
            None => self.local.remove(name),
        };
    }

    /// The object is not that of the pod which has the place: the pod goes on under another name.
    fn part(&mut self, name: &PodName, further: &mut Vec<Change>) {
        self.unplaced = true;
        let Some(place) = self.slots.places().get(name).cloned() else { return };
        let Some(last) = self.compiler.world().pods.get(name).cloned() else { return };
        let namespace = name.namespace.clone();
        let gone = PodName { namespace, name: format!("{} (gone {})", name.name, place.epoch) };
        self.slots.rename(name, gone.clone());
        let addresses = place.incarnation.addresses.iter().copied().collect();
        let last = Pod { addresses, ..parted(last) };
        further.push(Change::Pod(gone.clone(), Some(last)));
        if let Some(endpoint) = self.compiler.world().endpoints.get(name).copied() {
            further.push(Change::Endpoint(name.clone(), None));
            further.push(Change::Endpoint(gone.clone(), Some(endpoint)));
            if let Some(Ok(interfaces)) = self.assignment.remove(name) {
                let incarnation = place.incarnation;
                self.held.insert(gone.clone(), Held { interfaces, why: Why::Gone, incarnation });
            }
        }
        self.gone.insert(gone);
    }

    /// What the next agent must know of the pods whose objects are gone.
    pub(super) fn notes_of_gone(&self) -> Vec<GonePod> {
        let pods = &self.compiler.world().pods;
        let noted = self.gone.iter().filter_map(|name| GonePod::of(name, pods.get(name)?));
        noted.collect()
    }

    /// Goes on with the pods whose objects were gone when a former agent noted them.
    pub(super) fn take_up(&mut self, gone: Vec<GonePod>) {
        for (name, pod) in gone.into_iter().map(GonePod::into_pod) {
            let Some(place) = self.slots.places().get(&name) else { continue };
            let addresses = place.incarnation.addresses.iter().copied().collect();
            let pod = Pod { addresses, node: self.node.clone(), ..parted(pod) };
            self.touched.merge(self.compiler.apply([Change::Pod(name.clone(), Some(pod))]));
            self.gone.insert(name);
        }
    }

    /// Gives everything that has an interface a place, and tells the compiler, where something of that
    /// has changed. Returns the slots that begin with a new incarnation.
    pub(super) fn place_pods(&mut self) -> Vec<u32> {
        if !std::mem::replace(&mut self.unplaced, false) {
            return Vec::new();
        }
        let Found { assignment, closed } = assign(&self.scan, &self.local, self.slots.places());
        self.assignment = assignment;
        self.keep_without_notes();
        self.hold(closed);
        self.refused.clear();
        let mut changes = self.let_go();
        let mut fresh = Vec::new();
        let of_pods = self.assignment.iter().filter_map(|(pod, found)| {
            let (Ok(interfaces), Some(local)) = (found, self.local.get(pod)) else { return None };
            Some((pod.clone(), Incarnation::new(local.created, &local.addresses, interfaces)))
        });
        let of_others =
            self.held.iter().map(|(name, held)| (name.clone(), held.incarnation.clone()));
        for (name, incarnation) in of_pods.chain(of_others).collect::<Vec<_>>() {
            self.place(name, incarnation, &mut changes, &mut fresh);
        }
        self.place_crowd(&mut changes, &mut fresh);
        self.close(&mut changes);
        if !changes.is_empty() {
            self.touched.merge(self.compiler.apply(changes));
        }
        fresh
    }

    fn place(
        &mut self,
        name: PodName,
        incarnation: Incarnation,
        changes: &mut Vec<Change>,
        fresh: &mut Vec<u32>,
    ) {
        let unused = self.slots.next_epoch();
        let endpoint = match self.slots.assign(&name, incarnation) {
            Ok(place) => {
                if place.epoch == unused {
                    fresh.push(place.slot);
                }
                Some(LocalEndpoint { slot: place.slot, epoch: place.epoch, flags: 0 })
            }
            Err(error) => {
                // A slot beyond the table: the compiler then knows whether a policy isolates it.
                let slot = ENDPOINT_MAX + self.refused.len() as u32;
                self.refused.insert(name.clone(), Unenforced::NoPlace(error));
                Some(LocalEndpoint { slot, epoch: 0, flags: 0 })
            }
        };
        if self.compiler.world().endpoints.get(&name).copied() != endpoint {
            changes.push(Change::Endpoint(name, endpoint));
        }
    }

    /// The place of those who have found none, while there are any.
    fn place_crowd(&mut self, changes: &mut Vec<Change>, fresh: &mut Vec<u32>) {
        let name = crowd_name();
        let before = self.slots.places().contains_key(&name);
        let place = if self.refused.is_empty() {
            self.slots.release(&name);
            None
        } else {
            self.slots.crowd(&name)
        };
        fresh.extend(place.as_ref().filter(|_| !before).map(|place| place.slot));
        let endpoint = place.map(|p| LocalEndpoint { slot: p.slot, epoch: p.epoch, flags: 0 });
        let world = self.compiler.world();
        if world.endpoints.get(&name).copied() != endpoint {
            changes.push(Change::Endpoint(name.clone(), endpoint));
        }
        let pod = endpoint.map(|_| self.closed_pod());
        if world.pods.contains_key(&name) != pod.is_some() {
            changes.push(Change::Pod(name, pod));
        }
    }

    /// A pod that is closed because there is no place for it.
    pub(super) fn is_crowded(&self, pod: &PodName) -> bool {
        let isolated = |direction| self.compiler.is_isolated(pod, direction);
        matches!(self.refused.get(pod), Some(Unenforced::NoPlace(_)))
            && self.slots.places().contains_key(&crowd_name())
            && (isolated(Direction::Ingress) || isolated(Direction::Egress))
    }

    /// As the compiler is told of whatever is closed.
    fn closed_pod(&self) -> Pod {
        Pod { node: self.node.clone(), finished: true, ..Pod::default() }
    }

    /// Where the notes are lost, a pod whose namespace is not mounted any more keeps the interfaces
    /// that the kernel leads to a place with its addresses.
    fn keep_without_notes(&mut self) {
        for (pod, found) in &mut self.assignment {
            let (Err(_), Some(local)) = (&found, self.local.get(pod)) else { continue };
            let addresses = BTreeSet::from_iter(local.addresses.clone());
            let left = self.slots.left_for(&addresses).into_iter();
            let interfaces: Vec<Interface> = left
                .filter_map(|i| Interface::still_there(i, 0, &addresses, &self.scan))
                .filter(|interface| !self.scan.interfaces.contains_key(&interface.ifindex))
                .collect();
            if !interfaces.is_empty() {
                *found = Ok(interfaces);
            }
        }
    }

    /// Finds what is to be enforced beside the source's pods.
    fn hold(&mut self, closed: BTreeMap<IfIndex, PodName>) {
        let assigned = self.assignment.values().flatten().flatten();
        let mut taken: BTreeSet<IfIndex> = assigned.map(|interface| interface.ifindex).collect();
        let mut held = BTreeMap::new();
        let mut add = |name: PodName, interfaces: Vec<Interface>, why: Why, was: Incarnation| {
            let interfaces: Vec<Interface> =
                interfaces.into_iter().filter(|i| taken.insert(i.ifindex)).collect();
            if !interfaces.is_empty() {
                let addresses = Vec::from_iter(was.addresses);
                let incarnation = Incarnation::new(was.created, &addresses, &interfaces);
                held.insert(name, Held { interfaces, why, incarnation });
            }
        };
        for (name, place) in self.slots.places() {
            let was = place.incarnation.clone();
            let is_it = |p: &LocalPod| was.goes_on_in(p.created, &p.addresses);
            let is_known = self.local.get(name).is_some_and(is_it);
            let is_found = matches!(self.assignment.get(name), Some(Ok(_)));
            if is_known && is_found || was.addresses.is_empty() {
                continue;
            }
            let interfaces = was.still_there(&self.scan);
            if self.gone.contains(name) {
                add(name.clone(), interfaces, Why::Gone, was);
            } else {
                add(closed_name(name), interfaces, Why::Unknown, was);
            }
        }
        let see = |ifindex: &IfIndex| {
            let interface = self.scan.interfaces.get(ifindex).cloned();
            interface.or_else(|| Interface::still_there(*ifindex, 0, &BTreeSet::new(), &self.scan))
        };
        let nameless = self.slots.nameless().filter(|_| !self.adopted);
        for left in nameless {
            for interface in left.interfaces.iter().filter_map(see) {
                let name = PodName { namespace: CLOSED.into(), name: interface.name.clone() };
                let was = Incarnation::new(0, &Vec::from_iter(left.addresses.clone()), &[]);
                add(name, vec![interface], Why::Unknown, was);
            }
        }
        for (ifindex, pod) in closed {
            let Some(interface) = see(&ifindex) else { continue };
            let name = PodName { namespace: CLOSED.into(), name: interface.name.clone() };
            let was = Incarnation::new(0, &[], &[]);
            add(name, vec![interface], Why::CarriesAddressOf(pod), was);
        }
        self.held = held;
    }

    /// Gives up the places of those who have no interface any more.
    fn let_go(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let places = self.slots.places().keys();
        let known = places.chain(self.compiler.world().endpoints.keys()).chain(&self.gone);
        let is_there = |name: &PodName| {
            matches!(self.assignment.get(name), Some(Ok(_)))
                || self.held.contains_key(name)
                || *name == crowd_name()
        };
        let left: BTreeSet<PodName> = known.filter(|name| !is_there(name)).cloned().collect();
        for name in left {
            self.slots.release(&name);
            if self.compiler.world().endpoints.contains_key(&name) {
                changes.push(Change::Endpoint(name.clone(), None));
            }
            if self.gone.remove(&name) || name.namespace == CLOSED {
                changes.push(Change::Pod(name, None));
            }
        }
        changes
    }

    /// Has the compiler know the pods that are closed, and the policy that closes them.
    fn close(&self, changes: &mut Vec<Change>) {
        let world = self.compiler.world();
        let closed =
            self.held.iter().filter(|(_, held)| held.why.is_closed()).map(|(name, _)| name);
        for name in closed.clone().filter(|name| !world.pods.contains_key(name)) {
            changes.push(Change::Pod(name.clone(), Some(self.closed_pod())));
        }
        let (name, policy) = closing_policy();
        let is_needed = closed.count() > 0 || self.slots.places().contains_key(&crowd_name());
        match (is_needed, world.policies.contains_key(&name)) {
            (true, false) => changes.push(Change::Policy(name, Some(policy))),
            (false, true) => changes.push(Change::Policy(name, None)),
            (true, true) | (false, false) => {}
        }
    }
}

/// A pod that goes on without its object: no peer, and everybody else's claim to an address is better.
fn parted(pod: Pod) -> Pod {
    Pod { finished: true, created: i64::MIN, deleting: true, ..pod }
}

/// The name that a pod of which nothing is known is closed by.
fn closed_name(of: &PodName) -> PodName {
    match of.namespace.as_str() {
        CLOSED => of.clone(),
        _ => PodName { namespace: CLOSED.into(), name: of.to_string() },
    }
}

/// Those who find no place. No interface has such a name.
fn crowd_name() -> PodName {
    PodName { namespace: CLOSED.into(), name: "more than there are places".into() }
}

/// Isolates all that is in [`CLOSED`] and allows it nothing.
fn closing_policy() -> (PolicyName, Policy) {
    let (kind, namespace) = (PolicyKind::NetworkPolicy, Some(CLOSED.into()));
    let name = PolicyName { kind, namespace, name: "nothing".into() };
    let namespaces = Namespaces::Named(CLOSED.into());
    let policy = Policy {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelector { namespaces, pods: Selector::default() },
        ingress: Some(Vec::new()),
        egress: Some(Vec::new()),
    };
    (name, policy)
}
