//! The short way of the packets that are most: plain ones of flows that this CPU has looked up lately.
//!
//! Everything that they would meet on the long way, `path`, is asked here too, or the packet takes that
//! way: what passes here would pass there, as established, and change nothing. Here nothing but the key
//! is kept of a packet, and that on the stack, where the long way keeps all it reads in the table
//! `scratch`, so that an established packet takes half the time.

use sluice_common::abi::{Direction, Endpoint};
use sluice_common::flow as track;
use sluice_common::parse::parse_plain;

use crate::packet::Skb;
use crate::{flow, recent};

/// True for a packet of a flow that stands, at this generation. False says nothing about the packet.
#[inline(always)]
pub(crate) fn passes(
    skb: &Skb,
    endpoint: &Endpoint,
    generation: u32,
    direction: Direction,
) -> bool {
    let is_governed = endpoint.is_governed(direction) || endpoint.is_governed(direction.reverse());
    if !is_governed || (matches!(direction, Direction::Ingress) && skb.is_from_own_host()) {
        return false;
    }
    let Some(packet) = parse_plain(skb) else { return false };
    if !track::is_steady(&packet) {
        return false;
    }
    let (own, remote) = match direction {
        Direction::Ingress => (&packet.destination, &packet.source),
        Direction::Egress => (&packet.source, &packet.destination),
    };
    // With the pod's own address at its own end, it is neither spoofed nor DHCP.
    if !endpoint.owns(own) || endpoint.owns(remote) {
        return false;
    }
    let Some(key) = track::key(&packet, direction, endpoint.epoch) else { return false };
    recent::find(&key, generation, flow::clock()).is_some()
}
