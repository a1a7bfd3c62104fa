//! SEMANTICS.md 39, 40, 43: the pod itself, its node, and pods with host network.

use super::*;

fn closed() -> Bench {
    bench().policy("x/closed", with("pod", "a"), Some(vec![]), Some(vec![]))
}

#[test]
fn case_39_a_pod_reaches_itself() {
    let bench = closed();
    for direction in [Direction::Ingress, Direction::Egress] {
        for remote in ["10.244.1.1", "fd00:10:244:1::1"] {
            let answer = bench.answer("x/a", direction, remote, tcp(80));
            assert_eq!(
                answer,
                Answer { allowed: true, isolated: true, decided_by: DecidedBy::OwnAddress }
            );
        }
    }
    assert!(bench.denies("x/a", "x/b", tcp(80)));
}

#[test]
fn case_15_an_address_that_a_younger_pod_has_is_not_ones_own() {
    let mut bench = closed();
    bench.pod("y/new").addresses = vec![ip("10.244.1.1")];
    bench.pod("y/new").created = 10;
    assert!(bench.denies("10.244.1.1", "x/a", tcp(80)));
    assert!(bench.allows("fd00:10:244:1::1", "x/a", tcp(80)));
}

#[test]
fn case_40_the_own_node_reaches_its_pods() {
    let bench = closed();
    let question = |direction, from_own_host| Question {
        pod: pod_name("x/a"),
        direction,
        remote: ip("172.30.0.1"),
        protocol: 6,
        port: 80,
        from_own_host,
    };
    let answer = judge(&bench.0, &question(Direction::Ingress, true));
    assert_eq!((answer.allowed, answer.decided_by), (true, DecidedBy::Host));
    // Another node's host, and the own node as a destination (case 42), are addresses like any other.
    assert!(!judge(&bench.0, &question(Direction::Ingress, false)).allowed);
    assert!(!judge(&bench.0, &question(Direction::Egress, false)).allowed);
    assert!(!judge(&bench.0, &question(Direction::Egress, true)).allowed);
}

#[test]
fn case_43_host_network_pods_are_no_peers() {
    let mut bench = bench().ingress("p", vec![allow(vec![pods(everything())])]);
    *bench.pod("x/host") = Pod {
        labels: labels(&[("pod", "host")]),
        addresses: vec![ip("172.30.0.1")],
        host_network: true,
        ..Pod::default()
    };
    assert!(bench.denies("172.30.0.1", "x/a", tcp(80)));
    // Its address can be named as a block.
    let bench = bench.ingress("q", vec![allow(vec![block("172.30.0.1/32", &[])])]);
    assert!(bench.allows("172.30.0.1", "x/a", tcp(80)));
}

#[test]
fn case_43_host_network_pods_are_no_subjects() {
    let mut bench = bench().policy("x/p", everything(), Some(vec![]), Some(vec![]));
    bench.pod("x/b").host_network = true;
    let answer = bench.answer("x/b", Direction::Ingress, "203.0.113.9", tcp(80));
    assert_eq!(
        answer,
        Answer { allowed: true, isolated: false, decided_by: DecidedBy::DefaultAllow }
    );
}

#[test]
fn case_43_a_host_network_pod_does_not_take_an_address() {
    let mut bench = bench().ingress("p", vec![allow(vec![pods(with("pod", "b"))])]);
    bench.pod("z/host").host_network = true;
    bench.pod("z/host").addresses = vec![ip("10.244.1.2")];
    bench.pod("z/host").created = 99;
    assert!(bench.allows("x/b", "x/a", tcp(80)));
}

#[test]
fn case_43_host_network_pods_define_no_names_for_egress() {
    let mut bench = bench()
        .egress("p", vec![allow_ports(vec![named(Protocol::Tcp, "web")])])
        .names_port("y/a", "web", Protocol::Tcp, 8080);
    assert!(bench.allows("x/a", "y/a", tcp(8080)));
    bench.pod("y/a").host_network = true;
    assert!(bench.denies("x/a", "y/a", tcp(8080)));
}
