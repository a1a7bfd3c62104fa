//! The cases of SEMANTICS.md that compiling can get wrong, each asked of the compiled tables.

use std::net::IpAddr;

use sluice_common::abi::DecisionKey;
use sluice_policy::answer::answer;
use sluice_policy::capacity::{Capacity, Table};
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::model::{
    Action, Block, Change, Direction, Labels, LocalEndpoint, NamedPort, Namespaces, Operator, Peer,
    Peers, Pod, PodName, PodSelector, Policy, PolicyKind, PolicyName, PortMatch, Ports, Protocol,
    Question, Requirement, Rule, Selector, Tier, World,
};
use sluice_policy::names::Names;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;

/// A world of pods in namespace `x`, each labelled `app=<its name>` and enforced.
#[derive(Default)]
struct Lab {
    world: World,
}

impl Lab {
    fn pod(mut self, name: &str, addresses: &[&str]) -> Self {
        let slot = u32::try_from(self.world.endpoints.len()).expect("a handful") + 1;
        let labels = Labels::from([("app".to_owned(), name.to_owned())]);
        let addresses = addresses.iter().map(|a| a.parse().expect("an address")).collect();
        self.world.pods.insert(pod(name), Pod { labels, addresses, ..Pod::default() });
        self.world.endpoints.insert(pod(name), LocalEndpoint { slot, epoch: slot, flags: 0 });
        self
    }

    fn port(mut self, name: &str, port: &str, protocol: Protocol, number: u16) -> Self {
        let pod = self.world.pods.get_mut(&pod(name)).expect("the pod was added before");
        pod.ports.push(NamedPort { name: port.to_owned(), protocol, port: number });
        self
    }

    /// A NetworkPolicy for `subject`.
    fn policy(mut self, name: &str, subject: &str, direction: Direction, rules: Vec<Rule>) -> Self {
        let (ingress, egress) = match direction {
            Direction::Ingress => (Some(rules), None),
            Direction::Egress => (None, Some(rules)),
        };
        let (tier, subject) = (Tier::NetworkPolicy, app(subject));
        let policy = Policy { tier, priority: 0, subject, ingress, egress };
        self.world.policies.insert(policy_name(name), policy);
        self
    }

    fn ingress(self, name: &str, subject: &str, rules: Vec<Rule>) -> Self {
        self.policy(name, subject, Direction::Ingress, rules)
    }

    fn egress(self, name: &str, subject: &str, rules: Vec<Rule>) -> Self {
        self.policy(name, subject, Direction::Egress, rules)
    }

    fn compile(&self) -> Compiler {
        compile(&self.world, Capacity::default())
    }
}

fn pod(name: &str) -> PodName {
    PodName { namespace: "x".to_owned(), name: name.to_owned() }
}

fn policy_name(name: &str) -> PolicyName {
    let (kind, namespace) = (PolicyKind::NetworkPolicy, Some("x".to_owned()));
    PolicyName { kind, namespace, name: name.to_owned() }
}

fn app(name: &str) -> PodSelector {
    let operator = Operator::In([name.to_owned()].into());
    let requirement = Requirement { key: "app".to_owned(), operator };
    let pods = Selector { requirements: [requirement].into() };
    PodSelector { namespaces: Namespaces::Named("x".to_owned()), pods }
}

fn block(cidr: &str, except: &[&str]) -> Peer {
    let except = except.iter().map(|e| e.parse().expect("a CIDR"));
    Peer::Block(Block::new(cidr.parse().expect("a CIDR"), except).expect("within"))
}

fn allow(peers: Peers, ports: Ports) -> Rule {
    Rule { action: Action::Allow, peers, ports }
}

fn from(peers: impl IntoIterator<Item = Peer>) -> Peers {
    Peers::Of(peers.into_iter().collect())
}

fn tcp(first: u16, last: u16) -> Ports {
    Ports::Of(vec![PortMatch::Range { protocol: Protocol::Tcp, first, last }])
}

fn named(protocol: Protocol, name: &str) -> Ports {
    Ports::Of(vec![PortMatch::Named { protocol, name: name.to_owned() }])
}

fn ask(
    compiler: &Compiler,
    of: &str,
    direction: Direction,
    remote: &str,
    protocol: u8,
    port: u16,
) -> bool {
    let remote: IpAddr = remote.parse().expect("an address");
    let question =
        Question { pod: pod(of), direction, remote, protocol, port, from_own_host: false };
    answer(compiler, &question).allowed
}

fn may_enter(compiler: &Compiler, of: &str, remote: &str, protocol: u8, port: u16) -> bool {
    ask(compiler, of, Direction::Ingress, remote, protocol, port)
}

fn may_leave(compiler: &Compiler, of: &str, remote: &str, protocol: u8, port: u16) -> bool {
    ask(compiler, of, Direction::Egress, remote, protocol, port)
}

#[test]
fn case_20_both_edges_of_a_range_are_in_it() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]);
    let compiler = lab.ingress("p", "a", vec![allow(Peers::Any, tcp(32000, 32768))]).compile();
    let allowed: Vec<u16> = [31999, 32000, 32768, 32769]
        .into_iter()
        .filter(|port| may_enter(&compiler, "a", "192.0.2.1", TCP, *port))
        .collect();
    assert_eq!(allowed, [32000, 32768]);
}

#[test]
fn case_21_and_23_a_named_port_is_each_destinations_own() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let mut lab = lab.port("a", "web", Protocol::Tcp, 8080).port("b", "web", Protocol::Tcp, 9090);
    let every_pod =
        PodSelector { namespaces: Namespaces::Named("x".to_owned()), pods: Selector::default() };
    lab = lab.ingress("p", "a", vec![allow(Peers::Any, named(Protocol::Tcp, "web"))]);
    if let Some(policy) = lab.world.policies.get_mut(&policy_name("p")) {
        policy.subject = every_pod;
    }
    let compiler = lab.compile();
    assert!(may_enter(&compiler, "a", "192.0.2.1", TCP, 8080));
    assert!(!may_enter(&compiler, "a", "192.0.2.1", TCP, 9090));
    assert!(may_enter(&compiler, "b", "192.0.2.1", TCP, 9090));
    assert!(!may_enter(&compiler, "b", "192.0.2.1", UDP, 9090));
}

#[test]
fn case_22_a_name_that_nobody_defines_matches_nothing() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let rules = || vec![allow(Peers::Any, named(Protocol::Tcp, "web"))];
    let compiler = lab.ingress("p", "a", rules()).egress("q", "a", rules()).compile();
    for port in [0, 80, 8080, 65535] {
        assert!(!may_enter(&compiler, "a", "10.0.0.2", TCP, port));
        assert!(!may_leave(&compiler, "a", "10.0.0.2", TCP, port));
    }
}

#[test]
fn case_24_egress_to_a_named_port_is_resolved_on_each_destination() {
    let lab =
        Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]).pod("c", &["10.0.0.3"]);
    let lab = lab.port("b", "web", Protocol::Tcp, 8080).port("c", "web", Protocol::Tcp, 9090);
    let lab = lab.egress("p", "a", vec![allow(Peers::Any, named(Protocol::Tcp, "web"))]);
    let compiler = lab.compile();
    assert!(may_leave(&compiler, "a", "10.0.0.2", TCP, 8080));
    assert!(!may_leave(&compiler, "a", "10.0.0.2", TCP, 9090));
    assert!(may_leave(&compiler, "a", "10.0.0.3", TCP, 9090));
    assert!(!may_leave(&compiler, "a", "192.0.2.1", TCP, 8080));
}

#[test]
fn case_25_the_last_of_200_disjoint_ports_counts() {
    let ports = (0..200).map(|n| 1000 + 7 * n);
    let matches =
        ports.map(|port| PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port });
    let rule = allow(from([block("192.0.2.0/24", &[])]), Ports::Of(matches.collect()));
    let lab = Lab::default().pod("a", &["10.0.0.1"]).ingress("p", "a", vec![rule]);
    let compiler = lab.compile();
    assert!(may_enter(&compiler, "a", "192.0.2.1", TCP, 1000 + 7 * 199));
    assert!(!may_enter(&compiler, "a", "192.0.2.1", TCP, 1001 + 7 * 199));
}

#[test]
fn case_26_and_49_only_rules_without_ports_allow_icmp() {
    let every_tcp = Ports::Of(vec![PortMatch::Protocol(Protocol::Tcp)]);
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let lab = lab.ingress("p", "a", vec![allow(Peers::Any, Ports::Any)]);
    let compiler = lab.ingress("q", "b", vec![allow(Peers::Any, every_tcp)]).compile();
    assert!(may_enter(&compiler, "a", "192.0.2.1", ICMP, 0x0800));
    assert!(may_enter(&compiler, "a", "192.0.2.1", UDP, 53));
    assert!(may_enter(&compiler, "b", "192.0.2.1", TCP, 1));
    assert!(!may_enter(&compiler, "b", "192.0.2.1", UDP, 53));
    assert!(!may_enter(&compiler, "b", "192.0.2.1", ICMP, 0x0800));
}

#[test]
fn case_27_an_except_does_not_deny_what_another_block_allows() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]);
    let wide = allow(from([block("10.0.0.0/8", &["10.1.0.0/16"])]), Ports::Any);
    let lab = lab.ingress("p", "a", vec![wide]);
    let lab = lab.ingress("q", "a", vec![allow(from([block("10.1.2.3/32", &[])]), Ports::Any)]);
    let compiler = lab.compile();
    assert!(may_enter(&compiler, "a", "10.1.2.3", TCP, 80));
    assert!(!may_enter(&compiler, "a", "10.1.2.4", TCP, 80));
    assert!(may_enter(&compiler, "a", "10.2.0.1", TCP, 80));
}

#[test]
fn case_28_a_longer_prefix_does_not_hide_a_shorter_ones_rules() {
    let rules = vec![
        allow(from([block("10.0.0.0/8", &[])]), tcp(80, 80)),
        allow(from([block("10.1.0.0/16", &[])]), tcp(443, 443)),
    ];
    let compiler = Lab::default().pod("a", &["10.0.0.1"]).ingress("p", "a", rules).compile();
    assert!(may_enter(&compiler, "a", "10.1.0.1", TCP, 80));
    assert!(may_enter(&compiler, "a", "10.1.0.1", TCP, 443));
    assert!(!may_enter(&compiler, "a", "10.2.0.1", TCP, 443));
}

#[test]
fn case_29_an_excepted_address_keeps_what_another_policy_allows() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]);
    let wide = allow(from([block("10.0.0.0/8", &["10.1.0.0/16"])]), Ports::Any);
    let lab = lab.ingress("p", "a", vec![wide]);
    let everyone = allow(from([block("0.0.0.0/0", &[])]), tcp(53, 53));
    let compiler = lab.ingress("q", "a", vec![everyone]).compile();
    assert!(may_enter(&compiler, "a", "10.1.0.1", TCP, 53));
    assert!(!may_enter(&compiler, "a", "10.1.0.1", TCP, 54));
    assert!(may_enter(&compiler, "a", "10.2.0.1", TCP, 54));
}

#[test]
fn case_30_host_bits_do_not_count() {
    let rules = vec![
        allow(from([block("10.161.0.0/8", &[])]), tcp(80, 80)),
        allow(from([block("10.0.0.0/8", &[])]), tcp(443, 443)),
    ];
    let compiler = Lab::default().pod("a", &["10.0.0.1"]).ingress("p", "a", rules).compile();
    assert!(may_enter(&compiler, "a", "10.1.0.1", TCP, 80));
    assert!(may_enter(&compiler, "a", "10.1.0.1", TCP, 443));
}

#[test]
fn case_31_blocks_of_one_family_say_nothing_of_the_other() {
    let addresses = ["10.0.0.1", "fd00::1"];
    let lab = Lab::default().pod("a", &addresses).pod("b", &["10.0.0.2"]);
    let lab = lab.ingress("p", "a", vec![allow(from([block("0.0.0.0/0", &[])]), Ports::Any)]);
    let lab = lab.ingress("q", "b", vec![allow(from([block("::/0", &[])]), Ports::Any)]);
    let compiler = lab.compile();
    assert!(may_enter(&compiler, "a", "192.0.2.1", TCP, 80));
    assert!(!may_enter(&compiler, "a", "2001:db8::1", TCP, 80));
    assert!(may_enter(&compiler, "b", "2001:db8::1", TCP, 80));
    assert!(!may_enter(&compiler, "b", "192.0.2.1", TCP, 80));
}

#[test]
fn case_32_blocks_match_pods_that_selectors_match_too() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let rules = vec![
        allow(from([Peer::Pods(app("b").into())]), tcp(80, 80)),
        allow(from([block("10.0.0.0/8", &[])]), tcp(443, 443)),
    ];
    let compiler = lab.ingress("p", "a", rules).compile();
    assert!(may_enter(&compiler, "a", "10.0.0.2", TCP, 80));
    assert!(may_enter(&compiler, "a", "10.0.0.2", TCP, 443));
    assert!(!may_enter(&compiler, "a", "10.0.0.3", TCP, 80));
}

#[test]
fn case_14_and_15_the_younger_of_two_pods_has_the_address() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let mut lab =
        lab.ingress("p", "a", vec![allow(from([Peer::Pods(app("b").into())]), Ports::Any)]);
    let mut compiler = lab.compile();
    assert!(may_enter(&compiler, "a", "10.0.0.2", TCP, 80));

    lab = lab.pod("c", &["10.0.0.2"]);
    let mut younger = lab.world.pods[&pod("c")].clone();
    younger.created = 1;
    compiler.apply([Change::Pod(pod("c"), Some(younger))]);
    assert!(!may_enter(&compiler, "a", "10.0.0.2", TCP, 80));
    compiler.apply([Change::Pod(pod("c"), None)]);
    assert!(may_enter(&compiler, "a", "10.0.0.2", TCP, 80));
}

#[test]
fn case_43_host_network_pods_are_neither_subjects_nor_peers() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["172.30.0.1"]);
    let lab = lab.ingress("p", "a", vec![allow(from([Peer::Pods(app("b").into())]), Ports::Any)]);
    let mut lab = lab.ingress("q", "b", Vec::new());
    if let Some(pod) = lab.world.pods.get_mut(&pod("b")) {
        pod.host_network = true;
    }
    let compiler = lab.compile();
    assert!(!may_enter(&compiler, "a", "172.30.0.1", TCP, 80));
    assert!(may_enter(&compiler, "b", "192.0.2.1", TCP, 80));
    assert!(compiler.tables().peers.is_empty());
}

#[test]
fn a_policy_that_selects_no_endpoint_costs_nothing() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let rules =
        vec![allow(from([Peer::Pods(app("b").into()), block("192.0.2.0/24", &[])]), Ports::Any)];
    let compiler = lab.ingress("p", "elsewhere", rules).compile();
    assert_eq!(compiler.names(), &Names::default());
    assert!(compiler.tables().peers.is_empty());
    assert!(compiler.tables().cidrs.is_empty());
    assert!(compiler.tables().decisions.is_empty());
}

#[test]
fn one_block_more_in_a_list_is_one_entry_more() {
    let blocks = |n: u8| (0..n).map(|i| block(&format!("192.0.2.{}/32", 2 * i), &[]));
    let lab = Lab::default().pod("a", &["10.0.0.1"]);
    let lab = lab.ingress("p", "a", vec![allow(from(blocks(100)), tcp(80, 80))]);
    let mut compiler = lab.compile();
    let lab = lab.ingress("p", "a", vec![allow(from(blocks(101)), tcp(80, 80))]);
    let policy = lab.world.policies[&policy_name("p")].clone();
    let touched = compiler.apply([Change::Policy(policy_name("p"), Some(policy))]);
    assert_eq!(touched.cidrs.len(), 1);
    assert!(touched.decisions.is_empty());
    assert!(touched.peers.is_empty());
    assert!(touched.endpoints.is_empty());
}

#[test]
fn an_edited_list_of_blocks_reaches_the_pods_in_it() {
    let with = |last: &str| {
        let outside = block("192.0.2.0/24", &[]);
        vec![
            allow(from([Peer::Pods(app("b").into())]), tcp(80, 80)),
            allow(from([outside, block(last, &[])]), tcp(443, 443)),
        ]
    };
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let mut compiler = lab.ingress("p", "a", with("198.51.100.0/24")).compile();
    for (last, expected) in [("10.0.0.2/32", true), ("10.0.0.3/32", false)] {
        let lab = Lab::default().ingress("p", "a", with(last));
        let policy = lab.world.policies[&policy_name("p")].clone();
        compiler.apply([Change::Policy(policy_name("p"), Some(policy))]);
        assert_eq!(may_enter(&compiler, "a", "10.0.0.2", TCP, 443), expected);
        assert!(may_enter(&compiler, "a", "10.0.0.2", TCP, 80));
    }
}

#[test]
fn an_address_that_a_younger_pod_has_is_not_the_elders_own() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.1"]);
    let lab = lab.ingress("p", "a", Vec::new()).ingress("q", "b", Vec::new());
    let mut compiler = lab.compile();
    assert!(!may_enter(&compiler, "a", "10.0.0.1", TCP, 80));
    assert!(may_enter(&compiler, "b", "10.0.0.1", TCP, 80));
    compiler.apply([Change::Pod(pod("b"), None)]);
    assert!(may_enter(&compiler, "a", "10.0.0.1", TCP, 80));
}

#[test]
fn a_hundred_replicas_share_one_set() {
    let mut lab = Lab::default();
    for n in 0..100 {
        let name = format!("replica-{n}");
        lab = lab.pod(&name, &[&format!("10.0.1.{n}")]);
        let pod = lab.world.pods.get_mut(&pod(&name)).expect("just added");
        pod.labels = Labels::from([("app".to_owned(), "a".to_owned())]);
    }
    let compiler = lab.ingress("p", "a", vec![allow(Peers::Any, tcp(80, 80))]).compile();
    assert_eq!(compiler.names().sets.len(), 1);
    assert_eq!(compiler.tables().decisions.len(), 2, "the root, and TCP 80");
    let root = compiler.tables().decisions.keys().next().map(|prefix| prefix.bits);
    assert_eq!(root, Some(DecisionKey::BITS_ANY));
}

#[test]
fn case_58_what_does_not_fit_is_closed_by_name_and_opens_again() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let many = (0..9).map(|i| block(&format!("192.0.2.{}/32", 2 * i), &[]));
    let lab = lab.ingress("big", "a", vec![allow(from(many), Ports::Any)]);
    let lab =
        lab.ingress("small", "b", vec![allow(from([block("192.0.2.0/32", &[])]), Ports::Any)]);
    let capacity = Capacity { cidrs: 5, ..Capacity::default() };
    let mut compiler = compile(&lab.world, capacity);

    let [overflow] = compiler.overflows() else { panic!("one set is closed") };
    assert_eq!((&overflow.pod, overflow.direction), (&pod("a"), Direction::Ingress));
    assert_eq!((overflow.shortage.table, overflow.shortage.needed), (Table::Cidrs, 10));
    assert_eq!(overflow.to_string(), "x/a ingress: table cidrs needs 10, has 5");
    assert!(!may_enter(&compiler, "a", "192.0.2.0", TCP, 80));
    assert!(may_enter(&compiler, "b", "192.0.2.0", TCP, 80));
    let set = compiler.tables().endpoints[&1].sets[0];
    assert!(compiler.tables().decisions.keys().all(|prefix| prefix.key.set() != set));

    let lab = lab.ingress("big", "a", vec![allow(from([block("192.0.2.0/24", &[])]), Ports::Any)]);
    let policy = lab.world.policies[&policy_name("big")].clone();
    compiler.apply([Change::Policy(policy_name("big"), Some(policy))]);
    assert!(compiler.overflows().is_empty());
    assert!(may_enter(&compiler, "a", "192.0.2.0", TCP, 80));
}

#[test]
fn case_58_what_others_give_back_opens_a_closed_set() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]).pod("c", &[]);
    let some = |count| {
        from((0..count).map(|i| block(&format!("192.0.2.{}/32", 2 * i), &[])).collect::<Vec<_>>())
    };
    let lab = lab.ingress("big", "a", vec![allow(some(9), Ports::Any)]);
    let lab = lab.ingress("small", "b", vec![allow(some(4), Ports::Any)]);
    let lab = lab.ingress("least", "c", vec![allow(some(1), Ports::Any)]);
    let mut compiler = compile(&lab.world, Capacity { cidrs: 12, ..Capacity::default() });
    let closed = |compiler: &Compiler| -> Vec<PodName> {
        compiler.overflows().iter().map(|overflow| overflow.pod.clone()).collect()
    };
    assert_eq!(closed(&compiler), [pod("a")]);
    compiler.apply([Change::Policy(policy_name("least"), None)]);
    assert_eq!(closed(&compiler), [pod("a")], "13 are too many still");
    compiler.apply([Change::Policy(policy_name("small"), None)]);
    assert_eq!(closed(&compiler), []);
    assert!(may_enter(&compiler, "a", "192.0.2.16", TCP, 80));
}

#[test]
fn case_58_a_closed_set_that_needs_less_by_other_objects_opens_when_all_is_weighed_again() {
    let mut lab = Lab::default().pod("a", &["10.0.0.1"]);
    let peers: Vec<String> = (0..4).map(|i| format!("peer-{i}")).collect();
    let mut rules = Vec::new();
    for (name, port) in peers.iter().zip(80..) {
        lab = lab.pod(name, &[&format!("10.0.1.{port}")]);
        rules.push(allow(from([Peer::Pods(app(name).into())]), tcp(port, port)));
    }
    let lab = lab.ingress("p", "a", rules);
    let mut compiler = compile(&lab.world, Capacity { decisions: 6, ..Capacity::default() });
    assert_eq!(compiler.overflows().len(), 1, "the root, and two for each peer");
    assert!(compiler.reconsider().is_empty(), "nothing has changed");
    compiler.apply(peers[1..].iter().map(|name| Change::Pod(pod(name), None)));
    assert_eq!(compiler.overflows().len(), 1, "a pod more or less has no closed set compiled");
    assert!(!may_enter(&compiler, "a", "10.0.1.80", TCP, 80));
    assert!(!compiler.reconsider().is_empty());
    assert_eq!(compiler.overflows(), []);
    assert!(may_enter(&compiler, "a", "10.0.1.80", TCP, 80));
    assert!(compiler.reconsider().is_empty());
}

#[test]
fn case_58_a_set_that_opens_as_the_last_other_with_its_policy_goes_has_its_rules() {
    let lab = Lab::default().pod("a", &["10.0.0.1"]).pod("b", &["10.0.0.2"]);
    let mut lab = lab.ingress("shared", "a", vec![allow(Peers::Any, tcp(79, 1024))]);
    let everyone = PodSelector { pods: Selector::default(), ..app("a") };
    lab.world.policies.get_mut(&policy_name("shared")).expect("just added").subject = everyone;
    let lab = lab.ingress("open", "b", vec![allow(Peers::Any, Ports::Any)]);
    let mut compiler = compile(&lab.world, Capacity { decisions: 8, ..Capacity::default() });
    let [overflow] = compiler.overflows() else { panic!("one set is closed") };
    assert_eq!(overflow.pod, pod("a"));
    compiler.apply([Change::Endpoint(pod("b"), None)]);
    assert_eq!(compiler.overflows(), []);
    assert!(may_enter(&compiler, "a", "192.0.2.1", TCP, 80));
    assert!(!may_enter(&compiler, "a", "192.0.2.1", TCP, 78));
}
