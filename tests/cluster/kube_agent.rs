//! The agent against a real API server, on a node that is a network namespace. Needs root, and the API
//! server's programs; `cargo xtask test cluster` runs it.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice::status::EnforcementState;
use sluice_tests::apiserver::{cluster, node, pod};
use sluice_tests::http;
use sluice_tests::node::{NODE, Node};
use sluice_tests::traffic::{OPEN, SERVER, Traffic, bind};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const LOST: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 9);
const USER: &str = "system:serviceaccount:kube-system:sluice";

/// For what takes a second or two, or the pause of a watch after failures.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends a datagram from the client to the server on [`OPEN`], and says whether it came.
fn reaches(machine: &Node, server: &UdpSocket) -> bool {
    let client = machine.inside("client", || UdpSocket::bind("0.0.0.0:0")).expect("bound");
    let sent = format!("from {}", client.local_addr().expect("an address"));
    client.send_to(sent.as_bytes(), (SERVER, OPEN)).expect("sent");
    server.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
    let mut buffer = [0; 64];
    while let Ok(length) = server.recv(&mut buffer) {
        if &buffer[..length] == sent.as_bytes() {
            return true;
        }
    }
    false
}

/// Waits until something holds, and says how long that took.
fn until(what: &str, machine: &Node, mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: {:#?}\n{}", machine.status(), machine.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    begun.elapsed()
}

#[test]
fn a_policy_of_the_api_server_is_enforced_and_follows_a_relabel() {
    let Some((machine, server)) = cluster(BINARY) else { return };
    let _agent = machine.start_agent();
    assert_eq!(machine.endpoint("x/server").state, EnforcementState::Enforced);
    let status = machine.status();
    assert_eq!(status.watches.len(), 6, "{status:#?}");
    assert!(status.watches.iter().all(|watch| watch.connected && watch.synced), "{status:#?}");
    assert_eq!(status.faults, Vec::<String>::new());
    let socket = bind(&machine, "server", SERVER, OPEN);
    assert!(reaches(&machine, &socket));
    for (app, expected) in [("stranger", false), ("client", true)] {
        server.merge("Pod", "x/client", json!({"metadata": {"labels": {"app": app}}}));
        let took = until(app, &machine, || reaches(&machine, &socket) == expected);
        println!("{app}: in force after {took:?}");
    }
    // A pod whose interface is not there: listed, and said on the pod.
    server.apply_pod(pod("lost", NODE, LOST, "server"));
    until("an Event on the pod", &machine, || !server.events("Pod", "x/lost").is_empty());
    let event = &server.events("Pod", "x/lost")[0];
    assert_eq!(
        (&event["reason"], &event["reportingInstance"]),
        (&json!("NotEnforced"), &json!(NODE))
    );
    let why = machine.endpoint("x/lost").reason.expect("a reason");
    assert!(event["note"].as_str().is_some_and(|note| note.contains(&why)), "{event:#}");
    assert_eq!(server.events("Pod", "x/server"), Vec::<Value>::new());
}

#[test]
fn the_agent_has_the_rights_that_it_needs_and_no_other() {
    let Some((_machine, server)) = cluster(BINARY) else { return };
    let read = [
        ("", "namespaces"),
        ("", "nodes"),
        ("", "pods"),
        ("", "services"),
        ("discovery.k8s.io", "endpointslices"),
        ("networking.k8s.io", "networkpolicies"),
    ];
    let writes = ["create", "update", "patch", "delete", "deletecollection"];
    for (group, plural) in read {
        for verb in ["list", "watch"] {
            assert!(server.can(USER, verb, group, plural), "{verb} {plural}");
        }
        for verb in writes {
            assert!(!server.can(USER, verb, group, plural), "{verb} {plural}");
        }
    }
    assert!(server.can(USER, "create", "events.k8s.io", "events"));
    for verb in ["list", "watch", "update", "patch", "delete"] {
        assert!(!server.can(USER, verb, "events.k8s.io", "events"), "{verb} events");
    }
    for plural in ["secrets", "configmaps", "pods/exec", "pods/status", "serviceaccounts"] {
        for verb in ["get", "list", "watch", "create", "update", "patch"] {
            assert!(!server.can(USER, verb, "", plural), "{verb} {plural}");
        }
    }
}

#[test]
fn readiness_names_the_kind_that_the_agent_may_not_watch_until_it_may() {
    let Some((machine, server)) = cluster(BINARY) else { return };
    let role = server.get("ClusterRole", "sluice").expect("it is shipped");
    let role_with = |rules: &[Value]| {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "sluice"}, "rules": rules,
        })
    };
    let rules = role["rules"].as_array().expect("a list");
    let is_of_slices = |rule: &&Value| rule["resources"] == json!(["endpointslices"]);
    let fewer: Vec<Value> = rules.iter().filter(|rule| !is_of_slices(rule)).cloned().collect();
    assert_eq!(fewer.len(), rules.len() - 1);
    server.apply(role_with(&fewer));
    let _agent = machine.spawn_agent();
    let readiness = || http::agent(&machine, "/readyz");
    // The others' lists come in their own time.
    let others = ["Namespace", "Node", "Pod", "Service", "NetworkPolicy"];
    until("a reason, and no other", &machine, || {
        let body = readiness().body;
        let is_missing = |kind: &&str| body.contains(&format!("missing: {kind}:"));
        body.contains("EndpointSlice: watch: ") && !others.iter().any(is_missing)
    });
    let answer = readiness();
    assert_eq!(answer.status, 503);
    for part in ["endpointslices", "discovery.k8s.io", "deploy/rbac.yaml"] {
        assert!(answer.body.contains(part), "{answer:?}");
    }
    let connected = |kind: &str| {
        let metrics = http::agent(&machine, "/metrics").body;
        http::sample(&metrics, &format!("sluice_watch_connected{{kind=\"{kind}\"}}"))
    };
    assert_eq!((connected("EndpointSlice"), connected("Pod")), (Some(0.0), Some(1.0)));
    // The server lets in once it may, and nobody has to start anything again.
    server.apply(role_with(rules));
    until("readiness", &machine, || readiness().status == 200);
    assert_eq!(machine.endpoint("x/server").state, EnforcementState::Enforced);
}

/// With a wrong name, no pod would be looked for, and all would seem to be in order.
#[test]
fn an_agent_whose_node_does_not_exist_is_not_ready_until_it_does() {
    let Some((machine, server)) = cluster(BINARY) else { return };
    let _agent = machine.spawn_agent();
    until("readiness", &machine, || http::agent(&machine, "/readyz").status == 200);
    server.delete("Node", NODE);
    let missing = format!("missing: there is no Node {NODE}");
    let says_so = || http::agent(&machine, "/readyz").body.contains(&missing);
    until("the reason", &machine, says_so);
    assert_eq!(http::agent(&machine, "/readyz").status, 503);
    assert!(machine.status().faults.iter().any(|fault| fault.contains("--node-name")));
    assert_eq!(machine.endpoint("x/server").state, EnforcementState::Enforced, "as before");
    server.apply(node(NODE));
    until("readiness again", &machine, || http::agent(&machine, "/readyz").status == 200);
}

#[test]
fn a_named_port_that_no_pod_has_is_said_on_the_policy_once_and_in_the_status() {
    let Some((machine, server)) = cluster(BINARY) else { return };
    let agent = machine.start_agent();
    let naming = |name: &str, app: &str, port: Value| {
        json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": "x"},
            "spec": {
                "podSelector": {"matchLabels": {"app": app}},
                "ingress": [{"ports": [{"port": port}]}],
            },
        })
    };
    server.apply(naming("here", "server", json!("metrics")));
    // Of the pods that this one selects none runs here.
    server.apply_pod(pod("remote", "node-2", LOST, "remote"));
    server.apply(naming("elsewhere", "remote", json!("metrics")));
    let said = || server.events("NetworkPolicy", "x/here");
    let look = || {
        // What the agent does every 30 s by itself.
        machine.heal();
        machine.status().warnings
    };
    until("the warning", &machine, || !look().is_empty());
    let warnings = look();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let expected = "NetworkPolicy x/here: spec.ingress[0].ports[0].port: no pod";
    assert!(warnings[0].starts_with(expected), "{warnings:?}");
    assert_eq!(machine.status().faults, Vec::<String>::new());
    until("the Event", &machine, || !said().is_empty());
    assert_eq!(said()[0]["reason"], "UnresolvedNamedPort");
    assert_eq!(said()[0]["type"], "Warning");
    // Another agent finds the same and says the same, which is there already.
    agent.kill();
    let _agent = machine.start_agent();
    until("the warning again", &machine, || !look().is_empty());
    server.apply(naming("other", "server", json!("other")));
    until("an Event on another", &machine, || {
        look();
        !server.events("NetworkPolicy", "x/other").is_empty()
    });
    assert_eq!(said().len(), 1, "{:#?}", said());
    assert_eq!(server.events("NetworkPolicy", "x/elsewhere"), Vec::<Value>::new());
    server.apply(naming("here", "server", json!(80)));
    server.apply(naming("other", "server", json!(81)));
    until("no warnings", &machine, || look().is_empty());
}

#[test]
fn traffic_goes_on_by_policy_while_the_api_server_goes_and_comes() {
    let Some((machine, mut server)) = cluster(BINARY) else { return };
    let agent = machine.start_agent();
    let traffic = Traffic::start(&machine);
    server.stop_server();
    until("the watches' faults", &machine, || machine.status().faults.len() == 6);
    // A node whose agent starts now keeps what the last one left.
    agent.kill();
    let _agent = machine.spawn_agent();
    let status = machine.status();
    assert!(!status.synced, "{status:#?}");
    until("the new agent's faults", &machine, || machine.status().faults.len() == 6);
    server.start_server();
    let took = until("all watches", &machine, || {
        let status = machine.status();
        status.synced && status.faults.is_empty() && status.watches.len() == 6
    });
    println!("in sync {took:?} after the API server was ready again");
    traffic.check();
    // And what is new since then is enforced.
    let socket = bind(&machine, "server", SERVER, OPEN);
    server.delete("NetworkPolicy", "x/allow-clients");
    let closed = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "x"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    });
    server.apply(closed);
    until("the denial", &machine, || !reaches(&machine, &socket));
}

#[test]
fn a_missing_or_bad_configuration_is_a_usage_error() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(["agent", "--node-name", NODE]).args(arguments);
        let output = command.env_remove("KUBERNETES_SERVICE_HOST").output().expect("run");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let directory = tempfile::tempdir().expect("a directory");
    let bad = directory.path().join("bad");
    std::fs::write(&bad, "clusters: 7").expect("written");
    let bad = bad.display().to_string();
    for (arguments, part) in [
        (&[][..], "--kubeconfig"),
        (&["--kubeconfig", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--kubeconfig", &bad], "--kubeconfig"),
        (&["--source", "dir:x", "--kubeconfig", &bad], "--source kube"),
        (&["--source", "etcd"], "kube or dir:PATH"),
    ] {
        let (code, errors) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }
}
