//! What is valid in a policy and yet hardly what its author meant.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::model::{
    Direction, Namespaces, Peer, Peers, Pod, PodName, PodSelector, Policy, PolicyKind, PolicyName,
    PortMatch, Ports, Protocol, Rule, ServiceName, World, direction_label,
};
use crate::oracle::selects_pod;

/// Something to look at again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Warning {
    /// The policy.
    pub policy: PolicyName,
    /// Path of the field in the object: `spec.ingress[0].ports[0].port`.
    pub field: String,
    /// What is odd about it.
    pub message: String,
}

/// Looks at every NetworkPolicy. In the order of the policies' names, then of their rules.
pub fn warnings(world: &World) -> Vec<Warning> {
    let services = world.services.iter();
    let virtual_addresses: BTreeMap<IpAddr, &ServiceName> =
        services.flat_map(|(name, s)| s.addresses.iter().map(move |a| (*a, name))).collect();
    let policies = world.policies.iter();
    let policies = policies.filter(|(name, _)| name.kind == PolicyKind::NetworkPolicy);
    let of_policy = |(name, policy): (&PolicyName, &Policy)| {
        in_rules(name, policy, |direction, rule| {
            let blocks = blocks(&virtual_addresses, direction, rule);
            ports(world, policy, direction, rule).chain(blocks).collect()
        })
    };
    policies.flat_map(of_policy).collect()
}

/// The names of ports that resolve nowhere, in the NetworkPolicies that select one of these pods: a part
/// of [`warnings`] for those who ask often. Rules without such names cost nothing, and a name is looked
/// for until it is found; one that is not costs a walk over the pods.
pub fn unresolved_ports<'p>(
    world: &World,
    pods: impl Iterator<Item = &'p PodName> + Clone,
) -> Vec<Warning> {
    let is_about = |policy: &Policy| {
        let mut pods = pods.clone().filter_map(|name| Some((name, world.pods.get(name)?)));
        pods.any(|(name, pod)| selects_pod(world, &policy.subject, name, pod))
    };
    let policies = world.policies.iter();
    let policies = policies.filter(|(name, policy)| {
        name.kind == PolicyKind::NetworkPolicy && names_ports(policy) && is_about(policy)
    });
    let of_policy = |(name, policy): (&PolicyName, &Policy)| {
        in_rules(name, policy, |direction, rule| ports(world, policy, direction, rule).collect())
    };
    policies.flat_map(of_policy).collect()
}

/// True where a rule of the policy names a port, whatever that resolves to.
pub fn names_ports(policy: &Policy) -> bool {
    let directions = [Direction::Ingress, Direction::Egress].into_iter();
    let rules = directions.flat_map(|direction| policy.rules(direction).unwrap_or_default());
    let mut ports = rules.flat_map(|rule| match &rule.ports {
        Ports::Any => &[][..],
        Ports::Of(ports) => ports,
    });
    ports.any(|port| matches!(port, PortMatch::Named { .. }))
}

/// What is found in the rules of a policy: parts of a rule with what is odd about them.
fn in_rules(
    name: &PolicyName,
    policy: &Policy,
    find: impl Fn(Direction, &Rule) -> Vec<(String, String)>,
) -> Vec<Warning> {
    let mut all = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for (i, rule) in policy.rules(direction).unwrap_or_default().iter().enumerate() {
            let field = format!("spec.{}[{i}]", direction_label(direction));
            all.extend(find(direction, rule).into_iter().map(|(part, message)| Warning {
                policy: name.clone(),
                field: format!("{field}.{part}"),
                message,
            }));
        }
    }
    all
}

/// Names of ports that resolve nowhere.
fn ports<'r>(
    world: &'r World,
    policy: &'r Policy,
    direction: Direction,
    rule: &'r Rule,
) -> impl Iterator<Item = (String, String)> + 'r {
    let ports = match &rule.ports {
        Ports::Any => &[][..],
        Ports::Of(ports) => ports,
    };
    ports.iter().enumerate().filter_map(move |(i, port)| {
        let PortMatch::Named { protocol, name } = port else { return None };
        let destinations = match direction {
            Direction::Ingress => vec![policy.subject.clone()],
            Direction::Egress => destinations(rule),
        };
        let message = unresolved(world, &destinations, *protocol, name)?;
        Some((format!("ports[{i}].port"), message))
    })
}

/// The pods that an egress rule can lead to; blocks can cover any.
fn destinations(rule: &Rule) -> Vec<PodSelector> {
    let every_pod = || PodSelector {
        namespaces: Namespaces::Matching(Default::default()),
        pods: Default::default(),
    };
    match &rule.peers {
        Peers::Any => vec![every_pod()],
        Peers::Of(peers) => peers
            .iter()
            .map(|peer| match peer {
                Peer::Pods(selector) => PodSelector::clone(selector),
                Peer::Block(_) => every_pod(),
            })
            .collect(),
    }
}

/// Why a name matches nothing on any of the pods, if there are any and it does not.
fn unresolved(
    world: &World,
    selectors: &[PodSelector],
    protocol: Protocol,
    name: &str,
) -> Option<String> {
    let (mut is_about_some, mut other) = (false, None);
    for pod in selectors.iter().flat_map(|selector| selected(world, selector)) {
        is_about_some = true;
        for port in pod.ports.iter().filter(|port| port.name == name) {
            if port.protocol == protocol {
                return None;
            }
            other.get_or_insert(port.protocol);
        }
    }
    is_about_some.then(|| match other {
        None => format!("no pod that it is about has a port named `{name}`: it matches nothing"),
        Some(other) => {
            format!("`{name}` is a {other} port, not {protocol}: it matches nothing")
        }
    })
}

/// The pods that a selector selects. Those of other namespaces than its only one are not looked at.
fn selected<'w>(
    world: &'w World,
    selector: &'w PodSelector,
) -> impl Iterator<Item = &'w Pod> + use<'w> {
    let only = match &selector.namespaces {
        Namespaces::Named(namespace) => Some(namespace),
        Namespaces::Matching(_) => None,
    };
    let first = PodName { namespace: only.cloned().unwrap_or_default(), name: String::new() };
    let pods = world.pods.range(first..);
    let pods = pods.take_while(move |(name, _)| only.is_none_or(|only| name.namespace == *only));
    let pods = pods.filter(|(name, pod)| selects_pod(world, selector, name, pod));
    pods.map(|(_, pod)| pod)
}

/// Blocks that are a service's address: policy judges the backend, so they match nothing in egress,
/// and nothing ever comes from there.
fn blocks<'r>(
    virtual_addresses: &'r BTreeMap<IpAddr, &'r ServiceName>,
    direction: Direction,
    rule: &'r Rule,
) -> impl Iterator<Item = (String, String)> + 'r {
    let list = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let peers = match &rule.peers {
        Peers::Any => &[][..],
        Peers::Of(peers) => peers,
    };
    peers.iter().enumerate().filter_map(move |(i, peer)| {
        let Peer::Block(block) = peer else { return None };
        let cidr = block.cidr();
        let is_one_address = cidr.prefix_len() == cidr.max_prefix_len();
        let service = virtual_addresses.get(&cidr.addr()).filter(|_| is_one_address)?;
        let message = format!(
            "{} is the address of service {service}, which policy never sees: name its pods instead",
            cidr.addr()
        );
        Some((format!("{list}[{i}].ipBlock.cidr"), message))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Action, Block, NamedPort, Selector, Service, Tier};

    fn world(direction: Direction, rule: Rule) -> World {
        let mut world = World::default();
        let port = |name: &str, protocol| NamedPort { name: name.to_owned(), protocol, port: 53 };
        let name = PodName { namespace: "x".to_owned(), name: "a".to_owned() };
        let ports = vec![port("web", Protocol::Tcp), port("dns", Protocol::Udp)];
        world.pods.insert(name, Pod { ports, ..Pod::default() });
        let subject = PodSelector {
            namespaces: Namespaces::Named("x".to_owned()),
            pods: Selector::default(),
        };
        let rules = |d| (d == direction).then(|| vec![rule.clone()]);
        let policy = Policy {
            tier: Tier::NetworkPolicy,
            priority: 0,
            subject,
            ingress: rules(Direction::Ingress),
            egress: rules(Direction::Egress),
        };
        let name = PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some("x".to_owned()),
            name: "p".to_owned(),
        };
        world.policies.insert(name, policy);
        world
    }

    fn found(direction: Direction, rule: Rule) -> Vec<(String, String)> {
        let mut world = world(direction, rule);
        let name = ServiceName { namespace: "y".to_owned(), name: "web".to_owned() };
        let addresses = vec!["10.96.0.7".parse().expect("an address")];
        world.services.insert(name, Service { addresses, ports: Vec::new() });
        let all = warnings(&world);
        all.into_iter().map(|w| (w.field, w.message)).collect()
    }

    fn to_port(protocol: Protocol, name: &str) -> Rule {
        let ports = Ports::Of(vec![PortMatch::Named { protocol, name: name.to_owned() }]);
        Rule { action: Action::Allow, peers: Peers::Any, ports }
    }

    #[test]
    fn names_that_resolve_nowhere_are_reported() {
        for (direction, label) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
            let field = format!("spec.{label}[0].ports[0].port");
            assert_eq!(found(direction, to_port(Protocol::Tcp, "web")), []);
            let nowhere = "no pod that it is about has a port named `metrics`: it matches nothing";
            assert_eq!(
                found(direction, to_port(Protocol::Tcp, "metrics")),
                [(field.clone(), nowhere.to_owned())]
            );
            let protocol = "`dns` is a UDP port, not TCP: it matches nothing";
            assert_eq!(
                found(direction, to_port(Protocol::Tcp, "dns")),
                [(field, protocol.to_owned())]
            );
        }
    }

    #[test]
    fn of_the_policies_that_select_given_pods_those_that_name_no_port_of_theirs_are_reported() {
        let name = |name: &str| PodName { namespace: "x".to_owned(), name: name.to_owned() };
        let fields = |direction, port: &str, pods: &[PodName]| -> Vec<String> {
            let world = world(direction, to_port(Protocol::Tcp, port));
            unresolved_ports(&world, pods.iter()).into_iter().map(|w| w.field).collect()
        };
        let nothing: [&str; 0] = [];
        for (direction, label) in [(Direction::Ingress, "ingress"), (Direction::Egress, "egress")] {
            let field = format!("spec.{label}[0].ports[0].port");
            assert_eq!(fields(direction, "metrics", &[name("a")]), [field]);
            assert_eq!(fields(direction, "web", &[name("a")]), nothing);
            assert_eq!(fields(direction, "metrics", &[name("elsewhere")]), nothing);
        }
        let mut world = world(Direction::Ingress, to_port(Protocol::Tcp, "metrics"));
        let ports = vec![NamedPort { name: "metrics".into(), protocol: Protocol::Tcp, port: 1 }];
        let having = Pod { ports, ..Pod::default() };
        // Pods of other namespaces, on both sides of the policy's own, are none of its.
        for namespace in ["w", "y"] {
            let name = PodName { namespace: namespace.to_owned(), name: "b".to_owned() };
            world.pods.insert(name, having.clone());
        }
        assert_eq!(unresolved_ports(&world, [name("a")].iter()).len(), 1);
        world.pods.insert(name("b"), having);
        assert_eq!(unresolved_ports(&world, [name("a")].iter()), []);
    }

    #[test]
    fn a_name_is_not_reported_where_there_is_no_pod_yet() {
        let mut world = world(Direction::Ingress, to_port(Protocol::Tcp, "metrics"));
        world.pods.clear();
        assert_eq!(warnings(&world), []);
    }

    #[test]
    fn case_37_a_services_address_is_no_peer() {
        let to = |cidr: &str| Rule {
            action: Action::Allow,
            peers: Peers::Of(vec![Peer::Block(
                Block::new(cidr.parse().expect("a CIDR"), []).expect("a block"),
            )]),
            ports: Ports::Any,
        };
        let all = found(Direction::Egress, to("10.96.0.7/32"));
        assert_eq!(all[0].0, "spec.egress[0].to[0].ipBlock.cidr");
        assert!(all[0].1.starts_with("10.96.0.7 is the address of service y/web"), "{all:?}");
        assert_eq!(found(Direction::Egress, to("10.96.0.0/16")), []);
    }
}
