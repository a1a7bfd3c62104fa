//! A service through a real API server, an agent and a translation like kube-proxy's: what a pod reaches
//! by a ClusterIP is what policy says of the backends, while these change. Needs root, and the API
//! server's programs; `cargo xtask test cluster` runs it.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::apiserver::{ApiServer, cluster, pod};
use sluice_tests::node::{AgentProcess, NODE, Node};
use sluice_tests::traffic::{OPEN, SERVER, bind};
use sluice_tests::translate::translate;

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// A second pod that the service can lead to.
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// Address and port of the service.
const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 96, 0, 77), 8000);

/// For what takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// Datagrams for one answer to "does it arrive": more than enough for either of two backends.
const ATTEMPTS: usize = 24;

/// The cluster with the service x/web and a second server, and an agent.
struct Setup {
    server: ApiServer,
    sockets: Vec<UdpSocket>,
    _agent: AgentProcess,
    machine: Node,
}

impl Setup {
    fn new() -> Option<Self> {
        let (mut machine, server) = cluster(BINARY)?;
        machine.add_pod("other", OTHER);
        server.apply_pod(pod("other", NODE, OTHER, "other"));
        server.apply(json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "web", "namespace": "x"},
            "spec": {
                "clusterIP": SERVICE.ip().to_string(),
                "ports": [{"port": SERVICE.port(), "targetPort": OPEN, "protocol": "UDP"}],
            },
        }));
        let sockets: Vec<UdpSocket> = [("server", SERVER), ("other", OTHER)]
            .into_iter()
            .map(|(pod, address)| bind(&machine, pod, address, OPEN))
            .collect();
        for socket in &sockets {
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
        }
        let agent = machine.start_agent();
        Some(Self { server, sockets, _agent: agent, machine })
    }

    /// Has the service lead to these pods: what the endpoint controller and kube-proxy do.
    fn lead_to(&self, backends: &[Ipv4Addr]) {
        let endpoints: Vec<Value> =
            backends.iter().map(|address| json!({"addresses": [address.to_string()]})).collect();
        self.server.apply(json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "web-1", "namespace": "x", "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "", "port": OPEN, "protocol": "UDP"}],
        }));
        let targets: Vec<SocketAddrV4> =
            backends.iter().map(|address| SocketAddrV4::new(*address, OPEN)).collect();
        translate(&self.machine, SERVICE, &targets);
    }

    /// How many of [`ATTEMPTS`] new flows from a pod to the service arrive anywhere.
    fn arrivals(&self, from: &str) -> usize {
        let clients: Vec<UdpSocket> = self.machine.inside(from, || {
            (0..ATTEMPTS).map(|_| UdpSocket::bind("0.0.0.0:0").expect("bound")).collect()
        });
        for client in &clients {
            client.send_to(b"a datagram", SERVICE).expect("sent");
        }
        let arrived = |socket: &UdpSocket| {
            let mut buffer = [0; 64];
            (0..ATTEMPTS).take_while(|_| socket.recv(&mut buffer).is_ok()).count()
        };
        self.sockets.iter().map(arrived).sum()
    }

    /// Waits until all, or none, of what a pod sends to the service arrives.
    fn until(&self, what: &str, from: &str, arrive: bool) {
        let begun = Instant::now();
        let expected = if arrive { ATTEMPTS } else { 0 };
        loop {
            let arrived = self.arrivals(from);
            if arrived == expected {
                println!("{what}: after {:?}", begun.elapsed());
                return;
            }
            let (status, log) = (self.machine.status(), self.machine.log());
            assert!(begun.elapsed() < PATIENCE, "{what}: {arrived} arrive: {status:#?}\n{log}");
        }
    }
}

/// Lets the client out to these peers on a port, and nowhere else.
fn egress(peers: Value, port: u16) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "client-egress", "namespace": "x"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "client"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": peers, "ports": [{"port": port, "protocol": "UDP"}]}],
        },
    })
}

fn pods(app: &str) -> Value {
    json!([{"podSelector": {"matchLabels": {"app": app}}}])
}

#[test]
fn a_service_is_what_its_backends_are_while_they_and_the_policies_change() {
    let Some(setup) = Setup::new() else { return };
    setup.lead_to(&[SERVER]);
    setup.until("egress is open", "client", true);
    // By the backends' port, not by the service's (SEMANTICS 34, 35, 37).
    setup.server.apply(egress(pods("server"), SERVICE.port()));
    setup.until("the service's port is allowed alone", "client", false);
    setup.server.apply(egress(pods("server"), OPEN));
    setup.until("the backend's port is allowed", "client", true);
    let block = json!([{"ipBlock": {"cidr": format!("{}/32", SERVICE.ip())}}]);
    setup.server.apply(egress(block, OPEN));
    setup.until("the service's address is allowed alone", "client", false);
    setup.server.apply(egress(pods("server"), OPEN));
    setup.until("the backend is allowed again", "client", true);

    // Other backends: one that is not allowed, both, none.
    setup.lead_to(&[OTHER]);
    setup.until("it leads to a pod that is not allowed", "client", false);
    setup.server.apply(egress(pods("other"), OPEN));
    setup.until("that pod is allowed", "client", true);
    setup.lead_to(&[]);
    setup.until("it leads nowhere", "client", false);
    setup.lead_to(&[SERVER, OTHER]);
    setup.until("one of two is allowed", "client", false);
    let mixed = || setup.server.events("Pod", "x/client");
    let begun = Instant::now();
    while mixed().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "no Event: {:#?}", setup.machine.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(mixed()[0]["reason"], "MixedBackends");
    assert!(
        mixed()[0]["note"].as_str().is_some_and(|note| note.contains("x/web")),
        "{mixed:?}",
        mixed = mixed()
    );
    let both = json!([{"podSelector": {"matchExpressions": [
        {"key": "app", "operator": "In", "values": ["server", "other"]},
    ]}}]);
    setup.server.apply(egress(both, OPEN));
    setup.until("both are allowed", "client", true);
    // Said once, and no other.
    assert_eq!(mixed().len(), 1, "{:#?}", mixed());
}

#[test]
fn a_pod_reaches_itself_through_its_service_whatever_isolates_it() {
    let Some(setup) = Setup::new() else { return };
    setup.server.apply(json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "alone", "namespace": "x"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "server"}},
            "policyTypes": ["Ingress", "Egress"],
        },
    }));
    setup.server.delete("NetworkPolicy", "x/allow-clients");
    setup.lead_to(&[SERVER]);
    setup.until("nobody else does", "client", false);
    setup.until("it reaches itself", "server", true);
    // To another pod the same service is closed, and open again when it leads back.
    setup.lead_to(&[OTHER]);
    setup.until("it leads to another", "server", false);
    setup.lead_to(&[SERVER]);
    setup.until("it leads back", "server", true);
}

#[test]
fn a_service_with_something_that_cannot_be_read_is_closed_and_says_so_on_itself() {
    let Some(setup) = Setup::new() else { return };
    setup.lead_to(&[SERVER]);
    setup.server.apply(egress(pods("server"), OPEN));
    setup.until("the backend is allowed", "client", true);
    // As it may have been stored by an older server, which checked less.
    let mut stored = setup.server.get("Service", "x/web").expect("it is there");
    stored["spec"]["externalIPs"] = json!(["192.0.2.1", "not an address"]);
    setup.server.store("services/specs/x/web", &stored);
    setup.until("the service cannot be read", "client", false);
    let begun = Instant::now();
    while setup.server.events("Service", "x/web").is_empty() {
        assert!(begun.elapsed() < PATIENCE, "no Event: {:#?}", setup.machine.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    let event = &setup.server.events("Service", "x/web")[0];
    assert_eq!(event["reason"], "ServiceClosed");
    let faults = setup.machine.status().faults;
    assert!(
        matches!(&faults[..], [fault] if fault.starts_with("Service x/web: spec.externalIPs[1]")),
        "{faults:?}"
    );
    stored["spec"]["externalIPs"] = json!([]);
    setup.server.store("services/specs/x/web", &stored);
    setup.until("it can be read again", "client", true);
}
