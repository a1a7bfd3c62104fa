//! The real programs on random packets, beside a model of them in user space (`sluice_tests::model`): both
//! must come to the same reason for every packet. First damaged packets and random bytes, each of them a
//! pod's first; then packets over a handful of flows, with changes of policy between them, where both must
//! also come to the same flows. Needs root.
//!
//! `SLUICE_PACKETS` sets how many packets of each kind (20,000 where unset), `SLUICE_SEED` the first seed;
//! each seed stands for [`PACKETS_PER_SEED`] packets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use sluice::datapath::run::{Action, ELSEWHERE};
use sluice::engine::packet::{echo, sctp, tcp, udp};
use sluice_common::abi::Direction;
use sluice_common::parse::protocol;
use sluice_common::reason::{Outcome, Reason};
use sluice_tests::model::{FOREVER, Model};
use sluice_tests::packet::{
    ARP, IPV4, IPV6, SERVICE_VLAN, V4, V6, VLAN, arp, authentication, ethernet, fragment,
    neighbour, options, routing,
};
use sluice_tests::scene::{EPOCH, PEER, PEER6, POD, POD6, Scene};
use sluice_tests::sequence::{Sequence, Step};
use sluice_tests::{keep_to_one_cpu, number};

use Direction::{Egress, Ingress};

const PACKETS_PER_SEED: u64 = 1_000;
/// Packets that one pod lives for, in the second part.
const PACKETS_PER_POD: u64 = 100;
/// The node's own host stack.
const HOST: u32 = 0;

/// What policy allows in both directions, at first.
const OPEN: [(u8, u16); 5] = [
    (protocol::TCP, 80),
    (protocol::UDP, 53),
    (protocol::SCTP, 80),
    (protocol::ICMP, 8 << 8),
    (protocol::ICMPV6, 128 << 8),
];

/// The programs and the model of them, which are told the same.
struct Twins {
    scene: Scene,
    model: Model,
    epoch: u32,
    packets: u64,
    /// Packets that the kernel does not run.
    refused: u64,
    reasons: BTreeMap<&'static str, u64>,
}

impl Twins {
    fn new() -> Self {
        let mut scene = Scene::with_lifetimes(FOREVER);
        let seed = scene.datapath.maps().control().expect("readable").hash_seed;
        let (model, reasons) = (Model::new(seed), BTreeMap::new());
        let mut twins = Self { scene, model, epoch: EPOCH, packets: 0, refused: 0, reasons };
        for direction in [Ingress, Egress] {
            for (number, port) in OPEN {
                twins.decide(direction, number, port, true);
            }
        }
        twins
    }

    fn decide(&mut self, direction: Direction, protocol: u8, port: u16, allow: bool) {
        self.model.decide(direction, protocol, port, allow);
        if allow {
            self.scene.allow(direction, protocol, port);
        } else {
            self.scene.deny(direction, protocol, port);
        }
    }

    /// A pod that nobody has talked to yet.
    fn replace_pod(&mut self) {
        self.epoch += 1;
        self.scene.replace_pod(self.epoch);
        self.model.replace_pod(self.epoch);
    }

    /// Has both judge a packet. `None` for one that the kernel does not run.
    fn judge(
        &mut self,
        direction: Direction,
        frame: &[u8],
        from_host: bool,
    ) -> Result<Option<Reason>, String> {
        if !is_run(frame) {
            self.refused += 1;
            return Ok(None);
        }
        let interface = if from_host { HOST } else { ELSEWHERE };
        let (action, counted) = self.scene.run_from(direction, frame, interface);
        while self.scene.event().is_some() {}
        let judged = self.model.judge(direction, frame, from_host);
        let counts: Vec<(Reason, u64)> =
            counted.iter().map(|((_, reason), (packets, _))| (*reason, *packets)).collect();
        if counts != [(judged.reason, 1)] {
            return Err(format!("{counts:?} instead of {:?}", judged.reason));
        }
        let passes = judged.reason.outcome() == Outcome::Pass;
        if (action == Action::Pass) != passes {
            return Err(format!("{action:?} of {:?}", judged.reason));
        }
        self.packets += 1;
        *self.reasons.entry(judged.reason.label()).or_insert(0) += 1;
        let Some(looked_up) = judged.looked_up else { return Ok(Some(judged.reason)) };
        let flow = self.scene.datapath.maps().flow(&looked_up.key).expect("readable");
        let flow = flow.map(Model::timeless);
        let expected = self.model.flow(&looked_up.key);
        if flow != expected {
            if !looked_up.may_be_recent || flow != looked_up.before {
                return Err(format!("{flow:?} instead of {expected:?}: {looked_up:?}"));
            }
            self.model.restore(&looked_up);
        }
        Ok(Some(judged.reason))
    }

    /// A packet of a sequence, and what must hold after it whatever the model says: what is denied opens
    /// nothing, so that it is denied again; and what passes is answered.
    fn exchange(
        &mut self,
        direction: Direction,
        frame: &[u8],
        from_host: bool,
        reply: Option<Vec<u8>>,
    ) -> Result<(), String> {
        let Some(reason) = self.judge(direction, frame, from_host)? else { return Ok(()) };
        if reason == Reason::DefaultDeny {
            let again = self.judge(direction, frame, from_host)?;
            return match again {
                Some(again) if again.outcome() == Outcome::Drop => Ok(()),
                again => Err(format!("what was denied comes to {again:?} when it is repeated")),
            };
        }
        let Some(reply) = reply.filter(|_| reason.outcome() == Outcome::Pass) else {
            return Ok(());
        };
        match self.judge(direction.reverse(), &reply, false)? {
            Some(answer) if answer.outcome() == Outcome::Pass => Ok(()),
            answer => Err(format!("the reply to what is {reason:?} comes to {answer:?}")),
        }
    }

    /// The next packets of a pod, and what happens between them.
    fn follow(&mut self, dice: &mut ChaCha8Rng) -> Result<(), String> {
        self.replace_pod();
        let mut sequence = Sequence::new(dice);
        let end = self.packets + PACKETS_PER_POD;
        let mut steps = Vec::new();
        while self.packets < end {
            let step = sequence.step();
            steps.push(format!("{step:02x?}"));
            let result = match step {
                Step::Packet { direction, frame, from_host, reply } => {
                    self.exchange(direction, &frame, from_host, reply)
                }
                Step::Decide { direction, protocol, port, allow } => {
                    self.decide(direction, protocol, port, allow);
                    Ok(())
                }
                Step::Govern(sets) => {
                    self.scene.govern(sets);
                    self.model.govern(sets);
                    Ok(())
                }
                Step::Forget => {
                    self.scene.forget_recent();
                    self.model.forget_recent();
                    Ok(())
                }
            };
            result.map_err(|error| format!("{error}, after\n{}", steps.join("\n")))?;
        }
        self.compare_flows()
    }

    /// All flows of a pod that goes are known to both; they go with it.
    fn compare_flows(&mut self) -> Result<(), String> {
        let maps = self.scene.datapath.maps();
        for (key, expected) in self.model.flows() {
            let flow = maps.flow(key).expect("readable").map(Model::timeless);
            if flow != Some(*expected) {
                return Err(format!("{key:?} became {flow:?}, not {expected:?}"));
            }
            maps.remove_flow(key).expect("removed");
        }
        Ok(())
    }

    /// Has `judge` come to as many packets as are asked for, with one seed after another.
    fn run(&mut self, what: &str, mut judge: impl FnMut(&mut Self, &mut ChaCha8Rng, u64)) {
        let (wanted, first) = (number("SLUICE_PACKETS", 20_000), number("SLUICE_SEED", 1));
        let mut seed = first;
        while self.packets < wanted {
            judge(self, &mut ChaCha8Rng::seed_from_u64(seed), seed);
            seed += 1;
        }
        let Self { packets, refused, reasons, .. } = self;
        println!(
            "{packets} {what}, seeds {first} to {}, no disagreement; {refused} that the kernel does \
             not run: {reasons:?}",
            seed - 1
        );
        assert!(*refused < *packets / 4, "{refused} of {packets} packets were not run");
    }
}

/// False for a packet that a test run refuses: it wants a whole Ethernet header and something behind it,
/// and the network header that the type announces.
fn is_run(frame: &[u8]) -> bool {
    let Some(&[high, low]) = frame.get(12..14) else { return false };
    let header = match u16::from_be_bytes([high, low]) {
        IPV4 => 20,
        IPV6 => 40,
        _ => 1,
    };
    frame.len() >= 14 + header
}

#[test]
fn first_packets_of_pods_come_to_the_same_reason() {
    let mut twins = Twins::new();
    twins.run("first packets", |twins, dice, seed| {
        for _ in 0..PACKETS_PER_SEED {
            let direction = if dice.random() { Ingress } else { Egress };
            let frame = random_frame(dice, direction);
            twins.replace_pod();
            let result = twins.judge(direction, &frame, false);
            result.unwrap_or_else(|error| {
                panic!("seed {seed}, {direction:?}: {error}: {frame:02x?}")
            });
        }
    });
    let reasons = &twins.reasons;
    assert!(reasons.len() >= 16, "few reasons: the generator tests little: {reasons:?}");
}

#[test]
fn packets_of_flows_come_to_the_same_reasons_and_flows() {
    // What a CPU remembers is its own.
    keep_to_one_cpu();
    let mut twins = Twins::new();
    twins.run("packets of flows", |twins, dice, seed| {
        for _ in 0..PACKETS_PER_SEED / PACKETS_PER_POD {
            twins.follow(dice).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        let left = twins.scene.datapath.maps().flows().expect("readable");
        assert_eq!(left, [], "seed {seed}: flows that the model does not know");
    });
    for reason in [
        Reason::Allowed,
        Reason::Established,
        Reason::RelatedError,
        Reason::Revoked,
        Reason::DefaultDeny,
        Reason::Host,
        Reason::OwnAddress,
        Reason::NotIsolated,
        Reason::OverlappingFragment,
    ] {
        let count = twins.reasons.get(reason.label()).copied().unwrap_or(0);
        assert!(count >= twins.packets / 2_000, "{count} of {}: {reason:?}", twins.packets);
    }
}

/// A packet between the pod and its peer, most often damaged.
fn random_frame(dice: &mut ChaCha8Rng, direction: Direction) -> Vec<u8> {
    if dice.random_range(0..20) == 0 {
        return random_bytes(dice);
    }
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

/// A frame of which nothing is as it should be but its type.
fn random_bytes(dice: &mut ChaCha8Rng) -> Vec<u8> {
    let ethertype = [IPV4, IPV4, IPV6, IPV6, ARP, VLAN, dice.random()][dice.random_range(0..7)];
    let mut bytes = vec![0; dice.random_range(1..200)];
    dice.fill(&mut bytes[..]);
    ethernet(&[], ethertype, &bytes)
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
