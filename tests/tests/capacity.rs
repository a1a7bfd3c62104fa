//! Each table too small for what one policy asks, in the kernel of this machine: that one is closed and
//! named, the rest is as it was, and when the load goes all is open again. The tables have the sizes that
//! they have on every node. `chaos` does the same with `rule_hits`. Needs root.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use sluice::control::{self, Request, Response};
use sluice::status::{EnforcementState, Status};
use sluice_common::abi::capacity;
use sluice_tests::http::{agent, sample};
use sluice_tests::node::{AgentProcess, Node, pod};
use sluice_tests::traffic::{CLIENT, OPEN, SERVER, bind, client_and_server};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// For an agent that was not built for release to read and compile a quarter of a million entries.
const PATIENCE: Duration = Duration::from_secs(300);

/// A node whose server takes datagrams from its client, and whose agent serves metrics.
struct Scene {
    _agent: AgentProcess,
    client: UdpSocket,
    server: UdpSocket,
    node: Node,
}

impl Scene {
    fn new() -> Self {
        let node = client_and_server(BINARY);
        let agent = node.start_agent();
        let client = bind(&node, "client", CLIENT, 30_000);
        let server = bind(&node, "server", SERVER, OPEN);
        let scene = Self { _agent: agent, client, server, node };
        assert!(scene.arrives());
        scene
    }

    fn arrives(&self) -> bool {
        self.client.send_to(b"to the open port", (SERVER, OPEN)).expect("sent");
        self.server.recv(&mut [0; 32]).is_ok()
    }

    fn until(&self, what: &str, holds: impl Fn(&Status) -> bool) -> Duration {
        let begun = Instant::now();
        loop {
            // It is busy for longer than it is for any other test.
            let answer = control::ask(&self.node.state_dir(), Request::Status, PATIENCE);
            let Ok(Response::Status(status)) = answer else {
                panic!("{what}: {answer:?}\n{}", self.node.log());
            };
            if status.synced && holds(&status) {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {status:#?}\n{}", self.node.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Has `load` overflow a table, which closes `pod` in one direction, until it is gone.
    fn overflow(&self, table: &str, capacity: u32, closed: (&str, &str), load: &str) {
        let (pod, direction) = closed;
        self.node.write("load.yaml", load);
        let state = |status: &Status, pod: &str| {
            let found = status.endpoints.iter().find(|endpoint| endpoint.pod == pod);
            found.expect("it is listed").state
        };
        let took = self.until(table, |status| state(status, pod) == EnforcementState::Closed);
        println!("{table}: closed after {took:?}");
        assert!(!self.arrives(), "{pod} is closed for {direction}");
        let status = self.node.status();
        let others = status.endpoints.iter().filter(|endpoint| endpoint.pod != pod);
        let is_open = |state| state != EnforcementState::Closed;
        assert!(others.map(|endpoint| endpoint.state).all(is_open), "{status:#?}");
        let said = format!("{pod} {direction}: table {table} needs ");
        assert!(status.faults.iter().any(|fault| fault.contains(&said)), "{:?}", status.faults);
        let used = status.tables.iter().find(|of| of.table == table).expect("it is listed");
        assert!(used.used <= used.capacity && used.capacity == u64::from(capacity), "{used:?}");
        let ready = agent(&self.node, "/readyz");
        assert_eq!((ready.status, ready.body.contains(&said)), (503, true), "{}", ready.body);
        let text = agent(&self.node, "/metrics").body;
        assert_eq!(sample(&text, r#"sluice_endpoints{state="closed"}"#), Some(1.0));

        self.node.unwrite("load.yaml");
        let is_enforced = |status: &Status| state(status, "x/server") == EnforcementState::Enforced;
        let took = self.until("without it", |s| is_enforced(s) && s.faults.is_empty());
        println!("{table}: open again after {took:?}");
        assert!(self.arrives());
        assert_eq!(agent(&self.node, "/readyz").status, 200);
        assert_eq!(self.node.heal(), 0, "the kernel is as it should be");
    }
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: x, name: {name}}}
spec: {{{spec}}}
"
    )
}

/// Blocks of one address each, as a list of peers.
fn blocks(count: u32) -> String {
    let mut peers = String::new();
    for number in 0..count {
        let address = Ipv4Addr::from(0xc600_0000 | (number * 2));
        write!(peers, "{{ipBlock: {{cidr: {address}/32}}}}, ").expect("written");
    }
    peers
}

/// Blocks within blocks, each with ports of its own: an address in the innermost has those of all.
#[test]
fn more_decisions_than_there_is_room_for_close_who_asks_for_them() {
    let (depth, ports) = (120, 75);
    assert!(ports * depth * (depth + 1) / 2 > capacity::DECISIONS);
    let mut rules = String::new();
    for level in 0..depth {
        // None is next to another, so that each takes an entry.
        let port = |i| format!("{{port: {}}}", 1001 + 2 * (level * ports + i));
        let ports = (0..ports).map(port).collect::<Vec<_>>().join(", ");
        let block = format!("{{ipBlock: {{cidr: \"fd00::/{}\"}}}}", 8 + level);
        write!(rules, "{{from: [{block}], ports: [{ports}]}}, ").expect("written");
    }
    let spec = format!("podSelector: {{matchLabels: {{app: server}}}}, ingress: [{rules}]");
    let load = policy("great", &spec);
    let closed = ("x/server", "ingress");
    Scene::new().overflow("decisions", capacity::DECISIONS, closed, &load);
}

/// Blocks count for each set of policies: four pods have four, in two directions each.
#[test]
fn more_blocks_than_there_is_room_for_close_who_asks_for_most_of_them() {
    let mut scene = Scene::new();
    let each = capacity::CIDRS / 8 + 100;
    let blocks = blocks(each);
    let rules = format!("ingress: [{{from: [{blocks}]}}], egress: [{{to: [{blocks}]}}]");
    let spec = format!("podSelector: {{}}, policyTypes: [Ingress, Egress], {rules}");
    let mut load = policy("great", &spec);
    for (name, last) in [("p3", 3), ("p4", 4)] {
        let address = Ipv4Addr::new(10, 9, 0, last);
        scene.node.add_pod(name, address);
        scene.node.write(&format!("{name}.yaml"), &pod(name, address, &format!("{{app: {name}}}")));
    }
    for app in ["server", "client", "p3", "p4"] {
        let one = "{ipBlock: {cidr: 203.0.113.9/32}}";
        let more = format!(
            "podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Ingress, Egress], \
             ingress: [{{from: [{one}]}}], egress: [{{to: [{{podSelector: {{}}}}, {one}]}}]"
        );
        load += &policy(&format!("of-{app}"), &more);
    }
    // One more block than any other set has: it is the greatest.
    let greatest = "podSelector: {matchLabels: {app: server}}, \
                    ingress: [{from: [{ipBlock: {cidr: 203.0.113.11/32}}]}]";
    load += &policy("greatest", greatest);
    scene.overflow("cidrs", capacity::CIDRS, ("x/server", "ingress"), &load);
}

/// External addresses times ports. All who are isolated for egress need all of them.
#[test]
fn more_addresses_of_services_than_there_is_room_for_close_egress() {
    let (addresses, ports) = (400, 350);
    assert!(addresses * ports > capacity::VIPS);
    let list = |count: u32, of: &dyn Fn(u32) -> String| -> String {
        (0..count).map(of).collect::<Vec<_>>().join(", ")
    };
    let external = list(addresses, &|i| Ipv4Addr::from(0xcb00_7100 + i).to_string());
    let ports = list(ports, &|i| format!("{{name: p{i}, port: {}, targetPort: 80}}", 1000 + i));
    let mut load = policy(
        "out",
        "podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{}]",
    );
    write!(
        load,
        "---
apiVersion: v1
kind: Service
metadata: {{namespace: x, name: great}}
spec: {{clusterIP: 10.96.0.1, externalIPs: [{external}], ports: [{ports}]}}
"
    )
    .expect("written");
    Scene::new().overflow("vips", capacity::VIPS, ("x/client", "egress"), &load);
}
