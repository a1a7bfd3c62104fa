//! Questions at the edges of what a world's rules say.

use std::net::IpAddr;

use ipnet::IpNet;
use sluice_policy::model::{
    Direction, Peer, Peers, PodName, PortMatch, Ports, Protocol, Question, Rule, World,
};

use super::pods::PORTS;
use super::{Dice, addresses};

/// Questions to the endpoints of a world; none if it has no endpoint.
///
/// Remotes are what an address field can say, so also addresses that a packet's parser refuses before
/// policy is asked (unspecified, multicast), but never IPv4-mapped ones. ICMP is echo, request or
/// reply.
pub fn questions(world: &World, seed: u64, n: usize) -> Vec<Question> {
    let mut dice = Dice::new(seed);
    let hints = Hints::of(world);
    let pods: Vec<&PodName> = world.endpoints.keys().collect();
    if pods.is_empty() {
        return Vec::new();
    }
    (0..n)
        .map(|_| {
            let pod = *dice.pick(&pods);
            question(&mut dice, &hints, pod)
        })
        .collect()
}

/// Addresses, blocks and ports that a world mentions.
struct Hints {
    pods: Vec<IpAddr>,
    blocks: Vec<IpNet>,
    ports: Vec<(Protocol, u16)>,
    /// Addresses of services, each with a port.
    services: Vec<(IpAddr, Protocol, u16)>,
}

impl Hints {
    fn of(world: &World) -> Self {
        let mut hints =
            Self { pods: Vec::new(), blocks: Vec::new(), ports: Vec::new(), services: Vec::new() };
        for pod in world.pods.values() {
            hints.pods.extend(&pod.addresses);
            hints.ports.extend(pod.ports.iter().map(|p| (p.protocol, p.port)));
        }
        for service in world.services.values() {
            for port in &service.ports {
                let vips = service.addresses.iter().map(|a| (*a, port.protocol, port.port));
                hints.services.extend(vips);
            }
        }
        for policy in world.policies.values() {
            for rule in [&policy.ingress, &policy.egress].into_iter().flatten().flatten() {
                hints.add_rule(rule);
            }
        }
        hints
    }

    fn add_rule(&mut self, rule: &Rule) {
        if let Peers::Of(peers) = &rule.peers {
            for peer in peers {
                if let Peer::Block(block) = peer {
                    self.blocks.push(block.cidr());
                    self.blocks.extend(block.except());
                }
            }
        }
        if let Ports::Of(ports) = &rule.ports {
            for port in ports {
                match port {
                    PortMatch::Range { protocol, first, last } => {
                        self.ports.extend([(*protocol, *first), (*protocol, *last)]);
                    }
                    PortMatch::Protocol(_) | PortMatch::Named { .. } => {}
                }
            }
        }
    }
}

fn question(dice: &mut Dice, hints: &Hints, pod: &PodName) -> Question {
    if !hints.services.is_empty() && dice.chance(25) {
        return service_question(dice, hints, pod);
    }
    let direction = *dice.pick(&[Direction::Ingress, Direction::Egress]);
    let from_own_host = direction == Direction::Ingress && dice.chance(4);
    let remote = remote(dice, hints).to_canonical();
    let (protocol, port) = packet(dice, hints, remote);
    Question { pod: pod.clone(), direction, remote, protocol, port, from_own_host }
}

/// About a service's address: mostly what a pod sends to one of its ports.
fn service_question(dice: &mut Dice, hints: &Hints, pod: &PodName) -> Question {
    let (address, protocol, port) = *dice.pick(&hints.services);
    let remote = address.to_canonical();
    let direction = if dice.chance(90) { Direction::Egress } else { Direction::Ingress };
    let is_exact = dice.chance(85);
    let (protocol, port) =
        if is_exact { (protocol.number(), port) } else { packet(dice, hints, remote) };
    Question { pod: pod.clone(), direction, remote, protocol, port, from_own_host: false }
}

fn remote(dice: &mut Dice, hints: &Hints) -> IpAddr {
    match dice.up_to(9) {
        0..=3 if !hints.pods.is_empty() => *dice.pick(&hints.pods),
        4..=7 if !hints.blocks.is_empty() => {
            let block = *dice.pick(&hints.blocks);
            addresses::edge(dice, block)
        }
        _ => addresses::any(dice),
    }
}

/// IP protocol number, and port or `type << 8 | code`.
fn packet(dice: &mut Dice, hints: &Hints, remote: IpAddr) -> (u8, u16) {
    if dice.chance(10) {
        let kinds = if remote.is_ipv4() { [8, 0] } else { [128, 129] };
        let number = if remote.is_ipv4() { 1 } else { 58 };
        return (number, *dice.pick(&kinds) << 8);
    }
    let mut packet = match dice.up_to(4) {
        0..=2 if !hints.ports.is_empty() => *dice.pick(&hints.ports),
        3 => (*dice.pick(&Protocol::ALL), dice.bits() as u16),
        _ => (*dice.pick(&Protocol::ALL), *dice.pick(&PORTS)),
    };
    match dice.up_to(9) {
        0 | 1 => packet.1 = packet.1.wrapping_add(1),
        2 | 3 => packet.1 = packet.1.wrapping_sub(1),
        4 => packet.0 = *dice.pick(&Protocol::ALL),
        _ => {}
    }
    (packet.0.number(), packet.1)
}
