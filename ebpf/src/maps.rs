//! All tables. Keys and values are described where their types are, in `sluice_common::abi`; here
//! stands who writes a table, how much it holds, and what happens when it is full.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::macros::btf_map;
use sluice_common::abi::{
    Address, CidrKey, ClassId, Control, Counter, Decision, DecisionKey, ENDPOINT_MAX, Endpoint,
    Event, EventBudget, FRAGMENT_SETS, FlowBucket, FragmentSet, HairpinKey, HairpinNote,
    HairpinNoteKey, HairpinWay, PeerClass, RULE_MAX, SLOTS_BY_INDEX, Versioned, VipKey, capacity,
};
use sluice_common::reason::REASON_MAX;

use crate::path::Scratch;
use crate::recent;

/// The generation, the ABI version and the event rate. Written by the agent; one element. It can be
/// mapped into memory, because the flip of the generation is one atomic store.
#[btf_map(name = "control")]
pub(crate) static CONTROL: Array<Control, 1, { aya_ebpf::bindings::BPF_F_MMAPABLE as usize }> =
    Array::new();

/// Interface index → slot. Written by the agent on attach and detach. Interfaces with a greater
/// index are in [`ENDPOINT_SLOTS_HIGH`].
#[btf_map(name = "endpoint_slots")]
pub(crate) static ENDPOINT_SLOTS: Array<u32, { SLOTS_BY_INDEX as usize }> = Array::new();

/// Interface index → slot, for indices above the end of [`ENDPOINT_SLOTS`]. Written by the agent.
/// Holds as many entries as there are slots, so it cannot be full before they are.
#[btf_map(name = "endpoint_slots_high")]
pub(crate) static ENDPOINT_SLOTS_HIGH: HashMap<
    u32,
    u32,
    { ENDPOINT_MAX as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Slot → endpoint. Written by the agent. A pod without a free slot is not enforced and reported.
#[btf_map(name = "endpoints")]
pub(crate) static ENDPOINTS: Array<Versioned<Endpoint>, { ENDPOINT_MAX as usize }> = Array::new();

/// Address → class. Written by the agent in place, which closes the sets that would need what does not
/// fit.
#[btf_map(name = "peers")]
pub(crate) static PEERS: HashMap<
    Address,
    PeerClass,
    { capacity::PEERS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// Address and port of a service → class. Written by the agent in place, which closes every set for egress
/// where it does not fit.
#[btf_map(name = "vips")]
pub(crate) static VIPS: HashMap<
    VipKey,
    PeerClass,
    { capacity::VIPS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// (Slot, address and port of a service) → the endpoint's way to itself. Written by the agent in place; has room
/// for all that it gives to all endpoints.
#[btf_map(name = "hairpins")]
pub(crate) static HAIRPINS: HashMap<
    HairpinKey,
    HairpinWay,
    { capacity::HAIRPINS as usize },
    { BPF_F_NO_PREALLOC as usize },
> = HashMap::new();

/// A pod's packet to a service that leads back to it → when it left. Written and read here. When it is
/// full the oldest note goes, and that packet is judged by policy.
#[btf_map(name = "hairpin_notes")]
pub(crate) static HAIRPIN_NOTES: LruHashMap<
    HairpinNoteKey,
    HairpinNote,
    { capacity::HAIRPIN_NOTES as usize },
> = LruHashMap::new();

/// (Policy set, address prefix) → class. Written by the agent, which closes the sets that do not fit.
#[btf_map(name = "cidrs")]
pub(crate) static CIDRS: LpmTrie<CidrKey, Versioned<ClassId>, { capacity::CIDRS as usize }> =
    LpmTrie::new();

/// (Policy set, class, protocol, port prefix) → decision. Written by the agent, which closes the sets
/// that do not fit.
#[btf_map(name = "decisions")]
pub(crate) static DECISIONS: LpmTrie<
    DecisionKey,
    Versioned<Decision>,
    { capacity::DECISIONS as usize },
> = LpmTrie::new();

/// Hash of a flow key → the flows with that hash. Written here, each element under its lock; the agent
/// reads it and adds flows that it has learned. Where a bucket is full a flow gives way, by the rules of
/// `sluice_common::bucket`, and its next packet is judged by policy like a new one's.
#[btf_map(name = "flows")]
pub(crate) static FLOWS: Array<FlowBucket, { capacity::FLOW_BUCKETS as usize }> = Array::new();

/// Slot, direction and hash of the other end's address → packets whose first fragment has passed.
/// Written and read here. Every slot has its places; where they are full a packet gives way, by the rules
/// of `sluice_common::fragment`.
#[btf_map(name = "fragments")]
pub(crate) static FRAGMENTS: Array<FragmentSet, { (ENDPOINT_MAX * 2 * FRAGMENT_SETS) as usize }> =
    Array::new();

/// Hash of a flow key → flow that this CPU has looked up lately. Written and read here. A flow takes
/// the place of another with the same hash.
#[btf_map(name = "recent")]
pub(crate) static RECENT: PerCpuArray<recent::Recent, { recent::RECENT as usize }> =
    PerCpuArray::new();

/// Slot, direction and reason → packets and bytes, per CPU. Written here; the agent zeroes a slot's
/// elements before it gives the slot to another pod. Every slot has its place.
#[btf_map(name = "counters")]
pub(crate) static COUNTERS: PerCpuArray<Counter, { (ENDPOINT_MAX * 2 * REASON_MAX) as usize }> =
    PerCpuArray::new();

/// Rule number → packets and bytes that it decided on, per CPU. Written here; the agent zeroes an
/// element before the number gets another meaning, and gives no number beyond the end.
#[btf_map(name = "rule_hits")]
pub(crate) static RULE_HITS: PerCpuArray<Counter, { RULE_MAX as usize }> = PerCpuArray::new();

/// Records of drops. Written here, read by the agent. When it is full the record is lost and counted
/// as `event-lost`.
#[btf_map(name = "events")]
pub(crate) static EVENTS: RingBuf<Event, { capacity::EVENT_BYTES as usize }> = RingBuf::new();

/// Slot and reason → what the endpoint has used of its event rate. Written here only.
#[btf_map(name = "event_budgets")]
pub(crate) static EVENT_BUDGETS: Array<EventBudget, { (ENDPOINT_MAX * REASON_MAX) as usize }> =
    Array::new();

/// Room for what a program run knows about its packet. Written and read here, by one run at a time.
#[btf_map(name = "scratch")]
pub(crate) static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();
