//! The short way of packets that a cache answers for, beside the long way: the same conversations, with
//! mutated packets and changing policy among them, go through two loads of the programs, of which one has
//! no short way. Each packet must be judged and counted alike. Needs root.
//!
//! `SLUICE_PACKETS` sets how many packets (12,000 where unset).

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use sluice::datapath::run::ELSEWHERE;
use sluice::engine::packet::{tcp, udp};
use sluice_common::abi::Direction;
use sluice_common::parse::{parse_plain, protocol, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::packet::{V4, V6};
use sluice_tests::scene::{PEER, PEER6, POD, POD6, Scene};
use sluice_tests::{keep_to_one_cpu, number};

use Direction::{Egress, Ingress};

/// The node's own host stack.
const HOST: u32 = 0;
const OPEN: [(u8, u16); 2] = [(protocol::TCP, 80), (protocol::UDP, 53)];

#[test]
fn both_ways_judge_and_count_alike() {
    // The cache is each CPU's own.
    keep_to_one_cpu();
    let packets = number("SLUICE_PACKETS", 12_000);
    let mut scenes = [Scene::new(), Scene::without_short_way()];
    scenes.iter_mut().for_each(allow);
    let mut dice = ChaCha8Rng::seed_from_u64(1);
    let mut established = 0;
    for number in 0..packets {
        if number % 500 == 499 {
            change(&mut scenes, &mut dice);
        }
        let direction = if dice.random() { Ingress } else { Egress };
        let interface = if dice.random_range(0..20) == 0 { HOST } else { ELSEWHERE };
        let frame = random_frame(&mut dice, direction);
        let [short, long] = scenes.each_mut().map(|scene| {
            let outcome = scene.run_from(direction, &frame, interface);
            scene.passed_by();
            outcome
        });
        assert_eq!(short, long, "packet {number}, {direction:?} from {interface}: {frame:02x?}");
        let is_established = short.1.contains_key(&(direction, Reason::Established));
        established += u64::from(is_established && parse_plain(&frame[..]).is_some());
    }
    println!("{packets} packets, {established} plain ones of flows that stand");
    assert!(established > packets / 4, "{established}: the generator tests little");
}

fn allow(scene: &mut Scene) {
    for direction in [Ingress, Egress] {
        for (protocol, port) in OPEN {
            scene.allow(direction, protocol, port);
        }
    }
}

/// Takes something back, or gives it again.
fn change(scenes: &mut [Scene; 2], dice: &mut ChaCha8Rng) {
    let direction = if dice.random() { Ingress } else { Egress };
    let (protocol, port) = OPEN[dice.random_range(0..2)];
    let kind = dice.random_range(0..4);
    for scene in scenes {
        match kind {
            0 => scene.deny(direction, protocol, port),
            1 => scene.govern([[0, 0], [1, 0], [0, 2], [1, 2]][usize::from(port & 3)]),
            _ => {
                scene.govern([1, 2]);
                allow(scene);
            }
        }
    }
}

/// A packet of one of a few conversations, damaged once in four times.
fn random_frame(dice: &mut ChaCha8Rng, direction: Direction) -> Vec<u8> {
    let (number, service) = OPEN[dice.random_range(0..2)];
    let client = [40_000, 40_001][dice.random_range(0..2)];
    // The service is the pod's or the peer's.
    let is_request = dice.random::<bool>();
    let ports = if is_request { (client, service) } else { (service, client) };
    let data = vec![0; dice.random_range(0..40)];
    let payload = match number {
        protocol::TCP => [tcp(ports.0, ports.1, flags(dice)), data].concat(),
        _ => udp(ports.0, ports.1, &data),
    };
    let is_in = direction == Ingress;
    let mut frame = if dice.random() {
        let (from, to) = if is_in { (PEER, POD) } else { (POD, PEER) };
        V4::new(from, to, number, payload).frame()
    } else {
        let (from, to) = if is_in { (PEER6, POD6) } else { (POD6, PEER6) };
        V6::new(from, to, number, payload).frame()
    };
    if dice.random_range(0..4) == 0 {
        // Behind the ethertype, which a test run wants to be true; headers are at the beginning.
        let at = dice.random_range(14..frame.len().min(76));
        frame[at] = dice.random();
        if dice.random_range(0..4) == 0 {
            frame.truncate(dice.random_range(54..=frame.len().max(54)));
        }
    }
    frame
}

/// Most often of a connection that goes on.
fn flags(dice: &mut ChaCha8Rng) -> u8 {
    match dice.random_range(0..24) {
        0 => tcp_flag::SYN,
        1 => tcp_flag::SYN | tcp_flag::ACK,
        2 => tcp_flag::FIN | tcp_flag::ACK,
        3 => tcp_flag::RST,
        _ => tcp_flag::ACK,
    }
}
