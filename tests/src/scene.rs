//! One isolated pod in kernel tables, whose packets are run by hand.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;

use aya::maps::{PerCpuArray, PerCpuValues};
use sluice::datapath::counters::Snapshot;
use sluice::datapath::run::{Action, ELSEWHERE, LOOPBACK};
use sluice::datapath::{Datapath, LoadOptions};
use sluice_common::abi::{
    Decision, DecisionKey, Direction, Endpoint, EndpointFlags, Event, Flow, FlowKey, Lifetimes,
    RuleId, SetId, UNCLASSIFIED, Verdict, Versioned,
};
use sluice_common::reason::Reason;
use sluice_policy::diff::Op;
use sluice_policy::tables::Prefix;

use crate::needs_root;

/// The pod.
pub const POD: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The pod.
pub const POD6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
/// Somebody else.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Somebody else.
pub const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// The pod's slot.
pub const SLOT: u32 = 1;
/// The pod's epoch.
pub const EPOCH: u32 = 7;

/// What one packet was counted as.
pub type Counted = BTreeMap<(Direction, Reason), (u64, u64)>;

/// The kernel with one pod.
pub struct Scene {
    /// The programs and tables.
    pub datapath: Datapath,
    generation: u32,
    endpoint: Endpoint,
    before: Snapshot,
}

/// Number of the set that governs a direction; its rule has the same number.
const fn set(direction: Direction) -> SetId {
    direction as u32 + 1
}

impl Scene {
    /// A pod that is isolated in both directions, with no rules.
    ///
    /// # Panics
    /// Without root, or where the kernel does not load the programs.
    pub fn new() -> Self {
        Self::with(EndpointFlags::PRESENT, [1, 2])
    }

    /// A pod that is isolated in one direction only.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn isolated_in(direction: Direction) -> Self {
        let mut sets = [0; 2];
        sets[direction as usize] = set(direction);
        Self::with(EndpointFlags::PRESENT, sets)
    }

    /// A pod with these flags and sets.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn with(flags: u32, sets: [SetId; 2]) -> Self {
        Self::loaded(LoadOptions::default(), flags, sets)
    }

    /// A pod like that of [`Self::new`], whose flows are remembered so long.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn with_lifetimes(lifetimes: Lifetimes) -> Self {
        let options = LoadOptions { lifetimes, ..LoadOptions::default() };
        Self::loaded(options, EndpointFlags::PRESENT, [1, 2])
    }

    /// A pod like that of [`Self::new`], of whose drops so many are recorded per reason and second.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn with_event_rate(event_rate: u32) -> Self {
        let options = LoadOptions { event_rate, ..LoadOptions::default() };
        Self::rated(options, EndpointFlags::PRESENT, [1, 2])
    }

    /// A pod like that of [`Self::new`], whose every packet takes the long way: the programs log another
    /// slot's, and those of a slot that is logged must not pass by that.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn without_short_way() -> Self {
        let options =
            LoadOptions { trace_slot: NonZeroU32::new(SLOT + 1), ..LoadOptions::default() };
        Self::loaded(options, EndpointFlags::PRESENT, [1, 2])
    }

    fn loaded(options: LoadOptions, flags: u32, sets: [SetId; 2]) -> Self {
        Self::rated(LoadOptions { event_rate: u32::MAX, ..options }, flags, sets)
    }

    fn rated(options: LoadOptions, flags: u32, sets: [SetId; 2]) -> Self {
        needs_root();
        let datapath = Datapath::load(&options).expect("the programs load");
        let v4 = std::net::IpAddr::from(POD).into();
        let v6 = std::net::IpAddr::from(POD6).into();
        let endpoint = Endpoint { sets, epoch: EPOCH, flags, v4, v6 };
        let mut scene = Self { datapath, generation: 1, endpoint, before: Snapshot::new() };
        let denies = [Direction::Ingress, Direction::Egress]
            .map(|direction| any(direction, Verdict::Deny, 0));
        scene.apply(&denies);
        scene.put_endpoint();
        scene.datapath.maps().set_slot(LOOPBACK, SLOT).unwrap();
        scene
    }

    /// Writes decisions that are visible at once.
    fn apply(&mut self, ops: &[Op]) {
        self.datapath.maps().apply(ops).expect("the tables take it");
    }

    fn put_endpoint(&mut self) {
        self.apply(&[Op::Endpoint(SLOT, Versioned::settled(self.endpoint))]);
    }

    /// Another pod in the same slot.
    pub fn replace_pod(&mut self, epoch: u32) {
        self.endpoint.epoch = epoch;
        self.put_endpoint();
    }

    /// Isolates the pod in these directions only.
    pub fn govern(&mut self, sets: [SetId; 2]) {
        self.endpoint.sets = sets;
        self.put_endpoint();
        self.flip();
    }

    /// Allows a port (of a protocol) in a direction, from everyone, from now on.
    pub fn allow(&mut self, direction: Direction, protocol: u8, port: u16) {
        let key = DecisionKey::new(set(direction), UNCLASSIFIED, protocol, port);
        self.decide(key, DecisionKey::BITS, Verdict::Allow, set(direction));
    }

    /// Allows everything in a direction, from now on.
    pub fn allow_all(&mut self, direction: Direction) {
        self.apply(&[any(direction, Verdict::Allow, set(direction))]);
        self.flip();
    }

    /// Denies everything in a direction, but for what [`Self::allow`] has allowed, from now on.
    pub fn deny_all(&mut self, direction: Direction) {
        self.apply(&[any(direction, Verdict::Deny, 0)]);
        self.flip();
    }

    /// Takes back what [`Self::allow`] allowed, from now on.
    pub fn deny(&mut self, direction: Direction, protocol: u8, port: u16) {
        let key = DecisionKey::new(set(direction), UNCLASSIFIED, protocol, port);
        self.decide(key, DecisionKey::BITS, Verdict::Deny, 0);
    }

    fn decide(&mut self, key: DecisionKey, bits: u32, verdict: Verdict, rule: RuleId) {
        let decision = Decision { verdict: verdict as u32, rank: 0, rule };
        self.apply(&[Op::Decision(Prefix { key, bits }, Versioned::settled(decision))]);
        self.flip();
    }

    fn flip(&mut self) {
        self.generation += 1;
        self.apply(&[Op::Flip(self.generation)]);
    }

    /// Takes what was counted and recorded so far as known.
    ///
    /// # Panics
    /// If the counters cannot be read.
    pub fn passed_by(&mut self) {
        self.before = self.datapath.maps().snapshot(SLOT).unwrap();
        while self.event().is_some() {}
    }

    /// A flow has been silent for some seconds more, or longer, and no CPU remembers that it has seen it.
    ///
    /// # Panics
    /// If the flow is not there.
    pub fn age(&mut self, key: &FlowKey, seconds: u64) {
        /// Above any tick rate of Linux.
        const TICKS_MAX: u64 = 1000;
        self.age_by(key, seconds * TICKS_MAX);
    }

    /// The same for so many seconds or fewer.
    ///
    /// # Panics
    /// If the flow is not there.
    pub fn age_at_most(&mut self, key: &FlowKey, seconds: u64) {
        /// Below any tick rate of Linux.
        const TICKS_MIN: u64 = 100;
        self.age_by(key, seconds * TICKS_MIN);
    }

    fn age_by(&mut self, key: &FlowKey, ticks: u64) {
        let maps = self.datapath.maps();
        let flow = maps.flow(key).unwrap().expect("the flow is there");
        let last_seen = flow.last_seen.saturating_sub(ticks);
        maps.set_flow(key, &Flow { last_seen, ..flow }).unwrap();
        self.forget_recent();
    }

    /// Empties the cache of flows that were looked up lately.
    ///
    /// # Panics
    /// If the cache cannot be written.
    pub fn forget_recent(&mut self) {
        /// Bytes of an element.
        type Element = [u64; 6];
        let map = self.datapath.object().map_mut("recent").expect("the object has the cache");
        let mut recent = PerCpuArray::<_, Element>::try_from(map).expect("per CPU");
        let cpus = aya::util::nr_cpus().expect("CPUs").get();
        for index in 0..recent.len() {
            let empty = PerCpuValues::try_from(vec![Element::default(); cpus as usize]);
            recent.set(index, empty.expect("as many values as CPUs"), 0).expect("emptied");
        }
    }

    /// Runs a packet that came from elsewhere, and says what it was counted as: packets and bytes.
    ///
    /// # Panics
    /// If the kernel does not run it.
    pub fn run(&mut self, direction: Direction, frame: &[u8]) -> (Action, Counted) {
        self.run_from(direction, frame, ELSEWHERE)
    }

    /// Runs a packet that came from this interface; 0: the node's own host stack.
    ///
    /// # Panics
    /// If the kernel does not run it.
    pub fn run_from(
        &mut self,
        direction: Direction,
        frame: &[u8],
        interface: u32,
    ) -> (Action, Counted) {
        let action = self.datapath.run(direction, frame, interface).expect("the program runs");
        (action, self.counted())
    }

    /// What was counted since this was last asked, or a packet run.
    ///
    /// # Panics
    /// If the counters cannot be read.
    pub fn counted(&mut self) -> Counted {
        let after = self.datapath.maps().snapshot(SLOT).unwrap();
        let mut counted = Counted::new();
        for (key, counter) in &after {
            let before = self.before.get(key).copied().unwrap_or_default();
            if *counter != before {
                let packets = counter.packets - before.packets;
                counted.insert(*key, (packets, counter.bytes - before.bytes));
            }
        }
        self.before = after;
        counted
    }

    /// The packet is dropped, for this reason, and counted and recorded as that and nothing else.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn drops(&mut self, direction: Direction, frame: &[u8], reason: Reason) {
        let (action, counted) = self.run(direction, frame);
        let expected = Counted::from([((direction, reason), (1, frame.len() as u64))]);
        assert_eq!((action, counted), (Action::Drop, expected));
        let event = self.event().expect("a drop is recorded");
        assert_eq!((event.slot, event.epoch), (SLOT, self.endpoint.epoch));
        assert_eq!((event.direction, event.reason), (direction as u32, reason as u32));
        assert_eq!(event.length as usize, frame.len());
    }

    /// The packet passes, for this reason, and is counted as that and nothing else.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn passes(&mut self, direction: Direction, frame: &[u8], reason: Reason) {
        self.passes_from(direction, frame, reason, ELSEWHERE);
    }

    /// The same, for a packet that came from this interface; 0: the node's own host stack.
    ///
    /// # Panics
    /// Otherwise.
    #[track_caller]
    pub fn passes_from(
        &mut self,
        direction: Direction,
        frame: &[u8],
        reason: Reason,
        interface: u32,
    ) {
        let (action, counted) = self.run_from(direction, frame, interface);
        let expected = Counted::from([((direction, reason), (1, frame.len() as u64))]);
        assert_eq!((action, counted), (Action::Pass, expected));
        assert_eq!(self.event(), None, "only drops are recorded");
    }

    /// The next record.
    pub fn event(&mut self) -> Option<Event> {
        self.datapath.maps().events()?.next_event()
    }
}

impl Default for Scene {
    fn default() -> Self {
        Self::new()
    }
}

/// What a set says where nothing more special is in it.
fn any(direction: Direction, verdict: Verdict, rule: RuleId) -> Op {
    let key = DecisionKey::new(set(direction), UNCLASSIFIED, 0, 0);
    let decision = Decision { verdict: verdict as u32, rank: 0, rule };
    Op::Decision(Prefix { key, bits: DecisionKey::BITS_ANY }, Versioned::settled(decision))
}
