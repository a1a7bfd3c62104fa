//! Table `flows`: tracked connections, conversations and echo exchanges.

use super::{Address, RuleId};

/// Key of `flows` (LRU hash). Written by the programs, read by the agent. When it is full, the least
/// recently used flow goes; the next packet of that flow is judged by policy again.
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
    /// Packets seen from both sides.
    Established = 1,
    /// TCP: both sides have closed, or the flow was reset. SCTP: it is being shut down.
    Closing = 2,
    /// Policy took the flow back; its packets are dropped from either side until it has been silent
    /// for its lifetime, so that a retransmission cannot open it again from the other side.
    Revoked = 3,
}

/// Value of `flows`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Jiffies (truncated to 64 bits of the kernel's counter) of the last packet, to a second's
    /// precision: established packets do not write it more often.
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
}

// SAFETY: integers without padding (28 and 32 bytes, asserted above), every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FlowKey {}
// SAFETY: as above.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Flow {}
