//! The packets that are most: TCP or UDP right behind an IP header without options or extension headers,
//! untagged and whole. Everything has its fixed place in them, so that there is less to ask than in
//! [`super::parse`].

use super::ipv4::{self, FRAGMENT_OFFSET, MORE_FRAGMENTS};
use super::{Bytes, ETHERNET_LENGTH, Packet, ethertype, ipv6, protocol, transport};
use crate::abi::Address;

/// Version 4 and five words: an IPv4 header without options.
const V4_WITHOUT_OPTIONS: u32 = 0x45;

/// Reads such a packet as [`super::parse`] does. `None` for any other, and where there is anything wrong
/// with it: that is then `parse`'s to say.
#[inline(always)]
pub fn parse_plain<B: Bytes + ?Sized>(bytes: &B) -> Option<Packet> {
    match bytes.half(ETHERNET_LENGTH - 2)? {
        ethertype::IPV4 => v4(bytes),
        ethertype::IPV6 => v6(bytes),
        _ => None,
    }
}

#[inline(always)]
fn v4<B: Bytes + ?Sized>(bytes: &B) -> Option<Packet> {
    let words: [u32; 5] = bytes.words(ETHERNET_LENGTH)?;
    let [first, second, third] = [words[0], words[1], words[2]].map(u32::from_be);
    if first >> 24 != V4_WITHOUT_OPTIONS
        || second & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
        || ipv4::is_never_a_source(u32::from_be(words[3]))
    {
        return None;
    }
    let packet = Packet {
        source: Address::from_v4_word(words[3]),
        destination: Address::from_v4_word(words[4]),
        addressed: true,
        protocol: (third >> 16) as u8,
        hop_limit: (third >> 24) as u8,
        end: ETHERNET_LENGTH + (first & 0xffff),
        ..Packet::default()
    };
    with_transport(bytes, ETHERNET_LENGTH + ipv4::LENGTH_MIN, packet)
}

#[inline(always)]
fn v6<B: Bytes + ?Sized>(bytes: &B) -> Option<Packet> {
    let words: [u32; 10] = bytes.words(ETHERNET_LENGTH)?;
    let second = u32::from_be(words[1]);
    let source = Address::from_words([words[2], words[3], words[4], words[5]]);
    let destination = Address::from_words([words[6], words[7], words[8], words[9]]);
    if u32::from_be(words[0]) >> 28 != 6 || ipv6::are_martian(&source, &destination) {
        return None;
    }
    let start = ETHERNET_LENGTH + ipv6::LENGTH;
    let packet = Packet {
        source,
        destination,
        addressed: true,
        protocol: (second >> 8) as u8,
        hop_limit: second as u8,
        end: start + (second >> 16),
        ..Packet::default()
    };
    with_transport(bytes, start, packet)
}

/// A length of 0, which a merged packet above 64 KiB says, is shorter than a transport header.
#[inline(always)]
fn with_transport<B: Bytes + ?Sized>(bytes: &B, offset: u32, mut packet: Packet) -> Option<Packet> {
    if packet.end > bytes.length() {
        return None;
    }
    packet.transport_offset = offset;
    let read = match packet.protocol {
        protocol::TCP => transport::tcp(bytes, offset, packet.end, &mut packet),
        protocol::UDP => transport::udp(bytes, offset, packet.end, &mut packet),
        _ => return None,
    };
    read.is_ok().then_some(packet)
}
