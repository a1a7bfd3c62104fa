//! Pods share the flow table: what one of them is sent, or sends, ends nothing of the others (issue 6,
//! point 3). Needs root.
//!
//! `SLUICE_FLOOD` is the number of first packets in the flood; more than the table holds, if unset.

use std::net::{IpAddr, Ipv4Addr};

use sluice::datapath::run::{Action, ELSEWHERE, LOOPBACK};
use sluice::datapath::{Datapath, LoadOptions};
use sluice::engine::packet::{frame, tcp};
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::abi::{
    Address, Decision, DecisionKey, Endpoint, EndpointFlags, FLOW_WAYS, Flow, FlowKey,
    UNCLASSIFIED, Verdict, Versioned, capacity,
};
use sluice_common::bucket::Spot;
use sluice_common::parse::protocol;
use sluice_common::parse::tcp_flag::{ACK, SYN};
use sluice_common::reason::Reason;
use sluice_policy::diff::Op;
use sluice_policy::tables::Prefix;
use sluice_tests::needs_root;

const SERVER: u16 = 80;

/// The pod of a slot.
fn pod(slot: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + slot).into()
}

/// A client of the pods: its address and port.
type Client = (IpAddr, u16);

fn client(number: u32) -> Client {
    (Ipv4Addr::from(0x0b00_0000 + number).into(), 1024 + (number % 60_000) as u16)
}

/// Key of a client's flow with the pod of a slot.
fn key(slot: u32, client: Client) -> FlowKey {
    FlowKey {
        remote: client.0.into(),
        epoch: slot,
        local_port_be: SERVER.to_be(),
        remote_port_be: client.1.to_be(),
        protocol: u32::from(protocol::TCP),
    }
}

/// Pods whose server everyone may reach, and who may reach nobody.
struct Node {
    datapath: Datapath,
}

impl Node {
    fn new(slots: u32) -> Self {
        needs_root();
        let mut datapath = Datapath::load(&LoadOptions::default()).expect("the programs load");
        let decision = |set, protocol, port, bits, verdict| {
            let key = DecisionKey::new(set, UNCLASSIFIED, protocol, port);
            let decision = Decision { verdict: verdict as u32, rank: 0, rule: 0 };
            Op::Decision(Prefix { key, bits }, Versioned::settled(decision))
        };
        let any = DecisionKey::BITS_ANY;
        let mut ops = vec![
            decision(1, 0, 0, any, Verdict::Deny),
            decision(2, 0, 0, any, Verdict::Deny),
            decision(1, protocol::TCP, SERVER, DecisionKey::BITS, Verdict::Allow),
        ];
        ops.extend((1..=slots).map(|slot| {
            let (v4, v6) = (pod(slot).into(), Address::UNSPECIFIED);
            let flags = EndpointFlags::PRESENT;
            Op::Endpoint(
                slot,
                Versioned::settled(Endpoint { sets: [1, 2], epoch: slot, flags, v4, v6 }),
            )
        }));
        datapath.maps().apply(&ops).expect("the tables take it");
        Self { datapath }
    }

    fn passes(&mut self, slot: u32, client: Client, direction: Direction, flags: u8) -> bool {
        let (address, port) = client;
        let frame = match direction {
            Ingress => frame(address, pod(slot), protocol::TCP, &tcp(port, SERVER, flags)),
            Egress => frame(pod(slot), address, protocol::TCP, &tcp(SERVER, port, flags)),
        };
        self.datapath.maps().set_slot(LOOPBACK, slot).expect("the loopback has a place");
        self.datapath.run(direction, &frame, ELSEWHERE).expect("it runs") == Action::Pass
    }

    /// First packets of others, each of another connection. The pod answers every fourth.
    fn flood(&mut self, slot: u32, numbers: std::ops::Range<u32>) {
        self.datapath.maps().set_slot(LOOPBACK, slot).expect("the loopback has a place");
        for number in numbers {
            let (address, port) = client(number);
            let syn = frame(address, pod(slot), protocol::TCP, &tcp(port, SERVER, SYN));
            let action = self.datapath.run(Ingress, &syn, ELSEWHERE).expect("it runs");
            assert_eq!(action, Action::Pass, "the flood is allowed");
            if number % 4 == 0 {
                let answer = tcp(SERVER, port, SYN | ACK);
                let answer = frame(pod(slot), address, protocol::TCP, &answer);
                self.datapath.run(Egress, &answer, ELSEWHERE).expect("it runs");
            }
        }
    }

    /// Clients whose flows with the pods, each with one in turn, all fall into one bucket.
    fn in_one_bucket(&mut self, slots: u32, count: usize) -> Vec<(u32, Client)> {
        let seed = self.datapath.maps().control().expect("readable").hash_seed;
        let bucket = |(slot, client): &(u32, Client)| {
            Spot::new(&key(*slot, *client), &seed).bucket(capacity::FLOW_BUCKETS)
        };
        let all = (0..).map(|number| (1 + number % slots, client(number)));
        all.filter(|one| bucket(one) == 0).take(count).collect()
    }

    /// How often a flow of each pod, in its order, has displaced another.
    fn displaced(&mut self, slots: u32) -> Vec<u64> {
        let mut displaced = Vec::new();
        for slot in 1..=slots {
            let counted = self.datapath.maps().snapshot(slot).expect("readable");
            let counter = counted.get(&(Ingress, Reason::FlowDisplaced));
            displaced.push(counter.map_or(0, |counter| counter.packets));
        }
        displaced
    }

    /// What the table, not a CPU that remembers it, says of a connection.
    fn flow(&mut self, slot: u32, client: Client) -> Option<Flow> {
        self.datapath.maps().flow(&key(slot, client)).expect("readable")
    }

    #[track_caller]
    fn stands(&mut self, slot: u32, client: Client) {
        let flow = self.flow(slot, client).expect("the connection is known");
        assert!(flow.flags & Flow::FLAG_WANTED != 0, "{flow:?}");
        assert!(self.passes(slot, client, Egress, ACK), "what the pod says in it");
    }
}

fn flood_size() -> u32 {
    let asked = std::env::var("SLUICE_FLOOD").ok();
    asked.map_or(capacity::FLOWS + 100_000, |asked| asked.parse().expect("SLUICE_FLOOD: a number"))
}

#[test]
fn a_flood_of_first_packets_ends_no_flow_that_stands() {
    const PODS: std::ops::RangeInclusive<u32> = 1..=4;
    const FLOODED: u32 = 1;
    const STEP: u32 = 10_000;
    let mut node = Node::new(4);
    let standing: Vec<(u32, Client)> =
        PODS.flat_map(|slot| (0..100).map(move |n| (slot, client(0x0080_0000 + n)))).collect();
    for &(slot, client) in &standing {
        assert!(node.passes(slot, client, Ingress, SYN));
        assert!(node.passes(slot, client, Egress, SYN | ACK));
        assert!(node.passes(slot, client, Ingress, ACK));
    }
    let size = flood_size();
    for first in (0..size).step_by(STEP as usize) {
        // Connections of every pod open meanwhile; those of the others take their time.
        let opening: Vec<(u32, Client)> =
            PODS.map(|slot| (slot, client(0x00c0_0000 + first))).collect();
        for &(slot, client) in &opening {
            assert!(node.passes(slot, client, Ingress, SYN));
            let answers = slot != FLOODED || node.passes(slot, client, Egress, SYN | ACK);
            assert!(answers && (slot != FLOODED || node.passes(slot, client, Ingress, ACK)));
        }
        node.flood(FLOODED, first..(first + STEP).min(size));
        for &(slot, client) in &opening[1..] {
            assert!(node.passes(slot, client, Egress, SYN | ACK), "slot {slot}, after {first}");
            assert!(node.passes(slot, client, Ingress, ACK));
        }
        opening.iter().for_each(|&(slot, client)| node.stands(slot, client));
    }
    standing.iter().for_each(|&(slot, client)| node.stands(slot, client));
    let flows = node.datapath.maps().flows().expect("readable").len();
    assert!(flows <= capacity::FLOWS as usize, "{flows} flows");
}

/// What a full table ends is seen.
#[test]
fn a_flow_that_stands_and_gives_way_is_counted() {
    const PODS: u32 = 3;
    let mut node = Node::new(PODS);
    let flows = node.in_one_bucket(PODS, FLOW_WAYS + 1);
    let (last, standing) = flows.split_last().expect("some");
    for &(slot, client) in standing {
        assert!(node.passes(slot, client, Ingress, SYN));
        assert!(node.passes(slot, client, Egress, SYN | ACK));
        assert!(node.passes(slot, client, Ingress, ACK));
    }
    let mut expected = [0; PODS as usize];
    assert_eq!(node.displaced(PODS), expected, "there was room");
    let &(slot, client) = last;
    assert!(node.passes(slot, client, Ingress, SYN));
    expected[slot as usize - 1] = 1;
    assert_eq!(node.displaced(PODS), expected);
    let left = standing.iter().filter(|&&(slot, client)| node.flow(slot, client).is_some()).count();
    assert_eq!(left, FLOW_WAYS - 1);
}
