//! What a link needs to work passes an isolated pod, and what only looks like it does not (SEMANTICS
//! 46, 74). Needs root.

use std::net::{Ipv4Addr, Ipv6Addr};

use sluice::engine::packet::{self, udp};
use sluice_common::abi::{Direction, EndpointFlags};
use sluice_common::parse::protocol;
use sluice_common::reason::Reason;
use sluice_tests::packet::{ARP, IPV6, V6, VLAN, arp, ethernet, neighbour, options};
use sluice_tests::scene::{PEER, PEER6, POD, POD6, Scene};

use Direction::{Egress, Ingress};

fn icmpv6(source: &str, destination: &str, hop_limit: u8, message: u8) -> V6 {
    let mut payload = vec![message, 0];
    payload.resize(28, 0);
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    V6 { hop_limit, ..V6::new(source, destination, protocol::ICMPV6, payload) }
}

/// 46, 74: neighbour discovery, router solicitation, duplicate address detection and MLD pass an
/// isolated pod; what only looks like them does not.
#[test]
fn ipv6_housekeeping_passes() {
    let mut scene = Scene::new();
    let pod = POD6.to_string();
    let pass = [
        (Egress, icmpv6("fe80::1", "ff02::2", 255, 133)),
        (Ingress, icmpv6("fe80::2", "ff02::1", 255, 134)),
        (Egress, icmpv6("fe80::1", "ff02::16", 1, 143).with(options(0, 0))),
        (Egress, icmpv6("::", "ff02::16", 1, 143).with(options(0, 0))),
        (Ingress, icmpv6("fe80::2", "ff02::1", 1, 130).with(options(0, 0))),
    ];
    for (direction, packet) in pass {
        scene.passes(direction, &packet.frame(), Reason::Control);
    }
    let large = |bytes| {
        let mut report = icmpv6("fe80::1", "ff02::16", 1, 143);
        report.payload.resize(bytes, 0);
        report.with(options(0, 0))
    };
    // A report of twenty groups.
    scene.passes(Egress, &large(8 + 20 * 20).frame(), Reason::Control);
    let drop = [
        // One that has room for data.
        (Egress, large(8 + 20 * 20 + 20), Reason::SpoofedSource),
        (Egress, icmpv6(&pod, "ff02::16", 64, 143), Reason::DefaultDeny),
        // Pods are no routers.
        (Egress, icmpv6(&pod, "ff02::1", 255, 134), Reason::DefaultDeny),
        (Egress, icmpv6("fe80::1", "ff02::1", 255, 134), Reason::SpoofedSource),
        // To where such messages are never sent: they would carry data out.
        (Egress, icmpv6(&pod, "2001:db8::1", 255, 133), Reason::DefaultDeny),
        (Egress, icmpv6("::", "fd00::9", 1, 143), Reason::SpoofedSource),
        (Egress, icmpv6("fe80::1", "fd00::9", 1, 143), Reason::SpoofedSource),
        // Other traffic from such addresses.
        (Egress, icmpv6("fe80::1", "ff02::1", 255, 128), Reason::SpoofedSource),
        (Egress, icmpv6("::", "ff02::1", 255, 128), Reason::SpoofedSource),
    ];
    for (direction, packet, reason) in drop {
        scene.drops(direction, &packet.frame(), reason);
    }
}

const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// A link-layer address, of the source (1) or the target (2).
const LINK_LAYER: [u8; 8] = [1, 1, 2, 0, 0, 0, 0, 2];

fn about(source: &str, destination: &str, message: u8, target: &str) -> V6 {
    let [source, destination, target] = [source, destination, target].map(|a| a.parse().unwrap());
    neighbour(source, destination, message, target, &LINK_LAYER)
}

/// 46, 74: what neighbours have to know of each other passes, by groups, link-local addresses and
/// addresses that share the pod's link.
#[test]
fn neighbours_find_each_other() {
    let mut scene = Scene::new();
    let (pod, peer) = (&*POD6.to_string(), &*PEER6.to_string());
    let pass = [
        // Duplicate address detection; a neighbour that is looked for; one that may be gone.
        (Egress, about("::", "ff02::1:ff00:1", SOLICITATION, pod)),
        (Egress, about(pod, "ff02::1:ff00:2", SOLICITATION, peer)),
        (Egress, about(pod, "ff02::1:ff00:9", SOLICITATION, "2001:db8::9")),
        (Egress, about(pod, peer, SOLICITATION, peer)),
        (Egress, about("fe80::1", "fe80::2", SOLICITATION, "fe80::2")),
        (Ingress, about("fe80::2", pod, SOLICITATION, pod)),
        (Ingress, about(peer, "ff02::1:ff00:1", SOLICITATION, pod)),
        // The answers.
        (Egress, about(pod, "fe80::2", ADVERTISEMENT, pod)),
        (Egress, about(pod, peer, ADVERTISEMENT, pod)),
        (Egress, about(pod, "ff02::1", ADVERTISEMENT, pod)),
        (Egress, about("fe80::1", "fe80::2", ADVERTISEMENT, "fe80::1")),
        (Ingress, about("fe80::2", pod, ADVERTISEMENT, "fe80::2")),
        (Ingress, about(peer, pod, ADVERTISEMENT, peer)),
    ];
    for (direction, packet) in pass {
        scene.passes(direction, &packet.frame(), Reason::Control);
        let tagged = ethernet(&[VLAN, VLAN], IPV6, &packet.bytes());
        scene.passes(direction, &tagged, Reason::Control);
    }
}

/// Neighbour discovery is no way out: not to addresses beyond the link, and not as an envelope.
#[test]
fn neighbour_discovery_carries_nothing_out() {
    let mut scene = Scene::new();
    let (pod, peer) = (&*POD6.to_string(), &*PEER6.to_string());
    const BEYOND: &str = "2001:db8::1";
    let with = |options: &[u8]| {
        neighbour(POD6, "ff02::1:ff00:2".parse().unwrap(), SOLICITATION, PEER6, options)
    };
    let routed = V6 { hop_limit: 254, ..about("fe80::2", pod, SOLICITATION, pod) };
    let short = icmpv6(pod, "ff02::1:ff00:2", 255, SOLICITATION);
    let short = V6 { payload: short.payload[..20].to_vec(), ..short };
    let mut coded = about(pod, peer, SOLICITATION, peer);
    coded.payload[1] = 1;
    let drop = [
        (Egress, about(pod, BEYOND, SOLICITATION, BEYOND), Reason::DefaultDeny),
        (Egress, about(pod, BEYOND, ADVERTISEMENT, pod), Reason::DefaultDeny),
        (Egress, about("::", BEYOND, SOLICITATION, BEYOND), Reason::SpoofedSource),
        // The target would be 16 bytes of anything.
        (Egress, about(pod, peer, SOLICITATION, BEYOND), Reason::DefaultDeny),
        // A group that nobody is asked at.
        (Egress, about(pod, "ff02::1", SOLICITATION, peer), Reason::DefaultDeny),
        (Egress, about(pod, "ff0e::1:ff00:2", SOLICITATION, peer), Reason::DefaultDeny),
        // A router has touched it, so it is not from this link.
        (Ingress, routed, Reason::DefaultDeny),
        (Egress, coded, Reason::DefaultDeny),
        (Egress, short, Reason::DefaultDeny),
        (Egress, with(&[0; 40]), Reason::DefaultDeny),
        (Egress, with(&[]).with(options(60, 8)), Reason::DefaultDeny),
    ];
    for (direction, packet, reason) in drop {
        scene.drops(direction, &packet.frame(), reason);
    }
    scene.passes(Egress, &with(&[0; 16]).frame(), Reason::Control);
}

/// 50: a pod cannot take another's address over on the link.
#[test]
fn a_pod_speaks_for_its_own_addresses_only() {
    let other4 = Ipv4Addr::new(10, 0, 0, 9);
    let frame = |operation, sender, target| ethernet(&[], ARP, &arp(operation, sender, target));
    let advertise =
        |source: &str, target: &str| about(source, "ff02::1", ADVERTISEMENT, target).frame();
    let pod = &*POD6.to_string();
    // Whether the pod's egress is isolated or not.
    for mut scene in [Scene::new(), Scene::isolated_in(Ingress)] {
        scene.passes(Egress, &frame(1, POD, PEER), Reason::Control);
        scene.passes(Egress, &frame(2, POD, PEER), Reason::Control);
        // A probe whether the address is free (RFC 5227).
        scene.passes(Egress, &frame(1, Ipv4Addr::UNSPECIFIED, POD), Reason::Control);
        scene.passes(Ingress, &frame(2, PEER, POD), Reason::Control);
        scene.drops(Egress, &frame(2, other4, PEER), Reason::SpoofedSource);
        scene.drops(Egress, &frame(1, other4, other4), Reason::SpoofedSource);
        let tagged = ethernet(&[VLAN], ARP, &arp(2, other4, PEER));
        scene.drops(Egress, &tagged, Reason::SpoofedSource);

        scene.passes(Egress, &advertise(pod, pod), Reason::Control);
        scene.passes(Egress, &advertise("fe80::1", pod), Reason::Control);
        scene.drops(Egress, &advertise(pod, "fd00::9"), Reason::SpoofedSource);
        scene.drops(Egress, &advertise(pod, "fe80::2"), Reason::SpoofedSource);
        scene.drops(Egress, &advertise("fe80::1", "fe80::2"), Reason::SpoofedSource);
        scene.drops(Egress, &advertise("fd00::9", "fd00::9"), Reason::SpoofedSource);
        scene.drops(Egress, &advertise("::", pod), Reason::SpoofedSource);
        scene.passes(Ingress, &advertise("fe80::2", "fe80::2"), Reason::Control);
    }
    let mut scene = Scene::with(EndpointFlags::PRESENT | EndpointFlags::ANY_SOURCE, [1, 2]);
    scene.passes(Egress, &frame(2, other4, PEER), Reason::Control);
    scene.passes(Egress, &advertise(pod, "fd00::9"), Reason::Control);
}

/// ARP that cannot be read as such is not passed as such.
#[test]
fn what_only_looks_like_arp() {
    let mut scene = Scene::new();
    let message = arp(1, POD, PEER);
    let padded = |length| {
        let mut message = message.clone();
        message.resize(length, 0);
        ethernet(&[], ARP, &message)
    };
    scene.passes(Egress, &padded(46), Reason::Control);
    scene.drops(Egress, &padded(47), Reason::BadLength);
    scene.drops(Egress, &padded(27), Reason::Truncated);
    let mut other = message.clone();
    other[5] = 16;
    scene.drops(Egress, &ethernet(&[], ARP, &other), Reason::UnknownEthertype);
}

/// 74: a first DHCP exchange passes; nothing else does from 0.0.0.0.
#[test]
fn dhcp_passes_before_there_is_an_address() {
    let mut scene = Scene::new();
    let from = |source: Ipv4Addr, destination: Ipv4Addr, ports: (u16, u16)| {
        let payload = udp(ports.0, ports.1, &[0; 8]);
        packet::frame(source.into(), destination.into(), protocol::UDP, &payload)
    };
    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    const ALL: Ipv4Addr = Ipv4Addr::BROADCAST;
    scene.passes(Egress, &from(NONE, ALL, (68, 67)), Reason::Control);
    scene.passes(Ingress, &from(PEER, ALL, (67, 68)), Reason::Control);
    scene.drops(Egress, &from(NONE, PEER, (68, 67)), Reason::SpoofedSource);
    scene.drops(Egress, &from(NONE, ALL, (68, 53)), Reason::SpoofedSource);
    scene.drops(Egress, &from(POD, PEER, (68, 67)), Reason::DefaultDeny);
    scene.drops(Ingress, &from(PEER, POD, (67, 68)), Reason::DefaultDeny);
    let solicit = |source: &str| {
        let servers: Ipv6Addr = "ff02::1:2".parse().unwrap();
        let source: Ipv6Addr = source.parse().unwrap();
        packet::frame(source.into(), servers.into(), protocol::UDP, &udp(546, 547, &[0; 8]))
    };
    scene.passes(Egress, &solicit("fe80::1"), Reason::Control);
    scene.drops(Egress, &solicit("fd00::9"), Reason::SpoofedSource);
}
