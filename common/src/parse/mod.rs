//! The packet parser: one implementation for the kernel programs, the fuzzers and the tests.
//!
//! It reads from a [`Bytes`] and fills a [`Packet`]. What it cannot read it names with a [`Reason`]
//! and takes no action: the verdict is its caller's. Nothing is read from a place that was not proven
//! to hold it: every length is checked against the header before it and against the packet, and a
//! port is only ever taken from a transport header that is there as a whole.

mod arp;
mod control;
mod icmp;
mod ipv4;
mod ipv6;
mod plain;
mod transport;

use crate::abi::Address;
use crate::reason::Reason;

pub use control::{claims_another_target, is_control, source_is_acceptable};
pub use icmp::{quoted, transport as icmp_transport};
pub use plain::parse_plain;
pub use transport::{sctp_chunk, tcp_flag};

/// Where the bytes of a packet come from.
///
/// Words are as they stand in memory (network order in a native integer), because that is what the
/// kernel can load in one instruction.
pub trait Bytes {
    /// Bytes in the packet, those beyond the linear part included.
    fn length(&self) -> u32;

    /// `N` words from `offset` on, or `None` where the packet does not hold them.
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]>;

    /// Two bytes at `offset` as a number (big-endian), or `None`.
    fn half(&self, offset: u32) -> Option<u16>;

    /// The same value.
    ///
    /// In the kernel, the same value without what the verifier knows of it: ways through the parser
    /// that differ in it alone are then looked at once, not once each.
    #[inline(always)]
    fn blur(&self, value: u32) -> u32 {
        value
    }
}

impl Bytes for [u8] {
    fn length(&self) -> u32 {
        u32::try_from(self.len()).unwrap_or(u32::MAX)
    }

    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.get(start..start.checked_add(4 * N)?)?;
        let mut words = [0; N];
        for (word, chunk) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u32::from_ne_bytes(*chunk);
        }
        Some(words)
    }

    fn half(&self, offset: u32) -> Option<u16> {
        let start = usize::try_from(offset).ok()?;
        let bytes = self.get(start..start.checked_add(2)?)?;
        Some(u16::from_be_bytes([bytes[0], bytes[1]]))
    }
}

/// IP protocol numbers.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// What the transport header says about its connection.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// It was not read.
    #[default]
    Unread = 0,
    /// TCP, with its flags.
    Tcp {
        /// The flags byte: bits of [`tcp_flag`].
        flags: u8,
    },
    /// UDP.
    Udp,
    /// SCTP, with the type of its first chunk.
    Sctp {
        /// Chunk type, one of [`sctp_chunk`] where it matters.
        chunk: u8,
    },
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// An ICMP or ICMPv6 echo reply.
    EchoReply,
    /// An ICMP or ICMPv6 error; [`quoted`] reads the packet that it is about.
    Error {
        /// Where the quoted packet begins.
        quote: u32,
    },
    /// A neighbour solicitation or advertisement.
    Neighbour {
        /// Where the ICMPv6 message begins.
        message: u32,
    },
    /// Any other ICMP or ICMPv6 message.
    OtherIcmp,
}

/// What was read of a packet. Fields that were not reached keep their zeros.
///
/// All-zero memory is `Packet::default()`: the kernel program makes it that way, because writing the
/// fields one by one ends in a loop over bytes there. Aligned for that in words of 8 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// True once both addresses were read and can stand in a packet.
    pub addressed: bool,
    /// IP protocol number, after all extension headers.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// IPv6: a fragment header was walked, if only that of a packet which is whole (RFC 6946).
    pub has_fragment_header: bool,
    /// The transport header.
    pub transport: Transport,
    /// Source port, network order. Echo request: its identifier. Else 0.
    pub source_port_be: u16,
    /// Destination port, network order. Echo reply: its identifier. Else 0.
    pub destination_port_be: u16,
    /// ICMP and ICMPv6: `type << 8 | code`. Else 0.
    pub icmp: u16,
    /// Where the transport header begins.
    pub transport_offset: u32,
    /// Where the packet ends. What the frame has behind that belongs to nothing.
    pub end: u32,
    /// Which piece of a packet it is.
    pub piece: Piece,
}

/// Which piece of a fragmented packet a packet is; zeros for one that is whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// Identification of the packet, host order.
    pub id: u32,
    /// Where it begins in the packet's payload, in bytes.
    pub offset: u16,
    /// How many bytes of that payload it has.
    pub length: u16,
    /// It is a fragment.
    pub is_fragment: bool,
    /// There is more behind it.
    pub more: bool,
}

impl Piece {
    /// A fragment.
    ///
    /// # Errors
    /// [`Reason::BadLength`] where no packet can have such a piece (RFC 791, RFC 8200 section 4.5).
    #[inline(always)]
    const fn new(id: u32, offset: u32, length: u32, more: bool) -> Result<Self, Reason> {
        if length == 0 || offset + length > 0xffff || (more && !length.is_multiple_of(8)) {
            return Err(Reason::BadLength);
        }
        Ok(Self { id, offset: offset as u16, length: length as u16, is_fragment: true, more })
    }
}

impl Packet {
    /// The port that policy looks at, in host order: see [`crate::abi::DecisionKey::new`].
    #[inline(always)]
    pub fn decision_port(&self) -> u16 {
        match self.protocol {
            protocol::ICMP | protocol::ICMPV6 => self.icmp,
            _ => u16::from_be(self.destination_port_be),
        }
    }
}

/// What kind of frame it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// ARP (RFC 826): source and destination are the sender's and the target's protocol address.
    Arp,
    /// An IPv4 or IPv6 packet, or its first fragment, read up to and including its transport header.
    Ip,
    /// A later fragment: the transport header is in the first ([`crate::fragment`]).
    Piece,
}

/// Ethernet types (IEEE 802 numbers).
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const ARP: u16 = 0x0806;
    pub(super) const IPV6: u16 = 0x86dd;
    /// IEEE 802.1Q tag.
    pub(super) const VLAN: u16 = 0x8100;
    /// IEEE 802.1ad (outer) tag.
    pub(super) const SERVICE_VLAN: u16 = 0x88a8;
}

/// Length of an Ethernet header without tags.
const ETHERNET_LENGTH: u32 = 14;
/// Length of a VLAN tag.
const TAG_LENGTH: u32 = 4;
/// Tags that are read in the packet's data. One more may be in its metadata, unseen here.
const TAGS_MAX: u32 = 2;

/// Reads a frame that begins with its Ethernet header.
///
/// # Errors
/// The reason for which it cannot be judged; `packet` holds what was read before.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<Frame, Reason> {
    let mut offset = ETHERNET_LENGTH;
    if bytes.length() < offset {
        return Err(Reason::Truncated);
    }
    let mut ethertype = bytes.half(offset - 2).ok_or(Reason::Unreadable)?;
    for _ in 0..TAGS_MAX {
        if !is_tag(ethertype) {
            break;
        }
        offset += TAG_LENGTH;
        if bytes.length() < offset {
            return Err(Reason::Truncated);
        }
        ethertype = bytes.half(offset - 2).ok_or(Reason::Unreadable)?;
    }
    let offset = bytes.blur(offset);
    match ethertype {
        ethertype::IPV4 => ipv4::parse(bytes, offset, packet).map(|()| ip(packet)),
        ethertype::IPV6 => ipv6::parse(bytes, offset, packet).map(|()| ip(packet)),
        ethertype::ARP => arp::parse(bytes, offset, packet).map(|()| Frame::Arp),
        _ if is_tag(ethertype) => Err(Reason::VlanDepth),
        _ => Err(Reason::UnknownEthertype),
    }
}

#[inline(always)]
const fn ip(packet: &Packet) -> Frame {
    if packet.piece.offset == 0 { Frame::Ip } else { Frame::Piece }
}

#[inline(always)]
const fn is_tag(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN)
}

/// Words of a header of `length` bytes at `offset`, in a packet that ends at `end`.
#[inline(always)]
fn header<B: Bytes + ?Sized, const N: usize>(
    bytes: &B,
    offset: u32,
    length: u32,
    end: u32,
) -> Result<[u32; N], Reason> {
    if offset + length > end {
        return Err(Reason::Truncated);
    }
    bytes.words(offset).ok_or(Reason::Unreadable)
}

/// What reading a first fragment (offset zero, more to come) came to: a transport header that is cut
/// short is a matter of its own (RFC 1858 section 3, RFC 7112 section 5).
#[inline(always)]
const fn first_fragment(read: Result<(), Reason>) -> Result<(), Reason> {
    match read {
        Err(Reason::Truncated) => Err(Reason::TinyFragment),
        read => read,
    }
}

/// Refuses a later fragment, which begins `position` bytes into the packet's payload, that lies over
/// the transport header: it could change what was judged (RFC 1858 section 4, RFC 3128).
#[inline(always)]
const fn later_fragment(protocol: u8, position: u32) -> Result<(), Reason> {
    if position < transport::length_min(protocol) { Err(Reason::TinyFragment) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::Packet;

    #[test]
    fn zeroed_memory_is_the_default() {
        // SAFETY: integers and a `bool`, for which zero is valid, and an enum with a value for zero.
        let zeroed: Packet = unsafe { core::mem::zeroed() };
        assert_eq!(zeroed, Packet::default());
    }
}
