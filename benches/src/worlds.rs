//! Clusters of any size, for the benches of user space and of the datapath.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sluice_policy::model::{
    Action, Block, Change, Labels, LocalEndpoint, NamedPort, Namespaces, Operator, Peer, Peers,
    Pod, PodName, PodSelector, Policy, PolicyKind, PolicyName, PortMatch, Ports, Protocol,
    Requirement, Rule, Selector, Tier, World,
};

/// What a policy's peers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerKind {
    /// Addresses outside the cluster, each a block of its own.
    Blocks,
    /// Pods of other namespaces, each selected by a label of its own.
    Pods,
}

/// `pods` pods of this node, each isolated by `policies` policies of its own, each with one rule of
/// `peers` peers that no other policy has, on TCP 443.
pub fn distinct_peers(pods: u32, policies: u32, peers: u32, kind: PeerKind) -> World {
    let mut world = World::default();
    namespace(&mut world, "local");
    for pod in 0..pods {
        local_pod(&mut world, "local", pod);
        for policy in 0..policies {
            let number = pod * policies + policy;
            let first = number * peers;
            let peers =
                (first..first + peers).map(|peer| peer_of(&mut world, kind, peer)).collect();
            let subject = labelled("local", "pod", &pod.to_string());
            let name = policy_name("local", &format!("policy-{number}"));
            world.policies.insert(name, ingress_from(subject, peers));
        }
    }
    world
}

/// A [`cluster`] of 1,000 pods, and one more pod of this node, isolated by 1,000 policies of its own
/// that share `rules` rules, each for one port and a block of its own.
pub fn one_tenant(rules: u32) -> World {
    let mut world = cluster(1_000, 110);
    namespace(&mut world, "tenant");
    local_pod(&mut world, "tenant", 999);
    for policy in 0..1_000 {
        let numbers = (policy..rules).step_by(1_000);
        let rules = numbers.map(|number| rule_for(vec![Peer::Block(outside_block(number))]));
        let one = ingress_of(labelled("tenant", "pod", "999"), rules.collect());
        world.policies.insert(policy_name("tenant", &format!("policy-{policy}")), one);
    }
    world
}

/// The policy of [`distinct_peers`] with number 0, with one more peer (`extra`: which) or as it was.
pub fn with_one_peer_more(world: &World, kind: PeerKind, extra: Option<u32>) -> Change {
    let name = policy_name("local", "policy-0");
    let mut policy = world.policies.get(&name).cloned();
    let rules = policy.as_mut().and_then(|policy| policy.ingress.as_mut());
    if let (Some(rules), Some(extra)) = (rules, extra) {
        for rule in rules {
            if let Peers::Of(peers) = &mut rule.peers {
                peers.push(match kind {
                    PeerKind::Blocks => Peer::Block(outside_block(extra)),
                    PeerKind::Pods => {
                        Peer::Pods(labelled("remote", "peer", &extra.to_string()).into())
                    }
                });
            }
        }
    }
    Change::Policy(name, policy)
}

/// A pod with the address of peer `number` that a rule for peer `like` selects.
pub fn another_peer(like: u32, number: u32) -> (PodName, Pod) {
    let name = PodName { namespace: "remote".to_owned(), name: format!("peer-{number}") };
    let labels = Labels::from([("peer", like.to_string())]);
    let addresses = vec![peer_address(PeerKind::Pods, number)];
    (name, Pod { labels, addresses, ..Pod::default() })
}

/// A further policy of [`distinct_peers`] for pod `pod`, with the peers of the policy with number
/// `like`.
pub fn another_policy(world: &World, pod: u32, like: u32) -> Option<(PolicyName, Policy)> {
    let last = world.policies.get(&policy_name("local", &format!("policy-{like}")))?;
    let subject = labelled("local", "pod", &pod.to_string());
    Some((policy_name("local", "another"), Policy { subject, ..last.clone() }))
}

/// One pod of this node (slot 1), isolated by one policy with `peers` peers on TCP 443; of
/// [`PeerKind::Pods`], one selector selects them all.
pub fn one_pod(peers: u32, kind: PeerKind) -> World {
    match kind {
        PeerKind::Blocks => distinct_peers(1, 1, peers, kind),
        PeerKind::Pods => {
            let mut world = distinct_peers(1, 0, 0, kind);
            (0..peers).for_each(|peer| _ = peer_of(&mut world, kind, peer));
            let name = policy_name("local", "policy-0");
            let everyone = PodSelector {
                namespaces: Namespaces::Named("remote".to_owned()),
                pods: Selector::default(),
            };
            let subject = labelled("local", "pod", "0");
            world.policies.insert(name, ingress_from(subject, vec![Peer::Pods(everyone.into())]));
            world
        }
    }
}

/// The address of peer `number` of [`one_pod`] and [`distinct_peers`].
pub fn peer_address(kind: PeerKind, number: u32) -> IpAddr {
    match kind {
        PeerKind::Blocks => IpAddr::V4(Ipv4Addr::from(0x0b00_0000 + 2 * number)),
        PeerKind::Pods => IpAddr::V4(Ipv4Addr::from(0x0a80_0000 + number)),
    }
}

/// The address of pod `number` of this node.
pub fn local_address(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(0x0af4_0000 + number + 2))
}

/// A cluster of `pods` pods in namespaces of 100, dual-stack, ten applications each, with everyday
/// labels; `local` of them run on this node, ten of each of the first namespaces. Each namespace has a default-deny, one policy among its
/// applications, one for the monitoring namespace and one for the world outside.
pub fn cluster(pods: u32, local: u32) -> World {
    let mut world = World::default();
    for number in 0..pods {
        let namespace_name = format!("team-{}", number / 100);
        if number % 100 == 0 {
            namespace(&mut world, &namespace_name);
            team_policies(&mut world, &namespace_name);
        }
        let (name, pod) = cluster_pod(number, false);
        world.pods.insert(name.clone(), pod);
        if number % 100 < 10 && world.endpoints.len() < local as usize {
            let slot = u32::try_from(world.endpoints.len()).unwrap_or(u32::MAX) + 1;
            world.endpoints.insert(name, LocalEndpoint { slot, epoch: slot, flags: 0 });
        }
    }
    world
}

/// A pod of [`cluster`]; relabelled, it belongs to another application.
pub fn cluster_pod(number: u32, is_relabelled: bool) -> (PodName, Pod) {
    let namespace = format!("team-{}", number / 100);
    let application = (number + u32::from(is_relabelled)) % 10;
    let name = format!("app-{}-5d9c7b{:04x}-{number:05x}", number % 10, number % 7919);
    let labels = Labels::from([
        ("app.kubernetes.io/name", format!("app-{application}")),
        ("app.kubernetes.io/part-of", namespace.clone()),
        ("pod-template-hash", format!("5d9c7b{application:04x}")),
        ("tier", if application < 3 { "front" } else { "back" }.to_owned()),
    ]);
    let v6 = (0xfd00_0010_0244_u128 << 80) | u128::from(number);
    let addresses =
        vec![IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number)), IpAddr::V6(Ipv6Addr::from(v6))];
    let ports = vec![NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 }];
    let node = format!("node-{}", number / 110);
    (
        PodName { namespace, name },
        Pod { labels, addresses, node, host_network: false, ports, ..Pod::default() },
    )
}

/// `policies` policies over `pods` pods of this node, ten pods to a namespace, each policy for half
/// of its namespace's pods: the sets overlap and no two namespaces share any.
pub fn overlapping(policies: u32, pods: u32) -> World {
    let mut world = World::default();
    for pod in 0..pods {
        let name = format!("ns-{}", pod / 10);
        if pod % 10 == 0 {
            namespace(&mut world, &name);
        }
        local_pod(&mut world, &name, pod);
    }
    let namespaces = pods.div_ceil(10).max(1);
    for policy in 0..policies {
        let namespace = format!("ns-{}", policy % namespaces);
        let parity = policy / namespaces % 2;
        let subject = labelled(&namespace, "parity", &parity.to_string());
        let everyone_of = |namespace: u32| PodSelector {
            namespaces: Namespaces::Named(format!("ns-{namespace}")),
            pods: Selector::default(),
        };
        let peers = vec![
            Peer::Pods(labelled(&namespace, "pod", &policy.to_string()).into()),
            Peer::Pods(everyone_of(policy % namespaces).into()),
            Peer::Pods(everyone_of((policy + 1) % namespaces).into()),
            Peer::Block(outside_block(policy)),
            Peer::Block(outside_block(policy + policies)),
        ];
        let name = policy_name(&namespace, &format!("policy-{policy}"));
        world.policies.insert(name, ingress_from(subject, peers));
    }
    world
}

fn team_policies(world: &mut World, namespace: &str) {
    let everyone = PodSelector {
        namespaces: Namespaces::Named(namespace.to_owned()),
        pods: Selector::default(),
    };
    let monitoring = PodSelector {
        namespaces: Namespaces::Matching(is("kubernetes.io/metadata.name", "team-0")),
        pods: Selector::default(),
    };
    let front = labelled(namespace, "tier", "front");
    let back = labelled(namespace, "tier", "back");
    let closed = ingress_of(everyone.clone(), Vec::new());
    let policies = [
        ("default-deny", closed),
        ("front-to-back", ingress_from(back, vec![Peer::Pods(front.clone().into())])),
        ("monitoring", ingress_from(everyone, vec![Peer::Pods(monitoring.into())])),
        ("outside", ingress_from(front, (0..8).map(|n| Peer::Block(outside_block(n))).collect())),
    ];
    for (name, policy) in policies {
        world.policies.insert(policy_name(namespace, name), policy);
    }
}

fn peer_of(world: &mut World, kind: PeerKind, number: u32) -> Peer {
    match kind {
        PeerKind::Blocks => Peer::Block(outside_block(number)),
        PeerKind::Pods => {
            let (name, pod) = another_peer(number, number);
            world.pods.insert(name, pod);
            Peer::Pods(labelled("remote", "peer", &number.to_string()).into())
        }
    }
}

fn outside_block(number: u32) -> Block {
    let cidr = IpNet::from(peer_address(PeerKind::Blocks, number));
    Block::new(cidr, []).expect("no except is outside")
}

fn local_pod(world: &mut World, namespace: &str, number: u32) {
    let name = PodName { namespace: namespace.to_owned(), name: format!("pod-{number}") };
    let labels = Labels::from([("pod", number.to_string()), ("parity", (number % 2).to_string())]);
    let addresses = vec![local_address(number)];
    world.pods.insert(name.clone(), Pod { labels, addresses, ..Pod::default() });
    let endpoint = LocalEndpoint { slot: number + 1, epoch: number + 1, flags: 0 };
    world.endpoints.insert(name, endpoint);
}

fn namespace(world: &mut World, name: &str) {
    let label = ("kubernetes.io/metadata.name", name);
    world.namespaces.insert(name.to_owned(), Labels::from([label]));
}

fn policy_name(namespace: &str, name: &str) -> PolicyName {
    PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some(namespace.to_owned()),
        name: name.to_owned(),
    }
}

fn labelled(namespace: &str, key: &str, value: &str) -> PodSelector {
    PodSelector { namespaces: Namespaces::Named(namespace.to_owned()), pods: is(key, value) }
}

fn is(key: &str, value: &str) -> Selector {
    let operator = Operator::In([value.to_owned()].into());
    Selector { requirements: [Requirement { key: key.to_owned(), operator }].into() }
}

fn ingress_from(subject: PodSelector, peers: Vec<Peer>) -> Policy {
    ingress_of(subject, vec![rule_for(peers)])
}

fn rule_for(peers: Vec<Peer>) -> Rule {
    let port = PortMatch::Range { protocol: Protocol::Tcp, first: 443, last: 443 };
    Rule { action: Action::Allow, peers: Peers::Of(peers), ports: Ports::Of(vec![port]) }
}

fn ingress_of(subject: PodSelector, rules: Vec<Rule>) -> Policy {
    Policy { tier: Tier::NetworkPolicy, priority: 0, subject, ingress: Some(rules), egress: None }
}
