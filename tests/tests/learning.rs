//! Connections that are older than the isolation of their pod. Needs root.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use sluice::datapath::KernelMaps;
use sluice::datapath::pins::maps_of;
use sluice_common::abi::{Direction, Flow};
use sluice_tests::node::{Node, pod};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

const POD: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);

/// The port of the pod that its policy opens to everyone.
const OPEN: u16 = 80;
/// One that it does not.
const SHUT: u16 = 81;
/// A port of the other pod.
const THERE: u16 = 5000;

/// Isolates the pod in both directions: in by [`OPEN`] alone, out to the other pod's [`THERE`] alone.
fn policy() -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: x, name: late}}
spec:
  podSelector: {{matchLabels: {{app: pod}}}}
  policyTypes: [Ingress, Egress]
  ingress:
  - ports: [{{protocol: TCP, port: {OPEN}}}]
  egress:
  - ports: [{{protocol: TCP, port: {THERE}}}, {{protocol: UDP, port: {THERE}}}]
"
    )
}

fn node() -> Node {
    let mut node = Node::new(BINARY);
    node.add_pod("pod", POD);
    node.add_pod("other", OTHER);
    node.write("pod.yaml", &pod("pod", POD, "{app: pod}"));
    node.write("other.yaml", &pod("other", OTHER, "{app: other}"));
    node
}

/// Both ends of a TCP connection: that of the pod, and the other.
struct Ends {
    pods: TcpStream,
    others: TcpStream,
}

impl Ends {
    /// A connection from `from` to a port of `to`, each a namespace of the node; the listener is gone
    /// afterwards where `is_brief`.
    fn open(node: &Node, from: &str, to: &str, at: SocketAddr, is_brief: bool) -> Self {
        let listener = node.inside(to, || TcpListener::bind(at)).expect("listens");
        let near = node.inside(from, || TcpStream::connect(at)).expect("connected");
        let (far, _) = listener.accept().expect("accepted");
        if !is_brief {
            // It stays for as long as the test.
            std::mem::forget(listener);
        }
        for end in [&near, &far] {
            end.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
            end.set_nodelay(true).expect("set");
        }
        if to == "pod" {
            Self { pods: far, others: near }
        } else {
            Self { pods: near, others: far }
        }
    }

    /// What either end sends reaches the other, `first` sending first.
    fn assert_alive(&self, first: Side) {
        let (mut from, mut to) = match first {
            Side::Pod => (&self.pods, &self.others),
            Side::Other => (&self.others, &self.pods),
        };
        for _ in 0..2 {
            let mut buffer = [0; 4];
            from.write_all(b"ping").expect("sent");
            to.read_exact(&mut buffer).expect("it lives");
            assert_eq!(&buffer, b"ping");
            std::mem::swap(&mut from, &mut to);
        }
    }

    /// What neither end sends reaches the other.
    fn assert_cut(&self) {
        for (from, to) in [(&self.pods, &self.others), (&self.others, &self.pods)] {
            let (mut from, mut to) = (from, to);
            to.set_read_timeout(Some(Duration::from_millis(400))).expect("set");
            from.write_all(b"late").expect("queued");
            let read = to.read(&mut [0; 4]);
            let waited = read.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
            assert!(waited, "{from:?}: {read:?}");
        }
    }
}

/// An end of [`Ends`].
#[derive(Clone, Copy)]
enum Side {
    Pod,
    Other,
}

/// Connections of every kind with the pod, before it is isolated.
struct Before {
    allowed_in: Ends,
    forbidden_in: Ends,
    forbidden_in_of_a_listener_that_is_gone: Ends,
    allowed_out: Ends,
    forbidden_out: Ends,
    of_the_node: Ends,
    asking: UdpSocket,
    asked: UdpSocket,
}

impl Before {
    /// Seven connections.
    fn open(node: &Node) -> Self {
        let at = |address: Ipv4Addr, port: u16| SocketAddr::from((address, port));
        let asked = node.inside("other", || UdpSocket::bind(at(OTHER, THERE))).expect("bound");
        let asking = node.inside("pod", || UdpSocket::bind(at(POD, 0))).expect("bound");
        asking.connect(at(OTHER, THERE)).expect("connected");
        for socket in [&asked, &asking] {
            socket.set_read_timeout(Some(Duration::from_secs(10))).expect("set");
        }
        Self {
            allowed_in: Ends::open(node, "other", "pod", at(POD, OPEN), false),
            forbidden_in: Ends::open(node, "other", "pod", at(POD, SHUT), false),
            forbidden_in_of_a_listener_that_is_gone: Ends::open(
                node,
                "other",
                "pod",
                at(POD, SHUT + 1),
                true,
            ),
            allowed_out: Ends::open(node, "pod", "other", at(OTHER, THERE), false),
            forbidden_out: Ends::open(node, "pod", "other", at(OTHER, THERE + 1), false),
            of_the_node: Ends::open(node, "node", "pod", at(POD, SHUT + 2), false),
            asking,
            asked,
        }
    }

    fn check(&self) {
        // Each in the direction in which its packets would not be let through by themselves.
        self.allowed_in.assert_alive(Side::Pod);
        self.allowed_out.assert_alive(Side::Other);
        self.of_the_node.assert_alive(Side::Pod);
        self.asked.send_to(b"answer", self.asking.local_addr().expect("bound")).expect("sent");
        assert_eq!(self.asking.recv(&mut [0; 64]).expect("it lives"), 6);
        self.forbidden_in.assert_cut();
        self.forbidden_in_of_a_listener_that_is_gone.assert_cut();
        self.forbidden_out.assert_cut();
    }
}

/// The connections that the log says were learned, each time.
fn learned(node: &Node) -> Vec<String> {
    let log = node.log();
    let lines = log.lines().filter(|line| line.contains("learned what was open"));
    let count = |line: &str| {
        let rest = line.split("connections=").nth(1)?;
        Some(rest.split(' ').next()?.to_owned())
    };
    lines.filter_map(count).collect()
}

#[test]
fn a_pod_that_becomes_isolated_keeps_what_is_allowed_and_answers_and_loses_the_rest() {
    let node = node();
    let _agent = node.start_agent();
    let before = Before::open(&node);
    node.write("policy.yaml", &policy());
    node.sync();
    assert_eq!(learned(&node), ["7"]);
    before.check();
}

#[test]
fn an_agent_that_finds_running_pods_learns_their_connections() {
    let node = node();
    let before = Before::open(&node);
    node.write("policy.yaml", &policy());
    let agent = node.start_agent();
    assert_eq!(learned(&node), ["7"]);
    before.check();
    // The next one takes over the flows.
    agent.kill();
    let _agent = node.start_agent();
    assert_eq!(learned(&node), ["7"]);
    before.allowed_out.assert_alive(Side::Other);
}

#[test]
fn what_is_learned_is_as_fresh_as_what_a_program_sees_at_that_time() {
    let node = node();
    let _agent = node.start_agent();
    let at = SocketAddr::from((POD, OPEN));
    let learned = Ends::open(&node, "other", "pod", at, true);
    node.write("policy.yaml", &policy());
    node.sync();
    let seen = Ends::open(&node, "other", "pod", at, true);
    let flow = |of: &Ends| -> Flow {
        let port = of.others.local_addr().expect("an address").port();
        let maps = KernelMaps::open(&maps_of(&node.bpffs())).expect("pinned tables");
        let flows = maps.flows().expect("readable");
        let mut of_port = flows.iter().filter(|(key, _)| key.remote_port_be == port.to_be());
        let flow = of_port.next().expect("known").1;
        assert_eq!(of_port.next(), None);
        flow
    };
    let (learned, seen) = (flow(&learned), flow(&seen));
    assert_eq!((learned.generation, learned.initiator), (0, Direction::Ingress as u32));
    assert_eq!(seen.initiator, learned.initiator);
    assert_ne!(seen.generation, 0);
    // Its clock is an estimate; a quarter of a minute at the highest rate that kernels are built with.
    assert!(seen.last_seen.abs_diff(learned.last_seen) < 15_000, "{learned:?} {seen:?}");
}
