//! Who may pass as the node's own host stack: packets that no interface received, and not what the
//! node has only cut into pieces. Needs root.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto,
};
use sluice::engine::packet::udp;
use sluice_common::parse::protocol;
use sluice_tests::node::{Node, allow_clients, dual_stack_pod};
use sluice_tests::packet::{V6, fragment};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const SENDER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const SENDER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);
/// Not allowed to anyone.
const SHUT: u16 = 81;
/// Bytes of a datagram, and how much of it its first piece carries (with its header).
const DATA: usize = 2400;
const FIRST: usize = 1000;

/// A datagram in two pieces: only the first has an options header, so that the whole has no room for
/// the second as it is.
fn in_uneven_pieces() -> [Vec<u8>; 2] {
    let mut datagram = udp(4000, SHUT, &[1; DATA]);
    let checksum = checksum(&datagram);
    datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
    let (first, second) = datagram.split_at(FIRST);
    let piece = |bytes: &[u8]| V6::new(SENDER6, SERVER6, protocol::UDP, bytes.to_vec());
    // An option that nobody knows and everybody skips (RFC 8200 section 4.2).
    let mut unknown = vec![24, 0x1e, 196];
    unknown.resize(199, 0);
    [
        piece(first).with((0, unknown)).with(fragment(0, true)).bytes(),
        piece(second).with(fragment(FIRST as u16, false)).bytes(),
    ]
}

/// Of a UDP datagram with a zero checksum between the two pods (RFC 8200 section 8.1).
fn checksum(datagram: &[u8]) -> u16 {
    let length = u16::try_from(datagram.len()).expect("short");
    let pseudo = [&SENDER6.octets()[..], &SERVER6.octets(), &length.to_be_bytes(), &[0, 17]];
    let bytes = [pseudo.concat(), datagram.to_vec()].concat();
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Sends an IPv6 packet as it is.
fn send_raw(packet: &[u8]) {
    let socket = nix::sys::socket::socket(
        AddressFamily::Inet6,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Raw,
    )
    .expect("a socket");
    let to = SockaddrIn6::from(SocketAddrV6::new(SERVER6, 0, 0, 0));
    sendto(socket.as_raw_fd(), packet, &to, MsgFlags::empty()).expect("sent");
}

/// A node that tracks connections puts a fragmented packet together, forwards it and cuts it again.
/// Pieces that it cuts anew have no ingress interface in IPv6.
#[test]
fn what_the_node_cuts_again_is_not_its_own() {
    let mut node = Node::new(BINARY);
    let sender = node.add_pod("sender", SENDER);
    let server = node.add_pod("server", SERVER);
    node.add_ipv6("sender", &sender, SENDER6);
    node.add_ipv6("server", &server, SERVER6);
    for command in [
        "add table inet track",
        "add chain inet track forwarded { type filter hook forward priority 0 ; }",
        "add rule inet track forwarded ct state established accept",
    ] {
        node.exec("node", &format!("nft {command}"));
    }

    let receiver =
        node.inside("server", || UdpSocket::bind((Ipv6Addr::UNSPECIFIED, SHUT))).expect("bound");
    receiver.set_read_timeout(Some(Duration::from_secs(30))).expect("set");
    let received = || receiver.recv(&mut [0; 4096]).expect("something arrives");
    let send = || {
        node.inside("sender", || in_uneven_pieces().iter().for_each(|piece| send_raw(piece)));
    };
    send();
    assert_eq!(received(), DATA, "the node forwards it while there is no policy");

    for (name, v4, v6, labels) in
        [("sender", SENDER, SENDER6, "{app: other}"), ("server", SERVER, SERVER6, "{app: server}")]
    {
        node.write(&format!("{name}.yaml"), &dual_stack_pod(name, v4, v6, labels));
    }
    node.write("policy.yaml", &allow_clients(80));
    let _agent = node.start_agent();
    send();
    // The node's own datagram, which always passes, tells when nothing else is to come.
    node.inside("node", || {
        let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("bound");
        socket.send_to(b"end", (SERVER6, SHUT)).expect("sent");
    });
    assert_eq!(received(), b"end".len(), "what policy forbids was let through in pieces");
}
