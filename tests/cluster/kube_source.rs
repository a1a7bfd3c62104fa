//! The source against a real API server: lists, watches and what goes wrong with them. Needs root, and
//! the API server's programs; `cargo xtask test cluster` runs it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_policy::model::{PodName, PolicyKind, PolicyName, ServiceName, World};
use sluice_tests::apiserver::{
    ApiServer, USER, Watcher, allow, assets_or_say_so, namespace, node, pod,
};
use sluice_tests::node::{NODE, Node};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const A: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const C: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// A server with the namespace x and a node, in a network namespace that ends with it.
struct Setup {
    server: ApiServer,
    _netns: Node,
}

impl Setup {
    fn new() -> Option<Self> {
        let assets = assets_or_say_so()?;
        let netns = Node::new(BINARY);
        let server = ApiServer::start(&netns.netns_path("node"), assets);
        server.apply(namespace("x"));
        server.apply(node(NODE));
        Some(Self { server, _netns: netns })
    }

    fn watcher(&self) -> Watcher {
        let mut watcher = Watcher::start(&self.server, self.server.admin_kubeconfig(), NODE);
        watcher.until_synced();
        watcher
    }
}

fn pod_name(name: &str) -> PodName {
    PodName { namespace: "x".into(), name: name.into() }
}

fn policy_name(name: &str) -> PolicyName {
    let kind = PolicyKind::NetworkPolicy;
    PolicyName { kind, namespace: Some("x".into()), name: name.into() }
}

/// The address of a pod, where it is there and has one.
fn address(world: &World, name: &str) -> Option<String> {
    world.pods.get(&pod_name(name))?.addresses.first().map(ToString::to_string)
}

fn app(world: &World, name: &str) -> Option<String> {
    world.pods.get(&pod_name(name))?.labels.get("app").map(ToString::to_string)
}

/// Rights to list and watch some resources of a group.
fn role(name: &str, group: &str, resources: &[&str]) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": name},
        "rules": [{"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]}],
    })
}

fn binding(role: &str) -> Value {
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": role},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
    })
}

#[test]
fn nothing_is_sent_while_one_kind_is_forbidden_and_everything_once_it_is_not() {
    let Some(Setup { server, _netns }) = Setup::new() else { return };
    server.apply_pod(pod("a", NODE, A, "web"));
    server.apply(allow("p", "web", "client", 80));
    for (name, group, resources) in [
        ("core", "", &["namespaces", "nodes", "pods", "services"][..]),
        ("slices", "discovery.k8s.io", &["endpointslices"]),
    ] {
        server.apply(role(name, group, resources));
        server.apply(binding(name));
    }
    let mut watcher = Watcher::start(&server, server.user_kubeconfig(), NODE);
    watcher.until("all but one list", |watcher| {
        let complete = watcher.watches.values().filter(|watch| watch.connected).count();
        complete == 5 && watcher.watches.get("NetworkPolicy").is_some_and(|w| w.error.is_some())
    });
    let error = watcher.watches["NetworkPolicy"].error.clone().expect("it is forbidden");
    for part in ["watch", "networkpolicies", "networking.k8s.io", "deploy/rbac.yaml"] {
        assert!(error.contains(part), "{error}");
    }
    let fault = watcher.faults.iter().find(|fault| fault.starts_with("NetworkPolicy"));
    assert!(fault.is_some_and(|fault| fault.contains("nothing is applied")), "{watcher:#?}");
    assert_eq!((watcher.synced, watcher.batches), (false, 0), "{watcher:#?}");

    server.apply(role("policies", "networking.k8s.io", &["networkpolicies"]));
    server.apply(binding("policies"));
    watcher.until_synced();
    assert_eq!(watcher.batches, 1, "everything came at once");
    assert_eq!(address(&watcher.world, "a"), Some(A.to_string()));
    assert!(watcher.world.policies.contains_key(&policy_name("p")));
    watcher.until("no faults", |watcher| watcher.faults.is_empty());
    assert!(watcher.watches.values().all(|watch| watch.connected && watch.synced));
}

#[test]
fn what_happened_while_the_server_was_away_is_caught_up_with() {
    let Some(Setup { mut server, _netns }) = Setup::new() else { return };
    for (name, address) in [("a", A), ("b", B)] {
        server.apply_pod(pod(name, NODE, address, "web"));
    }
    server.apply(allow("stays", "web", "client", 80));
    server.apply(allow("goes", "web", "client", 81));
    let mut watcher = Watcher::start(&server, server.admin_kubeconfig(), NODE);
    watcher.until_synced();
    let before = watcher.world.clone();
    assert_eq!(before.policies.len(), 2);

    server.stop_server();
    watcher.until("a fault for each kind", |watcher| watcher.faults.len() == 6);
    assert!(watcher.watches.values().all(|watch| !watch.connected && watch.synced));
    // A policy and a pod go, a pod is made again under its name, and nobody remembers any of it.
    server.unstore("networkpolicies/x/goes");
    server.unstore("pods/x/a");
    server.unstore("pods/x/b");
    let mut again = pod("b", NODE, C, "db");
    again["metadata"]["uid"] = json!("another");
    again["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    server.store("pods/x/b", &again);
    server.compact();
    assert_eq!(watcher.world, before, "the last state stays");

    server.start_server();
    watcher.until("the new state", |watcher| {
        watcher.world.pods.len() == 1 && watcher.world.policies.len() == 1
    });
    assert_eq!(address(&watcher.world, "b"), Some(C.to_string()));
    assert_eq!(app(&watcher.world, "b").as_deref(), Some("db"));
    assert!(watcher.world.policies.contains_key(&policy_name("stays")));
    watcher.until("no faults", |watcher| watcher.faults.is_empty());
    assert!(watcher.watches.values().all(|watch| watch.connected && watch.error.is_none()));
}

#[test]
fn a_server_that_does_not_answer_changes_nothing_and_is_heard_again() {
    let Some(setup) = Setup::new() else { return };
    let server = &setup.server;
    server.apply_pod(pod("a", NODE, A, "web"));
    let mut watcher = setup.watcher();
    let before = watcher.world.clone();
    server.freeze_server();
    let frozen = Instant::now();
    while frozen.elapsed() < Duration::from_secs(3) {
        watcher.look();
        assert_eq!(watcher.world, before);
        std::thread::sleep(Duration::from_millis(50));
    }
    server.thaw_server();
    server.merge("Pod", "x/a", json!({"metadata": {"labels": {"app": "db"}}}));
    watcher.until("the new label", |watcher| app(&watcher.world, "a").as_deref() == Some("db"));
}

/// Lists of pods that the server has streamed since it started.
fn streamed(server: &ApiServer) -> u64 {
    let metrics = server.text("/metrics");
    let counts = metrics.lines().filter(|line| {
        line.starts_with("apiserver_watch_list_duration_seconds_count")
            && line.contains("resource=\"pods\"")
    });
    counts.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn lists_are_streamed_and_where_the_server_does_not_stream_them_paged() {
    let Some(Setup { mut server, _netns }) = Setup::new() else { return };
    server.apply_pod(pod("a", NODE, A, "web"));
    // The server watches itself too: only what this watch adds counts.
    let before = streamed(&server);
    let mut watcher = Watcher::start(&server, server.admin_kubeconfig(), NODE);
    watcher.until_synced();
    assert_eq!(streamed(&server), before + 1);
    server.stop_server();
    server.add_argument("--feature-gates=WatchList=false,WatchListClient=false");
    server.start_server();
    let mut watcher = Watcher::start(&server, server.admin_kubeconfig(), NODE);
    watcher.until_synced();
    assert_eq!(address(&watcher.world, "a"), Some(A.to_string()));
    assert_eq!(streamed(&server), 0);
    assert!(watcher.watches.values().all(|watch| watch.connected && watch.synced));
}

#[test]
fn pods_release_their_addresses_and_come_back_under_their_names() {
    let Some(setup) = Setup::new() else { return };
    let server = &setup.server;
    server.apply_pod(pod("a", NODE, A, "web"));
    let mut watcher = setup.watcher();
    assert_eq!(address(&watcher.world, "a"), Some(A.to_string()));
    let mut finished = pod("a", NODE, A, "web");
    finished["status"]["phase"] = json!("Succeeded");
    server.apply_pod(finished);
    watcher.until("no address", |watcher| address(&watcher.world, "a").is_none());
    server.apply_pod(pod("b", NODE, A, "db"));
    watcher.until("the address of the next", |watcher| {
        address(&watcher.world, "b") == Some(A.to_string())
    });
    let created = watcher.world.pods[&pod_name("b")].created;
    server.delete("Pod", "x/b");
    server.apply_pod(pod("b", NODE, B, "db"));
    watcher.until("the pod of the same name", |watcher| {
        address(&watcher.world, "b") == Some(B.to_string())
    });
    assert!(watcher.world.pods[&pod_name("b")].created >= created);
    // A namespace's labels come too, and change.
    server.merge("Namespace", "x", json!({"metadata": {"labels": {"team": "blue"}}}));
    watcher.until("the namespace's label", |watcher| {
        let labels = watcher.world.namespaces.get("x");
        labels.and_then(|labels| labels.get("team")).is_some_and(|team| team == "blue")
    });
}

/// Where a port of the service x/web leads.
fn backends(world: &World) -> Option<Vec<String>> {
    let name = ServiceName { namespace: "x".into(), name: "web".into() };
    let port = world.services.get(&name)?.ports.first()?;
    Some(port.backends.iter().map(|b| format!("{}:{}", b.address, b.port)).collect())
}

fn slice(name: &str, endpoints: Value) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "x", "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

#[test]
fn a_service_leads_where_its_slices_say() {
    let Some(setup) = Setup::new() else { return };
    let server = &setup.server;
    let ready = |address: Ipv4Addr| json!({"addresses": [address.to_string()]});
    let leaving = |address: Ipv4Addr| {
        json!({
            "addresses": [address.to_string()],
            "conditions": {"ready": false, "serving": true, "terminating": true},
        })
    };
    server.apply(json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "x"},
        "spec": {
            "selector": {"app": "web"}, "externalIPs": ["192.0.2.7"],
            "ports": [{"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}],
        },
    }));
    let mut watcher = setup.watcher();
    let name = ServiceName { namespace: "x".into(), name: "web".into() };
    let addresses = watcher.world.services[&name].addresses.clone();
    assert_eq!(addresses.len(), 2, "a ClusterIP and an external one: {addresses:?}");
    assert_eq!(backends(&watcher.world), Some(Vec::new()));
    server.apply(slice("web-1", json!([ready(A), leaving(B)])));
    watcher.until("the ready one", |w| backends(&w.world) == Some(vec![format!("{A}:8080")]));
    server.apply(slice("web-1", json!([leaving(A), leaving(B)])));
    let both = vec![format!("{A}:8080"), format!("{B}:8080")];
    watcher.until("those that still serve", |w| backends(&w.world).as_ref() == Some(&both));
    server.apply(slice("web-2", json!([ready(C)])));
    watcher.until("the one of another slice", |w| {
        backends(&w.world) == Some(vec![format!("{C}:8080")])
    });
    server.delete("EndpointSlice", "x/web-2");
    watcher.until("the former ones", |w| backends(&w.world).as_ref() == Some(&both));
    server.delete("Service", "x/web");
    watcher.until("no service", |w| !w.world.services.contains_key(&name));
}

#[test]
fn a_policy_that_cannot_be_converted_is_closed_and_says_so_once_on_itself() {
    let Some(setup) = Setup::new() else { return };
    let server = &setup.server;
    // The API server takes this one (with a warning), and nobody can say what it means.
    let mut mapped = allow("mapped", "web", "client", 80);
    mapped["spec"]["ingress"][0]["from"] = json!([{"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}]);
    server.apply(mapped);
    let mut watcher = setup.watcher();
    // An agent of another node sees the same and says the same.
    let mut other = Watcher::start(server, server.admin_kubeconfig(), "node-2");
    other.until_synced();
    // One that the server would not take, as it may have been stored by an older one.
    let mut stored = allow("stored", "db", "client", 80);
    stored["metadata"]["uid"] = json!("00000000-0000-0000-0000-000000000001");
    stored["metadata"]["creationTimestamp"] = json!("2026-01-01T00:00:00Z");
    stored["spec"]["ingress"][0]["ports"][0]["protocol"] = json!("QUIC");
    server.store("networkpolicies/x/stored", &stored);
    for name in ["mapped", "stored"] {
        watcher.until("the closed policy", |watcher| {
            let policy = watcher.world.policies.get(&policy_name(name));
            policy.is_some_and(|policy| policy.ingress.as_deref() == Some(&[]))
        });
    }
    watcher.until("both faults", |watcher| watcher.faults.len() == 2);
    assert!(watcher.faults[0].starts_with("NetworkPolicy x/mapped: spec.ingress[0].from[0]"));
    assert!(watcher.faults[1].starts_with("NetworkPolicy x/stored: spec.ingress[0].ports[0]"));
    for name in ["x/mapped", "x/stored"] {
        let begun = Instant::now();
        while server.events("NetworkPolicy", name).is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "no Event on {name}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    // Long enough for the other agent, which waits at most two seconds more.
    std::thread::sleep(Duration::from_secs(4));
    let events = server.events("NetworkPolicy", "x/mapped");
    assert_eq!(events.len(), 1, "{events:#?}");
    let event = &events[0];
    assert_eq!(event["reason"], "PolicyClosed");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["regarding"]["namespace"], "x");
    let note = event["note"].as_str().expect("a note");
    assert!(note.contains("cidr") && note.contains("isolated"), "{note}");

    server.apply(allow("mapped", "web", "client", 80));
    server.unstore("networkpolicies/x/stored");
    watcher.until("no faults", |watcher| watcher.faults.is_empty());
    let policy = &watcher.world.policies[&policy_name("mapped")];
    assert_eq!(policy.ingress.as_ref().map(Vec::len), Some(1));
    assert!(!watcher.world.policies.contains_key(&policy_name("stored")));
}
