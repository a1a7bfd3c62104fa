//! Following a change through services: to the addresses that they lead to, the classes of their VIPs,
//! what the sets for egress say to these, and the ways of endpoints to themselves.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{Address, Hairpin, HairpinKey, Verdict, VipKey};

use crate::classes::ClassIndex;
use crate::compile::Compiler;
use crate::emit::Output;
use crate::model::{Direction, Protocol, Service, ServiceName};
use crate::ports::Outcome;
use crate::sets::{Set, SetIndex};
use crate::settle::Work;
use crate::vips::{
    BackendAddress, VipClass, VipClassIndex, VipClassKey, Way, backends_of, keys_of, protocol_of,
};

impl Compiler {
    /// Notes a service's VIPs, those that it had and those that it has.
    pub(crate) fn take_in_service(
        &mut self,
        name: &ServiceName,
        service: Option<&Service>,
        work: &mut Work,
    ) {
        let old = self.world.services.get(name);
        if old == service {
            return;
        }
        for key in old.into_iter().flat_map(keys_of) {
            if let Some(claims) = self.vips.claims.get_mut(&key) {
                claims.remove(name);
                if claims.is_empty() {
                    self.vips.claims.remove(&key);
                }
            }
            work.vips.insert(key);
        }
        for key in service.into_iter().flat_map(keys_of) {
            self.vips.claims.entry(key).or_default().insert(name.clone());
            work.vips.insert(key);
        }
    }

    /// The open sets for egress.
    pub(crate) fn egress_sets(&self) -> Vec<SetIndex> {
        let sets = self.sets.iter().filter(|(_, set)| set.key.direction == Direction::Egress);
        sets.filter(|(_, set)| !set.lists.is_empty()).map(|(index, _)| index).collect()
    }

    /// Brings VIPs in or out as the first policy comes into force and the last one goes, and finds
    /// where they lead.
    pub(crate) fn settle_vips(&mut self, work: &mut Work, output: &mut Output) {
        let is_in_force = self.sets.iter().any(|(_, set)| set.users > 0);
        if is_in_force != self.vips.is_in_force {
            self.vips.is_in_force = is_in_force;
            work.vips.extend(self.vips.claims.keys());
        }
        let is_in_tables = !self.egress_sets().is_empty();
        if is_in_tables != self.vips.is_in_tables {
            self.vips.is_in_tables = is_in_tables;
            work.classless.extend(self.vips.vips.keys());
        }
        for key in std::mem::take(&mut work.vips) {
            self.settle_backends(key, work, output);
        }
    }

    fn settle_backends(&mut self, key: VipKey, work: &mut Work, output: &mut Output) {
        let claims = self.vips.claims.get(&key).filter(|_| self.vips.is_in_force);
        let new = claims.map(|claims| {
            let services = claims.iter().filter_map(|name| self.world.services.get(name));
            let all: BTreeSet<(Address, u16)> =
                services.flat_map(|service| backends_of(service, &key)).collect();
            Vec::from_iter(all)
        });
        let addresses = |backends: &[(Address, u16)]| -> BTreeSet<Address> {
            backends.iter().map(|(address, _)| *address).collect()
        };
        let old = self.vips.vips.get(&key).map(|vip| addresses(&vip.backends)).unwrap_or_default();
        let now = new.as_deref().map(addresses).unwrap_or_default();
        for address in old.difference(&now) {
            self.leave_backend(*address, &key);
        }
        for address in now.difference(&old) {
            self.enter_backend(*address, key, work);
        }
        for address in old.symmetric_difference(&now) {
            work.hairpins.extend(self.slot_of(address));
        }
        work.hairpins.extend(self.vips.slots.get(&key).into_iter().flatten());
        match new {
            Some(backends) => {
                self.vips.vips.entry(key).or_default().backends = backends;
                work.classless.insert(key);
            }
            None => {
                self.vips.classify(&key, None);
                self.vips.vips.remove(&key);
                work.classless.remove(&key);
                output.vips.insert(key);
            }
        }
    }

    fn enter_backend(&mut self, address: Address, key: VipKey, work: &mut Work) {
        let none = || BackendAddress { class: ClassIndex::NONE, vips: Vec::with_capacity(1) };
        let backend = self.vips.backends.entry(address).or_insert_with(none);
        if let Err(place) = backend.vips.binary_search(&key) {
            backend.vips.insert(place, key);
        }
        work.addresses.insert(address);
    }

    fn leave_backend(&mut self, address: Address, key: &VipKey) {
        let Some(backend) = self.vips.backends.get_mut(&address) else { return };
        backend.vips.retain(|vip| vip != key);
        if backend.vips.is_empty() {
            let class = backend.class;
            self.vips.backends.remove(&address);
            self.count_backend(class, false);
        }
    }

    /// The slot of the endpoint that has an address.
    fn slot_of(&self, address: &Address) -> Option<u32> {
        let owner = self.owners.of(address)?;
        self.world.endpoints.get(owner).map(|endpoint| endpoint.slot)
    }

    /// Notes the class of an address that VIPs lead to.
    pub(crate) fn settle_backend(&mut self, address: Address, class: ClassIndex, work: &mut Work) {
        let Some(backend) = self.vips.backends.get(&address) else { return };
        let old = backend.class;
        if class == old {
            return;
        }
        self.count_backend(class, true);
        self.count_backend(old, false);
        if let Some(backend) = self.vips.backends.get_mut(&address) {
            backend.class = class;
            work.classless.extend(&backend.vips);
        }
    }

    /// Determines the classes of VIPs whose backends are others, or in other classes.
    pub(crate) fn settle_vip_classes(&mut self, work: &mut Work, output: &mut Output) {
        for vip in std::mem::take(&mut work.classless) {
            let key = self.vip_class_key(&vip).filter(|_| self.vips.is_in_tables);
            if self.vips.classify(&vip, key) {
                output.vips.insert(vip);
            }
            work.hairpins.extend(self.vips.slots.get(&vip).into_iter().flatten());
        }
    }

    fn vip_class_key(&self, vip: &VipKey) -> Option<VipClassKey> {
        let backends = &self.vips.vips.get(vip)?.backends;
        Some((protocol_of(vip)?, self.members(backends.iter().copied())))
    }

    /// The classes and ports of backends.
    fn members(
        &self,
        backends: impl Iterator<Item = (Address, u16)>,
    ) -> BTreeSet<(ClassIndex, u16)> {
        let class = |address| Some(self.vips.backends.get(&address)?.class);
        backends.filter_map(|(address, port)| Some((class(address)?, port))).collect()
    }

    /// Adds what sets may say anew to VIP classes: of every class that came or went, and of those with
    /// backends of the classes in `pairs`.
    pub(crate) fn vip_pairs(
        &mut self,
        pairs: &[(SetIndex, ClassIndex)],
        reshaped: &BTreeSet<SetIndex>,
        output: &mut Output,
    ) -> BTreeSet<(SetIndex, VipClassIndex)> {
        let mut found = BTreeSet::new();
        let egress = self.egress_sets();
        for index in std::mem::take(&mut self.vips.moved) {
            let class = &self.vips.classes[index];
            found.extend(class.decided_in.iter().map(|set| (*set, index)));
            found.extend(egress.iter().map(|set| (*set, index)));
            output.vip_classes.insert(index);
        }
        for set in reshaped {
            if self.sets.get(*set).key.direction == Direction::Egress {
                found.extend(self.vips.classes.iter().map(|(index, _)| (*set, index)));
            }
        }
        for (set, class) in pairs {
            if self.sets.get(*set).key.direction == Direction::Egress {
                let classes = self.vips.by_class.get(class).into_iter().flatten();
                found.extend(classes.map(|index| (*set, *index)));
            }
        }
        found
    }

    /// What sets say to VIP classes.
    pub(crate) fn settle_vip_decisions(
        &mut self,
        pairs: BTreeSet<(SetIndex, VipClassIndex)>,
        work: &mut Work,
        output: &mut Output,
    ) {
        if pairs.is_empty() {
            return;
        }
        let sets: BTreeSet<SetIndex> = pairs.iter().map(|(set, _)| *set).collect();
        for (index, class) in pairs {
            let decision = self.vip_decision(index, class);
            let VipClass { decided_in, mixed_in, .. } = &mut self.vips.classes[class];
            let (before, now) = (decided_in.contains(&index), decision.is_some());
            if now {
                decided_in.insert(index);
            } else {
                decided_in.remove(&index);
            }
            if decision == Some(Outcome::MIXED) {
                mixed_in.insert(index);
            } else {
                mixed_in.remove(&index);
            }
            let set = self.sets.get_mut(index);
            set.entries = set.entries + usize::from(now) - usize::from(before);
            output.vip_decisions.insert((index, class), decision);
        }
        let ways =
            self.vips.ways.iter().filter(|(key, _)| {
                self.egress_set_of(key.slot).is_some_and(|set| sets.contains(&set))
            });
        work.hairpins.extend(ways.map(|(key, _)| key.slot));
    }

    /// What a set says to a VIP class, where that is not what it says to everyone.
    fn vip_decision(&self, index: SetIndex, class: VipClassIndex) -> Option<Outcome> {
        let (set, class) = (self.sets.get(index), &self.vips.classes[class]);
        let default = set.default.first().filter(|_| class.vips > 0 && !set.lists.is_empty())?;
        let (protocol, members) = &class.key;
        let outcome = self.fold(set, *protocol, members, false);
        (outcome != default.outcome).then_some(outcome)
    }

    /// What a set says to a VIP, given what it says to the backends: one answer where all get the same
    /// verdict (of several rules the last in the order of evaluation), else the closed one. The
    /// node's own addresses, where they are let out, and the pod itself, beside `members`, are allowed.
    fn fold(
        &self,
        set: &Set,
        protocol: Protocol,
        members: &BTreeSet<(ClassIndex, u16)>,
        has_itself: bool,
    ) -> Outcome {
        let (mut allowed, mut denied, mut has_host) = (None, None, false);
        for (class, port) in members {
            let class = self.classes.get(*class);
            if class.predicates.iter().any(|id| self.predicates.is_own_host(*id)) {
                has_host = true;
                continue;
            }
            let outcome = set.program.outcome(class, (protocol, *port), &self.lists);
            let place = match outcome.verdict {
                Verdict::Allow => &mut allowed,
                Verdict::Deny | Verdict::Absent => &mut denied,
            };
            *place = (*place).max(Some(outcome));
        }
        match (allowed, denied) {
            (Some(_), Some(_)) => Outcome::MIXED,
            (None, Some(_)) if has_itself || has_host => Outcome::MIXED,
            (Some(outcome), None) | (None, Some(outcome)) => outcome,
            (None, None) if has_itself => Outcome::SELF,
            (None, None) if has_host => Outcome::HOST,
            (None, None) => set.program.default_deny(),
        }
    }

    fn egress_set_of(&self, slot: u32) -> Option<SetIndex> {
        let pod = self.slots.get(&slot)?.first()?;
        self.governed.get(pod)?[Direction::Egress as usize]
    }

    /// The ways of endpoints to themselves.
    pub(crate) fn settle_hairpins(&mut self, work: &mut Work, output: &mut Output) {
        let mut slots = std::mem::take(&mut work.hairpins);
        slots.extend(&output.slots);
        for slot in slots {
            let mut ways = self.ways(slot);
            self.vips.crowded.remove(&slot);
            if ways.len() > self.capacity.hairpins_each {
                self.vips.crowded.insert(slot, ways.len());
                ways.clear();
            }
            let old: Vec<VipKey> = self.vips.ways_of(slot).map(|(key, _)| key.vip).collect();
            if old.is_empty() != ways.is_empty() {
                output.slots.insert(slot);
            }
            for vip in old.into_iter().filter(|vip| !ways.contains_key(vip)).collect::<Vec<_>>() {
                let key = HairpinKey { slot, vip };
                self.vips.put_way(key, None);
                output.hairpins.insert(key);
            }
            // Also one that looks the same: its rank is another rule's by now where the set's rules are
            // others.
            for (vip, way) in ways {
                let key = HairpinKey { slot, vip };
                self.vips.put_way(key, Some(way));
                output.hairpins.insert(key);
            }
        }
    }

    fn ways(&self, slot: u32) -> BTreeMap<VipKey, Way> {
        let pod = self.slots.get(&slot).and_then(BTreeSet::first);
        let Some(pod) = pod.filter(|_| self.has_room_for(slot)) else { return BTreeMap::new() };
        let sets = self.governed.get(pod).copied().unwrap_or_default();
        if sets == [None, None] {
            return BTreeMap::new();
        }
        let mut ways = BTreeMap::new();
        let own: BTreeSet<Address> = self.owned(pod).into_iter().collect();
        for vip in own.iter().filter_map(|a| self.vips.backends.get(a)).flat_map(|b| &b.vips) {
            ways.entry(*vip)
                .or_insert_with(|| self.way(vip, &own, sets[Direction::Egress as usize]));
        }
        ways
    }

    fn way(&self, vip: &VipKey, own: &BTreeSet<Address>, egress: Option<SetIndex>) -> Way {
        let backends = self.vips.vips.get(vip).map(|vip| &vip.backends[..]).unwrap_or_default();
        let ports: BTreeSet<u16> =
            backends.iter().filter(|(a, _)| own.contains(a)).map(|(_, port)| *port).collect();
        let port = match Vec::from_iter(ports)[..] {
            [port] => u32::from(port),
            _ => Hairpin::ANY_PORT,
        };
        let others = backends.iter().filter(|(address, _)| !own.contains(address)).copied();
        let decided = egress.zip(protocol_of(vip)).and_then(|(index, protocol)| {
            let set = self.sets.get(index);
            let is_open = !set.lists.is_empty();
            is_open.then(|| (index, self.fold(set, protocol, &self.members(others), true)))
        });
        Way { decided, port }
    }
}
