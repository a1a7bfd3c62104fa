//! ICMP (RFC 792), ICMPv6 (RFC 4443), and the packets that their errors quote.

use super::{Bytes, Packet, Transport, header, protocol, transport as ports};
use crate::abi::Address;
use crate::reason::Reason;

/// Every message has at least these bytes.
const LENGTH: u32 = 8;

/// Length of an IPv6 header; number and length of its fragment header (RFC 8200 section 4.5).
const V6_LENGTH: u32 = 40;
const FRAGMENT: u8 = 44;
const FRAGMENT_LENGTH: u32 = 8;

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
    let identifier_be = ((u32::from_be(words[1]) >> 16) as u16).to_be();
    packet.transport = match transport(packet.protocol, packet.icmp) {
        Transport::EchoRequest => {
            packet.source_port_be = identifier_be;
            Transport::EchoRequest
        }
        Transport::EchoReply => {
            packet.destination_port_be = identifier_be;
            Transport::EchoReply
        }
        Transport::Error { .. } => Transport::Error { quote },
        Transport::Neighbour { .. } => Transport::Neighbour { message: quote - LENGTH },
        other => other,
    };
}

/// What a message is by its protocol and `type << 8 | code`. Where it or its quote begins is not said.
#[inline(always)]
pub const fn transport(protocol: u8, icmp: u16) -> Transport {
    match (protocol == protocol::ICMPV6, (icmp >> 8) as u32) {
        (false, message::ECHO_REQUEST) | (true, message::V6_ECHO_REQUEST) => Transport::EchoRequest,
        (false, message::ECHO_REPLY) | (true, message::V6_ECHO_REPLY) => Transport::EchoReply,
        (
            false,
            message::DESTINATION_UNREACHABLE
            | message::SOURCE_QUENCH
            | message::TIME_EXCEEDED
            | message::PARAMETER_PROBLEM,
        )
        | (true, message::V6_ERROR_FIRST..=message::V6_ERROR_LAST) => Transport::Error { quote: 0 },
        (true, message::NEIGHBOUR_SOLICITATION | message::NEIGHBOUR_ADVERTISEMENT) => {
            Transport::Neighbour { message: 0 }
        }
        _ => Transport::OtherIcmp,
    }
}

/// The packet that an ICMP error quotes, as far as it tells its flow: addresses, protocol and ports.
///
/// `None` where the packet ends before them, or where the quote is of another family, is a later fragment,
/// or begins with an extension header other than a first fragment's: such an error belongs to no flow
/// that is known.
#[inline(always)]
pub fn quoted<B: Bytes + ?Sized>(bytes: &B, error: &Packet) -> Option<Packet> {
    let Transport::Error { quote } = error.transport else { return None };
    let mut inner = Packet::default();
    let end = error.end;
    let mut offset = if error.protocol == protocol::ICMPV6 {
        let words: [u32; 10] = header(bytes, quote, V6_LENGTH, end).ok()?;
        if u32::from_be(words[0]) >> 28 != 6 {
            return None;
        }
        inner.source = Address::from_words([words[2], words[3], words[4], words[5]]);
        inner.destination = Address::from_words([words[6], words[7], words[8], words[9]]);
        inner.protocol = (u32::from_be(words[1]) >> 8) as u8;
        quote + V6_LENGTH
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
    if error.protocol == protocol::ICMPV6 && inner.protocol == FRAGMENT {
        let words: [u32; 1] = header(bytes, offset, FRAGMENT_LENGTH, end).ok()?;
        let first = u32::from_be(words[0]);
        if first & 0xfff8 != 0 {
            return None;
        }
        inner.protocol = (first >> 24) as u8;
        offset += FRAGMENT_LENGTH;
    }
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
    ports::set_ports(&mut inner, words[0]);
    Some(inner)
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;
    use std::vec::Vec;

    use super::*;
    use crate::parse::parse as parse_frame;

    /// An ICMPv6 error, "packet too big", that quotes a fragment of a UDP datagram.
    fn about_fragment(fragment: u16) -> Vec<u8> {
        let mut frame = vec![0; 14 + 40 + 8 + 40 + 8 + 8];
        frame[12..14].copy_from_slice(&0x86dd_u16.to_be_bytes());
        let (header, quote) = (14, 14 + 40 + 8);
        frame[header] = 0x60;
        frame[header + 4..header + 6].copy_from_slice(&(8 + 40 + 8 + 8_u16).to_be_bytes());
        frame[header + 6] = protocol::ICMPV6;
        frame[header + 40] = 2;
        frame[quote] = 0x60;
        frame[quote + 6] = FRAGMENT;
        for address in [header + 8, header + 24, quote + 8, quote + 24] {
            frame[address] = 0xfd;
        }
        frame[quote + 40] = protocol::UDP;
        frame[quote + 42..quote + 44].copy_from_slice(&fragment.to_be_bytes());
        frame[quote + 48..quote + 52].copy_from_slice(&[0, 7, 0, 9]);
        frame
    }

    fn quoted_in(frame: &[u8]) -> Option<Packet> {
        let mut packet = Packet::default();
        parse_frame(frame, &mut packet).expect("an error message");
        assert!(matches!(packet.transport, Transport::Error { .. }));
        quoted(frame, &packet)
    }

    #[test]
    fn a_quoted_first_fragment_tells_its_ports() {
        const MORE: u16 = 1;
        let ports = |packet: Packet| {
            let Packet { protocol, source_port_be, destination_port_be, .. } = packet;
            (protocol, u16::from_be(source_port_be), u16::from_be(destination_port_be))
        };
        assert_eq!(quoted_in(&about_fragment(MORE)).map(ports), Some((protocol::UDP, 7, 9)));
        assert_eq!(quoted_in(&about_fragment(8 | MORE)), None, "a later one has none");
    }

    /// What follows in the frame is padding, in which anything may stand.
    #[test]
    fn nothing_is_quoted_from_behind_the_packet() {
        let frame = |length: u16| {
            let mut frame = vec![0; 14 + 20 + 8 + 28];
            frame[12] = 8;
            frame[14] = 0x45;
            frame[16..18].copy_from_slice(&length.to_be_bytes());
            frame[23] = protocol::ICMP;
            frame[34] = 3;
            frame[42] = 0x45;
            frame[42 + 9] = protocol::TCP;
            frame
        };
        assert!(quoted_in(&frame(20 + 8 + 28)).is_some());
        assert_eq!(quoted_in(&frame(20 + 8 + 27)), None);
        assert_eq!(quoted_in(&frame(20 + 8)), None);
    }
}
