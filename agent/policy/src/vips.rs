//! Virtual addresses (VIPs) inside the compiler: which services claim one, what they lead to, and
//! which of them policies cannot tell apart.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{Address, ClassId, HairpinKey, VipKey};

use crate::arena::{Arena, id};
use crate::classes::ClassIndex;
use crate::model::{Protocol, Service, ServiceName};
use crate::ports::Outcome;
use crate::sets::SetIndex;

id! {
    /// Number of a VIP class inside the compiler.
    VipClassIndex
}

/// What VIPs have in common that policies cannot tell apart: a protocol, and the classes and ports of
/// the backends.
pub(crate) type VipClassKey = (Protocol, BTreeSet<(ClassIndex, u16)>);

/// A class of VIPs.
#[derive(Debug)]
pub(crate) struct VipClass {
    pub(crate) key: VipClassKey,
    /// Number of VIPs.
    pub(crate) vips: usize,
    /// The sets that have a decision for it.
    pub(crate) decided_in: BTreeSet<SetIndex>,
    /// Of these, the ones that close it because its backends get different verdicts.
    pub(crate) mixed_in: BTreeSet<SetIndex>,
    /// Its number in the tables, once it has one.
    pub(crate) number: Option<ClassId>,
}

/// An address and port of a service.
#[derive(Debug, Default)]
pub(crate) struct Vip {
    /// Where the services that claim it lead, in its own family; sorted, each once.
    pub(crate) backends: Vec<(Address, u16)>,
    /// `None` while it is not in the tables.
    pub(crate) class: Option<VipClassIndex>,
}

/// An address that VIPs lead to.
#[derive(Debug)]
pub(crate) struct BackendAddress {
    pub(crate) class: ClassIndex,
    /// Sorted.
    pub(crate) vips: Vec<VipKey>,
}

/// An endpoint's way to itself through a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    /// The set for egress, and what it says; `None` where there is none, or a closed one.
    pub(crate) decided: Option<(SetIndex, Outcome)>,
    /// As in [`sluice_common::abi::Hairpin::port`].
    pub(crate) port: u32,
}

/// All of it. VIPs and backends are there while any set is, classes while any for egress is.
#[derive(Debug, Default)]
pub(crate) struct Vips {
    /// The services that have a VIP: one, but for mistakes; then the backends of all of them count.
    pub(crate) claims: BTreeMap<VipKey, BTreeSet<ServiceName>>,
    pub(crate) vips: BTreeMap<VipKey, Vip>,
    pub(crate) backends: BTreeMap<Address, BackendAddress>,
    pub(crate) classes: Arena<VipClassIndex, VipClass>,
    by_key: BTreeMap<VipClassKey, VipClassIndex>,
    /// The VIP classes with backends of a class.
    pub(crate) by_class: BTreeMap<ClassIndex, BTreeSet<VipClassIndex>>,
    /// VIP classes whose use may have begun or ended in this change.
    pub(crate) moved: BTreeSet<VipClassIndex>,
    pub(crate) ways: BTreeMap<HairpinKey, Way>,
    /// The slots that have ways through a VIP.
    pub(crate) slots: BTreeMap<VipKey, BTreeSet<u32>>,
    /// The slots of endpoints that would need more entries of `hairpins` than they can have.
    pub(crate) crowded: BTreeMap<u32, usize>,
    /// VIPs are in `vips` as long as this.
    pub(crate) is_in_force: bool,
    /// They are in the tables as long as this.
    pub(crate) is_in_tables: bool,
}

impl Vips {
    /// Number of VIPs in the tables.
    pub(crate) fn len(&self) -> usize {
        if self.is_in_tables { self.vips.len() } else { 0 }
    }

    /// Puts a VIP into the class of a key, or out of all classes. True if it was in another.
    pub(crate) fn classify(&mut self, vip: &VipKey, key: Option<VipClassKey>) -> bool {
        let new = key.map(|key| self.class_of(key));
        let Some(known) = self.vips.get_mut(vip) else { return false };
        let old = std::mem::replace(&mut known.class, new);
        if old == new {
            return false;
        }
        if let Some(new) = new {
            self.classes[new].vips += 1;
            self.moved.insert(new);
        }
        if let Some(old) = old {
            self.classes[old].vips -= 1;
            self.moved.insert(old);
        }
        true
    }

    fn class_of(&mut self, key: VipClassKey) -> VipClassIndex {
        if let Some(index) = self.by_key.get(&key) {
            return *index;
        }
        let (decided_in, mixed_in) = (BTreeSet::new(), BTreeSet::new());
        let class = VipClass { key: key.clone(), vips: 0, decided_in, mixed_in, number: None };
        let index = self.classes.insert(class);
        for (class, _) in &key.1 {
            self.by_class.entry(*class).or_default().insert(index);
        }
        self.by_key.insert(key, index);
        index
    }

    /// Drops a class that no VIP has.
    pub(crate) fn remove_class(&mut self, index: VipClassIndex) {
        let Some(class) = self.classes.remove(index) else { return };
        for (backend, _) in &class.key.1 {
            if let Some(users) = self.by_class.get_mut(backend) {
                users.remove(&index);
                if users.is_empty() {
                    self.by_class.remove(backend);
                }
            }
        }
        self.by_key.remove(&class.key);
    }

    /// An endpoint's way through a VIP from now on.
    pub(crate) fn put_way(&mut self, key: HairpinKey, way: Option<Way>) {
        match way {
            Some(way) => {
                self.slots.entry(key.vip).or_default().insert(key.slot);
                self.ways.insert(key, way);
            }
            None => {
                if let Some(slots) = self.slots.get_mut(&key.vip) {
                    slots.remove(&key.slot);
                    if slots.is_empty() {
                        self.slots.remove(&key.vip);
                    }
                }
                self.ways.remove(&key);
            }
        }
    }

    /// The ways of a slot's endpoint.
    pub(crate) fn ways_of(&self, slot: u32) -> impl Iterator<Item = (&HairpinKey, &Way)> {
        let first = HairpinKey { slot, vip: VipKey::default() };
        self.ways.range(first..).take_while(move |(key, _)| key.slot == slot)
    }
}

/// The VIPs of a service.
pub(crate) fn keys_of(service: &Service) -> impl Iterator<Item = VipKey> + '_ {
    let key = |address: Address, port: &crate::model::ServicePort| {
        VipKey::new(address, port.protocol.number(), port.port)
    };
    let ports = move |address| service.ports.iter().map(move |port| key(address, port));
    service.addresses.iter().map(|address| Address::from(*address)).flat_map(ports)
}

/// Where a service leads that has the VIP, in the VIP's own family.
pub(crate) fn backends_of<'s>(
    service: &'s Service,
    vip: &'s VipKey,
) -> impl Iterator<Item = (Address, u16)> + 's {
    let ports = service.ports.iter();
    let ports = ports.filter(|p| p.port == vip.port() && p.protocol.number() == vip.protocol());
    let backends = ports.flat_map(|port| &port.backends);
    let backends = backends.map(|backend| (Address::from(backend.address), backend.port));
    backends.filter(|(address, _)| address.is_v4() == vip.address.is_v4())
}

/// The protocol of a VIP.
pub(crate) fn protocol_of(vip: &VipKey) -> Option<Protocol> {
    Protocol::ALL.into_iter().find(|protocol| protocol.number() == vip.protocol())
}
