//! Small random worlds in which things meet: few names, few labels, few addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::select;
use sluice_policy::model::{
    Action, Backend, Block, Change, Direction, Labels, LocalEndpoint, NamedPort, Namespaces,
    Operator, Peer, Peers, Pod, PodName, PodSelector, Policy, PolicyKind, PolicyName, PortMatch,
    Ports, Protocol, Question, Requirement, Rule, Selector, Service, ServiceName, ServicePort,
    Tier, World,
};

const NAMESPACES: [&str; 3] = ["x", "y", "z"];
const KEYS: [&str; 2] = ["app", "tier"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 6] = [0, 79, 80, 81, 1024, 65535];
const PORT_NAMES: [&str; 2] = ["web", "dns"];

fn namespace() -> impl Strategy<Value = String> {
    select(&NAMESPACES[..]).prop_map(str::to_owned)
}

fn labels() -> impl Strategy<Value = Labels> {
    let key = select(&KEYS[..]).prop_map(str::to_owned);
    let value = select(&VALUES[..]).prop_map(str::to_owned);
    prop::collection::vec((key, value), 0..3).prop_map(Labels::from_iter)
}

/// 10.0.0.0 to .7 and their IPv6 companions: pods and outsiders alike.
pub(crate) fn address() -> impl Strategy<Value = IpAddr> {
    (0_u32..8, any::<bool>()).prop_map(|(host, is_v4)| {
        if is_v4 {
            IpAddr::V4((0x0a00_0000 | host).into())
        } else {
            IpAddr::V6(((0xfd00 << 112) | u128::from(host)).into())
        }
    })
}

fn net() -> impl Strategy<Value = IpNet> {
    let v4 = (0_u32..8, select(&[0_u8, 8, 29, 30, 31, 32][..]))
        .prop_map(|(host, bits)| IpNet::new(IpAddr::V4((0x0a00_0000 | host).into()), bits));
    let v6 = (0_u128..8, select(&[0_u8, 8, 96, 125, 126, 128][..]))
        .prop_map(|(host, bits)| IpNet::new(IpAddr::V6(((0xfd00 << 112) | host).into()), bits));
    prop_oneof![3 => v4, 1 => v6].prop_map(|net| net.expect("the prefix lengths are valid").trunc())
}

fn block() -> impl Strategy<Value = Block> {
    (net(), prop::collection::vec(net(), 0..3)).prop_map(|(cidr, except)| {
        let within = except.into_iter().filter(|e| cidr.contains(e) && *e != cidr);
        Block::new(cidr, within).expect("only what lies within was kept")
    })
}

fn protocol() -> impl Strategy<Value = Protocol> + Clone {
    select(&Protocol::ALL[..])
}

fn selector() -> impl Strategy<Value = Selector> {
    let values = prop::collection::btree_set(select(&VALUES[..]).prop_map(str::to_owned), 1..3);
    let operator = prop_oneof![
        4 => values.clone().prop_map(|values| Operator::In(values.into())),
        1 => values.prop_map(|values| Operator::NotIn(values.into())),
        1 => Just(Operator::Exists),
        1 => Just(Operator::DoesNotExist),
    ];
    let requirement = (select(&KEYS[..]), operator)
        .prop_map(|(key, operator)| Requirement { key: key.to_owned(), operator });
    prop::collection::btree_set(requirement, 0..3)
        .prop_map(|requirements| Selector { requirements: requirements.into() })
}

fn pod_selector() -> impl Strategy<Value = PodSelector> {
    let namespaces = prop_oneof![
        namespace().prop_map(Namespaces::Named),
        selector().prop_map(Namespaces::Matching),
    ];
    (namespaces, selector()).prop_map(|(namespaces, pods)| PodSelector { namespaces, pods })
}

/// One of a few selectors, so that rules share some.
fn common_pod_selector() -> impl Strategy<Value = PodSelector> {
    let among = |key: &str, values: &[&str]| {
        let values: BTreeSet<String> = values.iter().map(|value| (*value).to_owned()).collect();
        let operator = Operator::In(values.into());
        Selector { requirements: [Requirement { key: key.to_owned(), operator }].into() }
    };
    let anywhere = || Namespaces::Matching(Selector::default());
    let named = |name: &str| Namespaces::Named(name.to_owned());
    select(vec![
        PodSelector { namespaces: anywhere(), pods: among("app", &["a"]) },
        PodSelector { namespaces: anywhere(), pods: among("app", &["b"]) },
        PodSelector { namespaces: named("x"), pods: Selector::default() },
        PodSelector {
            namespaces: Namespaces::Matching(among("app", &["a", "b"])),
            pods: Selector::default(),
        },
        PodSelector { namespaces: named("y"), pods: among("tier", &["a", "c"]) },
    ])
}

fn port() -> impl Strategy<Value = PortMatch> {
    let range =
        (protocol(), select(&PORTS[..]), select(&PORTS[..])).prop_map(|(protocol, a, b)| {
            PortMatch::Range { protocol, first: a.min(b), last: a.max(b) }
        });
    let named = (protocol(), select(&PORT_NAMES[..]))
        .prop_map(|(protocol, name)| PortMatch::Named { protocol, name: name.to_owned() });
    prop_oneof![3 => range, 4 => named, 1 => protocol().prop_map(PortMatch::Protocol)]
}

fn rule(actions: &'static [Action]) -> impl Strategy<Value = Rule> {
    let peer = prop_oneof![
        1 => pod_selector().prop_map(|pods| Peer::Pods(pods.into())),
        3 => common_pod_selector().prop_map(|pods| Peer::Pods(pods.into())),
        1 => block().prop_map(Peer::Block)
    ];
    let peers = prop_oneof![
        1 => Just(Peers::Any),
        4 => prop::collection::vec(peer, 0..4).prop_map(Peers::Of),
    ];
    let ports = prop_oneof![
        1 => Just(Ports::Any),
        2 => prop::collection::vec(port(), 0..4).prop_map(Ports::Of),
    ];
    (select(actions), peers, ports).prop_map(|(action, peers, ports)| Rule { action, peers, ports })
}

pub(crate) fn policy() -> impl Strategy<Value = Policy> {
    let tier = prop_oneof![
        1 => Just(Tier::Admin), 3 => Just(Tier::NetworkPolicy), 1 => Just(Tier::Baseline)
    ];
    tier.prop_flat_map(|tier| {
        let actions: &[Action] = match tier {
            Tier::NetworkPolicy => &[Action::Allow],
            Tier::Admin | Tier::Baseline => &[Action::Allow, Action::Deny, Action::Pass],
        };
        let rules = || prop::option::of(prop::collection::vec(rule(actions), 0..3));
        (Just(tier), 0_i64..2, pod_selector(), rules(), rules())
    })
    .prop_map(|(tier, priority, subject, ingress, egress)| {
        let priority = if tier == Tier::NetworkPolicy { 0 } else { priority };
        Policy { tier, priority, subject, ingress, egress }
    })
}

pub(crate) fn pod_name() -> impl Strategy<Value = PodName> {
    (namespace(), 0..3).prop_map(|(namespace, n)| PodName { namespace, name: format!("pod-{n}") })
}

pub(crate) fn pod() -> impl Strategy<Value = Pod> {
    let key = (select(&PORT_NAMES[..]), protocol());
    let ports = prop::collection::btree_map(key, select(&PORTS[1..]), 0..3);
    let addresses = prop::collection::vec(address(), 0..3);
    let flags = (prop::bool::weighted(0.1), prop::bool::weighted(0.2), prop::bool::weighted(0.12));
    (labels(), addresses, flags, ports, 0_i64..3).prop_map(
        |(labels, addresses, (host_network, deleting, finished), ports, created)| {
            let by_family: BTreeMap<bool, IpAddr> =
                addresses.into_iter().map(|a| (a.is_ipv4(), a)).collect();
            let ports = ports.into_iter().map(|((name, protocol), port)| NamedPort {
                name: name.to_owned(),
                protocol,
                port,
            });
            Pod {
                labels,
                addresses: by_family.into_values().collect(),
                node: "node-1".to_owned(),
                host_network,
                ports: ports.collect(),
                created,
                deleting,
                finished,
            }
        },
    )
}

fn policy_name() -> impl Strategy<Value = PolicyName> {
    (namespace(), 0..2).prop_map(|(namespace, n)| PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some(namespace),
        name: format!("policy-{n}"),
    })
}

fn endpoint(name: &PodName) -> LocalEndpoint {
    let namespace = NAMESPACES.iter().position(|n| *n == name.namespace).unwrap_or_default();
    let number: usize = name.name.trim_start_matches("pod-").parse().unwrap_or_default();
    let slot = u32::try_from(namespace * 3 + number + 1).expect("at most nine");
    LocalEndpoint { slot, epoch: slot + 100, flags: 0 }
}

/// Addresses of services: most are nobody else's, some are pods'.
fn service_address() -> impl Strategy<Value = IpAddr> {
    let own = (0_u32..3, any::<bool>()).prop_map(|(host, is_v4)| virtual_address(host, is_v4));
    prop_oneof![4 => own, 1 => address()]
}

fn virtual_address(host: u32, is_v4: bool) -> IpAddr {
    if is_v4 {
        IpAddr::V4((0x0a60_0000 | host).into())
    } else {
        IpAddr::V6(((0xfd96 << 112) | u128::from(host)).into())
    }
}

fn service_name() -> impl Strategy<Value = ServiceName> {
    (namespace(), 0..2).prop_map(|(namespace, n)| ServiceName { namespace, name: format!("s-{n}") })
}

/// Services that lead to pods, to others and to nobody, and that share addresses by mistake.
fn service() -> impl Strategy<Value = Service> {
    let backend =
        (address(), select(&PORTS[1..])).prop_map(|(address, port)| Backend { address, port });
    let ports = prop::collection::btree_map(
        (protocol(), select(&PORTS[1..4])),
        prop::collection::btree_set(backend, 0..4),
        1..3,
    );
    (prop::collection::btree_set(service_address(), 0..3), ports).prop_map(|(addresses, ports)| {
        let ports = ports.into_iter().map(|((protocol, port), backends)| ServicePort {
            protocol,
            port,
            backends: backends.into_iter().collect(),
        });
        Service { addresses: addresses.into_iter().collect(), ports: ports.collect() }
    })
}

/// Any change; objects come more often than they go.
pub(crate) fn change() -> impl Strategy<Value = Change> {
    let maybe = |weight| prop::bool::weighted(weight);
    prop_oneof![
        1 => (namespace(), labels(), maybe(0.7)).prop_map(|(n, l, on)| Change::Namespace(n, on.then_some(l))),
        4 => (pod_name(), pod(), maybe(0.8)).prop_map(|(n, p, on)| Change::Pod(n, on.then_some(p))),
        4 => (policy_name(), policy(), maybe(0.8)).prop_map(|(n, p, on)| Change::Policy(n, on.then_some(p))),
        2 => (pod_name(), maybe(0.8)).prop_map(|(n, on)| {
            let endpoint = endpoint(&n);
            Change::Endpoint(n, on.then_some(endpoint))
        }),
        3 => (service_name(), service(), maybe(0.8)).prop_map(|(n, s, on)| Change::Service(n, on.then_some(s))),
        1 => prop::collection::btree_set(address(), 0..3).prop_map(Change::OwnHost),
    ]
}

/// Batches of changes: one that fills the world, then smaller ones.
pub(crate) fn batches() -> impl Strategy<Value = Vec<Vec<Change>>> {
    let first = prop::collection::vec(change(), 20..60);
    let later = prop::collection::vec(prop::collection::vec(change(), 1..5), 1..8);
    (first, later).prop_map(|(first, later)| [vec![first], later].concat())
}

/// A world that changes have made.
pub(crate) fn world() -> impl Strategy<Value = World> {
    prop::collection::vec(change(), 10..50).prop_map(|changes| {
        let mut world = World::default();
        changes.into_iter().for_each(|change| world.apply(change));
        world
    })
}

/// The changes that make a world, in the order of `keys` (sorted by them).
pub(crate) fn shuffled(world: &World, keys: &[u32]) -> Vec<Change> {
    let changes = World::default().changes_to(world);
    let mut order: Vec<usize> = (0..changes.len()).collect();
    order.sort_by_key(|i| {
        keys.get(i % keys.len().max(1)).map(|k| k.rotate_left(u32::try_from(*i).unwrap_or(0)))
    });
    order.into_iter().map(|i| changes[i].clone()).collect()
}

/// Every question that can have an answer of its own in the small worlds.
pub(crate) fn questions(world: &World) -> Vec<Question> {
    let mut remotes: BTreeSet<IpAddr> = BTreeSet::new();
    for host in 0..9_u32 {
        remotes.insert(IpAddr::V4((0x0a00_0000 | host).into()));
        remotes.insert(IpAddr::V6(((0xfd00 << 112) | u128::from(host)).into()));
    }
    for host in 0..3 {
        remotes.extend([virtual_address(host, true), virtual_address(host, false)]);
    }
    remotes.extend(["192.0.2.1", "2001:db8::1"].map(|a| a.parse::<IpAddr>().expect("valid")));
    let ports = [(1, 0x0800), (6, 79), (6, 80), (6, 1000), (17, 80), (132, 81)];
    let mut questions = Vec::new();
    for pod in world.endpoints.keys() {
        for direction in [Direction::Ingress, Direction::Egress] {
            for remote in &remotes {
                questions.extend(ports.map(|(protocol, port)| Question {
                    pod: pod.clone(),
                    direction,
                    remote: *remote,
                    protocol,
                    port,
                    from_own_host: false,
                }));
            }
        }
    }
    questions
}
