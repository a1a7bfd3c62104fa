//! Path MTU discovery through a router whose next link takes less (SEMANTICS 45): its errors reach an
//! isolated pod that may talk to the host behind it. Needs root.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use sluice_tests::node::{GATEWAY6, Node, dual_stack_pod};
use sluice_tests::traffic::SOON;

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const CLIENT: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 9, 0, 1), Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1));
const ROUTER: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 9, 1, 1), Ipv6Addr::new(0xfd00, 9, 1, 0, 0, 0, 0, 1));
const FAR: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 9, 2, 1), Ipv6Addr::new(0xfd00, 9, 2, 0, 0, 0, 0, 1));
const PORT: u16 = 4000;
/// Of the link behind the router. What is at its end would take more, and says so when a connection opens.
const MTU: usize = 1300;
/// For what takes less than a second; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the client may do; nothing may open connections to it.
fn policy() -> String {
    let (v4, v6) = FAR;
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: x, name: client}}
spec:
  podSelector: {{}}
  policyTypes: [Ingress, Egress]
  egress:
  - to: [{{ipBlock: {{cidr: {v4}/32}}}}, {{ipBlock: {{cidr: \"{v6}/128\"}}}}]
    ports: [{{protocol: UDP, port: {PORT}}}, {{protocol: TCP, port: {PORT}}}]
"
    )
}

/// The pod, the node, the router and the host behind it, in a row.
fn network() -> Node {
    let mut node = Node::new(BINARY);
    let client = node.add_pod("client", CLIENT.0);
    node.add_ipv6("client", &client, CLIENT.1);
    let router = node.add_pod("router", ROUTER.0);
    node.add_ipv6("router", &router, ROUTER.1);
    node.add_pod("far", FAR.0);
    let (v4, v6) = FAR;
    for command in [
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1".to_owned(),
        "ip addr add fe80::fe/64 dev eth0 nodad".to_owned(),
        format!(
            "ip link add behind mtu {MTU} type veth peer name ahead mtu 1500 netns {}",
            node.netns("far")
        ),
        "ip addr add fe80::fe/64 dev behind nodad".to_owned(),
        "ip link set behind up".to_owned(),
        format!("ip route add {v4}/32 dev behind"),
        format!("ip route add {v6}/128 dev behind"),
        format!("ip route replace default via {GATEWAY6} dev eth0"),
    ] {
        node.exec("router", &command);
    }
    for command in [
        "ip link set eth0 down".to_owned(),
        "ip link set ahead up".to_owned(),
        format!("ip addr add {v4}/32 dev ahead"),
        format!("ip addr add {v6}/128 dev ahead nodad"),
        format!("ip route add {}/32 dev ahead", ROUTER.0),
        format!("ip route add default via {} dev ahead src {v4}", ROUTER.0),
        "ip route add default via fe80::fe dev ahead".to_owned(),
    ] {
        node.exec("far", &command);
    }
    node.exec("node", &format!("ip route replace {v4}/32 via {} dev {router}", ROUTER.0));
    node.exec("node", &format!("ip route replace {v6}/128 via fe80::fe dev {router}"));
    node.write("client.yaml", &dual_stack_pod("client", CLIENT.0, CLIENT.1, "{app: client}"));
    node.write("policy.yaml", &policy());
    node
}

/// A socket that lets no packet be cut (`IP_PMTUDISC_DO`).
fn uncut(from: IpAddr) -> io::Result<UdpSocket> {
    use nix::libc::{IP_MTU_DISCOVER, IPPROTO_IP, IPPROTO_IPV6, IPV6_MTU_DISCOVER, setsockopt};
    let only_whole: i32 = 2;
    let socket = UdpSocket::bind(SocketAddr::new(from, 0))?;
    let (level, option) = match from {
        IpAddr::V4(_) => (IPPROTO_IP, IP_MTU_DISCOVER),
        IpAddr::V6(_) => (IPPROTO_IPV6, IPV6_MTU_DISCOVER),
    };
    let length = size_of_val(&only_whole) as u32;
    // SAFETY: the option is an integer, which outlives the call.
    let result = unsafe {
        setsockopt(socket.as_raw_fd(), level, option, (&raw const only_whole).cast(), length)
    };
    if result == 0 { Ok(socket) } else { Err(io::Error::last_os_error()) }
}

#[test]
fn a_pod_learns_that_its_packets_are_too_big() {
    let node = network();
    let _agent = node.start_agent();
    for (client, far) in
        [(IpAddr::from(CLIENT.0), IpAddr::from(FAR.0)), (CLIENT.1.into(), FAR.1.into())]
    {
        let receiver = node.inside("far", || UdpSocket::bind(SocketAddr::new(far, PORT)));
        let receiver = receiver.expect("bound");
        receiver.set_read_timeout(Some(SOON)).expect("set");
        let sender = node.inside("client", || uncut(client)).expect("bound");
        sender.set_read_timeout(Some(SOON)).expect("set");
        sender.connect(SocketAddr::new(far, PORT)).expect("connected");
        let arrives = |length: usize| {
            sender.send(&vec![7; length]).expect("sent");
            receiver.recv(&mut [0; 2048]).is_ok_and(|received| received == length)
        };
        assert!(arrives(1000), "{far} is reached");
        // It fits the first link and not the second.
        sender.send(&[7; 1400]).expect("sent");
        let error = sender.recv(&mut [0; 64]).expect_err("nobody sends anything");
        assert_eq!(error.raw_os_error(), Some(nix::libc::EMSGSIZE), "{error}");
        let again = sender.send(&[7; 1400]).expect_err("the pod knows by now");
        assert_eq!(again.raw_os_error(), Some(nix::libc::EMSGSIZE), "{again}");
        assert!(arrives(MTU - 48), "what fits is let through to {far}");
    }
}

/// What the kernel knows of the way to the other end of a connection.
fn path_mtu(stream: &TcpStream) -> u32 {
    // SAFETY: integers only, for which zeros are valid.
    let mut info: nix::libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `length` bytes, for which there is room.
    let result = unsafe {
        nix::libc::getsockopt(
            stream.as_raw_fd(),
            nix::libc::IPPROTO_TCP,
            nix::libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    info.tcpi_pmtu
}

/// A connection whose segments are too large stands still until its end knows.
#[test]
fn a_connection_learns_that_its_segments_are_too_big() {
    const BYTES: usize = 200_000;
    let node = network();
    let _agent = node.start_agent();
    for (client, far) in
        [(IpAddr::from(CLIENT.0), IpAddr::from(FAR.0)), (CLIENT.1.into(), FAR.1.into())]
    {
        let to = SocketAddr::new(far, PORT);
        let listener = node.inside("far", || TcpListener::bind(to)).expect("bound");
        let connected = node.inside("client", || TcpStream::connect_timeout(&to, PATIENCE));
        let mut stream = connected.expect("connected");
        assert_eq!(stream.local_addr().expect("bound").ip(), client);
        stream.set_write_timeout(Some(PATIENCE)).expect("set");
        assert_eq!(path_mtu(&stream), 1500, "nothing has been too big so far");
        let (mut far_end, _) = listener.accept().expect("accepted");
        far_end.set_read_timeout(Some(PATIENCE)).expect("set");
        let receiver = std::thread::spawn(move || {
            let mut received = vec![0; BYTES];
            far_end.read_exact(&mut received).map(|()| received)
        });
        stream.write_all(&[7; BYTES]).expect("sent");
        let received = receiver.join().expect("read").expect("all of it arrives");
        assert_eq!(received, [7; BYTES]);
        assert_eq!(path_mtu(&stream), MTU as u32, "to {far}");
    }
}
