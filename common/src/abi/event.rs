//! Ring buffer `events`: records of decisions.

use super::Address;
use crate::reason::REASON_MAX;

/// One record of `events` (ring buffer), rate-limited per endpoint and reason; what did not fit is counted in
/// `counters` under [`crate::reason::Reason::EventLost`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// `bpf_ktime_get_ns` at the decision.
    pub time_ns: u64,
    /// The endpoint's slot.
    pub slot: u32,
    /// The endpoint's epoch.
    pub epoch: u32,
    /// A [`super::Direction`] as number.
    pub direction: u32,
    /// A [`crate::reason::Reason`] as number.
    pub reason: u32,
    /// The rule that decided, or 0.
    pub rule: u32,
    /// Generation of the tables that decided.
    pub generation: u32,
    /// Source address of the packet; unspecified where it could not be read.
    pub source: Address,
    /// Destination address of the packet; unspecified where it could not be read.
    pub destination: Address,
    /// Source port, network order; 0 where it could not be read.
    pub source_port_be: u16,
    /// Destination port, network order; 0 where it could not be read.
    pub destination_port_be: u16,
    /// IP protocol number; 0 where it could not be read.
    pub protocol: u32,
    /// Length of the packet in bytes.
    pub length: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<Event>() == 80);

/// Value of `event_budgets` (array, index [`event_budget_index`]): how many records an endpoint has written
/// for a reason in the current second. CPUs write it without a lock, so that a burst on several CPUs may
/// exceed the rate a little.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventBudget {
    /// The second (jiffies / HZ, truncated) that `used` counts in.
    pub second: u32,
    /// Records in that second.
    pub used: u32,
}

const _: () = assert!(size_of::<EventBudget>() == 8);

/// Index into `event_budgets` for a slot and a reason (below [`REASON_MAX`]): drops of one kind, however
/// many, hide none of another.
#[inline(always)]
pub const fn event_budget_index(slot: u32, reason: u32) -> u32 {
    slot * REASON_MAX + reason
}

// SAFETY: two `u32`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for EventBudget {}
// SAFETY: integers and `Address` without padding (80 bytes, asserted above), every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Event {}
