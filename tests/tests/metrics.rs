//! `/metrics`, `/livez` and `/readyz` of a running agent. Needs root, and promtool and Prometheus
//! (Debian's package `prometheus`).

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sluice::status::EnforcementState;
use sluice_tests::http::{agent, get, sample};
use sluice_tests::node::{METRICS, Node, allow_clients, pod};
use sluice_tests::traffic::{CLIENT, OPEN, SERVER, SHUT, bind, client_and_server};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0";

const DROPS: &str = r#"sluice_drop_packets_total{namespace="x",pod="server",direction="ingress",reason="default-deny"}"#;
const ALLOWED: &str =
    r#"sluice_allow_packets_total{namespace="x",pod="server",direction="ingress"}"#;
const RULE: &str = r#"sluice_rule_packets_total{kind="NetworkPolicy",namespace="x",name="allow-clients",direction="ingress",rule="0",verdict="allow"}"#;

/// Three allowed datagrams that arrive, and five forbidden ones before them.
fn send_some(node: &Node, client: &UdpSocket, server: &UdpSocket) {
    for _ in 0..5 {
        client.send_to(b"forbidden", (SERVER, SHUT)).expect("sent");
    }
    for _ in 0..3 {
        client.send_to(b"allowed", (SERVER, OPEN)).expect("sent");
        server.recv(&mut [0; 16]).unwrap_or_else(|error| panic!("{error}\n{}", node.log()));
    }
}

/// Drops, and packets that the rule decided on: nothing but the test causes these.
fn numbers(text: &str) -> [Option<f64>; 2] {
    [DROPS, RULE].map(|series| sample(text, series))
}

/// Packets that went on. The node's own stack sends some too.
fn allowed(text: &str) -> f64 {
    sample(text, ALLOWED).unwrap_or_else(|| panic!("{ALLOWED}: {text}"))
}

#[test]
fn packets_are_counted_over_a_restart_and_until_pod_and_policy_go() {
    let mut node = client_and_server(BINARY);
    let first = node.start_agent();
    let before = agent(&node, "/metrics").body;
    assert_eq!(numbers(&before), [Some(0.0); 2]);
    let server = bind(&node, "server", SERVER, OPEN);
    let client = bind(&node, "client", CLIENT, 30_000);
    send_some(&node, &client, &server);
    let sent = agent(&node, "/metrics").body;
    // The flow's first packet is the rule's, the others are the flow's.
    assert_eq!(numbers(&sent), [Some(5.0), Some(1.0)]);
    assert!(allowed(&sent) >= allowed(&before) + 3.0);

    first.kill();
    send_some(&node, &client, &server);
    let _second = node.start_agent();
    let restarted = agent(&node, "/metrics").body;
    assert_eq!(numbers(&restarted), [Some(10.0), Some(1.0)]);
    assert!(allowed(&restarted) >= allowed(&sent) + 3.0);

    node.unwrite("policy.yaml");
    node.sync();
    let open = agent(&node, "/metrics").body;
    assert_eq!(numbers(&open), [Some(10.0), None], "the rule is gone, its pod is not");
    drop((client, server));
    node.remove_pod("server");
    node.unwrite("server.yaml");
    node.sync();
    let text = agent(&node, "/metrics").body;
    assert!(!text.contains("server"), "labels of a pod that is gone: {text}");
    assert_eq!(sample(&text, r#"sluice_endpoints{state="not-isolated"}"#), Some(1.0));
}

/// Nobody counts the tables that packets fill; they are walked when the kernel is compared.
#[test]
fn the_tables_of_packets_are_counted_when_the_kernel_is_compared() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let flows = || {
        let text = agent(&node, "/metrics").body;
        let of =
            |metric: &str| sample(&text, &format!("{metric}{{map=\"flows\"}}")).expect("a sample");
        (of("sluice_map_entries"), of("sluice_map_entries_age_seconds"))
    };
    assert_eq!(flows().0, 0.0);
    let server = bind(&node, "server", SERVER, OPEN);
    let client = bind(&node, "client", CLIENT, 30_000);
    send_some(&node, &client, &server);
    node.heal();
    let (used, age) = flows();
    assert_eq!(used, 1.0);
    assert!(age < 30.0, "{age}");
    let led = r#"sluice_map_entries{map="endpoint_slots"}"#;
    assert_eq!(sample(&agent(&node, "/metrics").body, led), Some(1.0));
}

#[test]
fn promtool_finds_nothing_wrong_and_every_metric_is_there() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    node.heal();
    let answer = agent(&node, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("text/plain; version=0.0.4"), "{}", answer.head);
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool, of Debian's package prometheus");
    let mut input = promtool.stdin.take().expect("piped");
    input.write_all(answer.body.as_bytes()).expect("written");
    drop(input);
    let output = promtool.wait_with_output().expect("ended");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}\n{}", answer.body);

    let described: Vec<&str> = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    let expected = [
        "sluice_drop_packets_total",
        "sluice_drop_bytes_total",
        "sluice_allow_packets_total",
        "sluice_noted_packets_total",
        "sluice_rule_packets_total",
        "sluice_endpoints",
        "sluice_unenforced_endpoints",
        "sluice_objects",
        "sluice_policy_warnings",
        "sluice_watch_connected",
        "sluice_map_entries",
        "sluice_map_capacity",
        "sluice_map_entries_age_seconds",
        "sluice_last_heal_corrections",
        "sluice_apply_duration_seconds",
        "sluice_event_to_enforced_seconds",
        "sluice_pod_start_to_enforced_seconds",
        "sluice_cni_add_seconds",
        "sluice_learned_connections_total",
        "sluice_build_info",
    ];
    assert_eq!(described, expected);
    // All tables that can be full, by name.
    let tables: BTreeSet<&str> = answer
        .body
        .lines()
        .filter_map(|line| line.strip_prefix("sluice_map_capacity{map=\"")?.split('"').next())
        .collect();
    let all = "cidrs decisions endpoint_slots endpoint_slots_high endpoints flows fragments \
               hairpin_notes hairpins peers rule_hits vips";
    assert_eq!(tables, all.split(' ').collect());
    let open = get(&node, METRICS, "/metrics", OPEN_METRICS);
    assert!(open.head.contains("application/openmetrics-text; version=1.0.0"), "{}", open.head);
    assert!(open.body.ends_with("# EOF\n"));
}

/// A Prometheus in the node's namespace, killed when dropped.
struct Prometheus {
    process: Child,
    _directory: tempfile::TempDir,
}

const PROMETHEUS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9190);

impl Prometheus {
    fn start(node: &Node) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let config = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}
scrape_configs: [{{job_name: sluice, static_configs: [{{targets: ['{METRICS}']}}]}}]
"
        );
        let file = directory.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("written");
        let process = Command::new("nsenter")
            .arg(format!("--net={}", node.netns_path("node").display()))
            .arg("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={PROMETHEUS}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus, of Debian's package of this name");
        Self { process, _directory: directory }
    }

    /// The values of a query.
    fn query(node: &Node, query: &str) -> Vec<String> {
        let path = format!("/api/v1/query?query={query}");
        let answer: serde_json::Value =
            serde_json::from_str(&get(node, PROMETHEUS, &path, "*/*").body).unwrap_or_default();
        let results = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        results.iter().filter_map(|r| r["value"][1].as_str().map(str::to_owned)).collect()
    }

    /// Waits until a query has one value.
    fn wait_for(node: &Node, query: &str, value: &str) {
        let begun = Instant::now();
        loop {
            let found = Self::query(node, query);
            if found == [value] {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "{query}: {found:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_real_prometheus_scrapes_the_agent_and_forgets_a_pod_that_is_gone() {
    let mut node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let _prometheus = Prometheus::start(&node);
    Prometheus::wait_for(&node, "up", "1");
    let server = bind(&node, "server", SERVER, OPEN);
    let client = bind(&node, "client", CLIENT, 30_000);
    send_some(&node, &client, &server);
    Prometheus::wait_for(&node, "sum(sluice_drop_packets_total)", "5");
    Prometheus::wait_for(&node, "sum(sluice_rule_packets_total)", "1");
    Prometheus::wait_for(&node, "sum(sluice_endpoints)", "2");
    drop((client, server));
    node.remove_pod("server");
    node.unwrite("server.yaml");
    node.sync();
    Prometheus::wait_for(&node, "sum(sluice_endpoints)", "1");
    assert_eq!(Prometheus::query(&node, "sluice_drop_packets_total"), [""; 0]);
}

#[test]
fn an_agent_is_alive_at_once_and_ready_when_everything_is_enforced() {
    let node = Node::new(BINARY);
    let _agent = node.spawn_agent();
    assert_eq!(agent(&node, "/livez").status, 200);
    let answer = agent(&node, "/readyz");
    assert_eq!(answer.status, 503);
    assert!(answer.body.contains("has not delivered its first full list yet"), "{}", answer.body);

    // A pod that is not there.
    node.write("server.yaml", &pod("server", SERVER, "{app: server}"));
    node.write("policy.yaml", &allow_clients(OPEN));
    wait_for(&node, "missing: x/server: no network namespace");
    let text = agent(&node, "/metrics").body;
    let unfound = r#"sluice_unenforced_endpoints{reason="address-not-found"}"#;
    assert_eq!(sample(&text, unfound), Some(1.0));
    node.unwrite("server.yaml");
    node.sync();
    assert_eq!(agent(&node, "/readyz").status, 200);
}

#[test]
fn every_address_is_of_both_families_whatever_the_node_says_of_new_sockets() {
    let mut node = Node::new(BINARY);
    node.add_bare_pod("server");
    node.exec("server", "sysctl -qw net.ipv6.bindv6only=1");
    node.inside("server", || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let _entered = runtime.as_ref().expect("a runtime").enter();
        let any = "[::]:0".parse().expect("an address");
        let listener = sluice::metrics::http::listen(any).expect("listens");
        let port = listener.local_addr().expect("an address").port();
        for address in ["127.0.0.1", "::1"] {
            let connected = TcpStream::connect((address, port));
            connected.unwrap_or_else(|error| panic!("{address}: {error}"));
        }
    });
}

/// Waits until `/readyz` says something.
fn wait_for(node: &Node, text: &str) {
    let begun = Instant::now();
    while !agent(node, "/readyz").body.contains(text) {
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", agent(node, "/readyz"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_policy_kind_that_is_not_enforced_is_named_everywhere_and_holds_nothing_up() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    assert!(node.sluice(&["status"]).output().expect("run").status.success());
    let foreign = "apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: x, name: theirs}
";
    node.write("theirs.yaml", foreign);
    node.sync();
    let ready = agent(&node, "/readyz");
    assert_eq!(ready.status, 200);
    assert!(ready.body.contains("CiliumNetworkPolicy x/theirs"), "{}", ready.body);
    let text = agent(&node, "/metrics").body;
    let rejected = r#"sluice_objects{kind="CiliumNetworkPolicy",state="rejected"}"#;
    assert_eq!(sample(&text, rejected), Some(1.0));
    assert!(node.log().contains("CiliumNetworkPolicy x/theirs"), "{}", node.log());
    let status = node.sluice(&["status"]).output().expect("run");
    assert_eq!(status.status.code(), Some(1));
    let printed = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(printed.contains("CiliumNetworkPolicy x/theirs"), "{printed}");
    node.unwrite("theirs.yaml");
    node.sync();
    assert!(node.sluice(&["status"]).output().expect("run").status.success());
}

/// What the agent does every 30 seconds by itself, a heal does at once.
#[test]
fn a_policy_that_names_a_port_of_no_pod_is_counted_until_a_pod_has_it() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let counted = || {
        node.sync();
        node.heal();
        let text = agent(&node, "/metrics").body;
        sample(&text, r#"sluice_policy_warnings{reason="unresolved-named-port"}"#)
    };
    assert_eq!(counted(), Some(0.0));
    let naming = allow_clients(OPEN).replace(&format!("port: {OPEN}"), "port: web");
    node.write("policy.yaml", &naming);
    assert_eq!(counted(), Some(1.0));
    // Of the pods that this one selects none runs here.
    const FAR: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);
    node.write("far.yaml", &pod("far", FAR, "{app: far}").replace("node-1", "node-2"));
    let elsewhere = naming.replace("app: server", "app: far").replace("allow-clients", "far");
    node.write("elsewhere.yaml", &elsewhere);
    assert_eq!(counted(), Some(1.0));
    let has_it = "ports: [{name: web, containerPort: 80}, \
                  {name: web, containerPort: 80, protocol: UDP}]";
    let named = pod("server", SERVER, "{app: server}");
    let named = named.replace("image: i", &format!("image: i, {has_it}"));
    node.write("server.yaml", &named);
    assert_eq!(counted(), Some(0.0));
}

#[test]
fn a_pod_that_never_could_be_converted_is_listed_as_not_enforced() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let bad = pod("stranger", SERVER, "{}").replace(&SERVER.to_string(), "10.0.0.300");
    node.write("stranger.yaml", &bad);
    // One of another node is none of ours.
    node.write("far.yaml", &bad.replace("node-1", "node-2").replace("stranger", "far"));
    node.sync();
    let listed = node.endpoint("x/stranger");
    assert_eq!(listed.state, EnforcementState::NotEnforced);
    assert_eq!(listed.cause.as_deref(), Some("invalid-object"));
    assert!(listed.reason.expect("a reason").contains("10.0.0.300"));
    assert!(node.status().endpoints.iter().all(|endpoint| endpoint.pod != "x/far"));
    assert_eq!(node.sluice(&["status"]).output().expect("run").status.code(), Some(1));
    let text = agent(&node, "/metrics").body;
    let invalid = r#"sluice_unenforced_endpoints{reason="invalid-object"}"#;
    assert_eq!(sample(&text, invalid), Some(1.0));
}

/// As many pods as a node has by default; prints what a scrape takes.
#[test]
fn a_scrape_tells_of_110_pods() {
    const PODS: u8 = 110;
    let mut node = Node::new(BINARY);
    let names: Vec<String> = (1..=PODS).map(|i| format!("p{i}")).collect();
    for (name, last) in names.iter().zip(1..) {
        let address = Ipv4Addr::new(10, 9, 0, last);
        node.add_pod(name, address);
        node.write(&format!("{name}.yaml"), &pod(name, address, "{app: server}"));
    }
    node.write("policy.yaml", &allow_clients(OPEN));
    let _agent = node.start_agent();
    let mut times = Vec::new();
    let mut text = String::new();
    for _ in 0..20 {
        let begun = Instant::now();
        text = agent(&node, "/metrics").body;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    println!("a scrape of {PODS} pods: median {:?}, {} bytes", times[10], text.len());
    for name in names {
        let series = DROPS.replace("server", &name);
        assert_eq!(sample(&text, &series), Some(0.0), "{series}");
    }
}
