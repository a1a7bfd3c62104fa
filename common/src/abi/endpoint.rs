//! Tables `endpoint_slots` and `endpoints`: which interface is which pod, and what governs it.

use super::{Address, SET_NONE, SetId, Versioned};

/// Value of `endpoint_slots` for an interface that is no endpoint's.
///
/// `endpoint_slots`: array by ifindex (interfaces above its end: hash `endpoint_slots_high`), value
/// the slot as `u32`. Written by the agent when it attaches or detaches.
pub const SLOT_NONE: u32 = 0;

/// Elements of `endpoint_slots`: interface indices below it are looked up there, the rest in
/// `endpoint_slots_high`.
pub const SLOTS_BY_INDEX: u32 = 65_536;

/// Slots of `endpoints`, [`SLOT_NONE`] included.
pub const ENDPOINT_MAX: u32 = 1024;

/// A direction, always from the pod's point of view.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// To the pod (the tc egress hook of its host-side interface).
    Ingress = 0,
    /// From the pod (the tc ingress hook of its host-side interface).
    Egress = 1,
}

impl Direction {
    /// The other one.
    #[inline(always)]
    #[must_use]
    pub const fn reverse(self) -> Self {
        match self {
            Self::Ingress => Self::Egress,
            Self::Egress => Self::Ingress,
        }
    }
}

/// Bits of [`Endpoint::flags`].
#[derive(Clone, Copy, Debug)]
pub struct EndpointFlags;

impl EndpointFlags {
    /// The slot is in use; an element without it is absent and its interface passes everything.
    pub const PRESENT: u32 = 1 << 0;
    /// Packets with a source address that is not the pod's pass (per-pod opt-out).
    pub const ANY_SOURCE: u32 = 1 << 1;
    /// Evaluate, count and report, but never drop.
    pub const SHADOW: u32 = 1 << 2;
    /// The pod is a backend of a service: it has entries in `hairpins`.
    pub const HAIRPIN: u32 = 1 << 3;
}

/// Value of `endpoints` (array by slot), inside [`Versioned`]. Written by the agent. When all slots
/// are taken, a further pod cannot be enforced and is reported as such.
///
/// Aligned for the programs, which copy it in words of 8 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Policy set per direction, indexed by [`Direction`]; [`SET_NONE`]: not isolated.
    pub sets: [SetId; 2],
    /// Number of this incarnation, never given to another: part of the flow key, so that no flow
    /// outlives its pod.
    pub epoch: u32,
    /// [`EndpointFlags`].
    pub flags: u32,
    /// The pod's IPv4 address, mapped; unspecified where it has none.
    pub v4: Address,
    /// The pod's IPv6 address; unspecified where it has none.
    pub v6: Address,
}

const _: () = assert!(size_of::<Endpoint>() == 48);
const _: () = assert!(size_of::<Versioned<Endpoint>>() == 104);

impl Endpoint {
    /// The set that governs a direction.
    #[inline(always)]
    pub const fn set(&self, direction: Direction) -> SetId {
        match direction {
            Direction::Ingress => self.sets[0],
            Direction::Egress => self.sets[1],
        }
    }
    /// True where a policy applies in this direction.
    #[inline(always)]
    pub const fn is_governed(&self, direction: Direction) -> bool {
        self.set(direction) != SET_NONE
    }
    /// True where it has entries in `hairpins`.
    #[inline(always)]
    pub const fn has_hairpins(&self) -> bool {
        self.flags & EndpointFlags::HAIRPIN != 0
    }
    /// True where the element is in use.
    #[inline(always)]
    pub const fn is_present(&self) -> bool {
        self.flags & EndpointFlags::PRESENT != 0
    }
    /// True if `address` is one of the pod's own.
    #[inline(always)]
    pub fn owns(&self, address: &Address) -> bool {
        !address.is_unspecified() && (*address == self.v4 || *address == self.v6)
    }
}

// SAFETY: `u32` fields and `Address`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Endpoint {}
