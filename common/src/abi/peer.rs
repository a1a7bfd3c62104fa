//! Tables `peers` and `cidrs`: which class an address has.

use super::{Address, ClassId, SetId, Versioned};

/// The class of every address that no predicate in force tells from another; as a table value,
/// "absent".
///
/// `peers`: hash, key [`Address`], value [`PeerClass`]: the classes of pod addresses, over all policy
/// sets of the node. Written by the agent. When it is full, every set whose decisions would need the
/// missing peers is closed.
pub const UNCLASSIFIED: ClassId = 0;

/// Value of `peers`.
///
/// The kernel replaces an element of a hash by another one and gives the old one's memory to the next
/// that is added, with no regard to who still reads it. Only with a lock in the value can an element
/// be written in place (`BPF_F_LOCK`), as [`Versioned`] wants it. Readers take no lock: they do not
/// look at the version that is being written.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerClass {
    /// The class.
    pub class: Versioned<ClassId>,
    lock: bpf_spin_lock,
    reserved: u32,
}

/// The kernel's lock, which it knows by this name. Programs must not touch it; to user space it reads
/// as zero.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct bpf_spin_lock {
    pub(super) val: u32,
}

const _: () = assert!(size_of::<PeerClass>() == 24);
const _: () = assert!(core::mem::offset_of!(PeerClass, lock) == 16);

impl PeerClass {
    /// A value to write.
    pub const fn new(class: Versioned<ClassId>) -> Self {
        Self { class, lock: bpf_spin_lock { val: 0 }, reserved: 0 }
    }
}

/// Key data of `cidrs` (LPM trie), value `Versioned<ClassId>`: the class of addresses that are no
/// pod's, per policy set. Each prefix carries the class of *all* blocks of that set which cover it
/// (their excepts taken off), so the longest match alone is right. Written by the agent. When it is
/// full, the sets that do not fit are closed.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CidrKey {
    /// Policy set, big-endian.
    set_be: u32,
    /// Address, IPv4 mapped: an IPv4 block of n bits has prefix 32 + 96 + n.
    pub address: Address,
}

/// Bits of a whole [`CidrKey`].
pub const CIDR_KEY_BITS: u32 = 160;

const _: () = assert!(size_of::<CidrKey>() as u32 * 8 == CIDR_KEY_BITS);
const _: () = assert!(size_of::<Versioned<ClassId>>() == 16);

impl CidrKey {
    /// Key of `address` as the policy set sees it.
    #[inline(always)]
    pub const fn new(set: SetId, address: Address) -> Self {
        Self { set_be: set.to_be(), address }
    }
    /// The policy set.
    pub const fn set(&self) -> SetId {
        u32::from_be(self.set_be)
    }
}

/// In the order of the trie's bits: by set, then address.
impl Ord for CidrKey {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        (self.set(), self.address).cmp(&(other.set(), other.address))
    }
}

impl PartialOrd for CidrKey {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

// SAFETY: `u32` and `Address`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for CidrKey {}
// SAFETY: `u32` fields only, no padding (24 bytes, asserted above), every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for PeerClass {}
