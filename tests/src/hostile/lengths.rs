//! Packets that end too early, and lengths that are not true.

use sluice::engine::packet::{echo, sctp, udp};
use sluice_common::abi::Direction;
use sluice_common::parse::{protocol, sctp_chunk};
use sluice_common::reason::Reason;

use super::{Carrier, Hostile, OPEN, syn, v4, v6};
use crate::packet::{IPV4, IPV6, V4, V6, VLAN, ethernet};

const HOP_BY_HOP: u8 = 0;
/// Lengths of the IP headers, without options.
const HEADER4: usize = 20;
const HEADER6: usize = 40;

pub(super) fn packets(direction: Direction) -> Vec<Hostile> {
    let mut packets = cut_ip_headers(direction);
    packets.extend(cut_transport_headers(direction));
    packets.extend(wrong_ipv4_lengths(direction));
    packets.extend(wrong_ipv6_lengths(direction));
    packets.extend(wrong_transport_lengths(direction));
    packets
}

/// IP headers that end at every byte. A tag before them hides it from a test run.
fn cut_ip_headers(direction: Direction) -> Vec<Hostile> {
    const REFUSED: Carrier = Carrier::Lab(
        "a test run takes no packet without the whole IP header that its type announces",
    );
    const SWALLOWED: Carrier =
        Carrier::Kernel("an interface drops a tag with fewer than two bytes behind it");
    let (packet4, packet6) = (v4(direction, syn(OPEN)).bytes(), v6(direction, syn(OPEN)).bytes());
    let mut packets = Vec::new();
    for (ethertype, header, packet) in [(IPV4, HEADER4, &packet4), (IPV6, HEADER6, &packet6)] {
        for length in 0..header {
            let cut = |tags: &[u16]| {
                let name = format!("{length} bytes of {ethertype:#x}, {} tags", tags.len());
                let frame = ethernet(tags, ethertype, &packet[..length]);
                Hostile::new(name, direction, frame, Reason::Truncated)
            };
            packets.push(cut(&[]).only_by(REFUSED));
            let tagged = cut(&[VLAN]);
            packets.push(if length < 2 { tagged.only_by(SWALLOWED) } else { tagged });
        }
    }
    packets
}

fn cut_transport_headers(direction: Direction) -> Vec<Hostile> {
    let mut packets = Vec::new();
    let mut cut = |name, number, payload: &[u8]| {
        for (family, frame) in [
            ("IPv4", V4 { protocol: number, ..v4(direction, payload.into()) }.frame()),
            ("IPv6", V6 { protocol: number, ..v6(direction, payload.into()) }.frame()),
        ] {
            let name = format!("{} bytes of {name}, {family}", payload.len());
            packets.push(Hostile::new(name, direction, frame, Reason::Truncated));
        }
    };
    let datagram = udp(1, OPEN, &[]);
    let init = sctp(1, OPEN, sctp_chunk::INIT);
    (0..20).for_each(|length| cut("TCP", protocol::TCP, &syn(OPEN)[..length]));
    (0..8).for_each(|length| cut("UDP", protocol::UDP, &datagram[..length]));
    (0..16).for_each(|length| cut("SCTP", protocol::SCTP, &init[..length]));
    let echoes = (0..8).flat_map(|length| {
        let v4 = V4 { protocol: protocol::ICMP, ..v4(direction, echo(8, 1)[..length].into()) };
        let v6 = V6 { protocol: protocol::ICMPV6, ..v6(direction, echo(128, 1)[..length].into()) };
        [v4.frame(), v6.frame()].map(|frame| {
            Hostile::new(format!("{length} bytes of an echo"), direction, frame, Reason::Truncated)
        })
    });
    let echoes: Vec<Hostile> = echoes.collect();
    packets.extend(echoes);
    packets
}

fn wrong_ipv4_lengths(direction: Direction) -> Vec<Hostile> {
    let syn = || v4(direction, syn(OPEN));
    [
        ("header of 16 bytes", V4 { first_byte: Some(0x44), ..syn() }, Reason::BadLength),
        ("version 5", V4 { first_byte: Some(0x55), ..syn() }, Reason::BadLength),
        (
            "header longer than the packet",
            V4 { first_byte: Some(0x4f), ..syn() },
            Reason::BadLength,
        ),
        ("packet longer than the frame", V4 { total_length: Some(41), ..syn() }, Reason::BadLength),
        ("shorter than its header", V4 { total_length: Some(19), ..syn() }, Reason::BadLength),
        ("of no length", V4 { total_length: Some(0), ..syn() }, Reason::BadLength),
        // What lies behind the end of the IP packet is padding, not a header.
        ("ports in the padding", V4 { total_length: Some(28), ..syn() }, Reason::Truncated),
    ]
    .into_iter()
    .map(|(name, packet, reason)| Hostile::new(name, direction, packet.frame(), reason))
    .collect()
}

fn wrong_ipv6_lengths(direction: Direction) -> Vec<Hostile> {
    let syn = || v6(direction, syn(OPEN));
    let claims = |length| V6 { payload_length: Some(length), ..syn() };
    let jumbogram = (HOP_BY_HOP, vec![0, 0xc2, 4, 0, 1, 0, 0]);
    let mut version = syn().frame();
    version[14] = 0x40;
    [
        ("version 4", version, Reason::BadLength),
        ("packet longer than the frame", claims(21).frame(), Reason::BadLength),
        // RFC 2675: its header says that nothing follows.
        ("jumbogram", claims(0).with(jumbogram).frame(), Reason::Truncated),
        ("of no length", claims(0).frame(), Reason::Truncated),
        ("ports in the padding", claims(8).frame(), Reason::Truncated),
    ]
    .into_iter()
    .map(|(name, frame, reason)| Hostile::new(format!("IPv6, {name}"), direction, frame, reason))
    .collect()
}

fn wrong_transport_lengths(direction: Direction) -> Vec<Hostile> {
    let with_offset = |offset: u8| {
        let mut segment = syn(OPEN);
        segment[12] = offset << 4;
        segment
    };
    [
        ("TCP header of 16 bytes", protocol::TCP, with_offset(4), Reason::BadLength),
        ("TCP header of no length", protocol::TCP, with_offset(0), Reason::BadLength),
        ("TCP header longer than the packet", protocol::TCP, with_offset(15), Reason::Truncated),
        ("UDP of 7 bytes", protocol::UDP, vec![0, 1, 0, 53, 0, 7, 0, 0], Reason::BadLength),
        (
            "UDP longer than the packet",
            protocol::UDP,
            vec![0, 1, 0, 53, 0, 9, 0, 0],
            Reason::BadLength,
        ),
    ]
    .into_iter()
    .flat_map(|(name, number, payload, reason)| {
        let v4 = V4 { protocol: number, ..v4(direction, payload.clone()) }.frame();
        let v6 = V6 { protocol: number, ..v6(direction, payload) }.frame();
        [v4, v6].map(|frame| Hostile::new(name, direction, frame, reason))
    })
    .collect()
}
