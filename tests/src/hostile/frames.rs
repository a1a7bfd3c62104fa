//! What is wrong, or merely unusual, about a whole frame: tags, types, sizes, checksums.

use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::reason::Reason;

use super::{Carrier, Hostile, OPEN, SHUT, judged, syn, v4, v6};
use crate::packet::{ARP, IPV4, IPV6, SERVICE_VLAN, V4, V6, VLAN, arp, ethernet};
use crate::scene::{PEER, POD};
use crate::wire::Merged;

const LLDP: u16 = 0x88cc;
const GRE: u8 = 47;

pub(super) fn packets(direction: Direction) -> Vec<Hostile> {
    let mut packets = tags(direction);
    packets.extend(no_ip(direction));
    packets.extend(checksums(direction));
    packets.extend(sizes(direction));
    packets
}

/// Two tags are read in the data. An interface takes the outer one out of it, so that it is three there.
fn tags(direction: Direction) -> Vec<Hostile> {
    const IN_DATA: Carrier = Carrier::Kernel("an interface puts the outer tag beside the packet");
    const BESIDE: Carrier = Carrier::Lab("a test run leaves the outer tag in the packet");
    const THREE: [u16; 3] = [SERVICE_VLAN, VLAN, VLAN];
    let with4 = |tags: &[u16], port| ethernet(tags, IPV4, &v4(direction, syn(port)).bytes());
    let with6 = |tags: &[u16], port| ethernet(tags, IPV6, &v6(direction, syn(port)).bytes());
    let mut packets = Vec::new();
    for tags in [&[VLAN][..], &[SERVICE_VLAN], &[SERVICE_VLAN, VLAN], &[VLAN, VLAN]] {
        packets.extend(judged("tags", direction, |port| with4(tags, port)));
        packets.extend(judged("tags, IPv6", direction, |port| with6(tags, port)));
    }
    let three = judged("three tags", direction, |port| with4(&THREE, port));
    packets.extend(three.map(|packet| packet.only_by(BESIDE)));
    let too_many = |name, frame| Hostile::new(name, direction, frame, Reason::VlanDepth);
    packets.push(too_many("three tags", with4(&THREE, OPEN)).only_by(IN_DATA));
    packets.push(too_many("four tags", with4(&[VLAN; 4], OPEN)));
    packets.push(too_many("thirty tags", with6(&[VLAN; 30], OPEN)));
    packets
}

fn no_ip(direction: Direction) -> Vec<Hostile> {
    let new = |name, frame, reason| Hostile::new(name, direction, frame, reason);
    let (sender, target) = super::ends(direction, POD, PEER);
    let mut packets = vec![
        new(
            "GRE",
            V4 { protocol: GRE, ..v4(direction, vec![0; 20]) }.frame(),
            Reason::UnknownProtocol,
        ),
        new("ARP", ethernet(&[], ARP, &arp(1, sender, target)), Reason::Control),
        new("ARP with a tag", ethernet(&[VLAN], ARP, &arp(1, sender, target)), Reason::Control),
    ];
    for (name, ethertype) in
        [("802.3", 0x0026), ("LLDP", LLDP), ("MPLS", 0x8847), ("PPPoE", 0x8864)]
    {
        packets.push(new(name, ethernet(&[], ethertype, &[0; 46]), Reason::UnknownEthertype));
    }
    // InfiniBand's hardware addresses.
    let mut other = arp(1, sender, target);
    other[..2].copy_from_slice(&32_u16.to_be_bytes());
    other[4] = 20;
    packets.push(new("ARP of another link", ethernet(&[], ARP, &other), Reason::UnknownEthertype));
    let stuffed = [arp(1, sender, target), vec![0; 19]].concat();
    packets.push(new("ARP with data", ethernet(&[], ARP, &stuffed), Reason::BadLength));
    packets.push(new(
        "cut ARP",
        ethernet(&[], ARP, &arp(1, sender, target)[..20]),
        Reason::Truncated,
    ));
    packets
}

/// Whether they are right is for the receiver to see: a NIC may not have filled them in yet.
fn checksums(direction: Direction) -> Vec<Hostile> {
    let wrong = |port| {
        let mut segment = syn(port);
        segment[16..18].copy_from_slice(&[0xbe, 0xef]);
        segment
    };
    let header = |port| {
        let mut frame = v4(direction, syn(port)).frame();
        frame[24..26].copy_from_slice(&[0xde, 0xad]);
        frame
    };
    [
        judged("wrong checksum of the header", direction, header),
        judged("wrong TCP checksum", direction, |port| v4(direction, wrong(port)).frame()),
        judged("wrong TCP checksum, IPv6", direction, |port| v6(direction, wrong(port)).frame()),
    ]
    .concat()
}

/// From more than an Ethernet link takes to the greatest that an IP header can say, and packets that
/// stand for many.
fn sizes(direction: Direction) -> Vec<Hostile> {
    const TOO_LARGE: Carrier = Carrier::Lab("a test run takes no more than a page");
    const MANY: Carrier = Carrier::Lab("a test run makes no packet that stands for many");
    /// Lengths of the headers, Ethernet's included.
    const HEADERS4: u16 = 14 + 20 + 20;
    const HEADERS6: u16 = 14 + 40 + 20;
    let large = |port, length| [syn(port), vec![0; length]].concat();
    let sized4 = |name, length: usize| {
        judged(name, direction, |port| v4(direction, large(port, length - 40)).frame())
    };
    let sized6 = |name, length: usize| {
        judged(name, direction, |port| v6(direction, large(port, length - 60)).frame())
    };
    let mut packets = [sized4("3000 bytes", 3_000), sized6("3000 bytes, IPv6", 3_000)].concat();
    for length in [9_000, 65_535] {
        let jumbo = [sized4("jumbo", length), sized6("jumbo, IPv6", length)].concat();
        packets.extend(jumbo.into_iter().map(|packet| packet.only_by(TOO_LARGE)));
    }
    let merged =
        |merged| move |packet: Hostile| Hostile { merged: Some(merged), ..packet.only_by(MANY) };
    packets.extend(sized4("many in one", 60_000).map(merged(Merged::tcp_v4(HEADERS4))));
    packets.extend(sized6("many in one, IPv6", 60_000).map(merged(Merged::tcp_v6(HEADERS6))));
    packets
}

/// What cannot be read passes where nothing isolates the pod.
pub(super) fn ungoverned() -> Vec<Hostile> {
    let out = |protocol, payload| V6 { protocol, ..v6(Egress, payload) }.frame();
    [
        ("first fragment", V4 { fragment: 0x2000, ..v4(Egress, syn(OPEN)) }.frame()),
        ("GRE", V4 { protocol: GRE, ..v4(Egress, vec![0; 20]) }.frame()),
        ("nothing", out(59, Vec::new())),
        ("no IP packet behind three tags", ethernet(&[VLAN; 3], IPV4, &[])),
        ("LLDP", ethernet(&[], LLDP, &[0; 46])),
    ]
    .into_iter()
    .map(|(name, frame)| Hostile::new(name, Egress, frame, Reason::NotIsolated))
    .collect()
}

/// Counted and recorded, and passed.
pub(super) fn shadowed() -> Vec<Hostile> {
    let mut packets = Vec::new();
    for direction in [Ingress, Egress] {
        let shut = v4(direction, syn(SHUT)).frame();
        packets.push(Hostile::new("shut", direction, shut, Reason::DefaultDeny));
        let cut = v6(direction, syn(SHUT)[..19].to_vec()).frame();
        packets.push(Hostile::new("cut", direction, cut, Reason::Truncated));
        let other = ethernet(&[], LLDP, &[0; 46]);
        packets.push(Hostile::new("LLDP", direction, other, Reason::UnknownEthertype));
    }
    packets
}
