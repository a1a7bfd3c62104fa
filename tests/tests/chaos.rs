//! What goes wrong all at once: bounded, and longer with `SLUICE_CHAOS_SECONDS`. Needs root.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::json;
use sluice::datapath::KernelMaps;
use sluice::datapath::pins::maps_of;
use sluice::status::EnforcementState;
use sluice_common::abi::{Direction, RULE_MAX};
use sluice_common::reason::Reason;
use sluice_tests::apiserver::{self as api, ApiServer, cluster};
use sluice_tests::http::{agent, sample};
use sluice_tests::node::{AgentProcess, Node, allow_clients, pod};
use sluice_tests::traffic::{CLIENT, OPEN, SERVER, SHUT, Traffic, bind, client_and_server};
use sluice_tests::truth::{TruthTable, add_stranger, apply_stranger};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// How long a test makes trouble: what is asked for, or a few seconds.
fn trouble() -> Duration {
    let asked = std::env::var("SLUICE_CHAOS_SECONDS").ok();
    Duration::from_secs(asked.map_or(6, |text| text.parse().expect("a number of seconds")))
}

/// A change that leaves what client and server may do to each other as it is: another policy for the
/// server, another pod that comes and goes, another policy for the client that allows all.
fn change_something(node: &Node, round: u16) {
    let more = allow_clients(9000 + round % 100).replace("allow-clients", "allow-more");
    node.write("more.yaml", &more);
    if round.is_multiple_of(2) {
        let address = std::net::Ipv4Addr::new(10, 9, 1, 1);
        node.write("passer-by.yaml", &pod("passer-by", address, "{app: client}"));
        let everything = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: client-egress}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{}]}
";
        node.write("egress.yaml", everything);
    } else {
        node.unwrite("passer-by.yaml");
        node.unwrite("egress.yaml");
    }
}

/// Kills the agent every second, in whatever it is doing, and starts it again at once, while `change`
/// is called with the numbers of the rounds. No verdict may change. Returns the last agent.
fn kill_every_second(node: &Node, mut change: impl FnMut(u16)) -> AgentProcess {
    let mut running = node.start_agent();
    let (traffic, truth) = (Traffic::start(node), TruthTable::start(node));
    let (begun, mut round) = (Instant::now(), 0);
    while begun.elapsed() < trouble() {
        let second = Instant::now();
        while second.elapsed() < Duration::from_secs(1) {
            change(round);
            round += 1;
        }
        running.kill();
        running = node.spawn_agent();
    }
    traffic.check();
    truth.check();
    println!("{round} changes in {:?}", begun.elapsed());
    running
}

#[test]
fn killing_the_agent_every_second_while_policies_change_lets_nothing_through_and_loses_nothing() {
    let mut node = client_and_server(BINARY);
    for (number, object) in add_stranger(&mut node).into_iter().enumerate() {
        node.write(&format!("truth-{number}.yaml"), &object.to_string());
    }
    let _running = kill_every_second(&node, |round| {
        change_something(&node, round);
        std::thread::sleep(Duration::from_millis(190));
    });
    // What there is at the end is what is in force: no agent's work was half done for good.
    node.write("passer-by.yaml", "");
    node.write("policy.yaml", &allow_clients(SHUT));
    node.write("more.yaml", "");
    node.sync();
    let client = bind(&node, "client", CLIENT, 30_001);
    let shut = bind(&node, "server", SERVER, SHUT);
    client.send_to(b"allowed now", (SERVER, SHUT)).expect("sent");
    shut.recv(&mut [0; 16]).expect("what is allowed now arrives");
}

/// The same with objects of an API server: what client and server may do to each other stays as it is.
fn change_something_of(server: &ApiServer, round: u16) {
    let port = 9000 + round % 100;
    server.apply(api::allow("allow-more", "server", "client", port));
    if round.is_multiple_of(2) {
        let address = std::net::Ipv4Addr::new(10, 9, 1, 1);
        server.apply_pod(api::pod("passer-by", "node-2", address, "client"));
        server.apply(json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "x", "name": "client-egress"},
            "spec": {"podSelector": {"matchLabels": {"app": "client"}},
                     "policyTypes": ["Egress"], "egress": [{}]},
        }));
    } else {
        server.delete("Pod", "x/passer-by");
        server.delete("NetworkPolicy", "x/client-egress");
    }
}

/// An agent that has just been started knows nothing until the API server has told it everything.
#[test]
fn killing_the_agent_every_second_while_it_watches_an_api_server_changes_no_verdict() {
    let Some((mut node, server)) = cluster(BINARY) else { return };
    server.apply(api::node("node-2"));
    apply_stranger(&mut node, &server);
    let _running = kill_every_second(&node, |round| change_something_of(&server, round));
    // What there is at the end is what is in force.
    server.apply(api::allow("allow-clients", "server", "client", SHUT));
    let client = bind(&node, "client", CLIENT, 30_001);
    let shut = bind(&node, "server", SERVER, SHUT);
    let begun = Instant::now();
    loop {
        client.send_to(b"allowed now", (SERVER, SHUT)).expect("sent");
        if shut.recv(&mut [0; 16]).is_ok() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "not in force: {}", node.log());
    }
    assert_eq!(node.heal(), 0, "the kernel is as it should be");
}

/// A policy with more rules than the kernel's table has room for. Each of them allows everything.
fn too_many_rules() -> String {
    format!(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: x, name: too-many}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  policyTypes: [Ingress]
  ingress: [{}]
",
        vec!["{}"; RULE_MAX as usize].join(", ")
    )
}

#[test]
fn a_table_that_is_too_small_closes_what_does_not_fit_says_so_and_recovers() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let client = bind(&node, "client", CLIENT, 30_000);
    let open = bind(&node, "server", SERVER, OPEN);
    let arrives = |client: &UdpSocket| {
        client.send_to(b"to the open port", (SERVER, OPEN)).expect("sent");
        open.recv(&mut [0; 32]).is_ok()
    };
    assert!(arrives(&client));

    node.write("too-many.yaml", &too_many_rules());
    node.sync();
    assert!(!arrives(&client), "a flow that was allowed is cut");
    let another = bind(&node, "client", CLIENT, 30_001);
    assert!(!arrives(&another), "what does not fit is closed");
    let endpoint = node.endpoint("x/server");
    assert_eq!(endpoint.state, EnforcementState::Closed);
    assert!(endpoint.reason.as_ref().is_some_and(|r| r.contains("rule_hits")), "{endpoint:?}");
    let counted = KernelMaps::open(&maps_of(&node.bpffs()))
        .and_then(|maps| maps.snapshot(endpoint.slot))
        .expect("readable");
    let dropped = |reason| counted.get(&(Direction::Ingress, reason)).map(|c| c.packets);
    assert_eq!([Reason::Revoked, Reason::Closed].map(dropped), [Some(1); 2], "{counted:?}");
    let text = agent(&node, "/metrics").body;
    assert_eq!(sample(&text, r#"sluice_endpoints{state="closed"}"#), Some(1.0));
    let capacity = sample(&text, r#"sluice_map_capacity{map="rule_hits"}"#);
    assert_eq!(capacity, Some(f64::from(RULE_MAX - 1)));
    assert_eq!(node.sluice(&["status"]).output().expect("run").status.code(), Some(1));
    let ready = agent(&node, "/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("missing: x/server ingress: table rule_hits"), "{}", ready.body);

    node.unwrite("too-many.yaml");
    node.sync();
    assert!(arrives(&client));
    assert_eq!(node.endpoint("x/server").state, EnforcementState::Enforced);
    assert!(node.sluice(&["status"]).output().expect("run").status.success());
    assert_eq!(agent(&node, "/readyz").status, 200);
}

/// In a debug build the manifests here take minutes to be read.
#[test]
fn an_agent_that_reads_manifests_stops_when_it_is_told_to() {
    const PODS: u32 = 50_000;
    let node = Node::new(BINARY);
    let mut text = String::new();
    for i in 0..PODS {
        let [_, a, b, c] = i.to_be_bytes();
        text.push_str(&pod(&format!("p{i}"), [10, a, b, c].into(), "{}"));
    }
    node.write("pods.yaml", &text);
    let mut agent = node.spawn_agent();
    assert!(!node.status().synced, "it is reading");
    agent.signal(Signal::SIGTERM);
    let told = Instant::now();
    while !agent.has_ended() {
        assert!(told.elapsed() < Duration::from_secs(30), "it goes on reading");
        std::thread::sleep(Duration::from_millis(10));
    }
    println!("stopped after {:?}", told.elapsed());
    assert!(node.log().contains("stopping"), "{}", node.log());
}
