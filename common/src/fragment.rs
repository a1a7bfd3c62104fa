//! Fragments as a pure function: the first one's ports are noted once it has passed, and later ones
//! are judged by them.
//!
//! Fragments must come in their order: a piece that begins before the end of what has passed lies over
//! it, or has been sent twice, and is dropped (RFC 1858, RFC 5722 section 4). A hole is not looked at; it
//! is the receiver who puts the packet together, and does not with one. Senders and networks keep the
//! order unless they spread one packet over several ways, and then the datagram is lost.

use crate::abi::{Direction, FRAGMENT_SETS, FRAGMENT_WAYS, Fragment, FragmentSet};
use crate::bucket::Blur;
use crate::flow::Clock;
use crate::hash::{self, Seed};
use crate::parse::{Packet, Transport, icmp_transport, protocol, tcp_flag};
use crate::reason::Reason;

/// Seconds after its first fragment for which a packet is remembered, as Linux does to put it together.
const LIFETIME_SECONDS: u64 = 30;

/// Index into `fragments`, with [`crate::abi::Control::hash_seed`]. All packets of one sender to a pod are
/// in one set, so that it is its own that it displaces.
#[inline(always)]
pub const fn index(slot: u32, direction: Direction, packet: &Packet, seed: &Seed) -> u32 {
    let remote = match direction {
        Direction::Ingress => packet.source,
        Direction::Egress => packet.destination,
    };
    let hash = hash::of_four(remote.words(), seed);
    let set = (hash >> (64 - FRAGMENT_SETS.trailing_zeros())) as u32;
    (slot * 2 + direction as u32) * FRAGMENT_SETS + set
}

/// The place of the packet that this fragment is a part of; [`FRAGMENT_WAYS`] where there is none.
#[inline(always)]
pub fn find(set: &FragmentSet, packet: &Packet, epoch: u32, clock: Clock) -> usize {
    let mut way = 0;
    while way < FRAGMENT_WAYS && !is_known(&set.places[way], packet, epoch, clock) {
        way += 1;
    }
    way
}

/// The place that a first fragment takes, below [`FRAGMENT_WAYS`]: of a packet that is over; or else of one
/// between the same two addresses; or else of another. Of several, the one that began first.
///
/// So whoever floods a pod with first fragments displaces its own, and of others one for each address that
/// it sends from.
#[inline(always)]
pub fn place_for(
    set: &FragmentSet,
    packet: &Packet,
    epoch: u32,
    clock: Clock,
    blur: impl Blur,
) -> usize {
    /// Times are far below, and the number of a place below that.
    const RANK_SHIFT: u32 = 62;
    const WAY_BITS: u32 = FRAGMENT_WAYS.trailing_zeros();
    let mut worst = u64::MAX;
    let mut way = 0;
    while way < FRAGMENT_WAYS {
        let place = &set.places[way];
        let rank: u64 = if !lives(place, epoch, clock) {
            0
        } else if place.source == packet.source && place.destination == packet.destination {
            1
        } else {
            2
        };
        let begun = place.begun & ((1 << (RANK_SHIFT - WAY_BITS)) - 1);
        let score = rank << RANK_SHIFT | begun << WAY_BITS | way as u64;
        let score = blur.blur(score);
        if score < worst {
            worst = score;
        }
        worst = blur.blur(worst);
        way += 1;
    }
    worst as usize & (FRAGMENT_WAYS - 1)
}

/// True until the packet's last fragment has passed, or its time.
#[inline(always)]
const fn lives(known: &Fragment, epoch: u32, clock: Clock) -> bool {
    let age = clock.now.saturating_sub(known.begun);
    known.epoch == epoch && age <= LIFETIME_SECONDS * clock.rate as u64
}

/// True where the element is about the packet that this fragment is a part of.
#[inline(always)]
fn is_known(known: &Fragment, packet: &Packet, epoch: u32, clock: Clock) -> bool {
    lives(known, epoch, clock)
        && known.id == packet.piece.id
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

const _: () = assert!(FRAGMENT_WAYS.is_power_of_two());

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::abi::Address;
    use crate::bucket::Plain;
    use crate::parse::Piece;

    const EPOCH: u32 = 7;

    fn piece(source: u32, id: u32, offset: u16, more: bool) -> Packet {
        Packet {
            source: Address::from_v4_word(source),
            destination: Address::from_v4_word(1),
            protocol: protocol::UDP,
            transport: Transport::Udp,
            piece: Piece { id, offset, length: 1480, is_fragment: true, more },
            ..Packet::default()
        }
    }

    const fn at(second: u64) -> Clock {
        Clock { now: (1_000_000 + second) * 250, rate: 250 }
    }

    /// Notes a first fragment as the programs do.
    fn begin_in(set: &mut FragmentSet, source: u32, id: u32, second: u64) {
        let packet = piece(source, id, 0, true);
        let way = place_for(set, &packet, EPOCH, at(second), Plain);
        set.places[way] = begin(&packet, EPOCH, at(second));
    }

    fn has(set: &FragmentSet, source: u32, id: u32, second: u64) -> bool {
        find(set, &piece(source, id, 1480, true), EPOCH, at(second)) < FRAGMENT_WAYS
    }

    /// All in one set, which is the worst that can be.
    #[test]
    fn a_flood_from_one_sender_displaces_its_own() {
        const FLOODER: u32 = 99;
        let mut set = FragmentSet::default();
        let senders = 2..FRAGMENT_WAYS as u32 + 1;
        senders.clone().for_each(|sender| begin_in(&mut set, sender, 5, 0));
        (0..1_000).for_each(|id| begin_in(&mut set, FLOODER, id, 1));
        assert!(senders.clone().all(|sender| has(&set, sender, 5, 1)));
        // Another sender displaces one: whose packet is oldest.
        begin_in(&mut set, 98, 1, 2);
        assert!(has(&set, 98, 1, 2) && has(&set, FLOODER, 999, 2));
        assert_eq!(senders.filter(|sender| has(&set, *sender, 5, 2)).count(), FRAGMENT_WAYS - 2);
    }

    #[test]
    fn what_is_over_goes_before_what_lives() {
        let mut set = FragmentSet::default();
        begin_in(&mut set, 2, 1, 0);
        (3..3 + FRAGMENT_WAYS as u32 - 1).for_each(|sender| begin_in(&mut set, sender, 1, 20));
        // The last fragment of one comes; of another none came in time.
        let mut last = piece(5, 1, 1480, false);
        let way = find(&set, &last, EPOCH, at(21));
        assert_eq!(follow(&mut set.places[way], &mut last), Ok(()));
        begin_in(&mut set, 3, 2, 31);
        begin_in(&mut set, 3, 3, 31);
        let lives = |sender: &u32| has(&set, *sender, 1, 31);
        assert_eq!((2..11).filter(lives).collect::<std::vec::Vec<u32>>(), [3, 4, 6, 7, 8, 9]);
    }
}
