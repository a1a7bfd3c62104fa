//! Packets that end anywhere in their headers: none is read beyond its end, none passes. Needs root.

use std::net::IpAddr;

use sluice::datapath::run::Action;
use sluice::engine::packet::{self, echo, sctp, tcp, udp};
use sluice_common::abi::Direction::{Egress, Ingress};
use sluice_common::parse::{protocol, sctp_chunk, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::packet::{
    IPV4, IPV6, SERVICE_VLAN, V4, V6, VLAN, authentication, ethernet, options, routing,
};
use sluice_tests::scene::{PEER, PEER6, POD, POD6, Scene};

const ETHERNET: usize = 14;
/// Two tags hide from a test run, which would refuse it, that an IP header is cut.
const TAGS: [u16; 2] = [SERVICE_VLAN, VLAN];
/// Where the IP packet begins behind them.
const IP: usize = ETHERNET + 4 * TAGS.len();

/// A frame without its end, whose IP header says that it has none there.
fn cut(frame: &[u8], length: usize) -> Vec<u8> {
    let mut short = frame[..length].to_vec();
    let (place, total) = match short.get(IP) {
        Some(first) if first >> 4 == 4 => (IP + 2, length - IP),
        _ => (IP + 4, length.saturating_sub(IP + 40)),
    };
    let total = u16::try_from(total).expect("a short packet").to_be_bytes();
    if let Some(field) = short.get_mut(place..place + 2) {
        field.copy_from_slice(&total);
    }
    short
}

/// Frames, and how many bytes of each are headers.
fn frames() -> Vec<(&'static str, Vec<u8>, usize)> {
    // Options of twelve bytes, and some data.
    let mut segment = tcp(5000, 80, tcp_flag::ACK);
    segment[12] = 0x80;
    segment.extend([1; 12 + 8]);
    let datagram = udp(5000, 53, b"data");
    let chunk = sctp(5000, 80, sctp_chunk::INIT);
    let transports = [
        ("TCP", protocol::TCP, segment, 32),
        ("UDP", protocol::UDP, datagram.clone(), datagram.len()),
        ("SCTP", protocol::SCTP, chunk, 16),
    ];
    let mut frames = Vec::new();
    let mut add = |name, ethertype, ip: Vec<u8>, headers| {
        frames.push((name, ethernet(&TAGS, ethertype, &ip), IP + headers));
    };
    for (name, number, payload, header) in transports {
        let v4 = V4::new(PEER, POD, number, payload.clone());
        let with_options = V4 { options: vec![1; 40], ..v4.clone() };
        add(name, IPV4, v4.bytes(), 20 + header);
        add(name, IPV4, with_options.bytes(), 60 + header);
        let v6 = V6::new(PEER6, POD6, number, payload);
        let chain = [options(0, 1), options(60, 0), routing(0), authentication()];
        let with_chain = chain.into_iter().fold(v6.clone(), V6::with);
        add(name, IPV6, v6.bytes(), 40 + header);
        add(name, IPV6, with_chain.bytes(), 40 + 16 + 8 + 8 + 24 + header);
    }
    add("echo", IPV4, V4::new(PEER, POD, protocol::ICMP, echo(8, 1)).bytes(), 28);
    add("echo", IPV6, V6::new(PEER6, POD6, protocol::ICMPV6, echo(128, 1)).bytes(), 48);
    frames
}

#[test]
fn a_packet_that_ends_in_its_headers_is_dropped() {
    let mut scene = Scene::new();
    // Whatever can be read passes.
    scene.allow_all(Ingress);
    for (name, frame, headers) in frames() {
        let (action, counted) = scene.run(Ingress, &frame);
        assert_eq!(action, Action::Pass, "{name}, whole: {counted:?}");
        let (action, counted) = scene.run(Ingress, &cut(&frame, headers));
        assert_eq!(action, Action::Pass, "{name}, all its headers: {counted:?}");

        let mut refused = |short: &[u8], how| {
            let (action, counted) = scene.run(Ingress, short);
            let reason = counted.keys().next().map(|(_, reason)| *reason);
            let length = short.len();
            assert_eq!(action, Action::Drop, "{name}, {length} bytes, {how}: {counted:?}");
            assert!(
                matches!(reason, Some(Reason::Truncated | Reason::BadLength)),
                "{name}, {length} bytes, {how}: {counted:?}"
            );
        };
        (ETHERNET + 1..headers).for_each(|length| refused(&cut(&frame, length), "and says so"));
        (ETHERNET + 1..frame.len()).for_each(|length| refused(&frame[..length], "and is longer"));
    }
}

/// An error belongs to a flow only where it quotes the flow's addresses and ports.
#[test]
fn an_error_whose_quoted_packet_ends_in_its_headers_is_about_no_flow() {
    let families = [
        (IpAddr::from(POD), IpAddr::from(PEER), protocol::ICMP, [3, 4], IPV4, 20),
        (POD6.into(), PEER6.into(), protocol::ICMPV6, [2, 0], IPV6, 40),
    ];
    for (pod, peer, number, [kind, code], ethertype, header) in families {
        let mut scene = Scene::new();
        scene.allow(Egress, protocol::TCP, 80);
        let syn = packet::frame(pod, peer, protocol::TCP, &tcp(40_000, 80, tcp_flag::SYN));
        scene.passes(Egress, &syn, Reason::Allowed);
        let message = [&[kind, code, 0, 0, 0, 0, 5, 0], &syn[ETHERNET..]].concat();
        let error = packet::frame(peer, pod, number, &message);
        let error = ethernet(&TAGS, ethertype, &error[ETHERNET..]);
        scene.passes(Ingress, &error, Reason::RelatedError);

        let ports_end = IP + header + 8 + header + 4;
        for length in ETHERNET + 1..ports_end {
            let (action, counted) = scene.run(Ingress, &cut(&error, length));
            assert_eq!(action, Action::Drop, "{length} bytes: {counted:?}");
        }
    }
}
