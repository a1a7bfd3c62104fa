//! Packets that keep a link working and pass without policy, and the source check.

use super::{Bytes, Packet, Transport, header, protocol};
use crate::abi::{Address, Direction, Endpoint};

/// ICMPv6 message types.
mod message {
    pub(super) const MLD_QUERY: u16 = 130;
    pub(super) const MLD_REPORT: u16 = 131;
    pub(super) const MLD_DONE: u16 = 132;
    pub(super) const ROUTER_SOLICITATION: u16 = 133;
    pub(super) const ROUTER_ADVERTISEMENT: u16 = 134;
    pub(super) const NEIGHBOUR_ADVERTISEMENT: u16 = 136;
    pub(super) const REDIRECT: u16 = 137;
    pub(super) const MLD2_REPORT: u16 = 143;
}

/// Neighbour discovery is only valid with a hop limit that no router has touched (RFC 4861 section
/// 7.1), multicast listener discovery only with 1 (RFC 2710 section 3, RFC 3810 section 5).
const ND_HOP_LIMIT: u8 = 255;
const MLD_HOP_LIMIT: u8 = 1;

/// Frames of neighbour discovery that a pod needs are not longer: two tags, the IPv6 header, and a
/// message with two options of eight bytes (a link-layer address and a nonce, RFC 7527). Whatever else
/// there were room for, extension headers and trailers included, would be data that nobody judges.
const ND_FRAME_MAX: u32 = 14 + 2 * 4 + 40 + ND_LENGTH + 2 * 8;
/// The same for multicast listener discovery: a router alert (RFC 2711), and a report of twenty groups (RFC
/// 3810 section 5.2) or a query with as many sources. A pod in more groups is judged by policy.
const MLD_FRAME_MAX: u32 = 14 + 2 * 4 + 40 + 8 + 8 + 20 * 20;
/// Length of a neighbour solicitation or advertisement without options.
const ND_LENGTH: u32 = 24;

/// UDP ports of DHCP (RFC 2131 section 4.1) and DHCPv6 (RFC 8415 section 7.2).
const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
const DHCP6_CLIENT: u16 = 546;
const DHCP6_SERVER: u16 = 547;

/// 255.255.255.255 and 0.0.0.0.
const BROADCAST_V4: Address = Address::from_v4_word(u32::MAX);
const UNSPECIFIED_V4: Address = Address::from_v4_word(0);
/// ff02::1:2, all DHCPv6 relay agents and servers.
const DHCP6_SERVERS: Address =
    Address::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2]);

/// True for neighbour discovery, multicast listener discovery, duplicate address detection and an
/// address's first DHCP exchange, to or from the endpoint. ARP is a [`super::Frame`] of its own.
///
/// A pod is no router: its router advertisements and redirects are judged like anything else.
#[inline(always)]
pub fn is_control<B: Bytes + ?Sized>(
    bytes: &B,
    packet: &Packet,
    endpoint: &Endpoint,
    direction: Direction,
) -> bool {
    match packet.transport {
        Transport::Neighbour { .. } => is_neighbour_discovery(bytes, packet, endpoint),
        Transport::OtherIcmp if packet.protocol == protocol::ICMPV6 => {
            is_discovery(bytes, packet, direction)
        }
        Transport::Udp => is_dhcp(packet, direction),
        _ => false,
    }
}

/// A neighbour solicitation or advertisement that stays on the link and carries nothing but what
/// neighbours have to know.
///
/// A router drops none of them for what they are, so a destination beyond the link would be a way out
/// that no policy sees: it must be a group of the link, a link-local address, or one that shares the
/// first 64 bits with the pod's (RFC 7421), which is as much as is known here of what is on the link.
#[inline(always)]
fn is_neighbour_discovery<B: Bytes + ?Sized>(
    bytes: &B,
    packet: &Packet,
    endpoint: &Endpoint,
) -> bool {
    let Packet { source, destination, .. } = packet;
    let Some(target) = target(bytes, packet) else { return false };
    if packet.icmp & 0xff != 0
        || packet.hop_limit != ND_HOP_LIMIT
        || bytes.length() > ND_FRAME_MAX
        || is_multicast(&target)
    {
        return false;
    }
    let is_to_neighbour = is_link_local(destination) || is_on_link(destination, endpoint);
    if packet.icmp >> 8 == message::NEIGHBOUR_ADVERTISEMENT {
        return !source.is_unspecified() && (is_link_multicast(destination) || is_to_neighbour);
    }
    // To the group of the target's, or to the target itself to see whether it still answers. Sent from
    // `::` in duplicate address detection, to the group only (RFC 4862 section 5.4.2).
    is_solicited_node(destination)
        || (!source.is_unspecified() && *destination == target && is_to_neighbour)
}

/// True for a neighbour advertisement from the endpoint for an address that is not its own. Which
/// link-local addresses it has is not known: one of them it must also send from, as Linux does.
#[inline(always)]
pub fn claims_another_target<B: Bytes + ?Sized>(
    bytes: &B,
    packet: &Packet,
    endpoint: &Endpoint,
) -> bool {
    if packet.icmp >> 8 != message::NEIGHBOUR_ADVERTISEMENT {
        return false;
    }
    match target(bytes, packet) {
        Some(target) => {
            !endpoint.owns(&target) && !(is_link_local(&target) && target == packet.source)
        }
        None => false,
    }
}

/// The address that a neighbour solicitation or advertisement is about.
#[inline(always)]
fn target<B: Bytes + ?Sized>(bytes: &B, packet: &Packet) -> Option<Address> {
    let Transport::Neighbour { message } = packet.transport else { return None };
    let words: [u32; 6] = header(bytes, message, ND_LENGTH, bytes.length()).ok()?;
    Some(Address::from_words([words[2], words[3], words[4], words[5]]))
}

#[inline(always)]
fn is_discovery<B: Bytes + ?Sized>(bytes: &B, packet: &Packet, direction: Direction) -> bool {
    let code = packet.icmp & 0xff;
    // Who has no address yet can be answered at a group only.
    if packet.source.is_unspecified() && !is_link_multicast(&packet.destination) {
        return false;
    }
    match packet.icmp >> 8 {
        // Sent from `::` before the address is known (RFC 4861 section 4.1).
        message::ROUTER_SOLICITATION => {
            code == 0
                && packet.hop_limit == ND_HOP_LIMIT
                && bytes.length() <= ND_FRAME_MAX
                && (is_link_multicast(&packet.destination) || is_link_local(&packet.destination))
        }
        message::ROUTER_ADVERTISEMENT | message::REDIRECT => {
            code == 0
                && packet.hop_limit == ND_HOP_LIMIT
                && is_link_local(&packet.source)
                && matches!(direction, Direction::Ingress)
        }
        // Reports come from `::` while the address is tentative (RFC 3590 section 4). Only a query may
        // be sent to one node (RFC 3810 section 5.1.15).
        message::MLD_QUERY | message::MLD_REPORT | message::MLD_DONE | message::MLD2_REPORT => {
            packet.hop_limit == MLD_HOP_LIMIT
                && bytes.length() <= MLD_FRAME_MAX
                && (is_link_local(&packet.source) || packet.source.is_unspecified())
                && (is_multicast(&packet.destination) || matches!(direction, Direction::Ingress))
        }
        _ => false,
    }
}

#[inline(always)]
fn is_dhcp(packet: &Packet, direction: Direction) -> bool {
    let ports = (u16::from_be(packet.source_port_be), u16::from_be(packet.destination_port_be));
    match (direction, ports) {
        // Only what a client sends before it has its address; renewals are judged like any flow.
        (Direction::Egress, (DHCP_CLIENT, DHCP_SERVER)) => {
            packet.source == UNSPECIFIED_V4 && packet.destination == BROADCAST_V4
        }
        (Direction::Ingress, (DHCP_SERVER, DHCP_CLIENT)) => packet.destination == BROADCAST_V4,
        (Direction::Egress, (DHCP6_CLIENT, DHCP6_SERVER)) => {
            is_link_local(&packet.source) && packet.destination == DHCP6_SERVERS
        }
        (Direction::Ingress, (DHCP6_SERVER, DHCP6_CLIENT)) => {
            is_link_local(&packet.source) && is_link_local(&packet.destination)
        }
        _ => false,
    }
}

/// True if a packet from the endpoint may carry this source: one of the pod's addresses, or, in a
/// control packet only, an unspecified or link-local one.
#[inline(always)]
pub fn source_is_acceptable(packet: &Packet, endpoint: &Endpoint, is_control: bool) -> bool {
    endpoint.owns(&packet.source)
        || (is_control
            && (packet.source.is_unspecified()
                || packet.source == UNSPECIFIED_V4
                || is_link_local(&packet.source)))
}

/// ff00::/8.
#[inline(always)]
const fn is_multicast(address: &Address) -> bool {
    u32::from_be(address.words()[0]) >> 24 == 0xff
}

/// ff02::/16.
#[inline(always)]
const fn is_link_multicast(address: &Address) -> bool {
    u32::from_be(address.words()[0]) >> 16 == 0xff02
}

/// ff02::1:ff00:0/104, the groups that neighbours are asked at (RFC 4291 section 2.7.1).
#[inline(always)]
const fn is_solicited_node(address: &Address) -> bool {
    let [first, second, third, last] = address.words();
    u32::from_be(first) == 0xff02_0000
        && second == 0
        && u32::from_be(third) == 1
        && u32::from_be(last) >> 24 == 0xff
}

/// Shares its first 64 bits with the pod's address.
#[inline(always)]
const fn is_on_link(address: &Address, endpoint: &Endpoint) -> bool {
    let ([first, second, ..], [own_first, own_second, ..]) = (address.words(), endpoint.v6.words());
    !endpoint.v6.is_unspecified() && first == own_first && second == own_second
}

/// fe80::/10.
#[inline(always)]
const fn is_link_local(address: &Address) -> bool {
    u32::from_be(address.words()[0]) >> 22 == 0xfe80 >> 6
}
