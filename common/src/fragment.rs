//! Fragments as a pure function: the first one's ports are noted once it has passed, and later ones
//! are judged by them.
//!
//! Fragments must come in their order: a piece that begins before the end of what has passed lies over
//! it, or has been sent twice, and is dropped (RFC 1858, RFC 5722 section 4). A hole is not looked at; it
//! is the receiver who puts the packet together, and does not with one. Senders and networks keep the
//! order unless they spread one packet over several ways, and then the datagram is lost.

use crate::abi::{Direction, FRAGMENTS_PER_SLOT, Fragment};
use crate::flow::Clock;
use crate::parse::{Packet, Transport, icmp_transport, protocol, tcp_flag};
use crate::reason::Reason;

/// Seconds after its first fragment for which a packet is remembered, as Linux does to put it together.
const LIFETIME_SECONDS: u64 = 30;

/// Index into `fragments`.
#[inline(always)]
pub const fn index(slot: u32, direction: Direction, packet: &Packet) -> u32 {
    let [a, b, c, d] = packet.source.words();
    let [e, f, g, h] = packet.destination.words();
    let mixed = (a ^ b ^ c ^ d ^ (e ^ f ^ g ^ h).rotate_left(16) ^ packet.piece.id)
        .wrapping_mul(0x9e37_79b1);
    let place = mixed >> (32 - FRAGMENTS_PER_SLOT.ilog2());
    (slot * 2 + direction as u32) * FRAGMENTS_PER_SLOT + place
}

/// True where the element is about the packet that this fragment is a part of.
#[inline(always)]
pub fn is_known(known: &Fragment, packet: &Packet, epoch: u32, clock: Clock) -> bool {
    let age = clock.now.saturating_sub(known.begun);
    known.epoch == epoch
        && known.id == packet.piece.id
        && age <= LIFETIME_SECONDS * clock.rate as u64
        && known.source == packet.source
        && known.destination == packet.destination
        && (!packet.source.is_v4() || known.protocol == packet.protocol as u32)
}

/// What is noted of a first fragment that has passed.
#[inline(always)]
pub const fn begin(packet: &Packet, epoch: u32, clock: Clock) -> Fragment {
    Fragment {
        begun: clock.now,
        source: packet.source,
        destination: packet.destination,
        id: packet.piece.id,
        epoch,
        source_port_be: packet.source_port_be,
        destination_port_be: packet.destination_port_be,
        protocol: packet.protocol as u32,
        icmp: packet.icmp as u32,
        end: packet.piece.length as u32,
    }
}

/// A later fragment of a packet that is known: it is given the ports of the first.
///
/// # Errors
/// [`Reason::OverlappingFragment`], where it begins before the end of what has passed.
#[inline(always)]
pub const fn follow(known: &mut Fragment, packet: &mut Packet) -> Result<(), Reason> {
    let piece = packet.piece;
    if (piece.offset as u32) < known.end {
        return Err(Reason::OverlappingFragment);
    }
    known.end = piece.offset as u32 + piece.length as u32;
    if !piece.more {
        known.epoch = 0;
    }
    packet.protocol = known.protocol as u8;
    packet.source_port_be = known.source_port_be;
    packet.destination_port_be = known.destination_port_be;
    packet.icmp = known.icmp as u16;
    packet.transport = match packet.protocol {
        // As in the middle of a connection.
        protocol::TCP => Transport::Tcp { flags: tcp_flag::ACK },
        protocol::UDP => Transport::Udp,
        protocol::SCTP => Transport::Sctp { chunk: 0 },
        _ => icmp_transport(packet.protocol, packet.icmp),
    };
    Ok(())
}
