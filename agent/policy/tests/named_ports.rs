//! Port names in egress rules (SEMANTICS 21, 22, 24): whose ports are asked for, and who therefore has
//! an entry in the tables.

mod common;

use std::collections::BTreeSet;

use sluice_policy::answer::answer;
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::model::{
    Action, Block, Change, Direction, LocalEndpoint, NamedPort, Peer, Peers, Pod, Policy,
    PolicyKind, PolicyName, PortMatch, Ports, Protocol, Question, Rule, Tier, World,
};
use sluice_policy::oracle::judge;

use self::common::{address, app, pod_name};

const WEB: &str = "10.0.0.2";
const DB: &str = "10.0.0.3";
const CACHE: &str = "10.0.1.4";
const ALL: [&str; 3] = [WEB, DB, CACHE];

fn pods(name: &str) -> Peers {
    Peers::Of(vec![Peer::Pods(app(name).into())])
}

fn block(cidr: &str) -> Peers {
    let cidr = cidr.parse().expect("the test's own block is valid");
    Peers::Of(vec![Peer::Block(Block::new(cidr, []).expect("it has no excepts"))])
}

/// Egress to peers, to the port that they call by a name.
fn rule(peers: Peers, port: &str) -> Rule {
    let named = PortMatch::Named { protocol: Protocol::Tcp, name: port.to_owned() };
    Rule { action: Action::Allow, peers, ports: Ports::Of(vec![named]) }
}

fn egress(rules: Vec<Rule>) -> Change {
    let name = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some("x".to_owned()),
        name: "client".to_owned(),
    };
    let (tier, subject) = (Tier::NetworkPolicy, app("client"));
    let policy = Policy { tier, priority: 0, subject, ingress: None, egress: Some(rules) };
    Change::Policy(name, Some(policy))
}

/// A client with these rules, and three pods that all call port 8080 `http`.
fn world(rules: Vec<Rule>) -> World {
    let mut world = World::default();
    for (name, at) in [("client", "10.0.0.1"), ("web", WEB), ("db", DB), ("cache", CACHE)] {
        let http = NamedPort { name: "http".to_owned(), protocol: Protocol::Tcp, port: 8080 };
        let pod = Pod {
            labels: [("app", name)].into(),
            addresses: vec![address(at)],
            ports: vec![http],
            ..Pod::default()
        };
        world.pods.insert(pod_name(name), pod);
    }
    world.endpoints.insert(pod_name("client"), LocalEndpoint { slot: 1, epoch: 1, flags: 0 });
    world.apply(egress(rules));
    world
}

/// Which of the three the tables know, where they answer as the oracle about each.
fn known(compiler: &Compiler) -> BTreeSet<&'static str> {
    for remote in ALL {
        for port in [80, 8080] {
            let question = Question {
                pod: pod_name("client"),
                direction: Direction::Egress,
                remote: address(remote),
                protocol: 6,
                port,
                from_own_host: false,
            };
            assert_eq!(
                answer(compiler, &question),
                judge(compiler.world(), &question),
                "{question:?}"
            );
        }
    }
    ALL.into_iter().filter(|at| compiler.tables().peers.contains_key(&address(at).into())).collect()
}

#[test]
fn only_pods_that_a_rule_with_the_name_selects_have_an_entry() {
    let compiler = compile(&world(vec![rule(pods("web"), "http")]), Capacity::default());
    assert_eq!(known(&compiler), [WEB].into());
}

#[test]
fn another_rule_of_the_policy_asks_for_no_name_of_this_one() {
    let rules = vec![rule(pods("web"), "dns"), rule(pods("db"), "http")];
    let compiler = compile(&world(rules), Capacity::default());
    // Both are selected, so both are there; `web` in a class that knows of no port.
    assert_eq!(known(&compiler), [WEB, DB].into());
    let ports = |at| {
        let class = compiler.tables().peers[&address(at).into()];
        compiler.names().classes[&class].contains("8080")
    };
    assert_eq!((ports(WEB), ports(DB)), (false, true));
}

#[test]
fn a_rule_without_peers_asks_every_pod() {
    let compiler = compile(&world(vec![rule(Peers::Any, "http")]), Capacity::default());
    assert_eq!(known(&compiler), ALL.into());
}

#[test]
fn a_rule_with_a_block_asks_the_pods_in_it() {
    let compiler = compile(&world(vec![rule(block("10.0.0.0/24"), "http")]), Capacity::default());
    assert_eq!(known(&compiler), [WEB, DB].into());
}

#[test]
fn who_is_asked_follows_the_policy() {
    let mut compiler = compile(&world(Vec::new()), Capacity::default());
    let wider = Peers::Of(vec![
        Peer::Block(Block::new("10.0.0.2/32".parse().expect("a block"), []).expect("no excepts")),
        Peer::Block(Block::new("10.0.1.0/24".parse().expect("a block"), []).expect("no excepts")),
    ]);
    let plain = |peers| Rule { action: Action::Allow, peers, ports: Ports::Any };
    for (rules, expected) in [
        (vec![rule(pods("web"), "http")], vec![WEB]),
        (vec![rule(pods("db"), "http")], vec![DB]),
        (vec![rule(Peers::Any, "http")], ALL.to_vec()),
        (vec![plain(block("10.0.1.0/24"))], vec![]),
        (vec![rule(block("10.0.1.0/24"), "http")], vec![CACHE]),
        (vec![rule(wider, "http")], vec![WEB, CACHE]),
        (vec![rule(block("10.0.1.0/24"), "http"), rule(pods("db"), "http")], vec![DB, CACHE]),
        (vec![rule(pods("db"), "none")], vec![DB]),
        (vec![], vec![]),
    ] {
        compiler.apply([egress(rules.clone())]);
        assert_eq!(known(&compiler), BTreeSet::from_iter(expected), "{rules:?}");
    }
}
