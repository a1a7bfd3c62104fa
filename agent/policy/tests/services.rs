//! Services, case by case (SEMANTICS 34 to 39, 42, 44): what the oracle says, that the tables say the
//! same, and what the tables hold for it.

mod common;

use std::net::IpAddr;

use sluice_policy::answer::answer;
use sluice_policy::capacity::{Capacity, Table};
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::explain::explain;
use sluice_policy::model::{
    Action, Backend, Block, Change, Direction, LocalEndpoint, Peer, Peers, Pod, Policy, PolicyKind,
    PolicyName, PortMatch, Ports, Protocol, Question, Rule, Service, ServiceName, ServicePort,
    Tier, World,
};
use sluice_policy::oracle::judge;

use self::common::{address, app, pod_name};

const VIP: &str = "10.96.0.1";
const CLIENT: &str = "10.0.0.1";

fn pods(name: &str) -> Peer {
    Peer::Pods(app(name).into())
}

fn add_pod(world: &mut World, name: &str, app: &str, at: &str) {
    let labels = [("app".to_owned(), app.to_owned())].into();
    world
        .pods
        .insert(pod_name(name), Pod { labels, addresses: vec![address(at)], ..Pod::default() });
}

/// A service at [`VIP`] port 80 that leads to these addresses, port 8080.
fn service(backends: &[&str]) -> Service {
    let backend = |at: &&str| Backend { address: address(at), port: 8080 };
    let backends = backends.iter().map(backend).collect();
    let port = ServicePort { protocol: Protocol::Tcp, port: 80, backends };
    Service { addresses: vec![address(VIP)], ports: vec![port] }
}

fn service_name(name: &str) -> ServiceName {
    ServiceName { namespace: "x".to_owned(), name: name.to_owned() }
}

fn allow(peer: Peer, port: Option<u16>) -> Rule {
    let match_of = |port| PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port };
    let ports = port.map_or(Ports::Any, |port| Ports::Of(vec![match_of(port)]));
    Rule { action: Action::Allow, peers: Peers::Of(vec![peer]), ports }
}

fn block(cidr: &str) -> Peer {
    let cidr = cidr.parse().expect("the test's own block is valid");
    Peer::Block(Block::new(cidr, []).expect("it has no excepts"))
}

/// A client whose egress has these rules, and a service of the pods `web` and `db`.
fn world(rules: Vec<Rule>) -> World {
    let mut world = World::default();
    add_pod(&mut world, "client", "client", CLIENT);
    add_pod(&mut world, "web", "web", "10.0.0.2");
    add_pod(&mut world, "db", "db", "10.0.0.3");
    let name = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some("x".to_owned()),
        name: "client".to_owned(),
    };
    let (tier, subject) = (Tier::NetworkPolicy, app("client"));
    let policy = Policy { tier, priority: 0, subject, ingress: None, egress: Some(rules) };
    world.policies.insert(name, policy);
    let endpoint = LocalEndpoint { slot: 1, epoch: 1, flags: 0 };
    world.endpoints.insert(pod_name("client"), endpoint);
    world.services.insert(service_name("s"), service(&["10.0.0.2"]));
    world
}

fn to(remote: &str, port: u16) -> Question {
    Question {
        pod: pod_name("client"),
        direction: Direction::Egress,
        remote: address(remote),
        protocol: 6,
        port,
        from_own_host: false,
    }
}

/// What both say, in words.
#[track_caller]
fn says(world: &World, remote: &str, port: u16) -> String {
    let question = to(remote, port);
    let expected = judge(world, &question);
    assert_eq!(answer(&compile(world, Capacity::default()), &question), expected);
    let verdict = if expected.allowed { "allow" } else { "deny" };
    format!("{verdict}, {}", expected.decided_by)
}

const RULE: &str = "allow, NetworkPolicy x/client egress[0]";

#[test]
fn case_34_and_35_the_backends_port_counts() {
    let world_of = |port| world(vec![allow(pods("web"), Some(port))]);
    assert_eq!(says(&world_of(8080), VIP, 80), RULE);
    assert_eq!(says(&world_of(80), VIP, 80), "deny, default-deny");
    // A port that the service does not have is no service's.
    assert_eq!(says(&world_of(8080), VIP, 8080), "deny, default-deny");
}

#[test]
fn case_36_backends_that_differ_close_the_service() {
    let mut world = world(vec![allow(pods("web"), Some(8080))]);
    world.services.insert(service_name("s"), service(&["10.0.0.2", "10.0.0.3"]));
    assert_eq!(says(&world, VIP, 80), "deny, mixed-backends");
    let client = world.endpoints.keys().next().cloned().expect("the endpoint");
    let mixed = compile(&world, Capacity::default()).mixed_services();
    assert_eq!(mixed, [(client, [service_name("s")].into())].into());
    let text = explain(&world, &to(VIP, 80)).to_string();
    for part in [
        "10.96.0.1 (the address of service x/s, of which policy looks at the backends), TCP 80: denied",
        "the service is closed (mixed-backends)",
        "backend 10.0.0.2:8080 (x/web): allowed, NetworkPolicy x/client egress[0]",
        "backend 10.0.0.3:8080 (x/db): denied, default-deny",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
}

#[test]
fn of_several_rules_the_last_is_reported() {
    let rules = ["web", "db"].map(|name| allow(pods(name), None));
    let mut world = world(rules.to_vec());
    world.services.insert(service_name("s"), service(&["10.0.0.2", "10.0.0.3"]));
    assert_eq!(says(&world, VIP, 80), "allow, NetworkPolicy x/client egress[1]");
}

#[test]
fn case_37_a_block_over_the_services_address_allows_nothing() {
    for cidr in ["10.96.0.1/32", "10.96.0.0/16"] {
        let world = world(vec![allow(block(cidr), None)]);
        assert_eq!(says(&world, VIP, 80), "deny, default-deny", "{cidr}");
        let text = explain(&world, &to(VIP, 80)).to_string();
        let expected = format!("10.0.0.2 is not in {cidr}");
        assert!(text.contains(&expected), "{text}");
    }
    let world = world(vec![allow(block("0.0.0.0/0"), None)]);
    assert_eq!(says(&world, VIP, 80), RULE);
}

#[test]
fn case_38_a_backend_that_is_no_pod_is_its_address() {
    let api = |rule| {
        let mut world = world(vec![rule]);
        world.services.insert(service_name("s"), service(&["192.0.2.6"]));
        world
    };
    assert_eq!(says(&api(allow(block("192.0.2.6/32"), Some(8080))), VIP, 80), RULE);
    assert_eq!(says(&api(allow(block("192.0.2.6/32"), Some(80))), VIP, 80), "deny, default-deny");
    assert_eq!(says(&api(allow(block("192.0.2.7/32"), None)), VIP, 80), "deny, default-deny");
}

#[test]
fn case_39_the_pod_itself_is_always_allowed() {
    let mut world = world(Vec::new());
    world.services.insert(service_name("s"), service(&[CLIENT]));
    assert_eq!(says(&world, VIP, 80), "allow, self");
    assert_eq!(compile(&world, Capacity::default()).mixed_services(), [].into());
    // Beside others it does not open the way to them, nor do they close the way to it alone.
    world.services.insert(service_name("s"), service(&[CLIENT, "10.0.0.2"]));
    assert_eq!(says(&world, VIP, 80), "deny, mixed-backends");
}

#[test]
fn the_way_to_oneself_names_no_rule_that_is_gone() {
    let everyone = Rule { action: Action::Allow, peers: Peers::Any, ports: Ports::Any };
    let mut world = world(vec![everyone]);
    world.services.insert(service_name("s"), service(&["192.0.2.1", CLIENT]));
    let (name, mut policy) = world.policies.pop_first().expect("the client's");
    policy.tier = Tier::Admin;
    world.policies.insert(name.clone(), policy.clone());
    let mut compiler = compile(&world, Capacity::default());
    let rule = |compiler: &Compiler| {
        let way = compiler.tables().hairpins.values().next().expect("it backs the service");
        way.decision.rule
    };
    assert!(compiler.names().rules.contains_key(&rule(&compiler)));
    let (tier, egress) = (Tier::Baseline, Some(Vec::new()));
    compiler.apply([Change::Policy(name, Some(Policy { tier, egress, ..policy }))]);
    assert_eq!(rule(&compiler), 0, "allowed by default");
}

#[test]
fn case_42_the_own_node_is_let_out_where_that_is_asked_for() {
    let mut world = world(Vec::new());
    assert_eq!(says(&world, "172.30.0.1", 10250), "deny, default-deny");
    world.own_host.insert(address("172.30.0.1"));
    assert_eq!(says(&world, "172.30.0.1", 10250), "allow, host");
    assert_eq!(says(&world, "172.30.0.2", 10250), "deny, default-deny");
    // Behind a service too.
    world.services.insert(service_name("s"), service(&["172.30.0.1"]));
    assert_eq!(says(&world, VIP, 80), "allow, host");
}

#[test]
fn case_44_every_address_of_a_service_counts() {
    let mut world = world(vec![allow(pods("web"), None)]);
    assert_eq!(says(&world, "169.254.20.10", 80), "deny, default-deny");
    let service = world.services.get_mut(&service_name("s")).expect("it is there");
    service.addresses.push(address("169.254.20.10"));
    assert_eq!(says(&world, "169.254.20.10", 80), RULE);
}

#[test]
fn a_service_without_backends_is_denied_even_to_those_who_may_go_anywhere() {
    let mut world = world(vec![allow(block("0.0.0.0/0"), None)]);
    world.services.insert(service_name("s"), service(&[]));
    assert_eq!(says(&world, VIP, 80), "deny, default-deny");
    let text = explain(&world, &to(VIP, 80)).to_string();
    assert!(text.contains("because the service has no backend"), "{text}");
}

#[test]
fn services_that_policies_cannot_tell_apart_share_a_class_and_need_no_entry_of_their_own() {
    let mut world = world(vec![allow(pods("web"), Some(8080))]);
    for n in 0..9_u8 {
        let mut other = service(&["10.0.0.3"]);
        other.addresses = vec![IpAddr::from([10, 96, 1, n])];
        world.services.insert(service_name(&format!("other-{n}")), other);
    }
    let compiler = compile(&world, Capacity::default());
    let tables = compiler.tables();
    assert_eq!(tables.vips.len(), 10);
    let classes: std::collections::BTreeSet<u32> = tables.vips.values().copied().collect();
    assert_eq!(classes.len(), 2, "{:?}", compiler.names().classes);
    let decided = tables.decisions.keys().filter(|prefix| classes.contains(&prefix.key.class()));
    assert_eq!(decided.count(), 1, "only what differs from what everyone is told");
}

#[test]
fn without_a_policy_for_egress_there_are_no_vips() {
    let mut world = world(Vec::new());
    for policy in world.policies.values_mut() {
        (policy.ingress, policy.egress) = (Some(Vec::new()), None);
    }
    world.services.insert(service_name("s"), service(&[CLIENT]));
    let compiler = compile(&world, Capacity::default());
    assert_eq!(compiler.tables().vips.len(), 0);
    assert_eq!(compiler.tables().hairpins.len(), 1, "its way to itself is there");
}

#[test]
fn where_vips_do_not_fit_egress_is_closed_and_opens_when_they_do() {
    let world = world(vec![allow(block("0.0.0.0/0"), None)]);
    let mut compiler =
        Compiler::new(Capacity { vips: 1, ..Capacity::default() }, Default::default());
    compiler.apply(World::default().changes_to(&world));
    assert!(answer(&compiler, &to(VIP, 80)).allowed);
    let mut second = service(&["10.0.0.3"]);
    second.addresses = vec![address("10.96.0.2")];
    compiler.apply([Change::Service(service_name("t"), Some(second))]);
    let [overflow] = compiler.overflows() else { panic!("{:?}", compiler.overflows()) };
    assert_eq!(
        (overflow.shortage.table, overflow.shortage.needed, overflow.direction),
        (Table::Vips, 2, Direction::Egress)
    );
    assert!(compiler.tables().vips.is_empty());
    assert!(!answer(&compiler, &to("192.0.2.1", 80)).allowed);
    compiler.apply([Change::Service(service_name("t"), None)]);
    assert_eq!(compiler.overflows(), []);
    assert!(answer(&compiler, &to(VIP, 80)).allowed);
}

#[test]
fn an_endpoint_with_too_many_ways_to_itself_has_none_and_is_named() {
    let mut world = world(Vec::new());
    world.services.insert(service_name("s"), service(&[CLIENT]));
    let compiler = compile(&world, Capacity { hairpins_each: 0, ..Capacity::default() });
    let [overflow] = compiler.overflows() else { panic!("{:?}", compiler.overflows()) };
    assert_eq!(overflow.to_string(), "x/client egress: table hairpins needs 1, has 0");
    assert!(compiler.tables().hairpins.is_empty());
    assert!(!answer(&compiler, &to(VIP, 80)).allowed);
}
