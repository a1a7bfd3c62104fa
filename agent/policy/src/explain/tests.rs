//! What `sluice explain` says, word for word.

use std::net::IpAddr;

use super::{Mismatch, Remote, explain};
use crate::model::*;

fn pod(world: &mut World, name: &str, address: &str, app: &str) {
    let pod = Pod {
        labels: [("app".to_owned(), app.to_owned())].into(),
        addresses: vec![address.parse().expect("an address")],
        ..Pod::default()
    };
    world.pods.insert(PodName { namespace: "x".to_owned(), name: name.to_owned() }, pod);
}

fn with_app(app: &str) -> PodSelector {
    let operator = Operator::In([app.to_owned()].into());
    let requirements = [Requirement { key: "app".to_owned(), operator }].into();
    PodSelector { namespaces: Namespaces::Named("x".to_owned()), pods: Selector { requirements } }
}

/// Pods `x/a`, `x/b`, `x/host`; the egress of `x/a` has these rules.
fn world(rules: Vec<Rule>) -> World {
    let mut world = World::default();
    pod(&mut world, "a", "10.244.0.1", "a");
    pod(&mut world, "b", "10.244.0.2", "b");
    pod(&mut world, "host", "172.30.0.1", "b");
    for (name, pod) in &mut world.pods {
        pod.host_network = name.name == "host";
        let web = NamedPort { name: "web".to_owned(), protocol: Protocol::Tcp, port: 8080 };
        pod.ports = vec![web];
    }
    let kind = PolicyKind::NetworkPolicy;
    let name = PolicyName { kind, namespace: Some("x".to_owned()), name: "p".to_owned() };
    let policy = Policy {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: with_app("a"),
        ingress: None,
        egress: Some(rules),
    };
    world.policies.insert(name, policy);
    world
}

fn rule(peers: Peers, ports: Ports) -> Rule {
    Rule { action: Action::Allow, peers, ports }
}

fn tcp(port: u16) -> Ports {
    Ports::Of(vec![PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port }])
}

fn block(cidr: &str, except: &str) -> Peers {
    let except = except.parse().expect("a CIDR");
    let block = Block::new(cidr.parse().expect("a CIDR"), [except]).expect("a block");
    Peers::Of(vec![Peer::Block(block)])
}

fn ask(remote: &str, protocol: u8, port: u16) -> Question {
    Question {
        pod: PodName { namespace: "x".to_owned(), name: "a".to_owned() },
        direction: Direction::Egress,
        remote: remote.parse::<IpAddr>().expect("an address"),
        protocol,
        port,
        from_own_host: false,
    }
}

fn misses(rule: Rule, question: &Question) -> Vec<String> {
    let explanation = explain(&world(vec![rule]), question);
    explanation.near_misses.iter().map(ToString::to_string).collect()
}

#[test]
fn an_except_is_named() {
    let world = world(vec![rule(block("10.0.0.0/8", "10.1.0.0/16"), tcp(443))]);
    let explanation = explain(&world, &ask("10.1.2.3", 6, 443));
    assert_eq!(
        explanation.near_misses[0].because,
        [Mismatch::InExcept {
            remote: "10.1.2.3".parse().expect("an address"),
            except: "10.1.0.0/16".parse().expect("a CIDR"),
        }]
    );
    assert_eq!(
        explanation.to_string(),
        "egress of x/a to 10.1.2.3, TCP 443: denied, because x/a is isolated for egress by \
         NetworkPolicy x/p, and no rule allows this (default-deny).\n  \
         NetworkPolicy x/p egress[0] allows TCP 443 to 10.0.0.0/8 except 10.1.0.0/16, but 10.1.2.3 \
         is in its except 10.1.0.0/16."
    );
}

#[test]
fn ports_protocols_and_names_are_told_apart() {
    let to_b = || Peers::Of(vec![Peer::Pods(with_app("b").into())]);
    let named =
        Ports::Of(vec![PortMatch::Named { protocol: Protocol::Tcp, name: "web".to_owned() }]);
    assert_eq!(
        misses(rule(to_b(), named.clone()), &ask("10.244.0.2", 6, 80)),
        [
            "NetworkPolicy x/p egress[0] allows TCP `web` to pods with app=b in namespace x, but named \
         port `web` is 8080 on x/b, the probe is to 80."
        ]
    );
    assert_eq!(
        misses(rule(to_b(), tcp(443)), &ask("10.244.0.2", 6, 80)),
        ["NetworkPolicy x/p egress[0] allows TCP 443 to pods with app=b in namespace x, but the \
         probe is to 80, not TCP 443."]
    );
    assert_eq!(
        misses(rule(to_b(), tcp(80)), &ask("10.244.0.2", 17, 80)),
        ["NetworkPolicy x/p egress[0] allows TCP 80 to pods with app=b in namespace x, but the \
         probe is UDP 80, not TCP 80."]
    );
    assert_eq!(
        misses(rule(to_b(), tcp(80)), &ask("10.244.0.2", 1, 2048)),
        [
            "NetworkPolicy x/p egress[0] allows TCP 80 to pods with app=b in namespace x, but a rule \
         with ports does not match ICMP."
        ]
    );
    assert_eq!(
        misses(rule(Peers::Any, named), &ask("203.0.113.9", 6, 80)),
        ["NetworkPolicy x/p egress[0] allows TCP `web` to anyone, but 203.0.113.9 is no pod that \
         could have a port named `web`."]
    );
}

#[test]
fn peers_say_why_each_of_them_does_not_match() {
    let selector = || Peers::Of(vec![Peer::Pods(with_app("c").into())]);
    assert_eq!(
        misses(rule(selector(), Ports::Any), &ask("10.244.0.2", 6, 80)),
        [
            "NetworkPolicy x/p egress[0] allows all traffic to pods with app=c in namespace x, but x/b \
         does not match app=c (it has app=b)."
        ]
    );
    let host = misses(rule(selector(), Ports::Any), &ask("172.30.0.1", 6, 80));
    assert!(host[0].ends_with("no selector matches a pod with host network."), "{host:?}");
    let outside = misses(rule(selector(), Ports::Any), &ask("203.0.113.9", 6, 80));
    assert!(outside[0].ends_with("but 203.0.113.9 is no pod's address."), "{outside:?}");
    let v6 = misses(rule(block("0.0.0.0/0", "10.0.0.0/8"), Ports::Any), &ask("2001:db8::9", 6, 80));
    assert!(v6[0].ends_with("2001:db8::9 is of another family than 0.0.0.0/0."), "{v6:?}");
}

#[test]
fn a_rule_that_misses_on_both_sides_is_only_counted() {
    let far = rule(block("10.0.0.0/8", "10.1.0.0/16"), tcp(443));
    let explanation = explain(&world(vec![far.clone(), far]), &ask("203.0.113.9", 6, 80));
    assert_eq!((explanation.near_misses.len(), explanation.far_misses), (0, 2));
    assert!(
        explanation.to_string().ends_with("2 further rules match neither the peer nor the port.")
    );
}

#[test]
fn a_policy_without_rules_says_so() {
    let explanation = explain(&world(vec![]), &ask("10.244.0.2", 6, 80));
    assert_eq!(
        explanation.to_string(),
        "egress of x/a to 10.244.0.2 (x/b), TCP 80: denied, because x/a is isolated for egress by \
         NetworkPolicy x/p, and there is no rule that allows anything (default-deny)."
    );
}

#[test]
fn an_allow_names_its_rule() {
    let world = world(vec![rule(Peers::Of(vec![Peer::Pods(with_app("b").into())]), Ports::Any)]);
    let explanation = explain(&world, &ask("10.244.0.2", 6, 80));
    assert!(matches!(&explanation.remote, Remote::Pod(pod) if pod.name == "b"));
    assert_eq!(
        explanation.to_string(),
        "egress of x/a to 10.244.0.2 (x/b), TCP 80: allowed, because NetworkPolicy x/p egress[0] \
         allows all traffic to pods with app=b in namespace x."
    );
}

#[test]
fn rules_after_the_decision_are_no_misses() {
    let mut world = world(vec![rule(block("10.0.0.0/8", "10.1.0.0/16"), Ports::Any)]);
    let deny = Rule { action: Action::Deny, ..rule(Peers::Any, Ports::Any) };
    let name = PolicyName {
        kind: PolicyKind::ClusterNetworkPolicy,
        namespace: None,
        name: "admin".to_owned(),
    };
    let policy = Policy {
        tier: Tier::Admin,
        priority: 1,
        subject: with_app("a"),
        ingress: None,
        egress: Some(vec![rule(Peers::Any, tcp(443)), deny, rule(Peers::Any, tcp(444))]),
    };
    world.policies.insert(name, policy);
    let explanation = explain(&world, &ask("10.1.2.3", 6, 80));
    let rules: Vec<String> =
        explanation.near_misses.iter().map(|near| near.rule.to_string()).collect();
    assert_eq!(rules, ["ClusterNetworkPolicy admin egress[0]"]);
    assert_eq!(explanation.far_misses, 0);
}
