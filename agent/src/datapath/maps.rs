//! Typed access to the kernel tables.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, PerCpuValues};
use sluice_common::abi::{
    ABI_VERSION, Address, CidrKey, ClassId, Control, Counter, Decision, DecisionKey, Direction,
    ENDPOINT_MAX, Endpoint, Flow, FlowKey, FragmentSet, HairpinKey, HairpinNote, HairpinNoteKey,
    HairpinWay, Lifetimes, PeerClass, RULE_MAX, RuleId, SLOT_NONE, SLOTS_BY_INDEX, Versioned,
    VipKey, counter_index,
};
use sluice_common::reason::REASON_MAX;
use sluice_policy::diff::KernelState;
use sluice_policy::tables::Prefix;

use super::batch::{ArrayReader, HashReader, TableWriter};
use super::events::Events;
use super::flows::{FlowTable, Terms};
use super::generation::ControlPage;
use super::grace::Readers;
use super::load::tick_rate;

/// A table that could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum MapFault {
    /// There is no such table.
    #[error("there is no table {0}")]
    Missing(&'static str),
    /// The table could not be used.
    #[error("table {table}: {source}")]
    Access {
        /// Its name.
        table: &'static str,
        /// Why.
        source: MapError,
    },
    /// The table is full.
    #[error("table {0} is full")]
    Full(&'static str),
    /// There is no number left for a further change.
    #[error(
        "the tables have seen 4294967295 changes, as many as they can count: what is in force stays; \
         restart the agent, which makes new tables"
    )]
    Exhausted,
    /// The kernel would not wait for the packets that were on their way.
    #[error("cannot wait for packets on their way (membarrier, then a table of tables): {0}")]
    GracePeriod(io::Error),
    /// The kernel's time is not known.
    #[error("cannot read the kernel's clock: {0}")]
    Clock(io::Error),
    /// The kernel's tick rate could not be read.
    #[error("cannot read the kernel's tick rate: {0}")]
    TickRate(io::Error),
    /// The generation could not be mapped into memory.
    #[error("cannot map the table control: {0}")]
    Mapping(io::Error),
}

/// The kernel tables.
pub struct KernelMaps {
    pub(super) control: ControlPage,
    endpoint_slots: Array<MapData, u32>,
    all_slots: ArrayReader<u32>,
    endpoint_slots_high: HashMap<MapData, u32, u32>,
    pub(super) endpoints: Array<MapData, Versioned<Endpoint>>,
    all_endpoints: ArrayReader<Versioned<Endpoint>>,
    pub(super) peers: HashMap<MapData, Address, PeerClass>,
    all_peers: HashReader<Address, PeerClass>,
    pub(super) many_peers: TableWriter<Address, PeerClass>,
    pub(super) vips: HashMap<MapData, VipKey, PeerClass>,
    all_vips: HashReader<VipKey, PeerClass>,
    pub(super) many_vips: TableWriter<VipKey, PeerClass>,
    pub(super) hairpins: HashMap<MapData, HairpinKey, HairpinWay>,
    all_hairpins: HashReader<HairpinKey, HairpinWay>,
    pub(super) cidrs: LpmTrie<MapData, CidrKey, Versioned<ClassId>>,
    pub(super) many_cidrs: TableWriter<Key<CidrKey>, Versioned<ClassId>>,
    pub(super) decisions: LpmTrie<MapData, DecisionKey, Versioned<Decision>>,
    pub(super) many_decisions: TableWriter<Key<DecisionKey>, Versioned<Decision>>,
    pub(super) flows: FlowTable,
    pub(super) all_fragments: ArrayReader<FragmentSet>,
    pub(super) all_hairpin_notes: HashReader<HairpinNoteKey, HairpinNote>,
    counters: PerCpuArray<MapData, Counter>,
    pub(super) all_counters: ArrayReader<Counter>,
    rule_hits: PerCpuArray<MapData, Counter>,
    pub(super) all_rule_hits: ArrayReader<Counter>,
    events: Option<Events>,
    pub(super) readers: Readers,
}

impl KernelMaps {
    /// The tables of a loaded object.
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapFault> {
        Self::from_source(|table| ebpf.take_map(table).ok_or(MapFault::Missing(table)))
    }

    /// The tables that another process pinned: to look at them. The event ring has one reader, the
    /// agent; [`Self::events`] should be left to it.
    ///
    /// # Errors
    /// [`MapFault`] for the first pin that is missing or has another shape.
    pub fn open(pins: &Path) -> Result<Self, MapFault> {
        Self::from_source(|table| {
            let pin = pins.join(table);
            if !pin.exists() {
                return Err(MapFault::Missing(table));
            }
            MapData::from_pin(pin).and_then(Map::from_map_data).map_err(access(table))
        })
    }

    fn from_source(
        mut table: impl FnMut(&'static str) -> Result<Map, MapFault>,
    ) -> Result<Self, MapFault> {
        let endpoint_slots = table("endpoint_slots")?;
        let endpoints = table("endpoints")?;
        let peers = table("peers")?;
        let vips = table("vips")?;
        let hairpins = table("hairpins")?;
        let cidrs = table("cidrs")?;
        let decisions = table("decisions")?;
        let counters = table("counters")?;
        let rule_hits = table("rule_hits")?;
        Ok(Self {
            control: ControlPage::new(table("control")?)?,
            all_slots: ArrayReader::new("endpoint_slots", &endpoint_slots)?,
            endpoint_slots: typed("endpoint_slots", endpoint_slots)?,
            endpoint_slots_high: typed("endpoint_slots_high", table("endpoint_slots_high")?)?,
            all_endpoints: ArrayReader::new("endpoints", &endpoints)?,
            endpoints: typed("endpoints", endpoints)?,
            all_peers: HashReader::new("peers", &peers)?,
            many_peers: TableWriter::new("peers", &peers)?,
            peers: typed("peers", peers)?,
            all_vips: HashReader::new("vips", &vips)?,
            many_vips: TableWriter::new("vips", &vips)?,
            vips: typed("vips", vips)?,
            all_hairpins: HashReader::new("hairpins", &hairpins)?,
            hairpins: typed("hairpins", hairpins)?,
            many_cidrs: TableWriter::new("cidrs", &cidrs)?,
            cidrs: typed("cidrs", cidrs)?,
            many_decisions: TableWriter::new("decisions", &decisions)?,
            decisions: typed("decisions", decisions)?,
            flows: FlowTable::new(table("flows")?)?,
            all_fragments: ArrayReader::new("fragments", &table("fragments")?)?,
            all_hairpin_notes: HashReader::lru("hairpin_notes", &table("hairpin_notes")?)?,
            all_counters: ArrayReader::per_cpu("counters", &counters)?,
            counters: typed("counters", counters)?,
            all_rule_hits: ArrayReader::per_cpu("rule_hits", &rule_hits)?,
            rule_hits: typed("rule_hits", rule_hits)?,
            events: Some(Events::new(typed("events", table("events")?)?)),
            readers: Readers::unknown(),
        })
    }

    /// Finishes new tables: version, first generation and hash seed. Sets the event rate and the
    /// lifetimes in any case.
    pub(super) fn initialise(
        &mut self,
        event_rate: u32,
        lifetimes: Lifetimes,
    ) -> Result<(), MapFault> {
        let before = self.control.read()?;
        let mut control = Control { event_rate, lifetimes, ..before };
        if before == Control::default() {
            control.abi_version = ABI_VERSION;
            control.generation = 1;
            // The standard library draws a hasher's keys at random.
            let random = RandomState::new();
            control.hash_seed = std::array::from_fn(|word| random.hash_one(word) as u32);
        }
        if control == before { Ok(()) } else { self.control.write(&control) }
    }

    /// The generation, ABI version and event rate.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn control(&self) -> Result<Control, MapFault> {
        self.control.read()
    }

    /// Everything that policy put into the kernel, as it stands there.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn state(&self) -> Result<KernelState, MapFault> {
        let endpoints = (1..).zip(self.all_endpoints.read(1, ENDPOINT_MAX - 1)?);
        Ok(KernelState {
            generation: self.control.read()?.generation,
            endpoints: endpoints.filter(|(_, value)| *value != Versioned::default()).collect(),
            peers: values(&self.all_peers, |peer| peer.class)?,
            vips: values(&self.all_vips, |peer| peer.class)?,
            hairpins: values(&self.all_hairpins, |way| way.hairpin)?,
            cidrs: prefixes(self.cidrs.iter()).map_err(access("cidrs"))?,
            decisions: prefixes(self.decisions.iter()).map_err(access("decisions"))?,
        })
    }

    /// Makes the interface the slot's ([`SLOT_NONE`]: nobody's).
    ///
    /// # Errors
    /// [`MapFault`].
    pub fn set_slot(&mut self, ifindex: u32, slot: u32) -> Result<(), MapFault> {
        if ifindex >= SLOTS_BY_INDEX && slot != SLOT_NONE {
            // What is added to a hash has the memory of what was replaced or removed before.
            self.wait()?;
        }
        // A packet that has read the former slot must not meet the next pod in it.
        self.readers.left_slot();
        if ifindex < SLOTS_BY_INDEX {
            let table = "endpoint_slots";
            return self.endpoint_slots.set(ifindex, &slot, 0).map_err(access(table));
        }
        let table = "endpoint_slots_high";
        if slot == SLOT_NONE {
            return removed(table, self.endpoint_slots_high.remove(&ifindex));
        }
        self.endpoint_slots_high.insert(&ifindex, &slot, 0).map_err(access(table))
    }

    /// The slots of all interfaces that have one, by interface index.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn slots(&self) -> Result<BTreeMap<u32, u32>, MapFault> {
        let by_index = (0..).zip(self.all_slots.read(0, SLOTS_BY_INDEX)?);
        let mut slots: BTreeMap<u32, u32> =
            by_index.filter(|(_, slot)| *slot != SLOT_NONE).collect();
        for entry in &self.endpoint_slots_high {
            let (ifindex, slot) = entry.map_err(access("endpoint_slots_high"))?;
            slots.insert(ifindex, slot);
        }
        Ok(slots)
    }

    /// One flow.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn flow(&self, key: &FlowKey) -> Result<Option<Flow>, MapFault> {
        self.flows.get(key, &self.terms()?)
    }

    /// All flows, also those that are over and whose place nobody has needed yet. The programs go on
    /// adding and replacing meanwhile; those that stay are there.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn flows(&self) -> Result<Vec<(FlowKey, Flow)>, MapFault> {
        self.flows.all()
    }

    /// Writes a flow: one that was learned from a socket, or an aged one in a test.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn set_flow(&mut self, key: &FlowKey, flow: &Flow) -> Result<(), MapFault> {
        let terms = self.terms()?;
        self.flows.set(key, flow, &terms)
    }

    /// Forgets a flow.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn remove_flow(&mut self, key: &FlowKey) -> Result<(), MapFault> {
        let terms = self.terms()?;
        self.flows.remove(key, &terms)
    }

    fn terms(&self) -> Result<Terms, MapFault> {
        let Control { hash_seed: seed, lifetimes, .. } = self.control.read()?;
        Ok(Terms { seed, lifetimes, rate: tick_rate().map_err(MapFault::TickRate)? })
    }

    /// Zeroes everything that is counted for a slot: before another pod gets it.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn reset_slot(&mut self, slot: u32) -> Result<(), MapFault> {
        let zero = zero_per_cpu()?;
        let first = counter_index(slot, Direction::Ingress, 0);
        for index in first..first + 2 * REASON_MAX {
            self.counters.set(index, copy(&zero), 0).map_err(access("counters"))?;
        }
        Ok(())
    }

    /// Zeroes a rule's hits; numbers beyond the table have none.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn reset_rule(&mut self, rule: RuleId) -> Result<(), MapFault> {
        if rule >= RULE_MAX {
            return Ok(());
        }
        self.rule_hits.set(rule, zero_per_cpu()?, 0).map_err(access("rule_hits"))
    }

    /// The records of drops; `None` once [`Self::take_events`] was called.
    pub const fn events(&mut self) -> Option<&mut Events> {
        self.events.as_mut()
    }

    /// Takes the records' reader out, for a task of its own.
    pub const fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }
}

pub(super) fn access(table: &'static str) -> impl Fn(MapError) -> MapFault {
    move |source| match &source {
        MapError::SyscallError(e)
            if matches!(e.io_error.raw_os_error(), Some(libc::E2BIG | libc::ENOSPC)) =>
        {
            MapFault::Full(table)
        }
        _ => MapFault::Access { table, source },
    }
}

fn typed<T: TryFrom<Map, Error = MapError>>(name: &'static str, map: Map) -> Result<T, MapFault> {
    map.try_into().map_err(access(name))
}

/// Removing what is not there is done already.
pub(super) fn removed(table: &'static str, result: Result<(), MapError>) -> Result<(), MapFault> {
    match result {
        Err(e) if !is_missing(&e) => Err(access(table)(e)),
        _ => Ok(()),
    }
}

fn is_missing(error: &MapError) -> bool {
    match error {
        MapError::KeyNotFound | MapError::ElementNotFound => true,
        MapError::SyscallError(e) => e.io_error.raw_os_error() == Some(libc::ENOENT),
        _ => false,
    }
}

pub(super) fn trie_key<K: aya::Pod>(prefix: &Prefix<K>) -> Key<K> {
    Key::new(prefix.bits, prefix.key)
}

/// All of a hash, each element without its lock.
fn values<K: aya::Pod + Ord, E: aya::Pod, V>(
    table: &HashReader<K, E>,
    value: impl Fn(E) -> V,
) -> Result<BTreeMap<K, V>, MapFault> {
    Ok(table.read()?.into_iter().map(|(key, element)| (key, value(element))).collect())
}

fn prefixes<K: aya::Pod + Ord, V>(
    entries: impl Iterator<Item = Result<(Key<K>, V), MapError>>,
) -> Result<BTreeMap<Prefix<K>, V>, MapError> {
    entries
        .map(|entry| {
            entry.map(|(key, value)| (Prefix { key: key.data(), bits: key.prefix_len() }, value))
        })
        .collect()
}

fn zero_per_cpu() -> Result<PerCpuValues<Counter>, MapFault> {
    let cpus = aya::util::nr_cpus()
        .map_err(|(_, error)| access("counters")(MapError::IoError(error)))?
        .get();
    PerCpuValues::try_from(vec![Counter::default(); cpus as usize])
        .map_err(|error| access("counters")(MapError::IoError(error)))
}

fn copy(values: &PerCpuValues<Counter>) -> PerCpuValues<Counter> {
    PerCpuValues::try_from(values.to_vec()).expect("as many values as there are CPUs, as before")
}
