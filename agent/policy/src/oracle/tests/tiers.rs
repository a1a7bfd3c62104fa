//! SEMANTICS.md 62 to 67 and 72: Admin before NetworkPolicy before Baseline.

use super::*;

fn deny_all() -> Rule {
    Rule { action: Action::Deny, ..allow_all() }
}

fn pass_all() -> Rule {
    Rule { action: Action::Pass, ..allow_all() }
}

#[test]
fn case_62_pass_goes_on_to_the_next_tiers() {
    let bench = bench()
        .tiered("admin", Tier::Admin, 1, vec![pass_all()])
        .tiered("admin-later", Tier::Admin, 2, vec![allow_all()])
        .tiered("base", Tier::Baseline, 0, vec![deny_all()]);
    assert_eq!(bench.decided_by("x/b", tcp(80)), "ClusterNetworkPolicy base ingress[0]");
    let answer = bench.answer("x/a", Direction::Ingress, "x/b", tcp(80));
    assert!(!answer.allowed && !answer.isolated);
}

#[test]
fn case_63_network_policy_hides_baseline() {
    let bench = bench()
        .tiered("base", Tier::Baseline, 0, vec![deny_all()])
        .ingress("p", vec![allow(vec![pods(with("pod", "b"))])]);
    assert_eq!(bench.decided_by("x/b", tcp(80)), "NetworkPolicy x/p ingress[0]");
    assert_eq!(bench.decided_by("x/c", tcp(80)), "default-deny");
    // The same the other way round: Baseline cannot open what a NetworkPolicy closes.
    let bench = bench.tiered("base", Tier::Baseline, 0, vec![allow_all()]);
    assert_eq!(bench.decided_by("x/c", tcp(80)), "default-deny");
}

#[test]
fn case_64_priority_then_rule_order_decides() {
    let bench = bench().tiered("a-second", Tier::Admin, 2, vec![allow_all()]).tiered(
        "z-first",
        Tier::Admin,
        1,
        vec![
            on(allow_all(), vec![port(Protocol::Tcp, 80)]),
            deny_all(),
            on(allow_all(), vec![port(Protocol::Tcp, 81)]),
        ],
    );
    assert_eq!(bench.decided_by("x/b", tcp(80)), "ClusterNetworkPolicy z-first ingress[0]");
    assert_eq!(bench.decided_by("x/b", tcp(81)), "ClusterNetworkPolicy z-first ingress[1]");
    assert!(bench.denies("x/b", "x/a", tcp(81)));
}

#[test]
fn case_64_names_break_a_tie_of_priorities() {
    let bench = bench().tiered("b", Tier::Baseline, 5, vec![allow_all()]).tiered(
        "a",
        Tier::Baseline,
        5,
        vec![deny_all()],
    );
    assert_eq!(bench.decided_by("x/b", tcp(80)), "ClusterNetworkPolicy a ingress[0]");
}

#[test]
fn case_65_all_namespaces_does_not_match_outsiders() {
    let everyone = Peers::Of(vec![namespaces(everything())]);
    let rule = Rule { action: Action::Deny, peers: everyone, ports: Ports::Any };
    let mut bench = bench().tiered("admin", Tier::Admin, 1, vec![rule]);
    *bench.pod("y/host") =
        Pod { addresses: vec![ip("172.30.0.2")], host_network: true, ..Pod::default() };
    assert_eq!(bench.decided_by("y/b", tcp(80)), "ClusterNetworkPolicy admin ingress[0]");
    assert_eq!(bench.decided_by("203.0.113.9", tcp(80)), "default-allow");
    assert_eq!(bench.decided_by("172.30.0.2", tcp(80)), "default-allow");
}

#[test]
fn case_66_egress_networks_match_pods() {
    let all_v4 = Peers::Of(vec![block("0.0.0.0/0", &[])]);
    let rule = Rule { action: Action::Deny, peers: all_v4, ports: Ports::Any };
    let mut bench = bench().tiered("admin", Tier::Admin, 1, vec![rule]);
    for policy in bench.0.policies.values_mut() {
        policy.egress = policy.ingress.take();
    }
    assert!(bench.denies("x/a", "y/b", tcp(80)));
    assert!(bench.allows("x/a", "fd00:10:244:2::2", tcp(80)));
}

#[test]
fn case_67_what_is_not_understood_fails_closed() {
    // A rule whose peers have no known field: the converter makes an accept match nothing, and turns
    // deny and pass into a deny of everything.
    let bench = bench().tiered("admin", Tier::Admin, 1, vec![allow(vec![]), deny_all()]);
    assert_eq!(bench.decided_by("y/b", tcp(80)), "ClusterNetworkPolicy admin ingress[1]");
}

#[test]
fn case_72_an_egress_only_object_leaves_ingress_alone() {
    let mut bench = bench().tiered("admin", Tier::Admin, 1, vec![deny_all()]);
    for policy in bench.0.policies.values_mut() {
        policy.egress = policy.ingress.take();
    }
    assert_eq!(bench.decided_by("y/b", tcp(80)), "default-allow");
    assert!(bench.denies("x/a", "y/b", tcp(80)));
}

#[test]
fn baseline_without_a_match_allows() {
    let rule = on(deny_all(), vec![port(Protocol::Tcp, 80)]);
    let bench = bench().tiered("base", Tier::Baseline, 0, vec![rule, pass_all(), deny_all()]);
    assert!(bench.denies("y/b", "x/a", tcp(80)));
    assert_eq!(bench.decided_by("y/b", tcp(81)), "default-allow");
}

#[test]
fn admin_decides_before_network_policy() {
    let bench = bench()
        .tiered("admin", Tier::Admin, 1, vec![on(allow_all(), vec![port(Protocol::Tcp, 80)])])
        .ingress("p", vec![]);
    assert_eq!(bench.decided_by("y/b", tcp(80)), "ClusterNetworkPolicy admin ingress[0]");
    assert_eq!(bench.decided_by("y/b", tcp(81)), "default-deny");
}

#[test]
fn own_host_and_own_address_come_before_admin() {
    let bench = bench().tiered("admin", Tier::Admin, 1, vec![deny_all()]);
    assert_eq!(bench.decided_by("x/a", tcp(80)), "self");
    let question = Question {
        pod: pod_name("x/a"),
        direction: Direction::Ingress,
        remote: ip("172.30.0.1"),
        protocol: 6,
        port: 80,
        from_own_host: true,
    };
    assert_eq!(judge(&bench.0, &question).decided_by, DecidedBy::Host);
}
