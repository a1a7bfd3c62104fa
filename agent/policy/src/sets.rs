//! Policy sets: which policies govern an endpoint in one direction.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_common::abi::SetId;

use crate::arena::{Arena, id};
use crate::asked::PortName;
use crate::capacity::Shortage;
use crate::classes::ClassIndex;
use crate::model::{Direction, Pod, PodName, PolicyName, PortMatch, Ports, World};
use crate::ports::PortEntry;
use crate::program::Program;
use crate::rules::ListId;
use crate::selector::{SelectorIndex, Subject};

id! {
    /// Number of a set inside the compiler.
    SetIndex
}

/// What makes a set: not the policies' contents, so that an edited policy keeps its sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct SetKey {
    pub(crate) direction: Direction,
    /// In order of evaluation; at least one.
    pub(crate) policies: Vec<PolicyName>,
    /// What the endpoint calls its ports, as far as the ingress rules ask.
    pub(crate) ports: BTreeMap<PortName, u16>,
}

/// A set that some endpoint has.
#[derive(Debug)]
pub(crate) struct Set {
    pub(crate) key: SetKey,
    /// Its number in the tables, once it has one.
    pub(crate) number: Option<SetId>,
    /// Number of endpoints.
    pub(crate) users: usize,
    /// It is closed: it does not fit, and has no rules in force and no entries.
    pub(crate) closed: Option<Shortage>,
    /// Empty while it is closed or unused.
    pub(crate) lists: Vec<ListId>,
    pub(crate) program: Program,
    /// The lists' shapes when the program was made; see `RuleList::shape`.
    pub(crate) shapes: Vec<u64>,
    /// Number of entries in `cidrs`.
    pub(crate) cidrs: usize,
    /// The classes that its blocks give to addresses.
    pub(crate) cidr_classes: BTreeSet<ClassIndex>,
    /// Entries for the class without predicates, which all classes have that it does not mention.
    pub(crate) default: Arc<[PortEntry]>,
    /// Number of entries in `decisions`, by class; none for classes that are as the default.
    pub(crate) decisions: BTreeMap<ClassIndex, usize>,
    /// Their sum.
    pub(crate) entries: usize,
}

impl Set {
    /// True if its contents are to be in the tables.
    pub(crate) fn is_open(&self) -> bool {
        self.closed.is_none() && self.users > 0
    }
}

/// All sets in use.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    sets: Arena<SetIndex, Set>,
    by_key: BTreeMap<SetKey, SetIndex>,
}

impl Sets {
    pub(crate) fn get(&self, index: SetIndex) -> &Set {
        &self.sets[index]
    }

    pub(crate) fn get_mut(&mut self, index: SetIndex) -> &mut Set {
        &mut self.sets[index]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (SetIndex, &Set)> {
        self.sets.iter()
    }

    /// The set of a key, with one user more, and whether that is the first.
    pub(crate) fn enter(&mut self, key: SetKey) -> (SetIndex, bool) {
        if let Some(index) = self.by_key.get(&key) {
            self.sets[*index].users += 1;
            return (*index, self.sets[*index].users == 1);
        }
        let index = self.sets.insert(Set {
            key: key.clone(),
            number: None,
            users: 1,
            closed: None,
            lists: Vec::new(),
            program: Program::default(),
            shapes: Vec::new(),
            cidrs: 0,
            cidr_classes: BTreeSet::new(),
            default: Arc::default(),
            decisions: BTreeMap::new(),
            entries: 0,
        });
        self.by_key.insert(key, index);
        (index, true)
    }

    pub(crate) fn remove(&mut self, index: SetIndex) {
        if let Some(set) = self.sets.remove(index) {
            self.by_key.remove(&set.key);
        }
    }
}

/// The keys of the sets that govern a pod, by [`Direction`]; `None` where no policy applies.
pub(crate) fn governing(
    world: &World,
    subjects: &SelectorIndex<PolicyName>,
    name: &PodName,
    pod: &Pod,
) -> [Option<SetKey>; 2] {
    if pod.host_network {
        return [None, None];
    }
    let subject = Subject::new(world, &name.namespace, &pod.labels);
    let mut policies = Vec::new();
    subjects.candidates(&subject, |candidate| {
        let policy = world.policies.get(candidate);
        if let Some(policy) = policy.filter(|policy| subject.is_selected_by(&policy.subject)) {
            policies.push((policy.tier, policy.priority, candidate.clone()));
        }
    });
    policies.sort_unstable();
    policies.dedup();
    [Direction::Ingress, Direction::Egress].map(|direction| {
        let names = policies.iter().map(|(_, _, name)| name);
        let applies = |name: &&PolicyName| world.policies[*name].rules(direction).is_some();
        let policies: Vec<PolicyName> = names.filter(applies).cloned().collect();
        let ports = match direction {
            Direction::Ingress => named_ports(world, &policies, pod),
            Direction::Egress => BTreeMap::new(),
        };
        (!policies.is_empty()).then_some(SetKey { direction, policies, ports })
    })
}

/// What the pod calls the ports that the policies' ingress rules name.
fn named_ports(world: &World, policies: &[PolicyName], pod: &Pod) -> BTreeMap<PortName, u16> {
    let mut numbers = BTreeMap::new();
    if pod.ports.is_empty() {
        return numbers;
    }
    let lists = policies.iter().filter_map(|name| world.policies.get(name)?.ingress.as_deref());
    for rule in lists.flatten() {
        let Ports::Of(ports) = &rule.ports else { continue };
        for port in ports {
            let PortMatch::Named { protocol, name } = port else { continue };
            let found = pod.ports.iter().find(|p| p.protocol == *protocol && p.name == *name);
            if let Some(found) = found {
                numbers.insert((*protocol, name.clone()), found.port);
            }
        }
    }
    numbers
}
