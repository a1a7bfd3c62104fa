//! What a link needs to work passes an isolated pod, and what only looks like it does not (SEMANTICS
//! 46, 74). Needs root.

use std::net::{Ipv4Addr, Ipv6Addr};

use sluice::engine::packet::{self, udp};
use sluice_common::abi::Direction;
use sluice_common::parse::protocol;
use sluice_common::reason::Reason;
use sluice_tests::packet::{V6, options};
use sluice_tests::scene::{PEER, POD, POD6, Scene};

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
        (Egress, icmpv6("::", "ff02::1:ff00:1", 255, 135)),
        (Egress, icmpv6(&pod, "ff02::1:ff00:2", 255, 135)),
        (Egress, icmpv6("fe80::1", "fe80::2", 255, 136)),
        (Egress, icmpv6("fe80::1", "ff02::2", 255, 133)),
        (Ingress, icmpv6("fe80::2", &pod, 255, 135)),
        (Ingress, icmpv6("fe80::2", "ff02::1", 255, 134)),
        (Egress, icmpv6("fe80::1", "ff02::16", 1, 143).with(options(0, 0))),
        (Egress, icmpv6("::", "ff02::16", 1, 143).with(options(0, 0))),
        (Ingress, icmpv6("fe80::2", "ff02::1", 1, 130).with(options(0, 0))),
    ];
    for (direction, packet) in pass {
        scene.passes(direction, &packet.frame(), Reason::Control);
    }
    let drop = [
        // A router has touched it, so it is not from this link.
        (Ingress, icmpv6("fe80::2", &pod, 254, 135), Reason::DefaultDeny),
        (Egress, icmpv6(&pod, "ff02::16", 64, 143), Reason::DefaultDeny),
        // Pods are no routers.
        (Egress, icmpv6(&pod, "ff02::1", 255, 134), Reason::DefaultDeny),
        (Egress, icmpv6("fe80::1", "ff02::1", 255, 134), Reason::SpoofedSource),
        (Egress, icmpv6("::", "ff02::1", 255, 136), Reason::SpoofedSource),
        (Egress, icmpv6("fd00::9", "ff02::1", 255, 136), Reason::SpoofedSource),
        // To where such messages are never sent: they would carry data out.
        (Egress, icmpv6(&pod, "2001:db8::1", 255, 133), Reason::DefaultDeny),
        (Egress, icmpv6("::", "2001:db8::1", 255, 135), Reason::SpoofedSource),
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
