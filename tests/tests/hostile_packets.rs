//! Packets that a hostile pod or peer would send: each is dropped for its own reason, and nothing else
//! is counted. Port 80 over TCP is open, so that a port that is read from the wrong place would pass.
//! Needs root.

use std::net::{Ipv4Addr, Ipv6Addr};

use sluice::engine::packet::{echo, sctp, tcp, udp};
use sluice_common::abi::{Direction, EndpointFlags};
use sluice_common::parse::{protocol, sctp_chunk, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::packet::{
    ARP, IPV4, IPV6, SERVICE_VLAN, V4, V6, VLAN, arp, authentication, ethernet, fragment, options,
    routing,
};
use sluice_tests::scene::{PEER, PEER6, POD, POD6, Scene};

use Direction::{Egress, Ingress};

const OPEN: u16 = 80;
const SHUT: u16 = 81;
const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;

fn scene() -> Scene {
    let mut scene = Scene::new();
    for direction in [Ingress, Egress] {
        scene.allow(direction, protocol::TCP, OPEN);
    }
    scene
}

/// A TCP SYN to a port, from a source port of its own so that every packet is a first one.
fn syn(port: u16) -> Vec<u8> {
    use std::sync::atomic::{AtomicU16, Ordering};
    static SOURCE_PORT: AtomicU16 = AtomicU16::new(20_000);
    tcp(SOURCE_PORT.fetch_add(1, Ordering::Relaxed), port, tcp_flag::SYN)
}

fn v4(payload: Vec<u8>) -> V4 {
    V4::new(PEER, POD, protocol::TCP, payload)
}

fn v6(payload: Vec<u8>) -> V6 {
    V6::new(PEER6, POD6, protocol::TCP, payload)
}

#[test]
fn ipv4_options_do_not_move_the_port() {
    let mut scene = scene();
    // Where the ports of a packet without options stand, the options say 80.
    let fake = [1, 1, 0, 80, 1, 1, 1, 0];
    let with = |port| V4 { options: fake.to_vec(), ..v4(syn(port)) }.frame();
    scene.drops(Ingress, &with(SHUT), Reason::DefaultDeny);
    scene.passes(Ingress, &with(OPEN), Reason::Allowed);
    let longest = |port| V4 { options: vec![1; 40], ..v4(syn(port)) }.frame();
    scene.drops(Ingress, &longest(SHUT), Reason::DefaultDeny);
    scene.passes(Ingress, &longest(OPEN), Reason::Allowed);
}

#[test]
fn ipv6_extension_headers_do_not_move_the_port() {
    let mut scene = scene();
    // An options header whose content looks like ports 80 and 80.
    let disguised = |number| (number, vec![0, 0, 80, 0, 80, 0, 0]);
    let chains = [
        vec![disguised(HOP_BY_HOP)],
        vec![disguised(DESTINATION)],
        vec![routing(0)],
        vec![authentication()],
        vec![options(HOP_BY_HOP, 3), options(DESTINATION, 0), routing(0), options(DESTINATION, 9)],
        vec![options(HOP_BY_HOP, 255)],
        // A fragment header of a packet that is whole.
        vec![fragment(0, false)],
    ];
    for extensions in chains {
        let with = |port| V6 { extensions: extensions.clone(), ..v6(syn(port)) }.frame();
        scene.drops(Ingress, &with(SHUT), Reason::DefaultDeny);
        scene.passes(Ingress, &with(OPEN), Reason::Allowed);
    }
}

#[test]
fn ipv6_chains_that_cannot_be_walked() {
    let mut scene = scene();
    let drops = [
        (v6(syn(OPEN)).with((135, vec![0; 7])), Reason::UnknownExtension),
        (v6(syn(OPEN)).with((253, vec![0; 7])), Reason::UnknownExtension),
        (v6(syn(OPEN)).with((50, vec![0; 7])), Reason::UnknownExtension),
        // Hop-by-hop options come first or not at all.
        (
            v6(syn(OPEN)).with(options(DESTINATION, 0)).with(options(HOP_BY_HOP, 0)),
            Reason::UnknownExtension,
        ),
        // It would go on to another destination.
        (v6(syn(OPEN)).with(routing(1)), Reason::UnknownExtension),
        (v6(syn(OPEN)).with((51, vec![0; 7])), Reason::BadLength),
        (V6 { protocol: 59, ..v6(Vec::new()) }, Reason::NoNextHeader),
        (V6 { protocol: 59, ..v6(syn(OPEN)) }.with(options(DESTINATION, 0)), Reason::NoNextHeader),
        // The header says it is longer than the packet.
        (v6(syn(OPEN)).with((DESTINATION, vec![9, 0, 0, 0, 0, 0, 0])), Reason::Truncated),
        (V6 { protocol: DESTINATION, ..v6(vec![6, 0, 0, 0]) }, Reason::Truncated),
        (V6 { protocol: 89, ..v6(vec![0; 20]) }, Reason::UnknownProtocol),
        (V6 { protocol: protocol::ICMP, ..v6(echo(8, 1)) }, Reason::UnknownProtocol),
    ];
    for (packet, reason) in drops {
        scene.drops(Ingress, &packet.frame(), reason);
    }
    let chain = |n| V6 { extensions: vec![options(DESTINATION, 0); n], ..v6(syn(OPEN)) }.frame();
    scene.passes(Ingress, &chain(8), Reason::Allowed);
    scene.drops(Ingress, &chain(9), Reason::HeaderChain);
}

#[test]
fn truncated_headers() {
    let mut scene = scene();
    let frame = v4(syn(OPEN)).frame();
    // A test run refuses a frame without a whole IP header, unless a tag hides what it is.
    let short = |payload: Vec<u8>, protocol| V4 { protocol, ..v4(payload) }.frame();
    scene.drops(Ingress, &ethernet(&[VLAN], IPV4, &frame[14..30]), Reason::Truncated);
    for length in [0, 4, 19] {
        scene.drops(Ingress, &short(syn(OPEN)[..length].to_vec(), 6), Reason::Truncated);
    }
    // The data offset points beyond the packet.
    let mut long = syn(OPEN);
    long[12] = 0xf0;
    scene.drops(Ingress, &short(long, protocol::TCP), Reason::Truncated);
    scene.drops(Ingress, &short(udp(1, 53, &[])[..7].to_vec(), 17), Reason::Truncated);
    let init = sctp(1, OPEN, sctp_chunk::INIT);
    scene.drops(Ingress, &short(init[..15].to_vec(), protocol::SCTP), Reason::Truncated);
    scene.drops(Ingress, &short(echo(8, 1)[..7].to_vec(), protocol::ICMP), Reason::Truncated);
    let short6 = &v6(syn(OPEN)).bytes()[..39];
    scene.drops(Ingress, &ethernet(&[VLAN], IPV6, short6), Reason::Truncated);
    let short6 = v6(syn(OPEN)[..19].to_vec());
    scene.drops(Ingress, &short6.frame(), Reason::Truncated);
    scene.drops(Ingress, &ethernet(&[VLAN], IPV4, &[]), Reason::Truncated);
}

#[test]
fn wrong_lengths() {
    let mut scene = scene();
    let drops = [
        V4 { first_byte: Some(0x44), ..v4(syn(OPEN)) },
        V4 { first_byte: Some(0x55), ..v4(syn(OPEN)) },
        V4 { first_byte: Some(0x4f), ..v4(syn(OPEN)) },
        V4 { total_length: Some(41), ..v4(syn(OPEN)) },
        V4 { total_length: Some(19), ..v4(syn(OPEN)) },
        V4 { total_length: Some(0), ..v4(syn(OPEN)) },
        V4 { protocol: 17, ..v4([0, 1, 0, 53, 0, 7, 0, 0].to_vec()) },
        V4 { protocol: 17, ..v4([0, 1, 0, 53, 0, 9, 0, 0].to_vec()) },
    ];
    for packet in drops {
        scene.drops(Ingress, &packet.frame(), Reason::BadLength);
    }
    let mut low_offset = syn(OPEN);
    low_offset[12] = 0x40;
    scene.drops(Ingress, &v4(low_offset).frame(), Reason::BadLength);
    let longer = V6 { payload_length: Some(21), ..v6(syn(OPEN)) };
    scene.drops(Ingress, &longer.frame(), Reason::BadLength);
    // A jumbogram (RFC 2675), whose header says that nothing follows.
    let jumbo = V6 { payload_length: Some(0), ..v6(syn(OPEN)) };
    let jumbo = jumbo.with((HOP_BY_HOP, vec![0, 0xc2, 4, 0, 1, 0, 0]));
    scene.drops(Ingress, &jumbo.frame(), Reason::Truncated);
    // What lies behind the end of the IP packet is padding, not a header.
    let hidden = V4 { total_length: Some(28), ..v4(syn(OPEN)) };
    scene.drops(Ingress, &hidden.frame(), Reason::Truncated);
    let hidden6 = V6 { payload_length: Some(8), ..v6(syn(OPEN)) };
    scene.drops(Ingress, &hidden6.frame(), Reason::Truncated);
}

#[test]
fn addresses_that_cannot_stand_in_a_packet() {
    let mut scene = scene();
    let from4 = |source: &str| V4 { source: source.parse().unwrap(), ..v4(syn(OPEN)) }.frame();
    let from6 = |source: &str| V6 { source: source.parse().unwrap(), ..v6(syn(OPEN)) }.frame();
    for source in ["224.0.0.1", "239.255.255.255", "255.255.255.255"] {
        scene.drops(Ingress, &from4(source), Reason::MartianAddress);
    }
    for source in ["ff02::1", "::ffff:10.0.0.2"] {
        scene.drops(Ingress, &from6(source), Reason::MartianAddress);
    }
    let to_mapped = V6 { destination: POD.to_ipv6_mapped(), ..v6(syn(OPEN)) };
    scene.drops(Ingress, &to_mapped.frame(), Reason::MartianAddress);
    // An IPv4-mapped source is not the pod's, even where the pod's egress is open.
    let mut open = Scene::isolated_in(Ingress);
    let mapped = V6 { source: POD.to_ipv6_mapped(), destination: PEER6, ..v6(syn(OPEN)) };
    open.drops(Egress, &mapped.frame(), Reason::MartianAddress);
}

#[test]
fn spoofed_sources() {
    let wrong4 = V4 { source: Ipv4Addr::new(10, 0, 0, 9), destination: PEER, ..v4(syn(OPEN)) };
    let wrong6: Ipv6Addr = "fd00::9".parse().unwrap();
    let wrong6 = V6 { source: wrong6, destination: PEER6, ..v6(syn(OPEN)) };
    let unspecified = V4 { source: Ipv4Addr::UNSPECIFIED, ..wrong4.clone() };
    let link_local = V6 { source: "fe80::1".parse().unwrap(), ..wrong6.clone() };
    let fragment = V4 { fragment: 0x2000, ..wrong4.clone() };
    let frames =
        [wrong4.frame(), wrong6.frame(), unspecified.frame(), link_local.frame(), fragment.frame()];
    // Whether the pod's egress is isolated or not.
    for mut scene in [scene(), Scene::isolated_in(Ingress)] {
        for frame in &frames {
            scene.drops(Egress, frame, Reason::SpoofedSource);
        }
    }
    let mut scene = Scene::with(EndpointFlags::PRESENT | EndpointFlags::ANY_SOURCE, [1, 2]);
    scene.allow(Egress, protocol::TCP, OPEN);
    scene.passes(Egress, &frames[0], Reason::Allowed);
    scene.passes(Egress, &frames[1], Reason::Allowed);
}

#[test]
fn vlan_tags() {
    let mut scene = scene();
    let tagged = |tags: &[u16], port| ethernet(tags, IPV4, &v4(syn(port)).bytes());
    for tags in [&[VLAN][..], &[SERVICE_VLAN], &[SERVICE_VLAN, VLAN], &[VLAN, VLAN]] {
        scene.drops(Ingress, &tagged(tags, SHUT), Reason::DefaultDeny);
        scene.passes(Ingress, &tagged(tags, OPEN), Reason::Allowed);
        let tagged6 = ethernet(tags, IPV6, &v6(syn(SHUT)).bytes());
        scene.drops(Ingress, &tagged6, Reason::DefaultDeny);
    }
    scene.drops(Ingress, &tagged(&[SERVICE_VLAN, VLAN, VLAN], OPEN), Reason::VlanDepth);
    let spoofed = V4 { source: Ipv4Addr::new(10, 0, 0, 9), destination: PEER, ..v4(syn(OPEN)) };
    let spoofed = ethernet(&[SERVICE_VLAN, VLAN], IPV4, &spoofed.bytes());
    scene.drops(Egress, &spoofed, Reason::SpoofedSource);
}

#[test]
fn what_is_no_ip_packet() {
    let mut scene = scene();
    // 802.3 with a length, LLDP, MPLS.
    for ethertype in [0x0026, 0x88cc, 0x8847] {
        let frame = ethernet(&[], ethertype, &[0; 46]);
        scene.drops(Ingress, &frame, Reason::UnknownEthertype);
    }
    let other = V4 { protocol: 47, ..v4(vec![0; 20]) };
    scene.drops(Ingress, &other.frame(), Reason::UnknownProtocol);
    scene.passes(Ingress, &ethernet(&[], ARP, &arp(1, PEER, POD)), Reason::Control);
    scene.passes(Egress, &ethernet(&[VLAN], ARP, &arp(1, POD, PEER)), Reason::Control);
}

/// What cannot be read passes where nothing isolates the pod.
#[test]
fn a_direction_that_is_not_isolated_reads_nothing() {
    let mut scene = Scene::isolated_in(Ingress);
    let out4 = |packet: V4| V4 { source: POD, destination: PEER, ..packet };
    let out6 = |packet: V6| V6 { source: POD6, destination: PEER6, ..packet };
    let frames = [
        out4(V4 { fragment: 0x2000, ..v4(syn(OPEN)) }).frame(),
        out4(V4 { protocol: 47, ..v4(vec![0; 20]) }).frame(),
        out6(V6 { protocol: 59, ..v6(Vec::new()) }).frame(),
        ethernet(&[VLAN, VLAN, VLAN], IPV4, &[]),
        ethernet(&[], 0x88cc, &[0; 46]),
    ];
    for frame in frames {
        scene.passes(Egress, &frame, Reason::NotIsolated);
    }
}

/// In shadow mode everything is counted and recorded, and passes.
#[test]
fn shadow_drops_nothing() {
    use sluice::datapath::run::Action;
    let mut scene = Scene::with(EndpointFlags::PRESENT | EndpointFlags::SHADOW, [1, 2]);
    let frame = v4(syn(SHUT)).frame();
    let (action, counted) = scene.run(Ingress, &frame);
    assert_eq!(action, Action::Pass);
    assert_eq!(counted.keys().collect::<Vec<_>>(), [&(Ingress, Reason::DefaultDeny)]);
    assert_eq!(scene.event().map(|e| e.reason), Some(Reason::DefaultDeny as u32));
}
