//! The real programs on mutated packets, beside the same parser in user space and the order of the
//! checks written down once more: both must come to the same reason for every packet. Needs root.
//!
//! `SLUICE_PACKETS` sets how many packets (20,000 where unset), `SLUICE_SEED` the first seed; each
//! seed stands for [`PACKETS_PER_SEED`] packets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use sluice::datapath::run::Action;
use sluice::engine::packet::{echo, sctp, tcp, udp};
use sluice_common::abi::{Address, Direction, Endpoint, EndpointFlags};
use sluice_common::parse::{
    Frame, Packet, claims_another_target, is_control, parse, protocol, source_is_acceptable,
};
use sluice_common::reason::{Outcome, Reason};
use sluice_tests::packet::{
    ARP, IPV4, IPV6, SERVICE_VLAN, V4, V6, VLAN, arp, authentication, ethernet, fragment,
    neighbour, options, routing,
};
use sluice_tests::scene::{EPOCH, PEER, PEER6, POD, POD6, Scene};

use Direction::{Egress, Ingress};

const PACKETS_PER_SEED: u64 = 1_000;

/// What policy allows in both directions.
const OPEN: [(u8, u16); 5] = [
    (protocol::TCP, 80),
    (protocol::UDP, 53),
    (protocol::SCTP, 80),
    (protocol::ICMP, 8 << 8),
    (protocol::ICMPV6, 128 << 8),
];

#[test]
fn kernel_and_user_space_come_to_the_same_reason() {
    let mut scene = Scene::new();
    for direction in [Ingress, Egress] {
        for (number, port) in OPEN {
            scene.allow(direction, number, port);
        }
    }
    let (wanted, first_seed) = (number("SLUICE_PACKETS", 20_000), number("SLUICE_SEED", 1));
    let (mut packets, mut refused, mut reasons) = (0, 0, BTreeMap::new());
    let mut epoch = EPOCH;
    let mut seed = first_seed;
    while packets < wanted {
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        for _ in 0..PACKETS_PER_SEED {
            let direction = if dice.random() { Ingress } else { Egress };
            let frame = random_frame(&mut dice, direction);
            // A pod that nobody has talked to yet, so that every packet is a first one.
            epoch += 1;
            scene.replace_pod(epoch);
            let Some((action, reason)) = run(&mut scene, direction, &frame) else {
                refused += 1;
                continue;
            };
            let expected = expected(direction, &frame, epoch);
            assert_eq!(reason, expected, "seed {seed}, {direction:?}, {frame:02x?}");
            let passes = expected.outcome() == Outcome::Pass;
            assert_eq!(action == Action::Pass, passes, "seed {seed}, {direction:?}, {frame:02x?}");
            *reasons.entry(reason.label()).or_insert(0_u64) += 1;
            packets += 1;
        }
        seed += 1;
    }
    println!(
        "{packets} packets, seeds {first_seed} to {}, no disagreement; {refused} that the kernel does \
         not run: {reasons:?}",
        seed - 1
    );
    assert!(refused < packets / 4, "{refused} of {packets} packets were not run");
    assert!(reasons.len() >= 16, "few reasons: the generator tests little: {reasons:?}");
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// What the program makes of a packet; `None` for one that a test run refuses: it wants a whole
/// Ethernet header and something behind it, and the network header that the type announces.
fn run(scene: &mut Scene, direction: Direction, frame: &[u8]) -> Option<(Action, Reason)> {
    let ethertype = u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]);
    let header = match ethertype {
        IPV4 => 20,
        IPV6 => 40,
        _ => 1,
    };
    if frame.len() < 14 + header {
        return None;
    }
    let (action, counted) = scene.run(direction, frame);
    while scene.event().is_some() {}
    assert_eq!(counted.len(), 1, "{counted:?}");
    let ((_, reason), (packets, _)) = counted.into_iter().next().expect("one");
    assert_eq!(packets, 1);
    Some((action, reason))
}

/// The order of the checks, for a pod that is isolated in both directions and has no flows.
fn expected(direction: Direction, frame: &[u8], epoch: u32) -> Reason {
    let (v4, v6) = (Address::from(IpAddr::from(POD)), Address::from(IpAddr::from(POD6)));
    let pod = Endpoint { sets: [1, 2], epoch, flags: EndpointFlags::PRESENT, v4, v6 };
    let mut packet = Packet::default();
    let read = parse(frame, &mut packet);
    let control = match read {
        Ok(Frame::Arp) => true,
        Ok(Frame::Ip) => !packet.piece.is_fragment && is_control(frame, &packet, &pod, direction),
        _ => false,
    };
    if direction == Egress {
        if read == Err(Reason::MartianAddress) {
            return Reason::MartianAddress;
        }
        let is_wrong = !source_is_acceptable(&packet, &pod, control)
            || claims_another_target(frame, &packet, &pod);
        if packet.addressed && is_wrong {
            return Reason::SpoofedSource;
        }
    }
    if control {
        return Reason::Control;
    }
    match read {
        Err(reason) => return reason,
        Ok(Frame::Piece) => return Reason::Fragment,
        Ok(_) => {}
    }
    if direction == Egress && pod.owns(&packet.destination) {
        return Reason::OwnAddress;
    }
    if OPEN.contains(&(packet.protocol, packet.decision_port())) {
        Reason::Allowed
    } else {
        Reason::DefaultDeny
    }
}

/// A packet between the pod and its peer, most often damaged.
fn random_frame(dice: &mut ChaCha8Rng, direction: Direction) -> Vec<u8> {
    let tags: &[u16] = match dice.random_range(0..20) {
        0 => &[VLAN],
        1 => &[SERVICE_VLAN, VLAN],
        2 => &[VLAN, VLAN, VLAN],
        _ => &[],
    };
    let mut ends4 = if direction == Ingress { (PEER, POD) } else { (POD, PEER) };
    let mut ends6 = if direction == Ingress { (PEER6, POD6) } else { (POD6, PEER6) };
    match dice.random_range(0..20) {
        0 => (ends4.1, ends6.1) = (ends4.0, ends6.0),
        1 => (ends4.0, ends6.0) = (Ipv4Addr::BROADCAST, PEER.to_ipv6_mapped()),
        _ => {}
    }
    let mut frame = match dice.random_range(0..10) {
        0 => ethernet(tags, ARP, &arp(dice.random_range(1..=2), ends4.0, ends4.1)),
        1 => ethernet(tags, IPV6, &random_neighbour(dice, ends6).bytes()),
        2..=5 => ethernet(tags, IPV4, &random_v4(dice, ends4).bytes()),
        _ => ethernet(tags, IPV6, &random_v6(dice, ends6).bytes()),
    };
    for _ in 0..dice.random_range(0..3) {
        let end = frame.len().min(110);
        let at = dice.random_range(12..end);
        frame[at] = dice.random();
    }
    match dice.random_range(0..10) {
        0 => frame.truncate(dice.random_range(14..=frame.len())),
        1 => frame.resize(frame.len() + dice.random_range(1..=60), 0),
        _ => {}
    }
    frame
}

fn random_neighbour(dice: &mut ChaCha8Rng, (source, destination): (Ipv6Addr, Ipv6Addr)) -> V6 {
    let local: Ipv6Addr = "fe80::1".parse().expect("an address");
    let group: Ipv6Addr = "ff02::1:ff00:2".parse().expect("an address");
    let pick = |dice: &mut ChaCha8Rng, of: [Ipv6Addr; 4]| of[dice.random_range(0..4)];
    let from = pick(dice, [source, source, local, Ipv6Addr::UNSPECIFIED]);
    let to = pick(dice, [destination, group, local, "2001:db8::1".parse().expect("an address")]);
    let about = pick(dice, [source, destination, local, to]);
    let options = vec![0; 8 * dice.random_range(0..5)];
    neighbour(from, to, dice.random_range(133..=137), about, &options)
}

fn random_payload(dice: &mut ChaCha8Rng, is_ipv6: bool) -> (u8, Vec<u8>) {
    let port = [80, 53, 81][dice.random_range(0..3)];
    let data = vec![0; dice.random_range(0..8) * 8];
    let icmp = if is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
    match dice.random_range(0..6) {
        0 | 1 => (protocol::TCP, [tcp(dice.random(), port, dice.random()), data].concat()),
        2 => (protocol::UDP, udp(dice.random(), port, &data)),
        3 => (protocol::SCTP, [sctp(dice.random(), port, dice.random()), data].concat()),
        4 => (icmp, [echo([8, 0, 128, 129][dice.random_range(0..4)], 7), data].concat()),
        _ => (icmp, [echo(dice.random_range(0..16), dice.random()), data].concat()),
    }
}

fn random_v4(dice: &mut ChaCha8Rng, (source, destination): (Ipv4Addr, Ipv4Addr)) -> V4 {
    let (number, payload) = random_payload(dice, false);
    let mut packet = V4::new(source, destination, number, payload);
    packet.options = vec![1; 4 * dice.random_range(0..=10) * dice.random_range(0..2)];
    if dice.random_range(0..5) == 0 {
        packet.fragment = dice.random::<u16>() & 0x200f;
    }
    packet
}

fn random_v6(dice: &mut ChaCha8Rng, (source, destination): (Ipv6Addr, Ipv6Addr)) -> V6 {
    let (number, payload) = random_payload(dice, true);
    let mut packet = V6::new(source, destination, number, payload);
    if dice.random_range(0..20) == 0 {
        // "No next header".
        packet.protocol = 59;
    }
    for _ in 0..dice.random_range(0..10) * dice.random_range(0..2) {
        packet.extensions.push(match dice.random_range(0..8) {
            0 if packet.extensions.is_empty() => options(0, dice.random_range(0..3)),
            1 => fragment(dice.random::<u16>() & 0x78, dice.random()),
            2 => routing(dice.random_range(0..2)),
            3 => authentication(),
            _ => options(60, dice.random_range(0..3)),
        });
    }
    packet
}
