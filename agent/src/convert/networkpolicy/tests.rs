use serde_json::{Value, json};
use sluice_policy::model::{Operator, Requirement};

use super::*;
use crate::convert::Fault;
use crate::convert::labels::SyntaxError;

fn policy(spec: Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"namespace": "y", "name": "web"},
        "spec": spec,
    })
}

fn converted(spec: Value) -> Result<NetworkPolicy, Vec<At<NetworkPolicyError>>> {
    convert(strict::decode(&policy(spec)).expect("well-typed"))
}

fn good(spec: Value) -> Policy {
    converted(spec).expect("valid").policy
}

/// The only error of a policy whose first ingress rule has this as its only peer.
fn peer_error(peer: Value) -> At<NetworkPolicyError> {
    only(converted(json!({"ingress": [{"from": [peer]}]})))
}

fn port_error(port: Value) -> At<NetworkPolicyError> {
    only(converted(json!({"egress": [{"ports": [port]}]})))
}

fn only(result: Result<NetworkPolicy, Vec<At<NetworkPolicyError>>>) -> At<NetworkPolicyError> {
    let mut errors = result.expect_err("not valid");
    assert_eq!(errors.len(), 1, "{errors:?}");
    errors.remove(0)
}

fn at(field: &str, error: impl Into<NetworkPolicyError>) -> At<NetworkPolicyError> {
    At { field: field.into(), error: error.into() }
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a literal block")
}

const PEER: &str = "spec.ingress[0].from[0]";
const PORT: &str = "spec.egress[0].ports[0]";

#[test]
fn policy_types_are_inferred_as_the_api_server_does() {
    let rule = json!([{}]);
    let directions = |spec: Value| {
        let policy = good(spec);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(directions(json!({})), (true, false));
    assert_eq!(directions(json!({"egress": rule})), (true, true));
    assert_eq!(directions(json!({"egress": []})), (true, false));
    assert_eq!(directions(json!({"policyTypes": [], "egress": rule})), (true, true));
    assert_eq!(directions(json!({"policyTypes": ["Egress"], "ingress": rule})), (false, true));
    assert_eq!(directions(json!({"policyTypes": ["Ingress"], "egress": rule})), (true, false));
}

#[test]
fn rules_of_a_direction_that_is_not_declared_are_inert_and_said_to_be() {
    let rule = json!([{}]);
    let inert = |spec: Value| converted(spec).expect("valid").inert;
    let spec = json!({"policyTypes": ["Egress"], "ingress": rule, "egress": rule});
    assert_eq!(inert(spec), [Direction::Ingress]);
    assert_eq!(inert(json!({"policyTypes": ["Ingress"], "egress": rule})), [Direction::Egress]);
    assert_eq!(inert(json!({"policyTypes": ["Ingress"], "egress": []})), []);
    assert_eq!(inert(json!({"ingress": rule, "egress": rule})), []);
}

#[test]
fn absent_and_empty_lists_of_peers_and_ports_are_all_of_them() {
    let all = Rule { action: Action::Allow, peers: Peers::Any, ports: Ports::Any };
    for rule in [json!({}), json!({"from": [], "ports": []}), json!({"from": null, "ports": null})]
    {
        assert_eq!(good(json!({"ingress": [rule]})).ingress, Some(vec![all.clone()]));
    }
    assert_eq!(good(json!({"ingress": []})).ingress, Some(vec![]));
    assert_eq!(good(json!({})).ingress, Some(vec![]));
}

#[test]
fn an_empty_port_is_all_of_tcp_and_every_form_of_port_is_read() {
    let ports = json!([{}, {"protocol": "UDP"}, {"port": 80}, {"port": 80, "endPort": 90},
        {"port": "web", "protocol": "SCTP"}, {"port": 65535, "endPort": 65535}]);
    let egress = good(json!({"egress": [{"ports": ports}]})).egress.expect("inferred");
    let range = |first, last| PortMatch::Range { protocol: Protocol::Tcp, first, last };
    let expected = vec![
        PortMatch::Protocol(Protocol::Tcp),
        PortMatch::Protocol(Protocol::Udp),
        range(80, 80),
        range(80, 90),
        PortMatch::Named { protocol: Protocol::Sctp, name: "web".into() },
        range(65535, 65535),
    ];
    assert_eq!(egress[0].ports, Ports::Of(expected));
}

#[test]
fn peers_without_a_namespace_selector_stay_in_the_namespace_of_the_policy() {
    let peers = json!([{"podSelector": {}}, {"namespaceSelector": {}},
        {"namespaceSelector": {"matchLabels": {"a": "b"}},
         "podSelector": {"matchExpressions": [{"key": "c", "operator": "Exists"}]}}]);
    let ingress = good(json!({"ingress": [{"from": peers}]})).ingress.expect("implied");
    let requirement = |key: &str, operator| Selector {
        requirements: [Requirement { key: key.into(), operator }].into(),
    };
    let expected = [
        pods_of("y", Selector::default()),
        PodSelector {
            namespaces: Namespaces::Matching(Selector::default()),
            pods: Selector::default(),
        },
        PodSelector {
            namespaces: Namespaces::Matching(requirement("a", Operator::In(["b".into()].into()))),
            pods: requirement("c", Operator::Exists),
        },
    ];
    let expected = expected.map(|pods| Peer::Pods(pods.into()));
    assert_eq!(ingress[0].peers, Peers::Of(expected.into()));
}

#[test]
fn host_bits_of_blocks_are_cleared() {
    let block = json!({"cidr": "10.161.0.0/8", "except": ["10.1.2.3/16", "fd00::/8"]});
    let error = peer_error(json!({"ipBlock": block}));
    let outside = ExceptOutside { cidr: net("10.0.0.0/8"), except: net("fd00::/8") };
    assert_eq!(error, at(&format!("{PEER}.ipBlock.except[1]"), outside));
    // Leading zeros are decimal, as the API server reads them.
    let block = json!({"cidr": "010.161.0.0/8", "except": ["10.1.2.3/16"]});
    let ingress = good(json!({"ingress": [{"from": [{"ipBlock": block}]}]})).ingress;
    let expected = Block::new(net("10.0.0.0/8"), [net("10.1.0.0/16")]).expect("within");
    assert_eq!(ingress.expect("implied")[0].peers, Peers::Of(vec![Peer::Block(expected)]));
}

#[test]
fn blocks_that_are_none() {
    for value in ["10.0.0/8", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "", "web"] {
        let error = peer_error(json!({"ipBlock": {"cidr": value}}));
        let expected = NetworkPolicyError::Cidr { value: value.into() };
        assert_eq!(error, at(&format!("{PEER}.ipBlock.cidr"), expected));
    }
    let error = peer_error(json!({"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}));
    let expected = NetworkPolicyError::MappedCidr { value: "::ffff:10.0.0.0/104".into() };
    assert_eq!(error, at(&format!("{PEER}.ipBlock.cidr"), expected));
}

#[test]
fn excepts_that_are_no_strict_part() {
    for except in ["11.0.0.0/8", "10.0.0.0/8", "0.0.0.0/0"] {
        let error = peer_error(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": [except]}}));
        let outside = ExceptOutside { cidr: net("10.0.0.0/8"), except: net(except) };
        assert_eq!(error, at(&format!("{PEER}.ipBlock.except[0]"), outside));
    }
    let error = peer_error(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["x"]}}));
    let expected = NetworkPolicyError::Cidr { value: "x".into() };
    assert_eq!(error, at(&format!("{PEER}.ipBlock.except[0]"), expected));
}

#[test]
fn peers_that_say_nothing_or_too_much() {
    assert_eq!(peer_error(json!({})), at(PEER, NetworkPolicyError::PeerEmpty));
    let both = json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}});
    let expected = at(&format!("{PEER}.ipBlock"), NetworkPolicyError::BlockBesideSelector);
    assert_eq!(peer_error(both), expected);
}

#[test]
fn selectors_that_the_api_server_refuses() {
    let expression = |e: Value| peer_error(json!({"podSelector": {"matchExpressions": [e]}}));
    let field = |name: &str| format!("{PEER}.podSelector.matchExpressions[0].{name}");
    let operator = SelectorError::UnknownOperator { operator: "Is".into() };
    assert_eq!(expression(json!({"key": "a", "operator": "Is"})), at(&field("operator"), operator));
    for name in ["In", "NotIn"] {
        let missing = SelectorError::ValuesMissing { operator: name.into() };
        let error = expression(json!({"key": "a", "operator": name, "values": []}));
        assert_eq!(error, at(&field("values"), missing));
    }
    for name in ["Exists", "DoesNotExist"] {
        let forbidden = SelectorError::ValuesForbidden { operator: name.into() };
        let error = expression(json!({"key": "a", "operator": name, "values": ["b"]}));
        assert_eq!(error, at(&field("values"), forbidden));
    }
    let key = SyntaxError::LabelKey { value: "a b".into() };
    let error = expression(json!({"key": "a b", "operator": "Exists"}));
    assert_eq!(error, at(&field("key"), SelectorError::from(key)));
    let value = SyntaxError::LabelValue { value: "b/c".into() };
    let error = peer_error(json!({"namespaceSelector": {"matchLabels": {"a": "b/c"}}}));
    let expected =
        at(&format!("{PEER}.namespaceSelector.matchLabels.a"), SelectorError::from(value));
    assert_eq!(error, expected);
}

#[test]
fn ports_that_the_api_server_refuses() {
    for value in [0, -1, 65536, 70000] {
        let expected = at(&format!("{PORT}.port"), PortError::Number { value });
        assert_eq!(port_error(json!({"port": value})), expected);
    }
    let expected = at(&format!("{PORT}.port"), PortError::Name { value: "80".into() });
    assert_eq!(port_error(json!({"port": "80"})), expected);
    let expected = at(&format!("{PORT}.protocol"), PortError::Protocol { value: "ICMP".into() });
    assert_eq!(port_error(json!({"protocol": "ICMP"})), expected);
    let end = format!("{PORT}.endPort");
    let expected = at(&end, NetworkPolicyError::EndPortBelow { port: 80, end_port: 79 });
    assert_eq!(port_error(json!({"port": 80, "endPort": 79})), expected);
    let expected = at(&end, NetworkPolicyError::EndPortWithName { name: "web".into() });
    assert_eq!(port_error(json!({"port": "web", "endPort": 90})), expected);
    assert_eq!(port_error(json!({"endPort": 90})), at(&end, NetworkPolicyError::EndPortAlone));
    let expected = at(&end, PortError::Number { value: 65536 });
    assert_eq!(port_error(json!({"port": 80, "endPort": 65536})), expected);
}

#[test]
fn policy_types_that_do_not_exist() {
    let error = only(converted(json!({"policyTypes": ["Ingress", "Both"]})));
    let expected = NetworkPolicyError::PolicyType { value: "Both".into() };
    assert_eq!(error, at("spec.policyTypes[1]", expected));
    let error = only(converted(json!({"policyTypes": ["Ingress", "Egress", "Ingress"]})));
    assert_eq!(error, at("spec.policyTypes", NetworkPolicyError::PolicyTypes { count: 3 }));
}

#[test]
fn every_error_of_a_policy_is_reported() {
    let spec = json!({
        "podSelector": {"matchLabels": {"-": "a"}},
        "policyTypes": ["x"],
        "ingress": [{"from": [{}], "ports": [{"port": 0}]}],
        "egress": [{"to": [{"ipBlock": {"cidr": "x"}}]}],
    });
    let errors = converted(spec).expect_err("not valid");
    let fields: Vec<&str> = errors.iter().map(|e| e.field.as_str()).collect();
    let expected = [
        "spec.podSelector.matchLabels.-",
        "spec.policyTypes[0]",
        "spec.ingress[0].from[0]",
        "spec.ingress[0].ports[0].port",
        "spec.egress[0].to[0].ipBlock.cidr",
    ];
    assert_eq!(fields, expected);
}

#[test]
fn rules_of_a_direction_that_is_not_declared_are_checked_too() {
    let spec = json!({"policyTypes": ["Ingress"], "egress": [{"ports": [{"port": 0}]}]});
    assert_eq!(only(converted(spec)).field, "spec.egress[0].ports[0].port");
}

#[test]
fn unknown_fields_are_named_with_their_path_wherever_they_are() {
    let spec = json!({"ingress": [{"from": [{"podselector": {}}], "port": []}], "Egress": []});
    let faults = strict::decode::<api::NetworkPolicy>(&policy(spec)).expect_err("unknown fields");
    let unknown = |field: &str| Fault { field: field.into(), reason: "unknown field".into() };
    let expected = [
        unknown("spec.Egress"),
        unknown("spec.ingress[0].from[0].podselector"),
        unknown("spec.ingress[0].port"),
    ];
    assert_eq!(faults, expected);
}

#[test]
fn what_the_server_writes_is_not_checked() {
    let mut value = policy(json!({}));
    value["status"] = json!({"conditions": [], "invented": 1});
    value["metadata"]["managedFields"] = json!([{"invented": 1}]);
    assert!(strict::decode::<api::NetworkPolicy>(&value).is_ok());
}

/// What the closed form of a policy selects and isolates.
fn closed_form(spec: Value) -> (Selector, bool, bool) {
    let closed = closed(&policy(spec)).expect("it says its name");
    assert_eq!(closed.name.to_string(), "NetworkPolicy y/web");
    let policy = closed.policy;
    assert_eq!(policy.subject.namespaces, Namespaces::Named("y".into()));
    for rules in [&policy.ingress, &policy.egress].into_iter().flatten() {
        assert!(rules.is_empty(), "a closed policy allows nothing");
    }
    (policy.subject.pods, policy.ingress.is_some(), policy.egress.is_some())
}

#[test]
fn the_closed_form_isolates_what_the_policy_selects_in_its_directions() {
    let app = Selector {
        requirements: [Requirement {
            key: "app".into(),
            operator: Operator::In(["web".into()].into()),
        }]
        .into(),
    };
    let selector = json!({"matchLabels": {"app": "web"}});
    let bad = json!([{"ports": [{"port": 0}]}]);
    let form = |types: &[&str]| {
        closed_form(json!({"podSelector": selector, "policyTypes": types, "ingress": bad}))
    };
    assert_eq!(form(&["Ingress"]), (app.clone(), true, false));
    assert_eq!(form(&["Egress"]), (app.clone(), false, true));
    assert_eq!(form(&["Ingress", "Egress"]), (app.clone(), true, true));
    // Where it names none, its rules are no guide: `egres` may have meant `egress`.
    assert_eq!(form(&[]), (app.clone(), true, true));
    let unnamed = closed_form(json!({"podSelector": selector, "ingress": "all", "egres": []}));
    assert_eq!(unnamed, (app, true, true));
}

#[test]
fn the_closed_form_of_what_cannot_be_read_is_the_widest() {
    let everything = || (Selector::default(), true, true);
    for spec in [
        json!({"podSelector": {"matchLabels": {"app": true}}}),
        json!({"podSelector": {"matchlabels": {"app": "web"}}}),
        json!({"podSelector": {"matchExpressions": [{"key": "a", "operator": "Is"}]}}),
        json!({"policyTypes": ["Nothing"]}),
        json!({"policyTypes": "Ingress"}),
        json!("all"),
    ] {
        assert_eq!(closed_form(spec.clone()), everything(), "{spec}");
    }
    assert_eq!(closed(&json!({"metadata": {"namespace": "y"}})), None);
}
