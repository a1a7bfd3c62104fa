//! Pods share the flow table: what one of them is sent, or sends, ends nothing of the others (issue 6,
//! point 3). Needs root.
//!
//! `SLUICE_FLOOD` is the number of first packets in a flood, more than the table holds; 1,000,000 SYNs, and
//! as many as the table holds and 100,000 of the others, if unset.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice::datapath::run::{Action, ELSEWHERE, LOOPBACK};
use sluice::datapath::{Datapath, LoadOptions};
use sluice::engine::packet::{Segment, Step};
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::abi::{
    Decision, DecisionKey, Endpoint, EndpointFlags, FLOW_WAYS, Flow, FlowKey, UNCLASSIFIED,
    Verdict, Versioned, capacity,
};
use sluice_common::bucket::Spot;
use sluice_common::parse::protocol;
use sluice_common::reason::Reason;
use sluice_policy::diff::Op;
use sluice_policy::tables::Prefix;
use sluice_tests::needs_root;

const SERVER: u16 = 80;

/// The pod's addresses of a slot.
fn pod(slot: u32) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::from(0x0a00_0000 + slot), Ipv6Addr::from((0xfd00 << 112) + u128::from(slot)))
}

/// What flows are of.
#[derive(Clone, Copy)]
struct Kind {
    protocol: u8,
    is_ipv6: bool,
}

const TCP4: Kind = Kind { protocol: protocol::TCP, is_ipv6: false };
const TCP6: Kind = Kind { protocol: protocol::TCP, is_ipv6: true };
const UDP4: Kind = Kind { protocol: protocol::UDP, is_ipv6: false };
const UDP6: Kind = Kind { protocol: protocol::UDP, is_ipv6: true };

/// A client of the pods, and what it speaks.
#[derive(Clone, Copy)]
struct Client {
    address: IpAddr,
    port: u16,
    protocol: u8,
}

impl Client {
    /// One of many, which take turns in what they speak.
    fn new(kinds: &[Kind], number: u32) -> Self {
        let Kind { protocol, is_ipv6 } = kinds[number as usize % kinds.len()];
        let address = if is_ipv6 {
            Ipv6Addr::from((0xfd01 << 112) + u128::from(number)).into()
        } else {
            Ipv4Addr::from(0x0b00_0000 + number).into()
        };
        Self { address, port: 1024 + (number % 60_000) as u16, protocol }
    }

    /// A packet between it and the pod of a slot.
    fn frame(self, slot: u32, direction: Direction, step: Step) -> Vec<u8> {
        let (v4, v6) = pod(slot);
        let pod: IpAddr = if self.address.is_ipv4() { v4.into() } else { v6.into() };
        let (from, to) = ((self.address, self.port), (pod, SERVER));
        let (from, to) = if direction == Ingress { (from, to) } else { (to, from) };
        let segment = Segment {
            source: from.0,
            destination: to.0,
            protocol: self.protocol,
            source_port: from.1,
            destination_port: to.1,
            step,
            forward: direction == Ingress,
        };
        segment.frame()
    }
}

/// Key of a client's flow with the pod of a slot.
fn key(slot: u32, client: Client) -> FlowKey {
    FlowKey {
        remote: client.address.into(),
        epoch: slot,
        local_port_be: SERVER.to_be(),
        remote_port_be: client.port.to_be(),
        protocol: u32::from(client.protocol),
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
            decision(1, protocol::UDP, SERVER, DecisionKey::BITS, Verdict::Allow),
        ];
        ops.extend((1..=slots).map(|slot| {
            let (v4, v6) = pod(slot);
            let (v4, v6) = (IpAddr::from(v4).into(), IpAddr::from(v6).into());
            let flags = EndpointFlags::PRESENT;
            Op::Endpoint(
                slot,
                Versioned::settled(Endpoint { sets: [1, 2], epoch: slot, flags, v4, v6 }),
            )
        }));
        datapath.maps().apply(&ops).expect("the tables take it");
        Self { datapath }
    }

    fn passes(&mut self, slot: u32, client: Client, direction: Direction, step: Step) -> bool {
        self.datapath.maps().set_slot(LOOPBACK, slot).expect("the loopback has a place");
        self.run(slot, client, direction, step) == Action::Pass
    }

    fn run(&self, slot: u32, client: Client, direction: Direction, step: Step) -> Action {
        let frame = client.frame(slot, direction, step);
        self.datapath.run(direction, &frame, ELSEWHERE).expect("it runs")
    }

    /// A client and a pod begin to talk, and both want to.
    #[track_caller]
    fn opens(&mut self, slot: u32, client: Client) {
        assert!(self.passes(slot, client, Ingress, Step::Open));
        assert!(self.passes(slot, client, Egress, Step::Answer));
        assert!(self.passes(slot, client, Ingress, Step::Data));
    }

    /// First packets of others, each of another connection. The pod answers every fourth.
    fn flood(&mut self, slot: u32, kinds: &[Kind], numbers: std::ops::Range<u32>) {
        self.datapath.maps().set_slot(LOOPBACK, slot).expect("the loopback has a place");
        for number in numbers {
            let client = Client::new(kinds, number);
            let action = self.run(slot, client, Ingress, Step::Open);
            assert_eq!(action, Action::Pass, "the flood is allowed");
            if number % 4 == 0 {
                self.run(slot, client, Egress, Step::Answer);
            }
        }
    }

    /// Clients whose flows with the pods, each with one in turn, all fall into one bucket.
    fn in_one_bucket(&mut self, slots: u32, count: usize) -> Vec<(u32, Client)> {
        let seed = self.datapath.maps().control().expect("readable").hash_seed;
        let bucket = |(slot, client): &(u32, Client)| {
            Spot::new(&key(*slot, *client), &seed).bucket(capacity::FLOW_BUCKETS)
        };
        let all = (0..).map(|number| (1 + number % slots, Client::new(&[TCP4], number)));
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
        assert!(self.passes(slot, client, Egress, Step::Data), "what the pod says in it");
    }
}

/// A flood of first packets at one of four pods ends no flow that stands, and keeps none from opening.
fn flood(kinds: &[Kind], size: u32) {
    const PODS: std::ops::RangeInclusive<u32> = 1..=4;
    const FLOODED: u32 = 1;
    const STEP: u32 = 10_000;
    let asked = std::env::var("SLUICE_FLOOD").ok();
    let size = asked.map_or(size, |asked| asked.parse().expect("SLUICE_FLOOD: a number"));
    let mut node = Node::new(4);
    let one = |number| Client::new(kinds, number);
    let standing: Vec<(u32, Client)> =
        PODS.flat_map(|slot| (0..100).map(move |n| (slot, one(0x0080_0000 + n)))).collect();
    standing.iter().for_each(|&(slot, client)| node.opens(slot, client));
    for first in (0..size).step_by(STEP as usize) {
        // Connections of every pod open meanwhile; those of the others take their time.
        let opening: Vec<(u32, Client)> =
            PODS.map(|slot| (slot, one(0x00c0_0000 + first + slot))).collect();
        node.opens(opening[0].0, opening[0].1);
        for &(slot, client) in &opening[1..] {
            assert!(node.passes(slot, client, Ingress, Step::Open));
        }
        node.flood(FLOODED, kinds, first..(first + STEP).min(size));
        for &(slot, client) in &opening[1..] {
            assert!(node.passes(slot, client, Egress, Step::Answer), "slot {slot}, after {first}");
            assert!(node.passes(slot, client, Ingress, Step::Data));
        }
        opening.iter().for_each(|&(slot, client)| node.stands(slot, client));
    }
    standing.iter().for_each(|&(slot, client)| node.stands(slot, client));
    let flows = node.datapath.maps().flows().expect("readable").len();
    println!("{size} first packets; {flows} flows are left");
    assert!(flows <= capacity::FLOWS as usize, "{flows} flows");
}

#[test]
fn a_flood_of_first_packets_ends_no_flow_that_stands() {
    flood(&[TCP4], 1_000_000);
}

#[test]
fn nor_does_one_of_datagrams_or_of_ipv6() {
    flood(&[UDP4, TCP6, UDP6], capacity::FLOWS + 100_000);
}

/// What a full table ends is seen.
#[test]
fn a_flow_that_stands_and_gives_way_is_counted() {
    const PODS: u32 = 3;
    let mut node = Node::new(PODS);
    let flows = node.in_one_bucket(PODS, FLOW_WAYS + 1);
    let (last, standing) = flows.split_last().expect("some");
    for &(slot, client) in standing {
        node.opens(slot, client);
    }
    let mut expected = [0; PODS as usize];
    assert_eq!(node.displaced(PODS), expected, "there was room");
    let &(slot, client) = last;
    assert!(node.passes(slot, client, Ingress, Step::Open));
    expected[slot as usize - 1] = 1;
    assert_eq!(node.displaced(PODS), expected);
    let left = standing.iter().filter(|&&(slot, client)| node.flow(slot, client).is_some()).count();
    assert_eq!(left, FLOW_WAYS - 1);
}
