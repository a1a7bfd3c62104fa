//! Table `fragments`: packets whose first fragment has passed.

use super::Address;

/// Elements of `fragments` per slot and direction; a power of two above 1. A pod, or whoever sends to it,
/// can take places of that pod's own packets only.
pub const FRAGMENT_SETS: u32 = 8;
/// Packets in an element of `fragments`.
pub const FRAGMENT_WAYS: usize = 8;

/// Value of `fragments`: array, index by slot, direction and a hash of the address at the other end
/// ([`crate::fragment::index`]). Written by the programs only. Which packet gives way to another where all
/// places are taken is in [`crate::fragment::place_for`]; its further fragments are then dropped.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentSet {
    /// The packets.
    pub places: [Fragment; FRAGMENT_WAYS],
}

/// A packet whose first fragment has passed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Jiffies when its first fragment passed.
    pub begun: u64,
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Identification, host order.
    pub id: u32,
    /// [`super::Endpoint::epoch`] of the pod; 0: no packet, or one whose last fragment has passed.
    pub epoch: u32,
    /// Source port, network order (see [`crate::parse::Packet::source_port_be`]).
    pub source_port_be: u16,
    /// Destination port, network order.
    pub destination_port_be: u16,
    /// IP protocol number, after all extension headers.
    pub protocol: u32,
    /// ICMP and ICMPv6: `type << 8 | code`. Else 0.
    pub icmp: u32,
    /// Bytes of the packet's payload up to where its next fragment may begin.
    pub end: u32,
}

const _: () = assert!(size_of::<Fragment>() == 64);
const _: () = assert!(size_of::<FragmentSet>() == 512);

// SAFETY: as for what it holds, without padding.
#[cfg(feature = "user")]
unsafe impl aya::Pod for FragmentSet {}
// SAFETY: integers and `Address` without padding (64 bytes, asserted above), every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Fragment {}
