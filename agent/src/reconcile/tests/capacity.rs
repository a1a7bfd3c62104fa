//! Each table too small for what one policy asks: that one is closed and named, the rest is as it was,
//! and when the load goes all is open again. The kernel's tables have the sizes that the compiler is
//! given here, and take no more; among the integration tests, `capacity` and `chaos` overflow them for
//! real.

use sluice_policy::model::{
    Action, Backend, Block, Labels, Peer, Peers, PortMatch, Ports, Protocol, Rule, Service,
    ServiceName, ServicePort,
};
use sluice_policy::names::Names;

use super::*;
use crate::endpoint::Unenforced;
use crate::endpoint::slots::CROWD_SLOT;

/// In force: one for `x/b`, in all that is tried here.
fn little() -> Change {
    let block = Block::new("192.0.2.0/24".parse().expect("a block"), []).expect("no excepts");
    let rule = Rule {
        action: Action::Allow,
        peers: Peers::Of(vec![Peer::Block(block)]),
        ports: Ports::Any,
    };
    selecting("little", "b", Direction::Ingress, vec![rule])
}

/// A policy for the pods with one label.
fn selecting(policy: &str, app: &str, direction: Direction, rules: Vec<Rule>) -> Change {
    let requirement = sluice_policy::model::Requirement {
        key: "app".into(),
        operator: sluice_policy::model::Operator::In([app.to_owned()].into()),
    };
    let pods = Selector { requirements: [requirement].into() };
    let subject = PodSelector { namespaces: Namespaces::Named("x".into()), pods };
    let (ingress, egress) = match direction {
        Direction::Ingress => (Some(rules), None),
        Direction::Egress => (None, Some(rules)),
    };
    let policy_value = Policy { tier: Tier::NetworkPolicy, priority: 0, subject, ingress, egress };
    let kind = PolicyKind::NetworkPolicy;
    let name = PolicyName { kind, namespace: Some("x".into()), name: policy.into() };
    Change::Policy(name, Some(policy_value))
}

fn labelled(of: &str, last: u8) -> Change {
    let labels = Labels::from([("app", of)]);
    let pod = Pod { node: "n".into(), addresses: vec![address(last)], labels, ..Pod::default() };
    Change::Pod(name(of), Some(pod))
}

fn allow(peers: Peers, ports: Ports) -> Rule {
    Rule { action: Action::Allow, peers, ports }
}

/// `x/a` and `x/b`, both enforced, with tables of these sizes.
fn setup(capacity: Capacity) -> Setup {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.compiler = Compiler::new(capacity, Names::default());
    let modest = selecting("modest", "a", Direction::Ingress, Vec::new());
    setup.reconciler.change(vec![labelled("a", 1), labelled("b", 2), little(), modest]);
    setup.reconciler.found(scan(&[(5, 1), (6, 2)]));
    setup.reconcile();
    assert_eq!(listed(&setup), [enforced("x/a"), enforced("x/b")]);
    setup
}

/// `load` overflows `table`, in one direction of `x/a`, which is closed until `load` is gone.
fn overflows(capacity: Capacity, table: &str, direction: Direction, load: Vec<Change>) -> String {
    let mut setup = setup(capacity);
    let before = setup.reconciler.kernel.state.view();
    let gone: Vec<Change> = load
        .iter()
        .map(|change| match change {
            Change::Pod(name, _) => Change::Pod(name.clone(), None),
            Change::Policy(name, _) => Change::Policy(name.clone(), None),
            Change::Service(name, _) => Change::Service(name.clone(), None),
            other => panic!("{other:?}"),
        })
        .collect();
    setup.reconciler.change(load);
    setup.reconcile();
    let closed = ("x/a".to_owned(), EnforcementState::Closed, None);
    assert_eq!(listed(&setup), [closed, enforced("x/b")], "{table}");
    let said = setup.reconciler.overflows();
    let [said] = said.as_slice() else { panic!("{said:?}") };
    assert!(
        said.contains(&format!("x/a {}", sluice_policy::model::direction_label(direction))),
        "{said}"
    );
    assert!(said.contains(&format!("table {table} needs")), "{said}");
    let state = &setup.reconciler.kernel.state;
    let endpoint = state.endpoints[&1].at(state.generation);
    let set = endpoint.set(direction);
    assert!(endpoint.is_governed(direction), "the pod is isolated");
    let now = state.view();
    assert!(now.decisions.keys().all(|prefix| prefix.key.set() != set), "nothing is allowed");
    assert_eq!(now.endpoints[&2], before.endpoints[&2], "the other pod is as it was");
    setup.reconciler.change(gone);
    setup.reconcile();
    assert_eq!(listed(&setup), [enforced("x/a"), enforced("x/b")], "{table}");
    assert_eq!(setup.reconciler.overflows(), [""; 0]);
    said.clone()
}

#[test]
fn too_many_peers_close_who_asks_for_them() {
    let capacity = Capacity { peers: 2, ..Capacity::default() };
    let all = PodSelector { namespaces: Namespaces::Named("x".into()), pods: Selector::default() };
    let rule = allow(Peers::Of(vec![Peer::Pods(all.into())]), Ports::Any);
    let mut load = vec![selecting("great", "a", Direction::Ingress, vec![rule])];
    load.extend((3..6).map(|last| {
        let pod = Pod { node: "m".into(), addresses: vec![address(last)], ..Pod::default() };
        Change::Pod(name(&format!("far-{last}")), Some(pod))
    }));
    overflows(capacity, "peers", Direction::Ingress, load);
}

#[test]
fn too_many_blocks_close_who_asks_for_them() {
    let capacity = Capacity { cidrs: 2, ..Capacity::default() };
    let blocks = (0..3).map(|i| {
        let block = Block::new(format!("198.51.{i}.0/24").parse().expect("a block"), []);
        Peer::Block(block.expect("no excepts"))
    });
    let rule = allow(Peers::Of(blocks.collect()), Ports::Any);
    let load = vec![selecting("great", "a", Direction::Ingress, vec![rule])];
    overflows(capacity, "cidrs", Direction::Ingress, load);
}

#[test]
fn too_many_decisions_close_who_asks_for_them() {
    let capacity = Capacity { decisions: 4, ..Capacity::default() };
    let ports = (0..8).map(|i| {
        let port = 1000 + 2 * i;
        PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port }
    });
    let rule = allow(Peers::Any, Ports::Of(ports.collect()));
    let load = vec![selecting("great", "a", Direction::Ingress, vec![rule])];
    overflows(capacity, "decisions", Direction::Ingress, load);
}

#[test]
fn too_many_rules_close_who_asks_for_them() {
    let capacity = Capacity { rules: 4, ..Capacity::default() };
    let rule = || allow(Peers::Any, Ports::Any);
    let load = vec![selecting("great", "a", Direction::Ingress, vec![rule(); 5])];
    overflows(capacity, "rule_hits", Direction::Ingress, load);
}

#[test]
fn too_many_addresses_of_services_close_egress_and_the_largest_service_is_named() {
    let capacity = Capacity { vips: 3, ..Capacity::default() };
    let service = |of: &str, last: u8, ports: u16| {
        let port = |i| ServicePort {
            protocol: Protocol::Tcp,
            port: 80 + i,
            backends: vec![Backend { address: address(9), port: 80 }],
        };
        let addresses = vec![IpAddr::from([10, 96, 0, last])];
        let service = Service { addresses, ports: (0..ports).map(port).collect() };
        Change::Service(ServiceName { namespace: "x".into(), name: of.into() }, Some(service))
    };
    let rule = allow(Peers::Any, Ports::Any);
    let load = vec![
        selecting("out", "a", Direction::Egress, vec![rule]),
        service("small", 1, 1),
        service("great", 2, 5),
    ];
    let said = overflows(capacity, "vips", Direction::Egress, load);
    assert!(said.contains("the largest service is x/great"), "{said}");
}

#[test]
fn a_pod_more_than_there_are_places_is_closed_and_gets_the_next_that_is_free() {
    let mut setup = Setup::new(Recorder::default());
    let pods = CROWD_SLOT;
    let at = |i: u32| IpAddr::from([10, 1, (i >> 8) as u8, i as u8]);
    let mut found = Scan::default();
    let mut changes = vec![policy()];
    for i in 1..=pods {
        let pod = Pod { node: "n".into(), addresses: vec![at(i)], ..Pod::default() };
        changes.push(Change::Pod(name(&format!("p{i:04}")), Some(pod)));
        let mut interface = scan(&[(i, 0)]).interfaces.remove(&i).expect("an interface");
        interface.addresses = [at(i)].into();
        found.veths.insert(i, interface.name.clone());
        found.interfaces.insert(i, interface);
    }
    setup.reconciler.change(changes);
    setup.reconciler.found(found.clone());
    setup.reconcile();
    let unplaced = |setup: &Setup| -> Vec<String> {
        let endpoints = setup.reconciler.endpoints().into_iter();
        let unplaced = endpoints.filter(|e| e.cause.as_deref() == Some("no-slot"));
        unplaced.map(|e| e.pod).collect()
    };
    let last = format!("x/p{pods:04}");
    assert_eq!(unplaced(&setup), [last.as_str()]);
    assert!(matches!(setup.reconciler.refused[&name(&last[2..])], Unenforced::NoPlace(_)));
    assert!(setup.reconciler.missing().contains_key(&name(&last[2..])));
    let listed = setup.reconciler.endpoints();
    let crowded = listed.iter().find(|endpoint| endpoint.pod == last).expect("listed");
    assert_eq!(crowded.state, EnforcementState::Closed);
    assert!(setup.reconciler.overflows()[0].contains("table endpoints needs"));
    let state = setup.reconciler.kernel.state.clone();
    let closed = state.endpoints[&CROWD_SLOT].at(state.generation);
    let directions = [Direction::Ingress, Direction::Egress];
    assert!(directions.iter().all(|direction| closed.is_governed(*direction)));
    assert_eq!(setup.reconciler.kernel.slots[&pods], CROWD_SLOT);
    assert!(setup.reconcile().is_empty(), "it stays so");
    found.interfaces.remove(&7);
    found.veths.remove(&7);
    setup.reconciler.change(vec![Change::Pod(name("p0007"), None)]);
    setup.reconciler.found(found.clone());
    setup.reconcile();
    setup.reconciler.found(found);
    setup.reconcile();
    assert_eq!(unplaced(&setup), [""; 0]);
    assert!(setup.reconciler.missing().is_empty());
    assert_eq!(setup.reconciler.kernel.slots[&pods], 7);
    assert!(!setup.reconciler.compiler.tables().endpoints.contains_key(&CROWD_SLOT));
}
