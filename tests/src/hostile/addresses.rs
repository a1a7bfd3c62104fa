//! Addresses that are not the sender's, or nobody's, or everybody's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice::engine::packet::udp;
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::parse::protocol;
use sluice_common::reason::Reason;

use super::{Hostile, OPEN, SHUT, judged, syn, v4, v6};
use crate::packet::{ARP, IPV4, SERVICE_VLAN, V4, V6, VLAN, arp, ethernet, neighbour};
use crate::scene::{PEER, PEER6, POD, POD6};

/// Somebody else's.
const WRONG: [&str; 2] = ["10.0.0.9", "fd00::9"];

pub(super) fn packets() -> Vec<Hostile> {
    let mut packets = impossible();
    packets.extend(martian_sources());
    packets.extend(spoofed());
    packets.extend(groups());
    packets
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("the suite's own address is valid")
}

/// A packet to a port, from or to another address than the usual.
fn from(direction: Direction, source: &str, port: u16) -> Vec<u8> {
    match address(source) {
        IpAddr::V4(source) => V4 { source, ..v4(direction, syn(port)) }.frame(),
        IpAddr::V6(source) => V6 { source, ..v6(direction, syn(port)) }.frame(),
    }
}

/// See [`from`]. A group's packets go to a group of the link.
fn to(direction: Direction, destination: &str, port: u16) -> Vec<u8> {
    let mut frame = match address(destination) {
        IpAddr::V4(destination) => V4 { destination, ..v4(direction, syn(port)) }.frame(),
        IpAddr::V6(destination) => V6 { destination, ..v6(direction, syn(port)) }.frame(),
    };
    match address(destination) {
        IpAddr::V4(Ipv4Addr::BROADCAST) => frame[..6].fill(0xff),
        IpAddr::V4(group) if group.is_multicast() => {
            let [_, second, third, last] = group.octets();
            frame[..6].copy_from_slice(&[1, 0, 0x5e, second & 0x7f, third, last]);
        }
        IpAddr::V6(group) if group.is_multicast() => {
            frame[..2].fill(0x33);
            frame[2..6].copy_from_slice(&group.octets()[12..]);
        }
        _ => {}
    }
    frame
}

/// Addresses that cannot stand in a packet.
fn impossible() -> Vec<Hostile> {
    let mapped = PEER.to_ipv6_mapped().to_string();
    let mapped_pod = POD.to_ipv6_mapped().to_string();
    let sources =
        ["224.0.0.1", "239.255.255.255", "255.255.255.255", "ff02::1", &mapped, &mapped_pod];
    let mut packets = Vec::new();
    for direction in [Ingress, Egress] {
        let mut martian = |name: String, frame| {
            packets.push(Hostile::new(name, direction, frame, Reason::MartianAddress));
        };
        for source in sources {
            martian(format!("from {source}"), from(direction, source, OPEN));
        }
        for destination in [&mapped, &mapped_pod] {
            martian(format!("to {destination}"), to(direction, destination, OPEN));
        }
    }
    packets
}

/// Sources that no router forwards. What comes with them is judged like anything else: whether it is
/// delivered is for whoever delivers it.
fn martian_sources() -> Vec<Hostile> {
    let sources = [
        "0.0.0.0",
        "127.0.0.1",
        "169.254.1.1",
        "240.0.0.1",
        "10.0.0.1",
        "::",
        "::1",
        "fe80::9",
        "fd00::1",
        // IPv4-compatible, and IPv4 translated (RFC 6052).
        "::10.0.0.2",
        "64:ff9b::10.0.0.2",
    ];
    sources
        .into_iter()
        .flat_map(|source| {
            judged(&format!("from {source}"), Ingress, |port| from(Ingress, source, port))
        })
        .collect()
}

/// Packets of a pod with addresses that are not its own.
pub(super) fn spoofed() -> Vec<Hostile> {
    let spoofed = |name: String, frame| Hostile::new(name, Egress, frame, Reason::SpoofedSource);
    let sources = [
        WRONG[0],
        WRONG[1],
        "10.0.0.2",
        "0.0.0.0",
        "127.0.0.1",
        "169.254.1.1",
        "240.0.0.1",
        "::",
        "::1",
        "fe80::1",
        "::10.0.0.1",
        "64:ff9b::10.0.0.1",
    ];
    let mut packets: Vec<Hostile> = sources
        .into_iter()
        .map(|source| spoofed(format!("from {source}"), from(Egress, source, OPEN)))
        .collect();
    let wrong = V4 { source: Ipv4Addr::new(10, 0, 0, 9), ..v4(Egress, syn(OPEN)) };
    let tagged = ethernet(&[SERVICE_VLAN, VLAN], IPV4, &wrong.bytes());
    packets.push(spoofed("behind two tags".into(), tagged));
    packets.push(spoofed("a fragment".into(), V4 { fragment: 0x2000, ..wrong.clone() }.frame()));
    let claim = ethernet(&[], ARP, &arp(2, wrong.source, PEER));
    packets.push(spoofed("ARP for another's address".into(), claim));
    let claim = neighbour(POD6, PEER6, 136, PEER6, &[]).frame();
    packets.push(spoofed("advertisement of another's address".into(), claim));
    // What a client without an address may send is a DHCP request, and nothing else.
    let to_all = |source, payload| {
        let packet = V4::new(source, Ipv4Addr::BROADCAST, protocol::UDP, payload);
        packet.frame()
    };
    packets
        .push(spoofed("to all, not DHCP".into(), to_all(Ipv4Addr::UNSPECIFIED, udp(68, 69, &[]))));
    packets.push(Hostile::new(
        "DHCP request",
        Egress,
        to_all(Ipv4Addr::UNSPECIFIED, udp(68, 67, &[])),
        Reason::Control,
    ));
    packets.push(Hostile::new(
        "IPv4-mapped",
        Egress,
        from(Egress, &POD.to_ipv6_mapped().to_string(), OPEN),
        Reason::MartianAddress,
    ));
    packets
}

/// To everybody, to groups, and to nobody.
fn groups() -> Vec<Hostile> {
    let groups = ["255.255.255.255", "224.0.0.1", "239.1.2.3", "ff02::1", "ff05::1:3"];
    let mut packets = Vec::new();
    for (direction, destination) in
        groups.iter().flat_map(|group| [(Ingress, *group), (Egress, *group)]).chain([
            (Egress, "127.0.0.1"),
            (Egress, "0.0.0.0"),
            (Egress, "240.0.0.1"),
            (Egress, "::1"),
            (Egress, "::"),
        ])
    {
        let frame = |port| to(direction, destination, port);
        packets.extend(judged(&format!("to {destination}"), direction, frame));
    }
    let deny = |name, frame, reason| Hostile::new(name, Egress, frame, reason);
    let to_all = V4 { destination: Ipv4Addr::BROADCAST, ..v4(Egress, udp(68, 67, &[])) };
    let to_all = V4 { protocol: protocol::UDP, ..to_all };
    packets.push(deny(
        "DHCP to all from a pod with an address",
        to_all.frame(),
        Reason::DefaultDeny,
    ));
    let group = Ipv4Addr::new(224, 0, 0, 22);
    let report = V4 { destination: group, protocol: 2, ..v4(Egress, vec![0x22; 8]) };
    packets.push(deny("IGMP report", report.frame(), Reason::UnknownProtocol));
    let group: Ipv6Addr = "ff02::fb".parse().expect("a group");
    let question = V6::new(POD6, group, protocol::UDP, udp(5353, 5353, b"question"));
    packets.push(deny("multicast DNS", question.frame(), Reason::DefaultDeny));
    packets
}

/// Where the pod may send from any address, policy decides.
pub(super) fn any_source() -> Vec<Hostile> {
    WRONG
        .into_iter()
        .flat_map(|source| {
            [(OPEN, Reason::Allowed), (SHUT, Reason::DefaultDeny)].map(|(port, reason)| {
                let name = format!("from {source}, port {port}");
                Hostile::new(name, Egress, from(Egress, source, port), reason)
            })
        })
        .collect()
}
