//! The rules in force: those of the policies that are in some set of this node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_common::abi::RuleId;

use crate::arena::{Arena, id};
use crate::asked::{Asked, PortName};
use crate::model::{
    Action, Block, Direction, Peer, Peers, PodSelector, PolicyName, PortMatch, Ports, Protocol,
    Rule, RuleName, Tier, World,
};
use crate::ports::{Span, Spans};
use crate::predicates::{Predicate, PredicateId, Predicates};
use crate::sets::SetIndex;

id! {
    /// Number of a policy's rule list of one direction.
    ListId
}

/// A rule whose peers are predicates.
#[derive(Clone, Debug)]
pub(crate) struct CompiledRule {
    pub(crate) action: Action,
    /// `None`: every address.
    pub(crate) peers: Option<Vec<PredicateId>>,
    ports: RulePorts,
}

/// A rule's ports, by protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
enum RulePorts {
    Any,
    Of { numbers: [Spans; Protocol::ALL.len()], names: Vec<PortName> },
}

impl RulePorts {
    fn new(ports: &Ports) -> Self {
        let matches = match ports {
            Ports::Any => return Self::Any,
            Ports::Of(matches) => matches,
        };
        let mut numbers: [Vec<Span>; Protocol::ALL.len()] = Default::default();
        let mut names = Vec::new();
        for port in matches {
            match port {
                PortMatch::Protocol(protocol) => numbers[place(*protocol)].push(Span::ALL),
                PortMatch::Range { protocol, first, last } => {
                    numbers[place(*protocol)].push(Span { first: *first, last: *last });
                }
                PortMatch::Named { protocol, name } => names.push((*protocol, name.clone())),
            }
        }
        Self::Of { numbers: numbers.map(Spans::from_iter), names }
    }
}

const fn place(protocol: Protocol) -> usize {
    match protocol {
        Protocol::Tcp => 0,
        Protocol::Udp => 1,
        Protocol::Sctp => 2,
    }
}

impl CompiledRule {
    /// The rule's ports of a protocol (`None`: any protocol without ports), where `number_of` says
    /// what a port name stands for.
    pub(crate) fn spans(
        &self,
        protocol: Option<Protocol>,
        number_of: impl Fn(&PortName) -> Option<u16>,
    ) -> Spans {
        match (&self.ports, protocol) {
            (RulePorts::Any, _) => Spans::all(),
            (RulePorts::Of { .. }, None) => Spans::default(),
            (RulePorts::Of { numbers, names }, Some(protocol)) => {
                let mut spans = numbers[place(protocol)].clone();
                let named = names.iter().filter(|(p, _)| *p == protocol).filter_map(number_of);
                let named: Vec<Span> = named.map(|port| Span { first: port, last: port }).collect();
                if !named.is_empty() {
                    spans.add(named);
                }
                spans
            }
        }
    }
}

impl CompiledRule {
    /// True if a port is one of the rule's; see [`Self::spans`].
    pub(crate) fn covers(
        &self,
        protocol: Protocol,
        port: u16,
        number_of: impl Fn(&PortName) -> Option<u16>,
    ) -> bool {
        match &self.ports {
            RulePorts::Any => true,
            RulePorts::Of { numbers, names } => {
                let mut spans = numbers[place(protocol)].iter();
                spans.any(|span| (span.first..=span.last).contains(&port))
                    || names.iter().any(|name| name.0 == protocol && number_of(name) == Some(port))
            }
        }
    }
}

/// The rules of a policy in one direction.
#[derive(Debug)]
pub(crate) struct RuleList {
    pub(crate) policy: PolicyName,
    pub(crate) direction: Direction,
    pub(crate) tier: Tier,
    pub(crate) rules: Vec<CompiledRule>,
    /// What the rules' peers ask, each once.
    pub(crate) predicates: BTreeSet<PredicateId>,
    /// The blocks of the rules, sorted, each once, with the predicate that they belong to.
    pub(crate) blocks: Vec<(PredicateId, Block)>,
    /// The selectors of rules that have several, sorted, each once, with the predicate of the rule.
    pub(crate) selectors: Vec<(PredicateId, Arc<PodSelector>)>,
    /// The port names of egress rules, which depend on the peer, and whom the rules ask for each.
    pub(crate) ports: BTreeMap<PortName, Asked>,
    /// Numbers of the rules in the tables, once they have them.
    pub(crate) numbers: Vec<RuleId>,
    /// The sets that contain it.
    pub(crate) sets: BTreeSet<SetIndex>,
    /// Changes with everything but peers, and is no other list's: while it stays, the same ranks
    /// decide the same ports for every class whose matching peers stay.
    pub(crate) shape: u64,
}

impl RuleList {
    fn new(policy: &PolicyName, direction: Direction) -> Self {
        Self {
            policy: policy.clone(),
            direction,
            tier: Tier::NetworkPolicy,
            rules: Vec::new(),
            predicates: BTreeSet::new(),
            blocks: Vec::new(),
            selectors: Vec::new(),
            ports: BTreeMap::new(),
            numbers: Vec::new(),
            sets: BTreeSet::new(),
            shape: 0,
        }
    }

    fn has_shape_of(&self, other: &Self) -> bool {
        let same = |(a, b): (&CompiledRule, &CompiledRule)| {
            a.action == b.action && a.ports == b.ports && a.peers.is_some() == b.peers.is_some()
        };
        self.tier == other.tier
            && self.rules.len() == other.rules.len()
            && self.rules.iter().zip(&other.rules).all(same)
    }

    pub(crate) fn rule_name(&self, index: usize) -> RuleName {
        RuleName { policy: self.policy.clone(), direction: self.direction, index }
    }
}

/// All rule lists in force.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    lists: Arena<ListId, RuleList>,
    by_name: BTreeMap<(PolicyName, Direction), ListId>,
    /// Lists that were compiled since rules were last numbered.
    pub(crate) unnumbered: BTreeSet<ListId>,
    /// Number of rules in force.
    pub(crate) rules: usize,
    shapes: u64,
}

impl Lists {
    pub(crate) fn get(&self, id: ListId) -> &RuleList {
        &self.lists[id]
    }

    pub(crate) fn get_mut(&mut self, id: ListId) -> &mut RuleList {
        &mut self.lists[id]
    }

    pub(crate) fn find(&self, policy: &PolicyName, direction: Direction) -> Option<ListId> {
        self.by_name.get(&(policy.clone(), direction)).copied()
    }

    /// The list of a policy, which a set contains from now on; compiled if it was not in force.
    pub(crate) fn enter(
        &mut self,
        policy: &PolicyName,
        set: (SetIndex, Direction),
        world: &World,
        predicates: &mut Predicates,
    ) -> ListId {
        let (set, direction) = set;
        let id = self.find(policy, direction).unwrap_or_else(|| {
            let id = self.lists.insert(RuleList::new(policy, direction));
            self.by_name.insert((policy.clone(), direction), id);
            id
        });
        // Nothing is in a list that no set contained, be it new or emptied by `sweep` a moment ago.
        if self.lists[id].sets.is_empty() {
            self.compile(id, world, predicates);
        }
        self.lists[id].sets.insert(set);
        id
    }

    /// The set contains the list no more. What no set contains goes with [`Self::sweep`].
    pub(crate) fn leave(&mut self, id: ListId, set: SetIndex) {
        self.lists[id].sets.remove(&set);
        if self.lists[id].sets.is_empty() {
            self.unnumbered.insert(id);
        }
    }

    /// Compiles the rules again after the policy changed. Predicates that stay keep their numbers.
    pub(crate) fn compile(&mut self, id: ListId, world: &World, predicates: &mut Predicates) {
        let list = &self.lists[id];
        let mut new = RuleList::new(&list.policy, list.direction);
        if let Some(policy) = world.policies.get(&list.policy) {
            new.tier = policy.tier;
            for (index, rule) in policy.rules(list.direction).unwrap_or_default().iter().enumerate()
            {
                let name = new.rule_name(index);
                let compiled = compile_rule(rule, &name, id, predicates, &mut new);
                new.predicates.extend(compiled.peers.iter().flatten());
                if let (RulePorts::Of { names, .. }, Direction::Egress) =
                    (&compiled.ports, list.direction)
                {
                    for name in names {
                        let asked = new.ports.entry(name.clone()).or_default();
                        asked.everyone |= compiled.peers.is_none();
                        asked.peers.extend(compiled.peers.iter().flatten());
                    }
                }
                new.rules.push(compiled);
            }
        }
        new.blocks.sort_unstable();
        new.blocks.dedup();
        new.selectors.sort_unstable();
        new.selectors.dedup();
        self.replace(id, new, predicates);
    }

    fn replace(&mut self, id: ListId, new: RuleList, predicates: &mut Predicates) {
        let old = &mut self.lists[id];
        let gone = old.ports.iter().filter(|(name, _)| !new.ports.contains_key(*name));
        for (name, asked) in gone {
            predicates.ask_port(name, (Some(asked), None), id);
        }
        for (name, asked) in &new.ports {
            predicates.ask_port(name, (old.ports.get(name), Some(asked)), id);
        }
        for (predicate, selector) in only_in_first(&new.selectors, &old.selectors) {
            predicates.file_selector(selector, *predicate);
        }
        for (predicate, selector) in only_in_first(&old.selectors, &new.selectors) {
            predicates.unfile_selector(selector, *predicate);
        }
        for (predicate, block) in only_in_first(&new.blocks, &old.blocks) {
            predicates.file_rule_block(block, *predicate);
        }
        for (predicate, block) in only_in_first(&old.blocks, &new.blocks) {
            predicates.unfile_rule_block(block, *predicate);
        }
        for predicate in old.predicates.difference(&new.predicates) {
            predicates.release(*predicate, id);
        }
        self.rules += new.rules.len();
        self.rules -= old.rules.len();
        let sets = std::mem::take(&mut old.sets);
        let numbers = std::mem::take(&mut old.numbers);
        let shape = if old.shape != 0 && new.has_shape_of(old) {
            old.shape
        } else {
            self.shapes += 1;
            self.shapes
        };
        *old = RuleList { sets, numbers, shape, ..new };
        self.unnumbered.insert(id);
    }

    /// Takes the lists that no set contains out of force.
    pub(crate) fn sweep(&mut self, predicates: &mut Predicates) {
        let left: Vec<ListId> = self
            .unnumbered
            .iter()
            .copied()
            .filter(|id| self.lists.get(*id).is_some_and(|list| list.sets.is_empty()))
            .collect();
        for id in left {
            let list = &self.lists[id];
            let empty = RuleList::new(&list.policy, list.direction);
            self.replace(id, empty, predicates);
        }
    }

    /// Drops a list that [`Self::sweep`] emptied.
    pub(crate) fn remove(&mut self, id: ListId) {
        if let Some(list) = self.lists.remove(id) {
            self.by_name.remove(&(list.policy, list.direction));
        }
    }
}

/// What a sorted list has that another has not.
fn only_in_first<'a, T: Ord>(first: &'a [T], second: &'a [T]) -> impl Iterator<Item = &'a T> {
    first.iter().filter(|value| second.binary_search(value).is_err())
}

fn compile_rule(
    rule: &Rule,
    name: &RuleName,
    id: ListId,
    predicates: &mut Predicates,
    list: &mut RuleList,
) -> CompiledRule {
    let peers = match &rule.peers {
        Peers::Any => None,
        Peers::Of(peers) => Some(compile_peers(peers, name, id, predicates, list)),
    };
    CompiledRule { action: rule.action, peers, ports: RulePorts::new(&rule.ports) }
}

fn compile_peers(
    peers: &[Peer],
    name: &RuleName,
    id: ListId,
    predicates: &mut Predicates,
    list: &mut RuleList,
) -> Vec<PredicateId> {
    let (mut wide, mut selectors, mut blocks) = (Vec::new(), Vec::new(), Vec::new());
    for peer in peers {
        match peer {
            Peer::Pods(selector) if selector.selects_namespaces() => wide.push(selector),
            Peer::Pods(selector) => selectors.push(selector),
            Peer::Block(block) => blocks.push(block),
        }
    }
    let of_namespaces = wide.into_iter().map(|selector| predicates.use_selector(selector, id));
    let mut ids: Vec<PredicateId> = of_namespaces.collect();
    let of_pods = match selectors[..] {
        [] => None,
        [selector] => Some(predicates.use_selector(selector, id)),
        _ => {
            let predicate = predicates.use_rule(Predicate::Selectors(name.clone()), id);
            let filed = selectors.into_iter().map(|selector| (predicate, Arc::clone(selector)));
            list.selectors.extend(filed);
            Some(predicate)
        }
    };
    let of_blocks = match blocks[..] {
        [] => None,
        [block] => Some(predicates.use_block(block, id)),
        _ => Some(predicates.use_rule(Predicate::Blocks(name.clone()), id)),
    };
    if let Some(predicate) = of_blocks {
        list.blocks.extend(blocks.into_iter().map(|block| (predicate, block.clone())));
    }
    ids.extend(of_pods.into_iter().chain(of_blocks));
    ids.sort_unstable();
    ids.dedup();
    ids
}
