//! ICMP (RFC 792), ICMPv6 (RFC 4443), and the packets that their errors quote.

use super::{Bytes, Packet, Transport, header, protocol, transport};
use crate::abi::Address;
use crate::reason::Reason;

/// Every message has at least these bytes.
const LENGTH: u32 = 8;

/// Message types.
mod message {
    pub(super) const ECHO_REPLY: u32 = 0;
    pub(super) const DESTINATION_UNREACHABLE: u32 = 3;
    pub(super) const SOURCE_QUENCH: u32 = 4;
    pub(super) const ECHO_REQUEST: u32 = 8;
    pub(super) const TIME_EXCEEDED: u32 = 11;
    pub(super) const PARAMETER_PROBLEM: u32 = 12;

    /// ICMPv6 errors: destination unreachable, packet too big, time exceeded, parameter problem.
    pub(super) const V6_ERROR_FIRST: u32 = 1;
    pub(super) const V6_ERROR_LAST: u32 = 4;
    pub(super) const V6_ECHO_REQUEST: u32 = 128;
    pub(super) const V6_ECHO_REPLY: u32 = 129;
    pub(super) const NEIGHBOUR_SOLICITATION: u32 = 135;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u32 = 136;
}

/// Reads the message at `offset` of a packet that ends at `end`; `packet.protocol` says which of the
/// two protocols it is.
#[inline(always)]
pub(super) fn parse<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let words: [u32; 2] = header(bytes, offset, LENGTH, end)?;
    packet.icmp = (u32::from_be(words[0]) >> 16) as u16;
    set_transport(packet, words, offset + LENGTH);
    Ok(())
}

#[inline(always)]
fn set_transport(packet: &mut Packet, words: [u32; 2], quote: u32) {
    let message_type = u32::from(packet.icmp >> 8);
    let identifier_be = ((u32::from_be(words[1]) >> 16) as u16).to_be();
    let is_ipv6 = packet.protocol == protocol::ICMPV6;
    packet.transport = match (is_ipv6, message_type) {
        (false, message::ECHO_REQUEST) | (true, message::V6_ECHO_REQUEST) => {
            packet.source_port_be = identifier_be;
            Transport::EchoRequest
        }
        (false, message::ECHO_REPLY) | (true, message::V6_ECHO_REPLY) => {
            packet.destination_port_be = identifier_be;
            Transport::EchoReply
        }
        (
            false,
            message::DESTINATION_UNREACHABLE
            | message::SOURCE_QUENCH
            | message::TIME_EXCEEDED
            | message::PARAMETER_PROBLEM,
        )
        | (true, message::V6_ERROR_FIRST..=message::V6_ERROR_LAST) => Transport::Error { quote },
        (true, message::NEIGHBOUR_SOLICITATION | message::NEIGHBOUR_ADVERTISEMENT) => {
            Transport::Neighbour { message: quote - LENGTH }
        }
        _ => Transport::OtherIcmp,
    };
}

/// The packet that an ICMP error quotes, as far as it tells its flow: addresses, protocol and ports.
///
/// `None` where the quote does not hold them, is of another family, is a later fragment, or begins
/// with an extension header: such an error belongs to no flow that is known.
#[inline(always)]
pub fn quoted<B: Bytes + ?Sized>(bytes: &B, error: &Packet) -> Option<Packet> {
    let Transport::Error { quote } = error.transport else { return None };
    let mut inner = Packet::default();
    let end = bytes.length();
    let offset = if error.protocol == protocol::ICMPV6 {
        let words: [u32; 10] = header(bytes, quote, 40, end).ok()?;
        if u32::from_be(words[0]) >> 28 != 6 {
            return None;
        }
        inner.source = Address::from_words([words[2], words[3], words[4], words[5]]);
        inner.destination = Address::from_words([words[6], words[7], words[8], words[9]]);
        inner.protocol = (u32::from_be(words[1]) >> 8) as u8;
        quote + 40
    } else {
        let words: [u32; 5] = header(bytes, quote, 20, end).ok()?;
        let first = u32::from_be(words[0]);
        let header_length = ((first >> 24) & 0xf) * 4;
        if first >> 28 != 4 || header_length < 20 || u32::from_be(words[1]) & 0x1fff != 0 {
            return None;
        }
        inner.source = Address::from_v4_word(words[3]);
        inner.destination = Address::from_v4_word(words[4]);
        inner.protocol = (u32::from_be(words[2]) >> 16) as u8;
        quote + header_length
    };
    // RFC 792 promises 8 bytes of the quoted packet's data, no more.
    let words: [u32; 2] = header(bytes, offset, 8, end).ok()?;
    inner.addressed = true;
    match inner.protocol {
        protocol::TCP => inner.transport = Transport::Tcp { flags: 0 },
        protocol::UDP => inner.transport = Transport::Udp,
        protocol::SCTP => inner.transport = Transport::Sctp { chunk: 0 },
        p if p == error.protocol => {
            inner.icmp = (u32::from_be(words[0]) >> 16) as u16;
            set_transport(&mut inner, words, offset + LENGTH);
            return Some(inner);
        }
        _ => return None,
    }
    transport::set_ports(&mut inner, words[0]);
    Some(inner)
}
