//! Blocks with excepts, compiled into tables and looked up by longest match, allow exactly what
//! comparing bit by bit says.
#![no_main]

use std::net::IpAddr;

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use sluice_policy::answer::answer;
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::compile;
use sluice_policy::model::{
    Action, Block, Direction, LocalEndpoint, Namespaces, Peer, Peers, Pod, PodName, PodSelector,
    Policy, PolicyKind, PolicyName, Ports, Question, Rule, Selector, Tier, World,
};

/// Address and length.
type Prefix = (IpAddr, u8);

fuzz_target!(|input: (Vec<(Prefix, Vec<Prefix>)>, Vec<IpAddr>)| {
    let (blocks, addresses) = input;
    let blocks: Vec<Block> = blocks.into_iter().filter_map(block).collect();
    let compiler = compile(&world(&blocks), Capacity::default());
    let edges = blocks.iter().flat_map(|block| {
        let nets = std::iter::once(block.cidr()).chain(block.except().iter().copied());
        nets.flat_map(|net| [net.network(), net.broadcast()])
    });
    for remote in edges.chain(addresses).filter(|address| can_stand_in_a_packet(*address)) {
        let expected = blocks.iter().any(|block| contains(block, remote));
        let answer = answer(&compiler, &question(remote));
        assert_eq!(answer.allowed, expected, "{remote} {blocks:?}");
    }
});

fn block((cidr, except): (Prefix, Vec<Prefix>)) -> Option<Block> {
    let cidr = net(cidr)?;
    let except: Vec<IpNet> = except.into_iter().filter_map(net).collect();
    let within = |e: &IpNet| e.prefix_len() > cidr.prefix_len() && covers(cidr, e.addr());
    let all_within = except.iter().all(within);
    let block = Block::new(cidr, except);
    assert_eq!(block.is_ok(), all_within, "{cidr}");
    block.ok()
}

fn net((address, bits): Prefix) -> Option<IpNet> {
    IpNet::new(address, bits % 129).ok()
}

/// An IPv4-mapped source or destination is dropped before policy is asked.
fn can_stand_in_a_packet(address: IpAddr) -> bool {
    !matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn contains(block: &Block, address: IpAddr) -> bool {
    covers(block.cidr(), address) && !block.except().iter().any(|e| covers(*e, address))
}

/// The first bits are equal, one by one.
fn covers(net: IpNet, address: IpAddr) -> bool {
    let (mine, other) = match (net.addr(), address) {
        (IpAddr::V4(mine), IpAddr::V4(other)) => (mine.octets().to_vec(), other.octets().to_vec()),
        (IpAddr::V6(mine), IpAddr::V6(other)) => (mine.octets().to_vec(), other.octets().to_vec()),
        _ => return false,
    };
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    (0..usize::from(net.prefix_len())).all(|at| bit(&mine, at) == bit(&other, at))
}

/// A pod whose egress is allowed to these blocks, one rule each. It has no address: no question is
/// about its own.
fn world(blocks: &[Block]) -> World {
    let allow = |block: &Block| Rule {
        action: Action::Allow,
        peers: Peers::Of(vec![Peer::Block(block.clone())]),
        ports: Ports::Any,
    };
    let policy = Policy {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: PodSelector {
            namespaces: Namespaces::Named("x".into()),
            pods: Selector::default(),
        },
        ingress: None,
        egress: Some(blocks.iter().map(allow).collect()),
    };
    let name = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some("x".into()),
        name: "blocks".into(),
    };
    World {
        pods: [(pod(), Pod::default())].into(),
        policies: [(name, policy)].into(),
        endpoints: [(pod(), LocalEndpoint { slot: 1, epoch: 1, flags: 0 })].into(),
        ..World::default()
    }
}

fn pod() -> PodName {
    PodName { namespace: "x".into(), name: "a".into() }
}

fn question(remote: IpAddr) -> Question {
    Question {
        pod: pod(),
        direction: Direction::Egress,
        remote,
        protocol: 6,
        port: 80,
        from_own_host: false,
    }
}
