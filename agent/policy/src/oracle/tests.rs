//! SEMANTICS.md, one test a line where the line is about policy alone.
//!
//! The world of every test: namespaces `x`, `y`, `z` (labelled `ns=<name>`), in each the pods `a`, `b`,
//! `c` (labelled `pod=<name>`), dual-stack. "The pod" of a line is `x/a`.

mod blocks;
mod hosts;
mod ports;
mod selection;
mod tiers;

use std::net::IpAddr;

use super::judge;
use crate::model::*;

/// A world under construction, and the probes sent through it.
struct Bench(World);

fn bench() -> Bench {
    let mut world = World::default();
    for (i, namespace) in ["x", "y", "z"].iter().enumerate() {
        let own = ("kubernetes.io/metadata.name", *namespace);
        world.namespaces.insert((*namespace).to_owned(), labels(&[("ns", namespace), own]));
        for (j, pod) in ["a", "b", "c"].iter().enumerate() {
            let v4 = format!("10.244.{}.{}", i + 1, j + 1);
            let v6 = format!("fd00:10:244:{}::{}", i + 1, j + 1);
            world.pods.insert(
                pod_name(&format!("{namespace}/{pod}")),
                Pod {
                    labels: labels(&[("pod", pod)]),
                    addresses: vec![ip(&v4), ip(&v6)],
                    node: "node-1".to_owned(),
                    ..Pod::default()
                },
            );
        }
    }
    Bench(world)
}

impl Bench {
    /// Adds a NetworkPolicy `namespace/name` for the pods of its namespace that `subject` selects.
    fn policy(
        mut self,
        name: &str,
        subject: Selector,
        ingress: Option<Vec<Rule>>,
        egress: Option<Vec<Rule>>,
    ) -> Self {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let subject =
            PodSelector { namespaces: Namespaces::Named(namespace.to_owned()), pods: subject };
        let policy = Policy { tier: Tier::NetworkPolicy, priority: 0, subject, ingress, egress };
        let namespace = Some(namespace.to_owned());
        let key = PolicyName { kind: PolicyKind::NetworkPolicy, namespace, name: name.to_owned() };
        self.0.policies.insert(key, policy);
        self
    }

    /// Ingress rules for `x/a`, in a policy of their own.
    fn ingress(self, name: &str, rules: Vec<Rule>) -> Self {
        self.policy(&format!("x/{name}"), with("pod", "a"), Some(rules), None)
    }

    /// Egress rules for `x/a`, in a policy of their own.
    fn egress(self, name: &str, rules: Vec<Rule>) -> Self {
        self.policy(&format!("x/{name}"), with("pod", "a"), None, Some(rules))
    }

    /// A cluster policy for `x/a`.
    fn tiered(mut self, name: &str, tier: Tier, priority: i64, ingress: Vec<Rule>) -> Self {
        let namespaces = Namespaces::Named("x".to_owned());
        let subject = PodSelector { namespaces, pods: with("pod", "a") };
        let policy = Policy { tier, priority, subject, ingress: Some(ingress), egress: None };
        let kind = PolicyKind::ClusterNetworkPolicy;
        let key = PolicyName { kind, namespace: None, name: name.to_owned() };
        self.0.policies.insert(key, policy);
        self
    }

    fn pod(&mut self, name: &str) -> &mut Pod {
        self.0.pods.entry(pod_name(name)).or_default()
    }

    fn label(&mut self, pod: &str, key: &str, value: &str) {
        let pod = self.pod(pod);
        pod.labels = pod.labels.with(key, value);
    }

    fn names_port(mut self, pod: &str, name: &str, protocol: Protocol, port: u16) -> Self {
        self.pod(pod).ports.push(NamedPort { name: name.to_owned(), protocol, port });
        self
    }

    /// What one side says: `pod` about `remote` (a pod's name or an address).
    fn answer(&self, pod: &str, direction: Direction, remote: &str, to: Packet) -> Answer {
        let (protocol, port) = to;
        let question = Question {
            pod: pod_name(pod),
            direction,
            remote: self.address(remote, matches!(protocol, 58)),
            protocol,
            port,
            from_own_host: false,
        };
        judge(&self.0, &question)
    }

    /// True if a new connection gets through on both sides.
    fn allows(&self, from: &str, to: &str, packet: Packet) -> bool {
        let egress =
            !from.contains('/') || self.answer(from, Direction::Egress, to, packet).allowed;
        let ingress =
            !to.contains('/') || self.answer(to, Direction::Ingress, from, packet).allowed;
        egress && ingress
    }

    fn denies(&self, from: &str, to: &str, packet: Packet) -> bool {
        !self.allows(from, to, packet)
    }

    /// What `x/a` says of a connection that comes to it.
    fn decided_by(&self, from: &str, packet: Packet) -> String {
        self.answer("x/a", Direction::Ingress, from, packet).decided_by.to_string()
    }

    fn address(&self, end: &str, v6: bool) -> IpAddr {
        if !end.contains('/') {
            return ip(end);
        }
        let pod = &self.0.pods[&pod_name(end)];
        *pod.addresses.iter().find(|a| a.is_ipv6() == v6).expect("the pod has an address")
    }
}

/// IP protocol number and port.
type Packet = (u8, u16);

const fn tcp(port: u16) -> Packet {
    (6, port)
}
const fn udp(port: u16) -> Packet {
    (17, port)
}
const fn sctp(port: u16) -> Packet {
    (132, port)
}
/// An echo request.
const ECHO: Packet = (1, 8 << 8);
/// An ICMPv6 echo request; asked about the IPv6 addresses of pods.
const ECHO6: Packet = (58, 128 << 8);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn pod_name(text: &str) -> PodName {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    PodName { namespace: namespace.to_owned(), name: name.to_owned() }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().copied().collect()
}

fn set(values: &[&str]) -> Sorted<String> {
    values.iter().map(|v| (*v).to_owned()).collect()
}

fn selector(key: &str, operator: Operator) -> Selector {
    Selector { requirements: [Requirement { key: key.to_owned(), operator }].into() }
}

/// `matchLabels` with one label.
fn with(key: &str, value: &str) -> Selector {
    selector(key, Operator::In(set(&[value])))
}

fn everything() -> Selector {
    Selector::default()
}

/// A `podSelector` peer of a policy in `x`.
fn pods(selector: Selector) -> Peer {
    let namespaces = Namespaces::Named("x".to_owned());
    Peer::Pods(PodSelector { namespaces, pods: selector }.into())
}

/// A `namespaceSelector` peer.
fn namespaces(selector: Selector) -> Peer {
    both(selector, everything())
}

/// A peer with `namespaceSelector` and `podSelector`.
fn both(namespaces: Selector, pods: Selector) -> Peer {
    Peer::Pods(PodSelector { namespaces: Namespaces::Matching(namespaces), pods }.into())
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|e| e.parse().expect("a CIDR"));
    Peer::Block(Block::new(cidr.parse().expect("a CIDR"), except).expect("a valid block"))
}

fn port(protocol: Protocol, port: u16) -> PortMatch {
    PortMatch::Range { protocol, first: port, last: port }
}

fn named(protocol: Protocol, name: &str) -> PortMatch {
    PortMatch::Named { protocol, name: name.to_owned() }
}

fn allow(peers: Vec<Peer>) -> Rule {
    Rule { action: Action::Allow, peers: Peers::Of(peers), ports: Ports::Any }
}

fn allow_ports(ports: Vec<PortMatch>) -> Rule {
    Rule { action: Action::Allow, peers: Peers::Any, ports: Ports::Of(ports) }
}

fn allow_all() -> Rule {
    Rule { action: Action::Allow, peers: Peers::Any, ports: Ports::Any }
}

fn on(rule: Rule, ports: Vec<PortMatch>) -> Rule {
    Rule { ports: Ports::Of(ports), ..rule }
}
