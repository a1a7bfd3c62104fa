//! Fragments that no packet can have.

use sluice_common::abi::Direction;
use sluice_common::reason::Reason;

use super::{Hostile, OPEN, syn, v4, v6};
use crate::packet::{V4, V6, fragment};

/// IPv4's "more fragments"; the offset below it counts in units of eight bytes.
const MORE: u16 = 0x2000;
const DESTINATION: u8 = 60;

/// In their order: one of them passes, and what follows would be a part of it.
pub(super) fn packets(direction: Direction) -> Vec<Hostile> {
    let mut packets = ipv4(direction);
    packets.extend(ipv6(direction));
    packets
}

/// A TCP header and a little data, together a multiple of eight bytes.
fn segment() -> Vec<u8> {
    [syn(OPEN), vec![0; 4]].concat()
}

fn ipv4(direction: Direction) -> Vec<Hostile> {
    let syn = segment();
    let first = |payload: &[u8]| V4 { fragment: MORE, ..v4(direction, payload.to_vec()) };
    let later = |offset| V4 { fragment: offset, ..v4(direction, vec![0; 64]) };
    [
        ("first of 8 bytes", first(&syn[..8]), Reason::TinyFragment),
        ("first of 16 bytes", first(&syn[..16]), Reason::TinyFragment),
        ("not a multiple of eight bytes", first(&syn[..20]), Reason::BadLength),
        ("beyond the end of any packet", later(0x1fff), Reason::BadLength),
        ("over the ports", later(1), Reason::TinyFragment),
        ("over the TCP flags", later(2), Reason::TinyFragment),
        ("of an unknown packet", later(3), Reason::Fragment),
        ("of an unknown packet, with more", later(MORE | 100), Reason::Fragment),
        ("first", first(&syn), Reason::Allowed),
        ("first again", first(&syn), Reason::OverlappingFragment),
        ("within the first", later(MORE | 2), Reason::TinyFragment),
        ("behind the first", later(MORE | 3), Reason::Established),
        ("the same again", later(MORE | 3), Reason::OverlappingFragment),
        ("into the last", later(MORE | 10), Reason::OverlappingFragment),
    ]
    .into_iter()
    .map(|(name, packet, reason)| {
        Hostile::new(format!("fragment, {name}"), direction, packet.frame(), reason)
    })
    .collect()
}

fn ipv6(direction: Direction) -> Vec<Hostile> {
    let syn = segment();
    let first = |payload: &[u8]| v6(direction, payload.to_vec()).with(fragment(0, true));
    let later = |offset| v6(direction, vec![0; 64]).with(fragment(offset, false));
    let hidden = V6 { protocol: DESTINATION, ..v6(direction, vec![6, 0, 0, 0, 0, 0, 0, 0]) };
    [
        ("first of 8 bytes", first(&syn[..8]), Reason::TinyFragment),
        ("over the ports", later(8), Reason::TinyFragment),
        ("of an unknown packet", later(1024), Reason::Fragment),
        // The whole chain must be in the first fragment (RFC 7112).
        ("first without the port", hidden.with(fragment(0, true)), Reason::TinyFragment),
        ("of a fragment", first(&syn).with(fragment(0, true)), Reason::UnknownExtension),
        ("first", first(&syn), Reason::Allowed),
        ("first again", first(&syn), Reason::OverlappingFragment),
    ]
    .into_iter()
    .map(|(name, packet, reason)| {
        Hostile::new(format!("IPv6 fragment, {name}"), direction, packet.frame(), reason)
    })
    .collect()
}
