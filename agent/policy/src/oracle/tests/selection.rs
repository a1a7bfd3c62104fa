//! SEMANTICS.md 1 to 16: who is isolated, and who is a peer.

use super::*;

#[test]
fn case_01_isolated_without_rules_denies_ingress_only() {
    let bench = bench().ingress("p", vec![]);
    assert!(bench.denies("x/b", "x/a", tcp(80)));
    assert!(bench.denies("203.0.113.9", "x/a", tcp(80)));
    assert!(bench.allows("x/a", "x/b", tcp(80)));
    let answer = bench.answer("x/a", Direction::Ingress, "x/b", tcp(80));
    assert_eq!(
        answer,
        Answer { allowed: false, isolated: true, decided_by: DecidedBy::DefaultDeny }
    );
    let answer = bench.answer("x/a", Direction::Egress, "x/b", tcp(80));
    assert_eq!(
        answer,
        Answer { allowed: true, isolated: false, decided_by: DecidedBy::DefaultAllow }
    );
}

#[test]
fn case_02_empty_rule_allows_everyone() {
    let bench = bench().ingress("p", vec![allow_all()]);
    assert!(bench.allows("203.0.113.9", "x/a", udp(53)));
    assert!(bench.allows("2001:db8::9", "x/a", sctp(7)));
    assert!(bench.allows("y/b", "x/a", ECHO));
    assert_eq!(bench.decided_by("y/b", tcp(80)), "NetworkPolicy x/p ingress[0]");
}

#[test]
fn case_03_ingress_is_implied_beside_egress_rules() {
    // policyTypes omitted with egress rules only: the converter makes this of it.
    let egress = vec![allow_ports(vec![port(Protocol::Tcp, 80)])];
    let bench = bench().policy("x/p", with("pod", "a"), Some(vec![]), Some(egress));
    assert!(bench.denies("x/b", "x/a", tcp(80)));
    assert!(bench.allows("x/a", "x/b", tcp(80)));
    assert!(bench.denies("x/a", "x/b", tcp(81)));
}

#[test]
fn case_04_undeclared_type_is_inert() {
    let bench = bench().policy("x/p", with("pod", "a"), None, Some(vec![]));
    assert!(bench.allows("x/b", "x/a", tcp(80)));
    assert!(bench.denies("x/a", "x/b", tcp(80)));
}

#[test]
fn case_05_separate_peers_are_alternatives() {
    let rule = allow(vec![namespaces(with("ns", "y")), pods(with("pod", "b"))]);
    let bench = bench().ingress("p", vec![rule]);
    assert!(bench.allows("y/c", "x/a", tcp(80)));
    assert!(bench.allows("x/b", "x/a", tcp(80)));
    assert!(bench.denies("z/b", "x/a", tcp(80)));
    assert!(bench.denies("x/c", "x/a", tcp(80)));
}

#[test]
fn case_06_combined_selectors_must_both_match() {
    let rule = allow(vec![both(with("ns", "y"), with("pod", "b"))]);
    let bench = bench().ingress("p", vec![rule]);
    assert!(bench.allows("y/b", "x/a", tcp(80)));
    assert!(bench.denies("y/c", "x/a", tcp(80)));
    assert!(bench.denies("x/b", "x/a", tcp(80)));
}

#[test]
fn case_07_pod_selector_stays_in_its_namespace() {
    let bench = bench().ingress("p", vec![allow(vec![pods(with("pod", "b"))])]);
    assert!(bench.allows("x/b", "x/a", tcp(80)));
    assert!(bench.denies("y/b", "x/a", tcp(80)));
}

#[test]
fn case_08_all_namespaces_are_not_the_world() {
    let bench = bench().ingress("p", vec![allow(vec![namespaces(everything())])]);
    assert!(bench.allows("z/c", "x/a", tcp(80)));
    assert!(bench.denies("203.0.113.9", "x/a", tcp(80)));
    assert!(bench.denies("2001:db8::9", "x/a", tcp(80)));
}

#[test]
fn case_09_operators_follow_the_api() {
    let reaches = |operator: Operator, pod: &str| {
        let rule = allow(vec![pods(selector("tier", operator))]);
        let mut bench = bench().ingress("p", vec![rule]);
        bench.label("x/b", "tier", "web");
        bench.allows(pod, "x/a", tcp(80))
    };
    // x/b has tier=web, x/c has no such key.
    assert!(reaches(Operator::In(set(&["web", "db"])), "x/b"));
    assert!(!reaches(Operator::In(set(&["db"])), "x/b"));
    assert!(!reaches(Operator::In(set(&["web"])), "x/c"));
    assert!(!reaches(Operator::NotIn(set(&["web"])), "x/b"));
    assert!(reaches(Operator::NotIn(set(&["db"])), "x/b"));
    assert!(reaches(Operator::NotIn(set(&["web"])), "x/c"));
    assert!(reaches(Operator::Exists, "x/b"));
    assert!(!reaches(Operator::Exists, "x/c"));
    assert!(!reaches(Operator::DoesNotExist, "x/b"));
    assert!(reaches(Operator::DoesNotExist, "x/c"));
}

#[test]
fn case_10_both_sides_must_agree() {
    let to_b = vec![allow(vec![pods(with("pod", "b"))])];
    let denied_at_destination =
        bench().egress("p", to_b).policy("x/q", with("pod", "b"), Some(vec![]), None);
    assert!(denied_at_destination.denies("x/a", "x/b", tcp(80)));
    let from_a = vec![allow(vec![pods(with("pod", "a"))])];
    let denied_at_source =
        bench().egress("p", vec![]).policy("x/q", with("pod", "b"), Some(from_a), None);
    assert!(denied_at_source.denies("x/a", "x/b", tcp(80)));
    assert!(denied_at_source.answer("x/b", Direction::Ingress, "x/a", tcp(80)).allowed);
}

#[test]
fn case_11_policies_add_up_and_the_first_is_named() {
    let bench = bench().ingress("p", vec![allow_ports(vec![port(Protocol::Tcp, 80)])]).ingress(
        "q",
        vec![
            allow_ports(vec![port(Protocol::Tcp, 81)]),
            allow_ports(vec![port(Protocol::Tcp, 80)]),
        ],
    );
    assert_eq!(bench.decided_by("y/b", tcp(80)), "NetworkPolicy x/p ingress[0]");
    assert_eq!(bench.decided_by("y/b", tcp(81)), "NetworkPolicy x/q ingress[0]");
    assert!(bench.denies("y/b", "x/a", tcp(82)));
}

#[test]
fn case_12_relabelling_flips_both_ways() {
    let rule = allow(vec![both(with("ns", "y"), with("pod", "b"))]);
    let mut bench = bench().ingress("p", vec![rule]);
    bench.label("y/c", "pod", "b");
    assert!(bench.allows("y/c", "x/a", tcp(80)));
    bench.0.namespaces.insert("y".to_owned(), labels(&[("ns", "other")]));
    assert!(bench.denies("y/b", "x/a", tcp(80)));
    assert!(bench.denies("y/c", "x/a", tcp(80)));
    // A namespace that nobody declared has its name as a label, and only that.
    bench.0.namespaces.remove("y");
    assert!(bench.denies("y/b", "x/a", tcp(80)));
    let by_name = allow(vec![namespaces(with("kubernetes.io/metadata.name", "y"))]);
    assert!(bench.ingress("q", vec![by_name]).allows("y/b", "x/a", tcp(80)));
}

#[test]
fn case_13_a_relabelled_replica_leaves_its_siblings() {
    let mut bench = bench().policy("x/p", with("app", "web"), Some(vec![]), None);
    for name in ["x/a", "x/b"] {
        bench.label(name, "app", "web");
    }
    assert!(bench.denies("y/a", "x/a", tcp(80)) && bench.denies("y/a", "x/b", tcp(80)));
    let x_b = bench.pod("x/b");
    x_b.labels = x_b.labels.without("app");
    assert!(bench.denies("y/a", "x/a", tcp(80)));
    assert!(bench.allows("y/a", "x/b", tcp(80)));
}

#[test]
fn case_14_a_reused_address_is_not_its_former_owner() {
    let mut bench = bench().ingress("p", vec![allow(vec![pods(with("pod", "b"))])]);
    let address = bench.0.pods.remove(&pod_name("x/b")).expect("x/b").addresses;
    assert!(bench.denies("10.244.1.2", "x/a", tcp(80)));
    bench.pod("z/new").addresses = address;
    assert!(bench.denies("10.244.1.2", "x/a", tcp(80)));
}

#[test]
fn case_15_the_younger_of_two_pods_has_the_address() {
    let mut bench = bench().ingress("p", vec![allow(vec![pods(with("pod", "b"))])]);
    let address = bench.pod("x/b").addresses.clone();
    bench.pod("x/c").addresses = address;
    bench.pod("x/c").created = 10;
    assert!(bench.denies("10.244.1.2", "x/a", tcp(80)), "x/c has it");
    bench.pod("x/b").created = 11;
    assert!(bench.allows("10.244.1.2", "x/a", tcp(80)), "x/b has it");
    bench.pod("x/c").created = 11;
    assert!(bench.denies("10.244.1.2", "x/a", tcp(80)), "the greater name has it");
    bench.pod("x/c").deleting = true;
    assert!(bench.allows("10.244.1.2", "x/a", tcp(80)), "x/c is being deleted, x/b has it");
    bench.pod("x/b").deleting = true;
    assert!(bench.denies("10.244.1.2", "x/a", tcp(80)), "so is x/b");
    // Once x/c has finished it has no addresses.
    bench.pod("x/c").addresses.clear();
    assert!(bench.allows("10.244.1.2", "x/a", tcp(80)));
}

#[test]
fn case_16_empty_pod_selector_is_the_own_namespace() {
    let bench = bench().ingress("p", vec![allow(vec![pods(everything())])]);
    assert!(bench.allows("x/b", "x/a", tcp(80)));
    assert!(bench.allows("x/c", "x/a", ECHO6));
    assert!(bench.denies("y/b", "x/a", tcp(80)));
    assert!(bench.denies("203.0.113.9", "x/a", tcp(80)));
}

#[test]
fn an_empty_list_of_peers_matches_nothing() {
    let bench = bench().ingress("p", vec![allow(vec![])]);
    assert!(bench.denies("x/b", "x/a", tcp(80)));
}
