//! Following a change through endpoints, sets, rules, predicates and classes to the entries that it
//! gives another value. Everything here goes by the compiler's own numbers; the tables' numbers are
//! given once it is known what fits.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use sluice_common::abi::{Address, VipKey};

use crate::cidr;
use crate::classes::{Class, ClassIndex};
use crate::compile::Compiler;
use crate::emit::Output;
use crate::model::{Direction, Labels, NamedPort, PodName, PolicyName};
use crate::ports::{Outcome, root_entry};
use crate::predicates::{PredicateChanges, PredicateId};
use crate::program::{Answers, Program};
use crate::selector::{SelectorIndex, Subject};
use crate::sets::{SetIndex, governing};
use crate::tables::Prefix;

/// What must be looked at again.
#[derive(Debug, Default)]
pub(crate) struct Work {
    /// Endpoints: which sets they have.
    pub(crate) endpoints: BTreeSet<PodName>,
    /// Slots: what they hold.
    pub(crate) slots: BTreeSet<u32>,
    /// Policies: their rules, where in force.
    pub(crate) policies: BTreeSet<PolicyName>,
    /// Addresses: their class.
    pub(crate) addresses: BTreeSet<Address>,
    /// Sets: all their entries.
    pub(crate) sets: BTreeSet<SetIndex>,
    /// VIPs: where they lead.
    pub(crate) vips: BTreeSet<VipKey>,
    /// VIPs: their class.
    pub(crate) classless: BTreeSet<VipKey>,
    /// Slots: the ways of their endpoints to themselves.
    pub(crate) hairpins: BTreeSet<u32>,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        let Self { endpoints, slots, policies, addresses, sets, vips, classless, hairpins } = self;
        endpoints.is_empty()
            && slots.is_empty()
            && policies.is_empty()
            && addresses.is_empty()
            && sets.is_empty()
            && vips.is_empty()
            && classless.is_empty()
            && hairpins.is_empty()
    }
}

impl Compiler {
    /// Puts a set's policies in force.
    pub(crate) fn open(&mut self, index: SetIndex, work: &mut Work) {
        if self.sets.get_mut(index).closed.take().is_some() {
            self.closings.forget(index);
        }
        let key = self.sets.get(index).key.clone();
        let enter = |policy| {
            let set = (index, key.direction);
            self.lists.enter(policy, set, &self.world, &mut self.predicates)
        };
        let lists = key.policies.iter().map(enter).collect();
        self.sets.get_mut(index).lists = lists;
        work.sets.insert(index);
    }

    /// Takes a set's policies out of force, as far as no other set has them.
    pub(crate) fn shut(&mut self, index: SetIndex, work: &mut Work) {
        for list in std::mem::take(&mut self.sets.get_mut(index).lists) {
            self.lists.leave(list, index);
        }
        work.sets.insert(index);
    }

    /// Does all the work.
    pub(crate) fn settle(&mut self, work: &mut Work, output: &mut Output) {
        output.slots.append(&mut work.slots);
        let changed = std::mem::take(&mut work.policies);
        self.settle_policies(&changed, work);
        let left = self.settle_endpoints(work, output);
        self.open_changed(&changed, work);
        for index in left {
            if self.sets.get(index).users == 0 {
                self.closings.forget(index);
                self.shut(index, work);
                output.unused_sets.insert(index);
            }
        }
        self.lists.sweep(&mut self.predicates);
        self.settle_vips(work, output);
        self.settle_predicates(work, output);
        self.settle_addresses(work, output);
        self.settle_vip_classes(work, output);
        let (mut pairs, mut reshaped) = (Vec::new(), BTreeSet::new());
        for index in std::mem::take(&mut work.sets) {
            if self.settle_set(index, &mut pairs, output) {
                reshaped.insert(index);
            }
        }
        self.settle_classes(&mut pairs, output);
        pairs.sort_unstable();
        pairs.dedup();
        let vip_pairs = self.vip_pairs(&pairs, &reshaped, output);
        for of_one_set in pairs.chunk_by(|(set, _), (next, _)| set == next) {
            let mut answers = Answers::default();
            for (set, class) in of_one_set {
                self.settle_decisions(*set, *class, &mut answers, output);
            }
        }
        self.settle_vip_decisions(vip_pairs, work, output);
        self.settle_hairpins(work, output);
    }

    /// Determines the sets of endpoints. Returns the sets that lost one.
    fn settle_endpoints(&mut self, work: &mut Work, output: &mut Output) -> BTreeSet<SetIndex> {
        let mut left = BTreeSet::new();
        for name in std::mem::take(&mut work.endpoints) {
            let old = self.governed.remove(&name).into_iter().flatten().flatten();
            let old: Vec<SetIndex> = old.collect();
            let endpoint = self.world.endpoints.get(&name);
            if let Some((endpoint, pod)) = endpoint.zip(self.world.pods.get(&name)) {
                output.slots.insert(endpoint.slot);
                let keys = governing(&self.world, &self.subjects, &name, pod);
                let sets = keys.map(|key| {
                    let (index, is_first) = self.sets.enter(key?);
                    if is_first {
                        self.open(index, work);
                    }
                    Some(index)
                });
                self.governed.insert(name, sets);
            } else if let Some(endpoint) = endpoint {
                output.slots.insert(endpoint.slot);
            }
            for index in old {
                self.sets.get_mut(index).users -= 1;
                left.insert(index);
            }
        }
        left
    }

    /// Compiles the rules of changed policies again where they are in force already.
    fn settle_policies(&mut self, changed: &BTreeSet<PolicyName>, work: &mut Work) {
        for policy in changed {
            for direction in [Direction::Ingress, Direction::Egress] {
                if let Some(list) = self.lists.find(policy, direction) {
                    self.lists.compile(list, &self.world, &mut self.predicates);
                    work.sets.extend(&self.lists.get(list).sets);
                }
            }
        }
    }

    /// Opens the closed sets that contain a changed policy: they may need less now.
    fn open_changed(&mut self, changed: &BTreeSet<PolicyName>, work: &mut Work) {
        let has_changed = |name: &PolicyName| changed.contains(name);
        let closed = self.sets.iter().filter(|(_, set)| set.closed.is_some() && set.users > 0);
        let opening = closed.filter(|(_, set)| set.key.policies.iter().any(has_changed));
        for index in opening.map(|(index, _)| index).collect::<Vec<_>>() {
            self.open(index, work);
        }
    }

    /// Finds the addresses whose class changes with the predicates in force.
    fn settle_predicates(&mut self, work: &mut Work, output: &mut Output) {
        let (mut changes, unused) = self.predicates.take_changes();
        let mut lost = std::mem::take(&mut changes.classes);
        for id in unused.iter().chain(&changes.asked) {
            lost.extend(&self.predicates.get(*id).classes);
        }
        if !lost.is_empty() {
            let peers = self.peers.iter().filter(|(_, class)| lost.contains(class));
            work.addresses.extend(peers.map(|(address, _)| *address));
            let backends = self.vips.backends.iter().filter(|(_, b)| lost.contains(&b.class));
            work.addresses.extend(backends.map(|(address, _)| *address));
        }
        self.find_within_blocks(&changes, work);
        if !changes.new_selectors.is_empty() || !changes.new_ports.is_empty() {
            self.find_newly_selected(&changes, work);
        }
        output.unused_predicates.extend(unused);
    }

    /// Finds the addresses in blocks that came or went, or whose pods are asked for other port names.
    /// Where nobody is asked for one, those without an entry in `peers` need none.
    fn find_within_blocks(&self, changes: &PredicateChanges, work: &mut Work) {
        for (prefix, id) in &changes.changed_blocks {
            let first = Prefix { key: prefix.key, bits: 128 };
            let is_covered = |key: &Address| prefix.covers(&Prefix { key: *key, bits: 128 });
            let peers = self.peers.range(first.key..).map(|(address, _)| *address);
            work.addresses.extend(peers.take_while(is_covered));
            let backends = self.vips.backends.range(first.key..).map(|(address, _)| *address);
            work.addresses.extend(backends.take_while(is_covered));
            if self.predicates.is_asked(*id) {
                let pods = self.owners.from(first.key).take_while(|(key, _)| is_covered(key));
                let named = pods.filter(|(_, name)| {
                    let pod = self.world.pods.get(*name);
                    pod.is_some_and(|pod| self.predicates.names_port_of(pod))
                });
                work.addresses.extend(named.map(|(address, _)| *address));
            }
        }
    }

    /// Finds the pods that a new selector can select or whose ports a new name names, and passes over
    /// the namespaces in which there are none.
    fn find_newly_selected(&self, changes: &PredicateChanges, work: &mut Work) {
        // As with the first load: it brings as many selectors as pods, and looks at all pods anyhow.
        if self.owners.addresses().all(|address| work.addresses.contains(address)) {
            return;
        }
        let mut new_selectors = SelectorIndex::default();
        for selector in &changes.new_selectors {
            new_selectors.insert(selector, &());
        }
        let names_port =
            |port: &NamedPort| changes.new_ports.contains(&(port.protocol, port.name.clone()));
        let mut rest = self.world.pods.range::<PodName, _>(..);
        while let Some((first, _)) = rest.next() {
            let namespace = &first.namespace;
            let none = Labels::default();
            let subject = Subject::new(&self.world, namespace, &none);
            let after = PodName { namespace: format!("{namespace}\0"), name: String::new() };
            if !changes.new_ports.is_empty() || new_selectors.looks_into(&subject) {
                for (_, pod) in self.world.pods.range(first..&after) {
                    let subject = Subject { labels: &pod.labels, ..subject.clone() };
                    let mut is_concerned = pod.ports.iter().any(names_port);
                    new_selectors.candidates(&subject, |()| is_concerned = true);
                    if is_concerned {
                        let addresses = pod.addresses.iter().map(|address| Address::from(*address));
                        work.addresses.extend(addresses);
                    }
                }
            }
            rest = self.world.pods.range(after..);
        }
    }

    /// Determines the classes of addresses in `peers` and behind VIPs.
    fn settle_addresses(&mut self, work: &mut Work, output: &mut Output) {
        for address in std::mem::take(&mut work.addresses) {
            let (holding, is_told) = self.holding(&address);
            let mut class = ClassIndex::NONE;
            if is_told || self.vips.backends.contains_key(&address) {
                class = self.classes.with(holding, &self.predicates);
                self.settle_backend(address, class, work);
            }
            // Where nothing but blocks can tell the address from others, `cidrs` knows its class.
            if !is_told {
                class = ClassIndex::NONE;
            }
            let old = match class {
                ClassIndex::NONE => self.peers.remove(&address),
                _ => self.peers.insert(address, class),
            };
            let old = old.unwrap_or(ClassIndex::NONE);
            if old != class {
                self.count_pod(class, true);
                self.count_pod(old, false);
                output.addresses.insert(address);
            }
        }
    }

    /// The predicates that hold for an address, sorted, each once; and whether they tell the pod or
    /// node that has it from an address outside.
    fn holding(&mut self, address: &Address) -> (Vec<PredicateId>, bool) {
        let owner =
            self.owners.of(address).and_then(|name| Some((name, self.world.pods.get(name)?)));
        // One that has finished is no peer of any policy.
        let owner = owner.filter(|(_, pod)| !pod.finished);
        let mut holding = match owner {
            Some((name, pod)) => self.predicates.of_pod(&self.world, &name.namespace, pod),
            None if self.world.own_host.contains(&IpAddr::from(*address)) => {
                vec![self.predicates.of_own_host()]
            }
            None => Vec::new(),
        };
        let is_selected = !holding.is_empty();
        self.predicates.add_blocks(*address, &mut holding);
        let Some((_, pod)) = owner else { return (holding, is_selected) };
        let ports = self.predicates.of_ports(pod, &holding);
        let is_told = is_selected || !ports.is_empty();
        if !ports.is_empty() {
            holding.extend(ports);
            holding.sort_unstable();
            holding.dedup();
        }
        (holding, is_told)
    }

    /// One address of `peers` more or less has a class.
    fn count_pod(&mut self, index: ClassIndex, more: bool) {
        self.count(index, |class| &mut class.pods, more);
    }

    /// One address behind VIPs more or less has a class.
    pub(crate) fn count_backend(&mut self, index: ClassIndex, more: bool) {
        self.count(index, |class| &mut class.backends, more);
    }

    fn count(&mut self, index: ClassIndex, of: fn(&mut Class) -> &mut usize, more: bool) {
        if index == ClassIndex::NONE {
            return;
        }
        let class = self.classes.get_mut(index);
        let before = (class.pods == 0, class.backends == 0);
        let count = of(class);
        *count = if more { *count + 1 } else { *count - 1 };
        if before == (class.pods == 0, class.backends == 0) {
            return;
        }
        for predicate in &*class.predicates {
            let entry = self.predicates.entry_mut(*predicate);
            if class.pods + class.backends > 0 {
                entry.classes.insert(index);
            } else {
                entry.classes.remove(&index);
            }
        }
        self.classes.moved.insert(index);
    }

    /// Resolves a set's blocks and puts its rules in order again. Adds the classes whose decisions
    /// that can change, and says whether it can be any.
    fn settle_set(
        &mut self,
        index: SetIndex,
        pairs: &mut Vec<(SetIndex, ClassIndex)>,
        output: &mut Output,
    ) -> bool {
        let mut concerned = self.settle_cidrs(index, output);
        let set = self.sets.get(index);
        let lists = &set.lists;
        let program = Program::new(set.key.direction, &set.key.ports, lists, &self.lists);
        let shapes: Vec<u64> = lists.iter().map(|list| self.lists.get(*list).shape).collect();
        let is_reshaped = shapes != set.shapes;
        if !is_reshaped {
            for predicate in program.changed_predicates(&set.program) {
                let has = |class: &&ClassIndex| {
                    self.classes.get(**class).predicates.binary_search(&predicate).is_ok()
                };
                concerned.extend(&self.predicates.get(predicate).classes);
                concerned.extend(set.cidr_classes.iter().filter(has));
            }
        } else {
            concerned.insert(ClassIndex::NONE);
            concerned.extend(set.decisions.keys().chain(&set.cidr_classes));
            concerned.extend(self.pod_classes_of(index));
        }
        let default = match lists[..] {
            [] => Arc::default(),
            _ => {
                let none = self.classes.get(ClassIndex::NONE);
                program.entries(none, &self.lists, &mut Answers::default())
            }
        };
        pairs.extend(concerned.into_iter().map(|class| (index, class)));
        let set = self.sets.get_mut(index);
        (set.program, set.shapes, set.default) = (program, shapes, default);
        is_reshaped
    }

    /// Resolves a set's blocks. Returns the classes that it gives to addresses and did not before, or
    /// does no more.
    fn settle_cidrs(&mut self, index: SetIndex, output: &mut Output) -> BTreeSet<ClassIndex> {
        let lists = self.sets.get(index).lists.iter().map(|list| self.lists.get(*list));
        let blocks = lists.flat_map(|list| &list.blocks);
        let resolved = cidr::resolve(blocks.map(|(predicate, block)| (block, *predicate)));
        let classes = &mut self.classes;
        let cidrs: Vec<(Prefix<Address>, ClassIndex)> = resolved
            .into_iter()
            .map(|(prefix, holding)| (prefix, classes.with(holding, &self.predicates)))
            .collect();

        let new: BTreeSet<ClassIndex> = cidrs.iter().map(|(_, class)| *class).collect();
        let set = self.sets.get_mut(index);
        for class in set.cidr_classes.difference(&new) {
            classes.get_mut(*class).sets.remove(&index);
        }
        for class in new.difference(&set.cidr_classes) {
            classes.get_mut(*class).sets.insert(index);
        }
        let moved: BTreeSet<ClassIndex> =
            new.symmetric_difference(&set.cidr_classes).copied().collect();
        classes.moved.extend(&moved);
        set.cidrs = cidrs.len();
        set.cidr_classes = new;
        output.cidrs.insert(index, cidrs);
        moved
    }

    /// The pods' classes that a set's rules ask about.
    pub(crate) fn pod_classes_of(&self, index: SetIndex) -> BTreeSet<ClassIndex> {
        let lists = self.sets.get(index).lists.iter().map(|list| self.lists.get(*list));
        let mut classes = BTreeSet::new();
        for list in lists {
            let named = list.ports.keys().flat_map(|name| self.predicates.of_port(name));
            let predicates: Vec<PredicateId> =
                list.predicates.iter().copied().chain(named).collect();
            classes.extend(predicates.into_iter().flat_map(|id| &self.predicates.get(id).classes));
        }
        if self.sets.get(index).key.direction == Direction::Egress
            && let Some(own_host) = self.predicates.known_own_host()
        {
            classes.extend(&self.predicates.get(own_host).classes);
        }
        classes
    }

    /// Adds, for each class whose use began or ended, the sets that have or need decisions for it.
    fn settle_classes(&mut self, pairs: &mut Vec<(SetIndex, ClassIndex)>, output: &mut Output) {
        for index in std::mem::take(&mut self.classes.moved) {
            let class = self.classes.get(index);
            pairs.extend(class.decided_in.iter().map(|set| (*set, index)));
            if class.pods > 0 {
                for predicate in &*class.predicates {
                    if self.predicates.is_own_host(*predicate) {
                        pairs.extend(self.egress_sets().into_iter().map(|set| (set, index)));
                    }
                    let sets =
                        self.predicates.users(*predicate).flat_map(|id| &self.lists.get(id).sets);
                    pairs.extend(sets.map(|set| (*set, index)));
                }
            }
            output.classes.insert(index);
        }
    }

    /// What a set says to a class.
    fn settle_decisions(
        &mut self,
        index: SetIndex,
        class: ClassIndex,
        answers: &mut Answers,
        output: &mut Output,
    ) {
        let set = self.sets.get(index);
        let known = self.classes.get(class);
        let is_asked = known.pods > 0 || set.cidr_classes.contains(&class);
        let entries = match class {
            _ if set.lists.is_empty() => Arc::default(),
            ClassIndex::NONE => Arc::clone(&set.default),
            _ if !is_asked => Arc::default(),
            _ if set.key.direction == Direction::Egress
                && known.predicates.iter().any(|id| self.predicates.is_own_host(*id)) =>
            {
                Arc::new([root_entry(Outcome::HOST)])
            }
            _ => {
                let entries = set.program.entries(known, &self.lists, answers);
                if entries == set.default { Arc::default() } else { entries }
            }
        };
        let set = self.sets.get_mut(index);
        let decided_in = &mut self.classes.get_mut(class).decided_in;
        let before = if entries.is_empty() {
            decided_in.remove(&index);
            set.decisions.remove(&class)
        } else {
            decided_in.insert(index);
            set.decisions.insert(class, entries.len())
        };
        set.entries = set.entries + entries.len() - before.unwrap_or_default();
        output.decisions.insert((index, class), entries);
    }
}
