//! Tables `vips`, `hairpins` and `hairpin_notes`: addresses that the cluster translates on a packet's
//! way, and pods that reach themselves through them.

use super::peer::bpf_spin_lock;
use super::{Address, Decision, Versioned};

/// Key of `vips` (hash), value [`super::PeerClass`]: an address and port of a service (ClusterIP,
/// external IP, load-balancer address, alias), as a pod's packet has it before it is translated.
/// Written by the agent, while any endpoint's egress is governed. A class stands for the backends: its
/// one decision per policy set, if it has any, is what the set says to them, and what the set says to
/// the service's own address and port never counts. When the table is full, every set for egress is
/// closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VipKey {
    /// The service's address.
    pub address: Address,
    /// The service's port, network order.
    port_be: u16,
    /// IP protocol number.
    protocol: u16,
}

const _: () = assert!(size_of::<VipKey>() == 20);

impl VipKey {
    /// `port` in host order.
    #[inline(always)]
    pub const fn new(address: Address, protocol: u8, port: u16) -> Self {
        Self { address, port_be: port.to_be(), protocol: protocol as u16 }
    }
    /// The service's port, in host order.
    pub const fn port(&self) -> u16 {
        u16::from_be(self.port_be)
    }
    /// The IP protocol number.
    pub const fn protocol(&self) -> u8 {
        self.protocol as u8
    }
}

/// By address, protocol, port.
impl Ord for VipKey {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        let fields = |key: &Self| (key.address, key.protocol, key.port());
        fields(self).cmp(&fields(other))
    }
}

impl PartialOrd for VipKey {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Key of `hairpins` (hash), value [`HairpinWay`]: an endpoint that is a backend of a VIP.
/// Written by the agent for endpoints that are governed. Has room for [`super::capacity::HAIRPINS_EACH`]
/// of every endpoint; one that is a backend of more VIPs has none here.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HairpinKey {
    /// The endpoint's slot.
    pub slot: u32,
    /// The VIP.
    pub vip: VipKey,
}

const _: () = assert!(size_of::<HairpinKey>() == 24);

/// A VIP that can be translated to the pod that asks. As a table value, all zero is "absent".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hairpin {
    /// What the endpoint's egress set says to the VIP when the pod itself counts as allowed, instead
    /// of what it says to the VIP's class. Absent where egress is not governed, or closed.
    pub decision: Decision,
    /// The pod's own port that the VIP leads to, in host order, or [`Self::ANY_PORT`]; 0: absent.
    pub port: u32,
}

const _: () = assert!(size_of::<Hairpin>() == 16);
const _: () = assert!(size_of::<Versioned<Hairpin>>() == 40);

impl Hairpin {
    /// The VIP leads to several ports of the pod.
    pub const ANY_PORT: u32 = 1 << 16;

    /// True if a packet to this port of the pod (host order) can have come through the VIP.
    #[inline(always)]
    pub const fn leads_to(port: u32, packet_port: u16) -> bool {
        port == Self::ANY_PORT || port == packet_port as u32
    }
}

/// Value of `hairpins`, written in place as that of `peers` is.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HairpinWay {
    /// The way.
    pub hairpin: Versioned<Hairpin>,
    lock: bpf_spin_lock,
    reserved: u32,
}

const _: () = assert!(size_of::<HairpinWay>() == 48);
const _: () = assert!(core::mem::offset_of!(HairpinWay, lock) == 40);

impl HairpinWay {
    /// A value to write.
    pub const fn new(hairpin: Versioned<Hairpin>) -> Self {
        Self { hairpin, lock: bpf_spin_lock { val: 0 }, reserved: 0 }
    }
}

/// Key of `hairpin_notes` (LRU hash, programs only): a packet that a pod sent to a VIP which can lead
/// back to it, by what translation leaves as it was. When the table is full the oldest note goes, and
/// the packet is judged by policy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HairpinNoteKey {
    /// [`super::Endpoint::epoch`] of the pod.
    pub epoch: u32,
    /// IP protocol number.
    pub protocol: u32,
    /// A word of the packet, memory order: TCP's sequence number, SCTP's verification tag (of an INIT:
    /// the tag that it proposes), the first of a UDP payload.
    pub token: u32,
}

const _: () = assert!(size_of::<HairpinNoteKey>() == 12);

/// Value of `hairpin_notes`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HairpinNote {
    /// Jiffies when the packet left.
    pub noted: u64,
    /// [`Hairpin::port`].
    pub port: u32,
    /// Zero.
    pub reserved: u32,
}

const _: () = assert!(size_of::<HairpinNote>() == 16);

// SAFETY: `u32`, `u16` and `Address` without padding (20 bytes, asserted above), every bit pattern
// valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for VipKey {}
// SAFETY: `u32` and `VipKey`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for HairpinKey {}
// SAFETY: `Decision` and `u32`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Hairpin {}
// SAFETY: `Versioned` and `u32` fields only, no padding (48 bytes, asserted above), every bit pattern
// valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for HairpinWay {}
// SAFETY: three `u32`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for HairpinNoteKey {}
// SAFETY: a `u64` and two `u32`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for HairpinNote {}
