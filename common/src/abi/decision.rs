//! Table `decisions`: what a policy set says to a peer class on a port.

use super::{ClassId, RuleId, SetId};

/// Key data of `decisions` (LPM trie). The prefix length counts from `set`:
///
/// | prefix | covers |
/// |---|---|
/// | [`Self::BITS_ANY`] = 64 | every protocol and port of (set, class) |
/// | [`Self::BITS_PROTOCOL`] = 80 | every port of one protocol |
/// | 80 + n | the ports that share the first n bits |
///
/// Every (set, class) that is present at all has its `BITS_ANY` entry, so a miss means "this set does
/// not tell this class from any other" and the caller asks again for class
/// [`super::UNCLASSIFIED`]. A set without even that is unknown: fail closed.
///
/// Where it says what the set's own one says and the set has no other entry, a class could do without:
/// the second question finds the same. But then a packet of a known class on a port that is not for it
/// would need both look-ups, some 45 ns more of the 150 that a denied packet may take, and would save
/// little: a rule's selectors make one class, so there are about as many such entries as rules.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DecisionKey {
    /// Policy set, big-endian, so that the trie's bit order is the numeric order.
    set_be: u32,
    /// Peer class, big-endian.
    class_be: u32,
    /// IP protocol number in the first byte, zero in the second, port in the last two: big-endian.
    protocol_port_be: u32,
}

const _: () = assert!(size_of::<DecisionKey>() == 12);

/// Protocol number used with [`DecisionKey::BITS_ANY`], where it is not looked at.
pub const PROTOCOL_ANY: u8 = 0;

impl DecisionKey {
    /// Prefix of "any protocol, any port".
    pub const BITS_ANY: u32 = 64;
    /// Prefix of "this protocol, any port".
    pub const BITS_PROTOCOL: u32 = 80;
    /// Prefix of one port: the whole key.
    pub const BITS: u32 = 96;

    /// `port` in host order: the pod-side service port, i.e. the packet's destination port; for ICMP
    /// `type << 8 | code`, and 0 where a protocol has no ports.
    #[inline(always)]
    pub const fn new(set: SetId, class: ClassId, protocol: u8, port: u16) -> Self {
        Self {
            set_be: set.to_be(),
            class_be: class.to_be(),
            protocol_port_be: (((protocol as u32) << 24) | port as u32).to_be(),
        }
    }

    /// The policy set.
    pub const fn set(&self) -> SetId {
        u32::from_be(self.set_be)
    }
    /// The peer class.
    pub const fn class(&self) -> ClassId {
        u32::from_be(self.class_be)
    }
    /// The IP protocol number.
    pub const fn protocol(&self) -> u8 {
        (u32::from_be(self.protocol_port_be) >> 24) as u8
    }
    /// The port, in host order.
    pub const fn port(&self) -> u16 {
        u32::from_be(self.protocol_port_be) as u16
    }
}

/// In the order of the trie's bits: by set, class, protocol, port.
impl Ord for DecisionKey {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        let fields = |k: &Self| (k.set(), k.class(), u32::from_be(k.protocol_port_be));
        fields(self).cmp(&fields(other))
    }
}

impl PartialOrd for DecisionKey {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// What a [`Decision`] says.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// There is no decision here: as if the entry were missing.
    #[default]
    Absent = 0,
    /// Let the packet pass.
    Allow = 1,
    /// Drop the packet.
    Deny = 2,
}

/// Value of `decisions`, inside [`super::Versioned`].
///
/// `decisions`: LPM trie, written by the agent. When it is full, the sets that do not fit are closed:
/// their endpoints are isolated with a set that has no entries.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Decision {
    /// A [`Verdict`] as number (any other value: fail closed).
    pub verdict: u32,
    /// Place of the deciding rule in the set's evaluation order, 0 first. An address that comes to
    /// have two classes takes the decision of the lower rank.
    pub rank: u32,
    /// The rule that decided, or [`super::RULE_DEFAULT`].
    pub rule: RuleId,
}

const _: () = assert!(size_of::<Decision>() == 12);
const _: () = assert!(size_of::<super::Versioned<Decision>>() == 32);

impl Decision {
    /// True where the entry counts as missing.
    #[inline(always)]
    pub const fn is_absent(&self) -> bool {
        self.verdict == Verdict::Absent as u32
    }
}

// SAFETY: `u32` fields only, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for DecisionKey {}
// SAFETY: `u32` fields only, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Decision {}
