//! TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260).

use super::{Bytes, Packet, Transport, header, icmp, protocol};
use crate::reason::Reason;

/// Bits of the TCP flags byte.
pub mod tcp_flag {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise: opens a connection.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
}

/// SCTP chunk types.
pub mod sctp_chunk {
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Ends it at once.
    pub const ABORT: u8 = 6;
    /// Ends it in order.
    pub const SHUTDOWN: u8 = 7;
    /// Answer to `SHUTDOWN`.
    pub const SHUTDOWN_ACK: u8 = 8;
    /// The last word.
    pub const SHUTDOWN_COMPLETE: u8 = 14;
}

/// Lengths of the fixed headers.
const TCP_LENGTH: u32 = 20;
const UDP_LENGTH: u32 = 8;
/// Common header and the header of the first chunk: a packet without a chunk says nothing.
const SCTP_LENGTH: u32 = 16;

/// Bytes at the payload's start that a later fragment must not lie over.
#[inline(always)]
pub(super) const fn length_min(protocol: u8) -> u32 {
    match protocol {
        protocol::TCP => TCP_LENGTH,
        protocol::SCTP => SCTP_LENGTH,
        _ => UDP_LENGTH,
    }
}

/// Reads the transport header at `offset` of a packet that ends at `end`.
#[inline(always)]
pub(super) fn parse<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    is_ipv6: bool,
    packet: &mut Packet,
) -> Result<(), Reason> {
    packet.transport_offset = offset;
    match packet.protocol {
        protocol::TCP => tcp(bytes, offset, end, packet),
        protocol::UDP => udp(bytes, offset, end, packet),
        protocol::SCTP => sctp(bytes, offset, end, packet),
        protocol::ICMP if !is_ipv6 => icmp::parse(bytes, offset, end, packet),
        protocol::ICMPV6 if is_ipv6 => icmp::parse(bytes, offset, end, packet),
        _ => Err(Reason::UnknownProtocol),
    }
}

#[inline(always)]
pub(super) fn tcp<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let words: [u32; 4] = header(bytes, offset, TCP_LENGTH, end)?;
    let fourth = u32::from_be(words[3]);
    let header_length = (fourth >> 28) * 4;
    if header_length < TCP_LENGTH {
        return Err(Reason::BadLength);
    }
    if offset + header_length > end {
        return Err(Reason::Truncated);
    }
    set_ports(packet, words[0]);
    packet.transport = Transport::Tcp { flags: (fourth >> 16) as u8 };
    Ok(())
}

#[inline(always)]
pub(super) fn udp<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let words: [u32; 2] = header(bytes, offset, UDP_LENGTH, end)?;
    let length = u32::from_be(words[1]) >> 16;
    // A first fragment does not hold the whole datagram.
    if length < UDP_LENGTH || (offset + length > end && !packet.piece.more) {
        return Err(Reason::BadLength);
    }
    set_ports(packet, words[0]);
    packet.transport = Transport::Udp;
    Ok(())
}

#[inline(always)]
fn sctp<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let words: [u32; 4] = header(bytes, offset, SCTP_LENGTH, end)?;
    set_ports(packet, words[0]);
    packet.transport = Transport::Sctp { chunk: (u32::from_be(words[3]) >> 24) as u8 };
    Ok(())
}

/// From the first word of a TCP, UDP or SCTP header.
#[inline(always)]
pub(super) fn set_ports(packet: &mut Packet, word: u32) {
    let ports = u32::from_be(word);
    packet.source_port_be = ((ports >> 16) as u16).to_be();
    packet.destination_port_be = (ports as u16).to_be();
}
