//! Tables `counters` and `rule_hits`: packets and bytes.

use super::Direction;
use crate::reason::REASON_MAX;

/// Value of `counters` (per-CPU array, key [`counter_index`]) and of `rule_hits` (per-CPU array, key
/// [`super::RuleId`]). Written by the programs only; the agent zeroes an element before its slot or
/// rule number is given to another.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counter {
    /// Packets; a super-packet (GSO/GRO) counts as one.
    pub packets: u64,
    /// Bytes from the Ethernet header on, as `skb->len` says.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Counter>() == 16);

/// Index into `counters` for a slot, a direction and a reason (below [`REASON_MAX`]).
#[inline(always)]
pub const fn counter_index(slot: u32, direction: Direction, reason: u32) -> u32 {
    (slot * 2 + direction as u32) * REASON_MAX + reason
}

// SAFETY: two `u64`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Counter {}
