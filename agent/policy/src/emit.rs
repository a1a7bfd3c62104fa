//! Writing what settled into the tables: old numbers out, new numbers given, entries in.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use sluice_common::abi::{
    Address, CidrKey, ClassId, Decision, DecisionKey, Endpoint, EndpointFlags, Hairpin, HairpinKey,
    PROTOCOL_ANY, RULE_DEFAULT, SET_NONE, SetId, VipKey,
};

use crate::classes::ClassIndex;
use crate::compile::Compiler;
use crate::describe;
use crate::model::{PodName, RuleName};
use crate::ports::{Outcome, PortEntry};
use crate::predicates::PredicateId;
use crate::rules::ListId;
use crate::sets::SetIndex;
use crate::tables::{Prefix, Touched};
use crate::vips::VipClassIndex;

/// What must be written into the tables.
#[derive(Debug, Default)]
pub(crate) struct Output {
    pub(crate) slots: BTreeSet<u32>,
    pub(crate) addresses: BTreeSet<Address>,
    /// All of a set's entries in `cidrs`, ascending.
    pub(crate) cidrs: BTreeMap<SetIndex, Vec<(Prefix<Address>, ClassIndex)>>,
    /// All entries in `decisions` of a set and a class.
    pub(crate) decisions: BTreeMap<(SetIndex, ClassIndex), Arc<[PortEntry]>>,
    /// Classes whose use may have begun or ended.
    pub(crate) classes: BTreeSet<ClassIndex>,
    /// VIPs, whose class may be another.
    pub(crate) vips: BTreeSet<VipKey>,
    /// What a set says to a VIP class; `None`: as to everyone.
    pub(crate) vip_decisions: BTreeMap<(SetIndex, VipClassIndex), Option<Outcome>>,
    /// VIP classes whose use may have begun or ended.
    pub(crate) vip_classes: BTreeSet<VipClassIndex>,
    /// Ways of endpoints to themselves.
    pub(crate) hairpins: BTreeSet<HairpinKey>,
    pub(crate) unused_sets: BTreeSet<SetIndex>,
    pub(crate) unused_predicates: BTreeSet<PredicateId>,
}

impl Compiler {
    /// Brings tables and names up to date.
    pub(crate) fn emit(&mut self, output: Output) -> Touched {
        let mut touched = Touched::default();
        self.clear_emptied(&output, &mut touched);
        self.free_numbers(&output);
        self.number_sets(&output);
        self.number_classes(&output);
        self.number_rules(&mut touched);
        self.write_cidrs(&output, &mut touched);
        self.write_decisions(&output, &mut touched);
        self.write_peers(&output, &mut touched);
        self.write_vips(&output, &mut touched);
        self.write_hairpins(&output, &mut touched);
        self.write_endpoints(&output, &mut touched);
        self.forget(output);
        touched
    }

    /// Takes out the entries of what has none any more, while it still has its number.
    fn clear_emptied(&mut self, output: &Output, touched: &mut Touched) {
        for (set, _) in output.cidrs.iter().filter(|(_, cidrs)| cidrs.is_empty()) {
            if let Some(number) = self.set_number(*set) {
                replace(&mut self.tables.cidrs, cidrs_of(number), &[], &mut touched.cidrs);
            }
        }
        for ((set, class), _) in output.decisions.iter().filter(|(_, entries)| entries.is_empty()) {
            if let Some((set, class)) = self.set_number(*set).zip(self.class_number(*class)) {
                let range = decisions_of(set, class);
                replace(&mut self.tables.decisions, range, &[], &mut touched.decisions);
            }
        }
        for ((set, class), _) in output.vip_decisions.iter().filter(|(_, d)| d.is_none()) {
            let class = self.vips.classes[*class].number;
            if let Some((set, class)) = self.set_number(*set).zip(class) {
                let range = decisions_of(set, class);
                replace(&mut self.tables.decisions, range, &[], &mut touched.decisions);
            }
        }
    }

    fn free_numbers(&mut self, output: &Output) {
        for set in &output.unused_sets {
            if let Some(number) = self.sets.get_mut(*set).number.take() {
                self.names.sets.remove(&number);
                self.numbers.sets.free(number);
            }
        }
        for class in output.classes.iter().filter(|class| **class != ClassIndex::NONE) {
            let class = self.classes.get_mut(*class);
            if !class.is_used()
                && let Some(number) = class.number.take()
            {
                self.names.classes.remove(&number);
                self.numbers.classes.free(number);
            }
        }
        for class in &output.vip_classes {
            let class = &mut self.vips.classes[*class];
            if class.vips == 0
                && let Some(number) = class.number.take()
            {
                self.names.classes.remove(&number);
                self.numbers.classes.free(number);
            }
        }
        for id in self.lists.unnumbered.clone() {
            let list = self.lists.get_mut(id);
            let rules = list.rules.len();
            for number in list.numbers.drain(rules.min(list.numbers.len())..) {
                self.names.rules.remove(&number);
                self.numbers.rules.free(number);
            }
        }
    }

    fn number_sets(&mut self, output: &Output) {
        let fresh = output.cidrs.keys().filter(|index| {
            let set = self.sets.get(**index);
            set.number.is_none() && set.users > 0
        });
        let fresh: Vec<(String, SetIndex)> =
            fresh.map(|index| (describe::set(&self.sets.get(*index).key), *index)).collect();
        self.numbers.sets.give(fresh, |description, index, given| {
            self.sets.get_mut(index).number = Some(given.number);
            self.names.sets.insert(given.number, description);
        });
    }

    fn number_classes(&mut self, output: &Output) {
        let fresh = output.classes.iter().filter(|index| {
            let class = self.classes.get(**index);
            class.number.is_none() && class.is_used()
        });
        let fresh = fresh.map(|index| {
            (self.classes.description(*index, &self.predicates), AnyClass::OfPeers(*index))
        });
        let vips = output.vip_classes.iter().filter(|index| {
            let class = &self.vips.classes[**index];
            class.number.is_none() && class.vips > 0
        });
        let vips = vips.map(|index| (self.description_of_vips(*index), AnyClass::OfVips(*index)));
        let fresh: Vec<(String, AnyClass)> = fresh.chain(vips).collect();
        self.numbers.classes.give(fresh, |description, class, given| {
            let number = match class {
                AnyClass::OfPeers(index) => &mut self.classes.get_mut(index).number,
                AnyClass::OfVips(index) => &mut self.vips.classes[index].number,
            };
            *number = Some(given.number);
            self.names.classes.insert(given.number, description);
        });
    }

    fn description_of_vips(&self, index: VipClassIndex) -> String {
        let (protocol, members) = &self.vips.classes[index].key;
        let member = |(class, port): &(ClassIndex, u16)| {
            format!("{port} of ({})", self.classes.description(*class, &self.predicates))
        };
        let mut members: Vec<String> = members.iter().map(member).collect();
        members.sort_unstable();
        format!("service to {protocol} {}", members.join(", "))
    }

    fn number_rules(&mut self, touched: &mut Touched) {
        let mut fresh: Vec<(RuleName, ListId)> = Vec::new();
        for id in self.lists.unnumbered.clone() {
            let list = self.lists.get_mut(id);
            let unnumbered = list.numbers.len()..list.rules.len();
            list.numbers.resize(unnumbered.end, RULE_DEFAULT);
            fresh.extend(unnumbered.map(|index| (list.rule_name(index), id)));
        }
        self.numbers.rules.give(fresh, |rule, id, given| {
            self.lists.get_mut(id).numbers[rule.index] = given.number;
            self.names.rules.insert(given.number, rule);
            if given.is_new {
                touched.rules.insert(given.number);
            }
        });
    }

    fn write_cidrs(&mut self, output: &Output, touched: &mut Touched) {
        for (set, cidrs) in output.cidrs.iter().filter(|(_, cidrs)| !cidrs.is_empty()) {
            let Some(set) = self.set_number(*set) else { continue };
            let entry = |(prefix, class): &(Prefix<Address>, ClassIndex)| {
                let key = CidrKey::new(set, prefix.key);
                Some((Prefix { key, bits: 32 + prefix.bits }, self.class_number(*class)?))
            };
            let entries: Vec<(Prefix<CidrKey>, ClassId)> = cidrs.iter().filter_map(entry).collect();
            replace(&mut self.tables.cidrs, cidrs_of(set), &entries, &mut touched.cidrs);
        }
    }

    fn write_decisions(&mut self, output: &Output, touched: &mut Touched) {
        let present = output.decisions.iter().filter(|(_, entries)| !entries.is_empty());
        let mut numbered: Vec<((SetId, ClassId), SetIndex, &[PortEntry])> = present
            .filter_map(|((set, class), entries)| {
                let numbers = self.set_number(*set).zip(self.class_number(*class))?;
                Some((numbers, *set, &**entries))
            })
            .collect();
        // In the order of the table, whose tree then grows at one place.
        numbered.sort_unstable_by_key(|(numbers, ..)| *numbers);
        for ((set, class), index, entries) in numbered {
            let program = &self.sets.get(index).program;
            let entry = |entry: &PortEntry| {
                let PortEntry { bits, protocol, port, outcome } = *entry;
                let key = DecisionKey::new(set, class, protocol, port);
                (Prefix { key, bits }, program.decision(outcome, &self.lists))
            };
            let mut entries: Vec<(Prefix<DecisionKey>, Decision)> =
                entries.iter().map(entry).collect();
            entries.sort_unstable();
            let range = decisions_of(set, class);
            replace(&mut self.tables.decisions, range, &entries, &mut touched.decisions);
        }
    }

    fn write_vips(&mut self, output: &Output, touched: &mut Touched) {
        for ((set, class), outcome) in &output.vip_decisions {
            let numbers = self.set_number(*set).zip(self.vips.classes[*class].number);
            let Some(((number, class), outcome)) = numbers.zip(*outcome) else { continue };
            let key = DecisionKey::new(number, class, PROTOCOL_ANY, 0);
            let prefix = Prefix { key, bits: DecisionKey::BITS_ANY };
            let decision = self.sets.get(*set).program.decision(outcome, &self.lists);
            put(&mut self.tables.decisions, prefix, Some(decision), &mut touched.decisions);
        }
        for key in &output.vips {
            let class = self.vips.vips.get(key).and_then(|vip| vip.class);
            let class = class.and_then(|class| self.vips.classes[class].number);
            put(&mut self.tables.vips, *key, class, &mut touched.vips);
        }
    }

    fn write_hairpins(&mut self, output: &Output, touched: &mut Touched) {
        for key in &output.hairpins {
            let hairpin = self.vips.ways.get(key).map(|way| {
                let decision = way.decided.map(|(set, outcome)| {
                    self.sets.get(set).program.decision(outcome, &self.lists)
                });
                Hairpin { decision: decision.unwrap_or_default(), port: way.port }
            });
            put(&mut self.tables.hairpins, *key, hairpin, &mut touched.hairpins);
        }
    }

    fn write_peers(&mut self, output: &Output, touched: &mut Touched) {
        for address in &output.addresses {
            let class = self.peers.get(address).and_then(|class| self.class_number(*class));
            put(&mut self.tables.peers, *address, class, &mut touched.peers);
        }
    }

    fn write_endpoints(&mut self, output: &Output, touched: &mut Touched) {
        for slot in &output.slots {
            if !self.has_room_for(*slot) {
                continue;
            }
            let pod = self.slots.get(slot).and_then(BTreeSet::first);
            let endpoint = pod.and_then(|pod| self.endpoint(pod));
            put(&mut self.tables.endpoints, *slot, endpoint, &mut touched.endpoints);
        }
    }

    /// The value of an endpoint's element; `None` while its pod is unknown.
    fn endpoint(&self, name: &PodName) -> Option<Endpoint> {
        let local = self.world.endpoints.get(name)?;
        self.world.pods.get(name)?;
        let sets = self.governed.get(name)?;
        let number = |set: Option<SetIndex>| set.and_then(|set| self.set_number(set));
        let owned = self.owned(name).into_iter();
        let (v4, v6): (Vec<Address>, Vec<Address>) = owned.partition(Address::is_v4);
        let first = |family: Vec<Address>| family.first().copied().unwrap_or(Address::UNSPECIFIED);
        let has_hairpins = self.vips.ways_of(local.slot).next().is_some();
        let hairpins = if has_hairpins { EndpointFlags::HAIRPIN } else { 0 };
        Some(Endpoint {
            sets: sets.map(|set| number(set).unwrap_or(SET_NONE)),
            epoch: local.epoch,
            flags: local.flags | EndpointFlags::PRESENT | hairpins,
            v4: first(v4),
            v6: first(v6),
        })
    }

    /// The addresses that a pod has: one that a younger pod has is not this one's any more.
    pub(crate) fn owned(&self, name: &PodName) -> Vec<Address> {
        let pod = self.world.pods.get(name);
        let addresses = pod.into_iter().flat_map(|pod| &pod.addresses);
        let addresses = addresses.map(|address| Address::from(*address));
        addresses.filter(|address| self.owners.of(address) == Some(name)).collect()
    }

    /// Drops what nothing uses, now that no entry names it.
    fn forget(&mut self, output: Output) {
        for set in output.unused_sets {
            self.sets.remove(set);
        }
        for class in output.classes {
            if class != ClassIndex::NONE && !self.classes.get(class).is_alive() {
                self.classes.remove(class);
            }
        }
        for class in output.vip_classes {
            if self.vips.classes[class].vips == 0 {
                self.vips.remove_class(class);
            }
        }
        for list in std::mem::take(&mut self.lists.unnumbered) {
            if self.lists.get(list).sets.is_empty() {
                self.lists.remove(list);
            }
        }
        self.predicates.forget(output.unused_predicates);
    }
}

/// What a number of a class stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum AnyClass {
    OfPeers(ClassIndex),
    OfVips(VipClassIndex),
}

/// All keys of a set in `cidrs`.
fn cidrs_of(set: SetId) -> RangeInclusive<Prefix<CidrKey>> {
    let key = |octet| CidrKey::new(set, Address::from_octets([octet; 16]));
    Prefix { key: key(0), bits: 0 }..=Prefix { key: key(u8::MAX), bits: u32::MAX }
}

/// All keys of a set and class in `decisions`.
fn decisions_of(set: SetId, class: ClassId) -> RangeInclusive<Prefix<DecisionKey>> {
    let (first, last) =
        (DecisionKey::new(set, class, 0, 0), DecisionKey::new(set, class, u8::MAX, u16::MAX));
    Prefix { key: first, bits: 0 }..=Prefix { key: last, bits: u32::MAX }
}

/// Makes `entries` (ascending, within the range) all that a table has in a range.
fn replace<K: Ord + Copy, V: PartialEq + Copy>(
    table: &mut BTreeMap<K, V>,
    range: RangeInclusive<K>,
    entries: &[(K, V)],
    touched: &mut BTreeSet<K>,
) {
    let stays = |key: &K| entries.binary_search_by(|(k, _)| k.cmp(key)).is_ok();
    let gone: Vec<K> = table.range(range).map(|(key, _)| *key).filter(|key| !stays(key)).collect();
    for key in gone {
        put(table, key, None, touched);
    }
    for (key, value) in entries {
        put(table, *key, Some(*value), touched);
    }
}

/// Sets or removes one entry, and notes it if that changes anything.
fn put<K: Ord + Copy, V: PartialEq>(
    table: &mut BTreeMap<K, V>,
    key: K,
    value: Option<V>,
    touched: &mut BTreeSet<K>,
) {
    let changed = match (table.entry(key), value) {
        (Entry::Occupied(entry), None) => {
            entry.remove();
            true
        }
        (Entry::Occupied(mut entry), Some(value)) => {
            let changed = *entry.get() != value;
            entry.insert(value);
            changed
        }
        (Entry::Vacant(_), None) => false,
        (Entry::Vacant(entry), Some(value)) => {
            entry.insert(value);
            true
        }
    };
    if changed {
        touched.insert(key);
    }
}
