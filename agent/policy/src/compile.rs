//! The compiler: it keeps the desired tables in step with the world.
//!
//! A change is taken in ([`Compiler::apply`]), its consequences are followed until nothing is left to
//! do (`settle`), what does not fit is closed (`fit`), and what came out is written into the tables with
//! their numbers (`emit`). Only what
//! a change can reach is looked at again:
//!
//! | change | looked at again |
//! |---|---|
//! | pod | the classes of its addresses and of the VIPs that lead there; its sets, if it is an endpoint |
//! | namespace | the same for its pods |
//! | policy | the sets of the endpoints it selects, and all sets that contain it |
//! | endpoint | its sets; its ways to itself |
//! | service | its VIPs, and what the sets for egress say to them |
//! | set or rule in force, or no more | its entries; the classes of the pods that its peers select |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_common::abi::{Address, ClassId, SetId};

use crate::capacity::{Capacity, Overflow};
use crate::classes::{ClassIndex, Classes};
use crate::emit::Output;
use crate::fit::Closings;
use crate::labels::LabelPool;
use crate::model::{
    Change, Direction, Labels, LocalEndpoint, Pod, PodName, Policy, PolicyName, RuleName, World,
};
use crate::names::{Names, Numbers};
use crate::owners::{Claim, Owners};
use crate::predicates::Predicates;
use crate::rules::Lists;
use crate::selector::{SelectorIndex, Subject};
use crate::sets::{SetIndex, Sets};
use crate::settle::Work;
use crate::tables::{Tables, Touched};
use crate::vips::Vips;

/// The world, and the tables that it asks for.
#[derive(Debug)]
pub struct Compiler {
    pub(crate) world: World,
    pub(crate) capacity: Capacity,
    pub(crate) tables: Tables,
    pub(crate) names: Names,
    pub(crate) overflows: Vec<Overflow>,
    pub(crate) numbers: AllNumbers,
    pub(crate) owners: Owners,
    labels: LabelPool,
    /// The policies, by the pods that they apply to.
    pub(crate) subjects: SelectorIndex<PolicyName>,
    pub(crate) predicates: Predicates,
    pub(crate) classes: Classes,
    /// The pod addresses that have a class of their own.
    pub(crate) peers: BTreeMap<Address, ClassIndex>,
    pub(crate) vips: Vips,
    pub(crate) lists: Lists,
    pub(crate) sets: Sets,
    pub(crate) closings: Closings,
    /// The sets of each endpoint, by [`Direction`].
    pub(crate) governed: BTreeMap<PodName, [Option<SetIndex>; 2]>,
    /// The endpoints that claim a slot; more than one only by mistake, and then the first has it.
    pub(crate) slots: BTreeMap<u32, BTreeSet<PodName>>,
}

/// Who has which number.
#[derive(Debug)]
pub(crate) struct AllNumbers {
    pub(crate) sets: Numbers<String>,
    pub(crate) classes: Numbers<String>,
    pub(crate) rules: Numbers<RuleName>,
}

/// The compiler of a world, from nothing. The same for equal worlds.
pub fn compile(world: &World, capacity: Capacity) -> Compiler {
    let mut compiler = Compiler::new(capacity, Names::default());
    compiler.apply(World::default().changes_to(world));
    compiler
}

impl Compiler {
    /// Of an empty world. What `names` (of the last run; else `Names::default()`) says keeps its
    /// number if it comes with the first call of [`Self::apply`].
    pub fn new(capacity: Capacity, names: Names) -> Self {
        let numbers = AllNumbers {
            sets: Numbers::new(&names.sets),
            classes: Numbers::new(&names.classes),
            rules: Numbers::new(&names.rules),
        };
        Self {
            world: World::default(),
            capacity,
            tables: Tables::default(),
            names: Names::default(),
            overflows: Vec::new(),
            numbers,
            owners: Owners::default(),
            labels: LabelPool::default(),
            subjects: SelectorIndex::default(),
            predicates: Predicates::default(),
            classes: Classes::default(),
            peers: BTreeMap::new(),
            vips: Vips::default(),
            lists: Lists::default(),
            sets: Sets::default(),
            closings: Closings::default(),
            governed: BTreeMap::new(),
            slots: BTreeMap::new(),
        }
    }

    /// Takes changes in, all at once, and says which table keys may have got another value.
    ///
    /// What does not fit is closed ([`Self::overflows`]), and opens again with the change that gives it
    /// room, as far as that can be told without compiling it again; else with [`Self::reconsider`].
    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) -> Touched {
        let mut work = Work::default();
        for change in changes {
            self.take_in(change, &mut work);
        }
        if work.is_empty() {
            return Touched::default();
        }
        let mut output = Output::default();
        self.settle(&mut work, &mut output);
        self.fit(&mut work, &mut output);
        self.note_overflows();
        self.emit(output)
    }

    /// What the kernel tables should hold.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// What the tables' numbers stand for.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Everything that was applied.
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The endpoints and directions that are closed because they do not fit, in order.
    pub fn overflows(&self) -> &[Overflow] {
        &self.overflows
    }

    /// True if at least one NetworkPolicy selects the endpoint in a direction.
    pub fn is_isolated(&self, pod: &PodName, direction: Direction) -> bool {
        let Some(sets) = self.governed.get(pod) else { return false };
        sets[direction as usize].is_some_and(|set| {
            let mut policies = self.sets.get(set).key.policies.iter();
            policies.any(|name| {
                let policy = self.world.policies.get(name);
                policy.is_some_and(|policy| policy.tier == crate::model::Tier::NetworkPolicy)
            })
        })
    }

    fn take_in(&mut self, change: Change, work: &mut Work) {
        match change {
            Change::Namespace(name, labels) => self.take_in_namespace(name, labels, work),
            Change::Pod(name, pod) => self.take_in_pod(name, pod, work),
            Change::Policy(name, policy) => self.take_in_policy(name, policy, work),
            Change::Service(ref name, ref service) => {
                self.take_in_service(name, service.as_ref(), work);
                self.world.apply(change);
            }
            Change::OwnHost(ref addresses) => {
                let moved = self.world.own_host.symmetric_difference(addresses);
                work.addresses.extend(moved.map(|address| Address::from(*address)));
                self.world.apply(change);
            }
            Change::Endpoint(name, endpoint) => self.take_in_endpoint(name, endpoint, work),
        }
    }

    fn take_in_namespace(&mut self, name: String, labels: Option<Labels>, work: &mut Work) {
        if self.world.namespaces.get(&name) == labels.as_ref() {
            return;
        }
        let first = PodName { namespace: name.clone(), name: String::new() };
        let pods = self.world.pods.range(first..).take_while(|(pod, _)| pod.namespace == name);
        for (pod_name, pod) in pods {
            work.addresses.extend(pod.addresses.iter().map(|address| Address::from(*address)));
            if self.world.endpoints.contains_key(pod_name) {
                work.endpoints.insert(pod_name.clone());
            }
        }
        self.world.apply(Change::Namespace(name, labels));
    }

    fn take_in_pod(&mut self, name: PodName, pod: Option<Pod>, work: &mut Work) {
        let old = self.world.pods.get(&name);
        if old == pod.as_ref() {
            return;
        }
        let shared = Arc::new(name.clone());
        let old = old.and_then(|old| claims(old, &shared));
        let new = pod.as_ref().and_then(|pod| claims(pod, &shared));
        if let Some((claim, addresses)) = &old {
            for address in addresses {
                self.note_slot(address, work);
                self.owners.release(*address, claim);
                self.note_slot(address, work);
            }
            work.addresses.extend(addresses);
        }
        if let Some((claim, addresses)) = &new {
            for address in addresses {
                self.note_slot(address, work);
                self.owners.claim(*address, claim.clone());
                self.note_slot(address, work);
            }
            work.addresses.extend(addresses);
        }
        if self.world.endpoints.contains_key(&name) {
            work.endpoints.insert(name.clone());
        }
        let pod = pod.map(|pod| Pod { labels: self.labels.share(pod.labels), ..pod });
        self.world.apply(Change::Pod(name, pod));
    }

    /// The element of the endpoint that has the address now must be looked at again.
    fn note_slot(&self, address: &Address, work: &mut Work) {
        let owner = self.owners.of(address).and_then(|owner| self.world.endpoints.get(owner));
        work.slots.extend(owner.map(|endpoint| endpoint.slot));
    }

    fn take_in_policy(&mut self, name: PolicyName, policy: Option<Policy>, work: &mut Work) {
        let old = self.world.policies.get(&name);
        if old == policy.as_ref() {
            return;
        }
        let subjects = [old, policy.as_ref()];
        let subjects: BTreeSet<_> = subjects.into_iter().flatten().map(|p| &p.subject).collect();
        for endpoint in self.world.endpoints.keys() {
            let Some(pod) = self.world.pods.get(endpoint) else { continue };
            let subject = Subject::new(&self.world, &endpoint.namespace, &pod.labels);
            if subjects.iter().any(|selector| subject.is_selected_by(selector)) {
                work.endpoints.insert(endpoint.clone());
            }
        }
        if let Some(old) = old {
            self.subjects.remove(&old.subject, &name);
        }
        if let Some(new) = &policy {
            self.subjects.insert(&new.subject, &name);
        }
        work.policies.insert(name.clone());
        self.world.apply(Change::Policy(name, policy));
    }

    fn take_in_endpoint(
        &mut self,
        name: PodName,
        endpoint: Option<LocalEndpoint>,
        work: &mut Work,
    ) {
        let old = self.world.endpoints.get(&name);
        if old == endpoint.as_ref() {
            return;
        }
        if let Some(old) = old {
            work.slots.insert(old.slot);
            if let Some(claims) = self.slots.get_mut(&old.slot) {
                claims.remove(&name);
                if claims.is_empty() {
                    self.slots.remove(&old.slot);
                }
            }
        }
        if let Some(new) = &endpoint {
            work.slots.insert(new.slot);
            self.slots.entry(new.slot).or_default().insert(name.clone());
        }
        work.endpoints.insert(name.clone());
        self.world.apply(Change::Endpoint(name, endpoint));
    }

    /// True if `endpoints` has this slot.
    pub(crate) fn has_room_for(&self, slot: u32) -> bool {
        (1..=self.capacity.endpoints).contains(&(slot as usize))
    }

    /// The number of a set in the tables.
    pub(crate) fn set_number(&self, index: SetIndex) -> Option<SetId> {
        self.sets.get(index).number
    }

    /// The number of a class in the tables.
    pub(crate) fn class_number(&self, index: ClassIndex) -> Option<ClassId> {
        self.classes.get(index).number
    }
}

/// A pod's claim and the addresses that it is for; none with host network.
fn claims(pod: &Pod, name: &Arc<PodName>) -> Option<(Claim, Vec<Address>)> {
    let claim = Claim { stays: !pod.deleting, created: pod.created, pod: Arc::clone(name) };
    let addresses = pod.addresses.iter().map(|address| Address::from(*address));
    (!pod.host_network).then(|| (claim, addresses.collect()))
}
