//! The packet parser against etherparse, on random and mutated packets. Needs no root.
//!
//! What our parser reads, etherparse must read the same; what etherparse reads as a whole packet of a
//! protocol that policy knows, our parser must read too, or refuse for a reason that can be checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use sluice::engine::packet::{echo, sctp, tcp, udp};
use sluice_common::abi::Address;
use sluice_common::parse::{Frame, Packet, Transport, parse, parse_plain, protocol, quoted};
use sluice_common::reason::Reason;
use sluice_tests::packet::{
    IPV4, IPV6, SERVICE_VLAN, V4, V6, VLAN, authentication, ethernet, fragment, options, routing,
};

const PACKETS: u32 = 400_000;

#[test]
fn reads_what_etherparse_reads() {
    let mut dice = ChaCha8Rng::seed_from_u64(1);
    let (mut read, mut pieces, mut refused) = (0, 0, std::collections::BTreeMap::new());
    for _ in 0..PACKETS {
        let frame = random_frame(&mut dice);
        let mut packet = Packet::default();
        let theirs = SlicedPacket::from_ethernet(&frame);
        match parse(&frame[..], &mut packet) {
            Ok(Frame::Arp) => {}
            Ok(Frame::Piece) => {
                // Behind the fragment header etherparse goes on to read what are no headers.
                let is_whole = theirs.is_ok_and(|theirs| !theirs.is_ip_payload_fragmented());
                assert!(!is_whole && packet.piece.offset != 0, "{frame:02x?}");
                pieces += 1;
            }
            Ok(Frame::Ip) => {
                read += 1;
                same(&packet, &frame, theirs.as_ref());
                let _ = quoted(&frame[..], &packet);
            }
            Err(reason) => {
                *refused.entry(reason.label()).or_insert(0) += 1;
                justified(reason, &packet, &frame, theirs.as_ref().ok());
            }
        }
    }
    println!("{PACKETS} packets, {read} read, refused: {refused:?}");
    assert!(pieces > PACKETS / 100, "{pieces} later fragments: the generator tests little");
    assert!(read > PACKETS / 10, "most packets are refused: the generator tests little");
    let reasons = [
        "truncated",
        "bad-length",
        "unknown-ethertype",
        "vlan-depth",
        "tiny-fragment",
        "unknown-extension",
        "no-next-header",
        "header-chain",
        "unknown-protocol",
        "martian-address",
    ];
    for reason in reasons {
        assert!(refused.contains_key(reason), "no packet was refused as {reason}");
    }
}

/// What the short way reads of a packet is what the long way reads, to the last field.
#[test]
fn a_plain_packet_is_read_as_any_other_is() {
    let mut dice = ChaCha8Rng::seed_from_u64(2);
    let mut plain = 0;
    for _ in 0..PACKETS {
        let frame = random_frame(&mut dice);
        let Some(read) = parse_plain(&frame[..]) else { continue };
        let mut packet = Packet::default();
        assert_eq!(parse(&frame[..], &mut packet), Ok(Frame::Ip), "{frame:02x?}");
        assert_eq!(read, packet, "{frame:02x?}");
        plain += 1;
    }
    println!("{PACKETS} packets, {plain} plain");
    assert!(plain > PACKETS / 20, "{plain} plain packets: the generator tests little");
}

type Theirs<'a, E> = Result<&'a SlicedPacket<'a>, E>;

fn same<E: std::fmt::Debug>(packet: &Packet, frame: &[u8], theirs: Theirs<'_, E>) {
    if packet.protocol == protocol::ICMP && matches!(packet.icmp, 0x0d00 | 0x0e00) {
        // etherparse wants a timestamp message to have exactly its length; no matter to policy.
        return;
    }
    let theirs = theirs.unwrap_or_else(|e| panic!("etherparse: {e:?}\n{packet:?}\n{frame:02x?}"));
    let (source, destination, number) = network(theirs).expect("an IP packet");
    let expected = (Address::from(source), Address::from(destination));
    assert_eq!((packet.source, packet.destination), expected, "{frame:02x?}");
    assert_eq!(theirs.is_ip_payload_fragmented(), packet.piece.is_fragment, "{frame:02x?}");
    if packet.piece.is_fragment {
        // etherparse reads no transport header in a fragment.
        return;
    }
    assert_eq!(packet.protocol, number, "{frame:02x?}");
    let ports = (packet.source_port_be.to_be(), packet.destination_port_be.to_be());
    match (&theirs.transport, packet.transport) {
        (Some(TransportSlice::Tcp(tcp)), Transport::Tcp { flags }) => {
            assert_eq!(ports, (tcp.source_port(), tcp.destination_port()), "{frame:02x?}");
            assert_eq!(flags, tcp.slice()[13], "{frame:02x?}");
        }
        (Some(TransportSlice::Udp(udp)), Transport::Udp) => {
            assert_eq!(ports, (udp.source_port(), udp.destination_port()), "{frame:02x?}");
        }
        (Some(TransportSlice::Icmpv4(icmp)), _) => {
            let expected = u16::from_be_bytes([icmp.type_u8(), icmp.code_u8()]);
            assert_eq!((packet.protocol, packet.icmp), (protocol::ICMP, expected));
        }
        (Some(TransportSlice::Icmpv6(icmp)), _) => {
            let expected = u16::from_be_bytes([icmp.type_u8(), icmp.code_u8()]);
            assert_eq!((packet.protocol, packet.icmp), (protocol::ICMPV6, expected));
        }
        // etherparse knows no SCTP: its header begins where the IP payload does.
        (None, Transport::Sctp { chunk }) => {
            let payload = ip_payload(theirs).expect("an IP packet");
            let expected = (be(payload, 0), be(payload, 2));
            assert_eq!((ports, chunk), (expected, payload[12]), "{frame:02x?}");
        }
        (theirs, ours) => panic!("{ours:?} is not {theirs:?}: {frame:02x?}"),
    }
}

/// Our parser refuses what etherparse does not, only for what it can show.
fn justified(reason: Reason, packet: &Packet, frame: &[u8], theirs: Option<&SlicedPacket<'_>>) {
    let Some(theirs) = theirs else { return };
    let network = network(theirs);
    let payload = ip_payload(theirs).unwrap_or_default();
    let number = network.map(|(_, _, number)| number);
    let is_justified = match reason {
        // etherparse takes a length of zero for "to the end of the buffer".
        _ if has_zero_length(theirs) => true,
        // A piece that no packet can have; etherparse does not look at that.
        Reason::BadLength if theirs.is_ip_payload_fragmented() => true,
        // Refused by both, or a header that etherparse does not read as such.
        Reason::Truncated | Reason::BadLength => match number {
            Some(protocol::UDP) => usize::from(be(payload, 4)) < 8,
            Some(protocol::SCTP) => payload.len() < 16,
            Some(protocol::ICMP | protocol::ICMPV6) => payload.len() < 8,
            // No IP packet: ARP, or nothing that etherparse reads.
            None => true,
            Some(_) => theirs.transport.is_none() || has_extensions(theirs),
        },
        // etherparse also takes tags of before the standard.
        Reason::UnknownEthertype => {
            network.is_none() || [12, 16, 20].iter().any(|at| be(frame, *at) == 0x9100)
        }
        Reason::VlanDepth => theirs.link_exts.len() > 2,
        Reason::TinyFragment => theirs.is_ip_payload_fragmented(),
        // Each is about a chain of headers that etherparse walks with other limits.
        Reason::UnknownExtension | Reason::HeaderChain | Reason::NoNextHeader => {
            network.is_some_and(|(source, _, _)| source.is_ipv6())
        }
        Reason::UnknownProtocol => match number {
            Some(protocol::ICMP) => network.is_some_and(|(source, _, _)| source.is_ipv6()),
            Some(protocol::ICMPV6) => network.is_some_and(|(source, _, _)| source.is_ipv4()),
            // Authentication headers are walked in IPv6 only.
            Some(protocol::TCP | protocol::UDP | protocol::SCTP) => has_extensions(theirs),
            _ => true,
        },
        Reason::MartianAddress => network.is_some_and(|(source, destination, _)| {
            let mapped = |a| matches!(a, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
            source.is_multicast()
                || source == IpAddr::V4(Ipv4Addr::BROADCAST)
                || mapped(source)
                || mapped(destination)
        }),
        _ => false,
    };
    assert!(is_justified, "{reason:?}: {packet:?}, {theirs:?}, {frame:02x?}");
}

fn network(theirs: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr, u8)> {
    match theirs.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            Some((source.into(), destination.into(), ip.payload().ip_number.0))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            let (source, destination) = (header.source_addr(), header.destination_addr());
            Some((source.into(), destination.into(), ip.payload().ip_number.0))
        }
        NetSlice::Arp(_) => None,
    }
}

fn ip_payload<'a>(theirs: &'a SlicedPacket<'_>) -> Option<&'a [u8]> {
    match theirs.net.as_ref()? {
        NetSlice::Ipv4(ip) => Some(ip.payload().payload),
        NetSlice::Ipv6(ip) => Some(ip.payload().payload),
        NetSlice::Arp(_) => None,
    }
}

fn has_extensions(theirs: &SlicedPacket<'_>) -> bool {
    match &theirs.net {
        Some(NetSlice::Ipv4(ip)) => ip.extensions().auth.is_some(),
        Some(NetSlice::Ipv6(ip)) => ip.extensions().first_header().is_some(),
        _ => false,
    }
}

fn has_zero_length(theirs: &SlicedPacket<'_>) -> bool {
    let Some(NetSlice::Ipv6(ip)) = &theirs.net else { return false };
    ip.header().payload_length() == 0
}

/// Two bytes at an offset; 0 where they are not.
fn be(bytes: &[u8], offset: usize) -> u16 {
    bytes.get(offset..offset + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]))
}

/// A well-formed packet, most often damaged a little.
fn random_frame(dice: &mut ChaCha8Rng) -> Vec<u8> {
    let payload = random_payload(dice);
    let tags = [VLAN, SERVICE_VLAN];
    let tags: Vec<u16> = (0..one_in(dice, 4) * dice.random_range(1..=3_usize))
        .map(|_| tags[dice.random_range(0..2_usize)])
        .collect();
    let mut frame = if dice.random() {
        ethernet(&tags, IPV4, &random_v4(dice, payload).bytes())
    } else {
        ethernet(&tags, IPV6, &random_v6(dice, payload).bytes())
    };
    for _ in 0..one_in(dice, 2) * dice.random_range(1..=3_usize) {
        // Headers are at the beginning.
        let end = frame.len().min(80);
        let at = dice.random_range(0..end);
        frame[at] = dice.random();
    }
    if one_in(dice, 6) == 1 {
        frame.truncate(dice.random_range(0..=frame.len()));
    }
    if one_in(dice, 6) == 1 {
        frame.resize(frame.len() + dice.random_range(1..=40_usize), 0);
    }
    frame
}

/// 1 once in `n` times, else 0.
fn one_in(dice: &mut ChaCha8Rng, n: u32) -> usize {
    usize::from(dice.random_range(0..n) == 0)
}

fn random_payload(dice: &mut ChaCha8Rng) -> (u8, Vec<u8>) {
    let (a, b) = (dice.random(), dice.random());
    let mut data = vec![0; dice.random_range(0..60_usize)];
    dice.fill(&mut data[..]);
    match dice.random_range(0..7) {
        0 | 1 => (protocol::TCP, [tcp(a, b, dice.random()), data].concat()),
        2 => (protocol::UDP, udp(a, b, &data)),
        3 => (protocol::SCTP, sctp(a, b, dice.random())),
        4 => (protocol::ICMP, [echo(dice.random_range(0..20), a), data].concat()),
        5 => (protocol::ICMPV6, [echo(dice.random(), a), data].concat()),
        _ => (dice.random(), data),
    }
}

fn random_v4(dice: &mut ChaCha8Rng, (number, payload): (u8, Vec<u8>)) -> V4 {
    let source = Ipv4Addr::from(dice.random::<u32>());
    let mut packet = V4::new(source, Ipv4Addr::from(dice.random::<u32>()), number, payload);
    packet.options = vec![1; 4 * one_in(dice, 3) * dice.random_range(1..=10_usize)];
    if one_in(dice, 8) == 1 {
        packet.fragment = dice.random::<u16>() & 0x200f;
    }
    packet
}

fn random_v6(dice: &mut ChaCha8Rng, (number, payload): (u8, Vec<u8>)) -> V6 {
    let source = random_v6_address(dice);
    let mut packet = V6::new(source, random_v6_address(dice), number, payload);
    for _ in 0..one_in(dice, 2) * dice.random_range(1..=10_usize) {
        packet.extensions.push(match dice.random_range(0..12) {
            0 | 1 if packet.extensions.is_empty() => options(0, dice.random_range(0..3)),
            2 => fragment(dice.random::<u16>() & 0x38, dice.random()),
            3 => routing(one_in(dice, 4) as u8),
            4 => authentication(),
            5 if one_in(dice, 4) == 1 => (dice.random(), vec![0; 7]),
            6 if one_in(dice, 4) == 1 => (59, vec![0; 7]),
            _ => options(60, dice.random_range(0..3)),
        });
    }
    packet
}

fn random_v6_address(dice: &mut ChaCha8Rng) -> Ipv6Addr {
    match dice.random_range(0..40) {
        0 => Ipv4Addr::from(dice.random::<u32>()).to_ipv6_mapped(),
        1 => Ipv6Addr::from(dice.random::<u128>() | 0xff << 120),
        _ => Ipv6Addr::from(0x2001_0db8 << 96 | dice.random::<u128>() >> 32),
    }
}
