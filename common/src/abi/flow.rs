//! Table `flows`: tracked connections, conversations and echo exchanges.

use super::peer::bpf_spin_lock;
use super::{Address, RuleId};

/// Key of a flow. Its bucket in `flows` is found by [`crate::bucket::Spot`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The address at the other end. The pod has one address per family, so this tells its own too.
    pub remote: Address,
    /// [`super::Endpoint::epoch`] of the pod.
    pub epoch: u32,
    /// The pod's port, network order. ICMP: the identifier where the pod sent the request, else 0.
    pub local_port_be: u16,
    /// The other end's port, network order. ICMP: the identifier where the other end sent the
    /// request, else 0.
    pub remote_port_be: u16,
    /// IP protocol number.
    pub protocol: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 28);

/// State of a flow; transitions in [`crate::flow`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowState {
    /// First packet seen from the initiator, nothing from the other side.
    #[default]
    Opening = 0,
    /// Both sides have answered each other; or a connection that was open before it was first seen.
    Established = 1,
    /// TCP: both sides have closed, or the flow was reset; it is established again where the side that
    /// reset it goes on, which has then not done so. SCTP: it is being shut down.
    Closing = 2,
    /// Policy took the flow back; its packets are dropped from either side until it has been silent
    /// for as long as an established one may be, so that no retransmission or probe can open it again
    /// from the other side.
    Revoked = 3,
    /// The other side has answered the initiator, who has not answered that.
    Answered = 4,
}

/// A tracked connection, conversation or echo exchange.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Jiffies (truncated to 64 bits of the kernel's counter) of the last packet, to two seconds'
    /// precision: a CPU asks the table once a second for a flow that it knows, and no packet writes it
    /// more often than that.
    pub last_seen: u64,
    /// [`super::Control::generation`] at which the flow was last judged. Beside `state`, so that the
    /// two are written as one 8-byte word: a verdict never stands beside another's generation.
    pub generation: u32,
    /// A [`FlowState`] as number.
    pub state: u32,
    /// The rule that allowed it.
    pub rule: RuleId,
    /// The [`super::Direction`] of the first packet, as number.
    pub initiator: u32,
    /// Bits of [`Self`]'s `FLAG_*` constants.
    pub flags: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Flow>() == 32);
const _: () = assert!(core::mem::offset_of!(Flow, generation) == 8);
const _: () = assert!(core::mem::offset_of!(Flow, state) == 12);

impl Flow {
    /// The node's own host stack opened it: it is not judged again when policies change.
    pub const FLAG_HOST: u32 = 1 << 0;
    /// TCP: a FIN was seen in the direction that [`super::Direction::Ingress`] names.
    pub const FLAG_FIN_INGRESS: u32 = 1 << 1;
    /// TCP: a FIN was seen in the direction that [`super::Direction::Egress`] names.
    pub const FLAG_FIN_EGRESS: u32 = 1 << 2;
    /// The pod opened it, to a service that leads back to it. Seen from its egress: its packets are
    /// stamped and noted. Seen from its ingress: it came back, and is not judged again.
    pub const FLAG_SELF: u32 = 1 << 3;
    /// Both ends want it: each has answered the other, or the other end went on with a connection that
    /// was open before it was first seen. Until it is closed.
    pub const FLAG_WANTED: u32 = 1 << 4;
    /// TCP: what both ends wanted was reset by a packet in the direction that
    /// [`super::Direction::Ingress`] names.
    pub const FLAG_RESET_INGRESS: u32 = 1 << 5;
    /// The same in the direction that [`super::Direction::Egress`] names.
    pub const FLAG_RESET_EGRESS: u32 = 1 << 6;
}

/// Places for flows in a bucket.
pub const FLOW_WAYS: usize = 15;

/// A place for a flow in a bucket.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry {
    /// Whose it is.
    pub key: FlowKey,
    /// The second (jiffies / HZ, truncated) in which the flow is over if it stays silent, or the next.
    pub deadline: u32,
    /// The flow.
    pub flow: Flow,
}

/// Value of `flows` (array by a hash of the key): the flows whose keys have that hash. Written by the
/// programs under its lock; the agent reads it, and adds flows that it has learned. Which flow gives way
/// to another where a bucket is full is in [`crate::bucket`].
///
/// What is looked at to find a flow, or a free place, is one cache line at the front.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowBucket {
    lock: bpf_spin_lock,
    /// [`crate::bucket::Spot::tag`] of each place's flow; 0: the place is free.
    pub tags: [u32; FLOW_WAYS],
    /// The flows.
    pub entries: [FlowEntry; FLOW_WAYS],
}

const _: () = assert!(size_of::<FlowEntry>() == 64);
const _: () = assert!(size_of::<FlowBucket>() == 1024);
const _: () = assert!(core::mem::offset_of!(FlowBucket, entries) == 64);

// SAFETY: integers without padding (28 and 32 bytes, asserted above), every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Flow {}
// SAFETY: integers and arrays of them without padding (1024 bytes, asserted above), every bit pattern
// valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowBucket {}
