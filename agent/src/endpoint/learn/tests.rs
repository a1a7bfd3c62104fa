use std::net::{TcpListener, TcpStream, UdpSocket};

use super::*;

const CHOSEN: RangeInclusive<u16> = 32_768..=60_999;

fn end(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn socket(protocol: Protocol, local: &str, remote: &str, is_bound: bool) -> Socket {
    Socket { protocol, local: end(local), remote: end(remote), stage: Stage::Open, is_bound }
}

fn waiting(protocol: Protocol, local: &str) -> Socket {
    let mut socket = socket(protocol, local, "0.0.0.0:0", true);
    socket.stage = Stage::Waiting;
    socket
}

/// What is told of `sockets`, in the pod 10.0.0.1 on the node 10.0.0.254: the remote end and who began.
fn told(sockets: &[Socket]) -> Vec<(SocketAddr, Direction, bool)> {
    let node = BTreeSet::from([end("10.0.0.254:0").ip()]);
    let ends = BTreeSet::from([(Protocol::Tcp, end("10.0.0.254:40000"))]);
    let own = BTreeSet::from([end("10.0.0.1:0").ip(), end("[fd00::1]:0").ip()]);
    let connections = tell(sockets, &own, &CHOSEN, &Host { addresses: &node, ends });
    connections.iter().map(|c| (c.remote, c.initiator, c.is_hosts)).collect()
}

#[test]
fn who_began_a_tcp_connection_follows_from_the_ports() {
    const PEER: &str = "10.0.0.2:5000";
    let began = |local: &str, is_bound| {
        let listener = waiting(Protocol::Tcp, "0.0.0.0:80");
        let told = told(&[listener, socket(Protocol::Tcp, local, PEER, is_bound)]);
        assert_eq!(told.len(), 1);
        told[0].1
    };
    assert_eq!(began("10.0.0.1:80", false), Direction::Ingress, "accepted");
    assert_eq!(began("10.0.0.1:81", false), Direction::Ingress, "accepted by one that is gone");
    assert_eq!(began("10.0.0.1:40000", false), Direction::Egress, "a port of the kernel's choice");
    assert_eq!(began("10.0.0.1:80", true), Direction::Egress, "bound to a listener's port");
    assert_eq!(began("10.0.0.1:81", true), Direction::Egress, "bound to a port of its own");
}

#[test]
fn of_udp_only_what_is_clear_is_told() {
    const PEER: &str = "10.0.0.2:53";
    let unbound = socket(Protocol::Udp, "10.0.0.1:40000", PEER, false);
    assert_eq!(told(&[unbound]), [(end(PEER), Direction::Egress, false)]);
    let bound = socket(Protocol::Udp, "10.0.0.1:443", PEER, true);
    assert_eq!(told(&[bound]), []);
    let server = waiting(Protocol::Udp, "0.0.0.0:443");
    assert_eq!(told(&[server, bound]), [(end(PEER), Direction::Ingress, false)]);
    let other = waiting(Protocol::Tcp, "0.0.0.0:443");
    assert_eq!(told(&[other, bound]), [], "another protocol's port");
}

#[test]
fn what_does_not_leave_the_pod_is_not_told() {
    let sockets = [
        socket(Protocol::Tcp, "127.0.0.1:40000", "127.0.0.1:80", false),
        socket(Protocol::Tcp, "10.0.0.1:40000", "10.0.0.1:80", false),
        socket(Protocol::Tcp, "192.168.0.1:40000", "192.168.0.2:80", false),
        waiting(Protocol::Tcp, "0.0.0.0:80"),
    ];
    assert_eq!(told(&sockets), []);
}

#[test]
fn the_nodes_own_connections_are_told_from_those_that_it_translates() {
    let listener = waiting(Protocol::Tcp, "0.0.0.0:80");
    let own = socket(Protocol::Tcp, "10.0.0.1:80", "10.0.0.254:40000", false);
    let translated = socket(Protocol::Tcp, "10.0.0.1:80", "10.0.0.254:40001", false);
    let opened = socket(Protocol::Tcp, "10.0.0.1:40000", "10.0.0.254:6443", false);
    assert_eq!(
        told(&[listener, own, translated, opened]),
        [
            (end("10.0.0.254:40000"), Direction::Ingress, true),
            (end("10.0.0.254:6443"), Direction::Egress, false),
        ]
    );
}

#[test]
fn a_connection_becomes_a_flow_that_no_generation_has_judged() {
    let connection = |stage| Connection {
        protocol: Protocol::Tcp,
        local: end("10.0.0.1:80"),
        remote: end("10.0.0.2:40000"),
        stage,
        initiator: Direction::Ingress,
        is_hosts: false,
    };
    let (key, flow) = connection(Stage::Open).flow(7);
    assert_eq!(IpAddr::from(key.remote), end("10.0.0.2:0").ip());
    assert_eq!((key.epoch, key.protocol), (7, 6));
    assert_eq!(key.local_port_be.to_ne_bytes(), [0, 80]);
    assert_eq!(key.remote_port_be, 40_000_u16.to_be());
    assert_eq!((flow.generation, flow.state), (0, FlowState::Established as u32));
    assert_eq!((flow.initiator, flow.flags), (Direction::Ingress as u32, 0));
    let closing = connection(Stage::Closing).flow(7).1;
    assert_eq!(closing.state, FlowState::Closing as u32);
    assert_eq!(closing.flags, Flow::FLAG_FIN_INGRESS | Flow::FLAG_FIN_EGRESS);
    let hosts = Connection { is_hosts: true, ..connection(Stage::ClosedThere) }.flow(7).1;
    assert_eq!(hosts.flags, Flow::FLAG_FIN_INGRESS | Flow::FLAG_HOST);
}

#[test]
fn the_kernel_says_which_ports_were_asked_for_and_what_was_accepted_was_not() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    // Asked for by number now that it is known to be free; both have SO_REUSEADDR.
    let port = listener.local_addr().expect("an address").port();
    drop(listener);
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("listens");
    let client = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let (accepted, _) = listener.accept().expect("accepted");
    let dual = UdpSocket::bind("[::]:0").expect("bound");
    dual.connect(("::ffff:127.0.0.1", port)).expect("connected");
    let sockets = sockets::list().expect("listed");
    let find = |protocol, local: SocketAddr, stage| {
        let found: Vec<_> = sockets
            .iter()
            .filter(|s| s.protocol == protocol && s.local == local && s.stage == stage)
            .collect();
        assert_eq!(found.len(), 1, "{local} in {sockets:?}");
        *found[0]
    };
    let at = listener.local_addr().expect("an address");
    assert!(find(Protocol::Tcp, at, Stage::Waiting).is_bound);
    let accepted = find(Protocol::Tcp, accepted.local_addr().expect("an address"), Stage::Open);
    assert!(!accepted.is_bound);
    assert_eq!(accepted.remote, client.local_addr().expect("an address"));
    assert!(!find(Protocol::Tcp, accepted.remote, Stage::Open).is_bound);
    let local = dual.local_addr().expect("an address");
    let plain = SocketAddr::new(local.ip().to_canonical(), local.port());
    let dual = find(Protocol::Udp, plain, Stage::Open);
    assert_eq!(dual.remote, at, "an IPv4 address, though the socket is of the other family");
}

#[test]
fn a_namespace_that_is_gone_is_named() {
    let pod = Isolating {
        pod: "x/a".into(),
        netns: "/run/netns/sluice-none-of-this-name".into(),
        addresses: BTreeSet::new(),
        epoch: 1,
    };
    let found = connections(&[pod], &BTreeSet::new());
    let [Err(error)] = found.as_slice() else { panic!("{found:?}") };
    let message = error.to_string();
    assert!(message.starts_with("cannot enter /run/netns/sluice-none-of-this-name: "), "{message}");
}
