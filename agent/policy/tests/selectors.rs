//! Rules of several selectors: the pods that no rule tells apart are one class, and selectors come and
//! go while other rules have them or not.

mod common;

use sluice_policy::answer::answer;
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::model::{
    Action, Change, Direction, LocalEndpoint, Peer, Peers, Pod, PodName, PodSelector, Policy,
    PolicyKind, PolicyName, Ports, Question, Rule, Selector, Tier, World,
};
use sluice_policy::oracle::judge;

use self::common::{address, app, pod_name};

/// Pods that may be peers, with their addresses.
const PEERS: [(&str, &str); 4] =
    [("b", "10.0.0.2"), ("c", "10.0.0.3"), ("d", "10.0.0.4"), ("e", "10.0.0.5")];

fn pod(name: &str, at: &str) -> (PodName, Pod) {
    let labels = [("app", name)].into();
    (pod_name(name), Pod { labels, addresses: vec![address(at)], ..Pod::default() })
}

/// Lets those in that one of the selectors selects, by one rule; none: no such policy.
fn policy(name: &str, apps: &[&str]) -> Change {
    let selectors = apps.iter().map(|name| Peer::Pods(app(name).into())).collect();
    let (action, peers) = (Action::Allow, Peers::Of(selectors));
    let rule = Rule { action, peers, ports: Ports::Any };
    let (tier, subject) = (Tier::NetworkPolicy, app("a"));
    let policy = Policy { tier, priority: 0, subject, ingress: Some(vec![rule]), egress: None };
    let name = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some("x".to_owned()),
        name: name.to_owned(),
    };
    Change::Policy(name, (!apps.is_empty()).then_some(policy))
}

/// The pod `a`, which is enforced, and its possible peers.
fn world() -> World {
    let mut world = World::default();
    world.pods.extend(PEERS.into_iter().chain([("a", "10.0.0.1")]).map(|(n, at)| pod(n, at)));
    world.endpoints.insert(pod_name("a"), LocalEndpoint { slot: 1, epoch: 1, flags: 0 });
    world
}

/// Who may enter `a`, where the tables answer as the oracle.
fn entering(compiler: &Compiler) -> Vec<&'static str> {
    let may_enter = |remote: &str| {
        let question = Question {
            pod: pod_name("a"),
            direction: Direction::Ingress,
            remote: address(remote),
            protocol: 6,
            port: 80,
            from_own_host: false,
        };
        let answer = answer(compiler, &question);
        assert_eq!(answer, judge(compiler.world(), &question), "{question:?}");
        answer.allowed
    };
    PEERS.into_iter().filter(|(_, at)| may_enter(at)).map(|(name, _)| name).collect()
}

#[test]
fn pods_that_no_rule_tells_apart_are_one_class() {
    let mut world = world();
    world.apply(policy("p", &["b", "c", "d"]));
    let mut compiler = compile(&world, Capacity::default());
    assert_eq!(compiler.names().classes.len(), 1, "{:?}", compiler.names().classes);
    assert_eq!(compiler.tables().peers.len(), 3);
    compiler.apply([policy("q", &["d", "e"])]);
    assert_eq!(compiler.names().classes.len(), 3, "{:?}", compiler.names().classes);
    assert_eq!(entering(&compiler), ["b", "c", "d", "e"]);
}

#[test]
fn one_selector_more_or_less_writes_what_it_selects() {
    let mut world = world();
    world.apply(policy("p", &["b", "c"]));
    let mut compiler = compile(&world, Capacity::default());
    let touched = compiler.apply([policy("p", &["b", "c", "d"])]);
    assert_eq!(touched.peers, [address("10.0.0.4").into()].into());
    assert!(touched.decisions.is_empty(), "{touched:?}");
    assert_eq!(entering(&compiler), ["b", "c", "d"]);
    let touched = compiler.apply([policy("p", &["b", "d"])]);
    assert_eq!(touched.peers, [address("10.0.0.3").into()].into());
    assert!(touched.decisions.is_empty(), "{touched:?}");
    assert_eq!(entering(&compiler), ["b", "d"]);
}

/// Nor has a further rule with it what it selects looked at again.
#[test]
fn a_selector_of_whole_namespaces_is_one_predicate_in_all_rules() {
    let wide = PodSelector { pods: Selector::default(), ..app("b") };
    let with_it = |name: &str| match policy(name, &["b"]) {
        Change::Policy(name, Some(mut policy)) => {
            let rule = &mut policy.ingress.as_mut().expect("it is of ingress")[0];
            let Peers::Of(peers) = &mut rule.peers else { panic!("it has peers") };
            peers.push(Peer::Pods(wide.clone().into()));
            Change::Policy(name, Some(policy))
        }
        other => panic!("{other:?}"),
    };
    let mut world = world();
    world.apply(with_it("p"));
    let mut compiler = compile(&world, Capacity::default());
    let classes = compiler.names().classes.clone();
    let touched = compiler.apply([with_it("q")]);
    assert!(touched.peers.is_empty(), "{touched:?}");
    assert_eq!(compiler.names().classes, classes);
    assert_eq!(entering(&compiler), ["b", "c", "d", "e"]);
}

/// Each way from one pair of policies to another, among rules of none, one and several selectors.
#[test]
fn selectors_come_and_go_while_another_rule_has_them_or_not() {
    let lists: [&[&str]; 6] =
        [&[], &["b"], &["b", "c"], &["c", "d"], &["b", "c", "d"], &["d", "e"]];
    let pairs: Vec<_> = lists.iter().flat_map(|p| lists.iter().map(move |q| (p, q))).collect();
    for (p, q) in &pairs {
        let mut compiler = compile(&world(), Capacity::default());
        compiler.apply([policy("p", p), policy("q", q)]);
        for (next_p, next_q) in &pairs {
            for changes in [
                vec![policy("p", next_p), policy("q", next_q)],
                vec![policy("q", q), policy("p", p)],
            ] {
                compiler.apply(changes);
                entering(&compiler);
                let anew = compile(compiler.world(), Capacity::default());
                assert_eq!(anew.tables().peers.len(), compiler.tables().peers.len());
                assert_eq!(anew.names().classes.len(), compiler.names().classes.len());
            }
        }
    }
}
