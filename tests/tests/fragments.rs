//! Packets in pieces (SEMANTICS 47): later fragments have the verdict of their first, and what could
//! change it afterwards is dropped for a reason of its own. Pieces that no packet can have are among the
//! packets of `hostile_packets`. Needs root.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use sluice::engine::packet::udp;
use sluice_common::abi::Direction;
use sluice_common::parse::protocol;
use sluice_common::reason::Reason;
use sluice_tests::node::{Node, allow_clients, dual_stack_pod};
use sluice_tests::packet::{V4, V6, fragment, options};
use sluice_tests::scene::{EPOCH, PEER, PEER6, POD, POD6, Scene};
use sluice_tests::traffic::SOON;

use Direction::{Egress, Ingress};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const OPEN: u16 = 80;
const SHUT: u16 = 81;
/// IPv4's "more fragments"; the offset below it counts in units of eight bytes.
const MORE: u16 = 0x2000;
/// Bytes in a piece.
const PIECE: u16 = 64;

fn scene() -> Scene {
    let mut scene = Scene::new();
    for (direction, number) in
        [(Ingress, protocol::UDP), (Egress, protocol::UDP), (Ingress, protocol::TCP)]
    {
        scene.allow(direction, number, OPEN);
    }
    scene
}

/// A piece of a UDP datagram of three, `number` 0 to 2, in IPv4 (`id` is the datagram's).
fn piece4(direction: Direction, port: u16, id: u16, number: u16) -> Vec<u8> {
    let (source, destination) = match direction {
        Ingress => (PEER, POD),
        Egress => (POD, PEER),
    };
    let packet = V4::new(source, destination, protocol::UDP, payload(port, number));
    let more = if number < 2 { MORE } else { 0 };
    let mut frame = V4 { fragment: more | (number * PIECE / 8), ..packet }.frame();
    frame[18..20].copy_from_slice(&id.to_be_bytes());
    frame
}

/// Likewise in IPv6, behind a hop-by-hop header.
fn piece6(direction: Direction, port: u16, id: u16, number: u16) -> Vec<u8> {
    let (source, destination) = match direction {
        Ingress => (PEER6, POD6),
        Egress => (POD6, PEER6),
    };
    let (extension, mut body) = fragment(number * PIECE, number < 2);
    body[5..7].copy_from_slice(&id.to_be_bytes());
    let packet = V6::new(source, destination, protocol::UDP, payload(port, number));
    packet.with(options(0, 0)).with((extension, body)).frame()
}

/// Of which only the first has ports; its length speaks of all three.
fn payload(port: u16, number: u16) -> Vec<u8> {
    if number > 0 {
        return vec![0; PIECE.into()];
    }
    let mut datagram = udp(5000, port, &vec![0; usize::from(3 * PIECE - 8)]);
    datagram.truncate(PIECE.into());
    datagram
}

/// A piece of a datagram.
type Piece = fn(Direction, u16, u16, u16) -> Vec<u8>;

#[test]
fn later_fragments_have_the_verdict_of_their_first() {
    for (piece, direction) in
        [(piece4 as Piece, Ingress), (piece4, Egress), (piece6, Ingress), (piece6, Egress)]
    {
        let mut scene = scene();
        scene.passes(direction, &piece(direction, OPEN, 1, 0), Reason::Allowed);
        // Another packet between them, which policy denies, and what belongs to none.
        scene.drops(direction, &piece(direction, SHUT, 2, 0), Reason::DefaultDeny);
        scene.drops(direction, &piece(direction, SHUT, 2, 1), Reason::Fragment);
        scene.drops(direction, &piece(direction, OPEN, 3, 1), Reason::Fragment);
        scene.passes(direction, &piece(direction, OPEN, 1, 1), Reason::Established);
        scene.passes(direction, &piece(direction, OPEN, 1, 2), Reason::Established);
        // It is whole: nothing more belongs to it.
        scene.drops(direction, &piece(direction, OPEN, 1, 2), Reason::Fragment);
        // A packet that policy takes back ends in its middle.
        scene.passes(direction, &piece(direction, OPEN, 4, 0), Reason::Established);
        scene.deny(direction, protocol::UDP, OPEN);
        scene.drops(direction, &piece(direction, OPEN, 4, 1), Reason::Revoked);
        // Another pod's pieces are its own.
        scene.allow(direction, protocol::UDP, OPEN);
        scene.passes(direction, &piece(direction, OPEN, 5, 0), Reason::Established);
        scene.replace_pod(EPOCH + 1);
        scene.drops(direction, &piece(direction, OPEN, 5, 1), Reason::Fragment);
    }
}

#[test]
fn what_lies_over_another_fragment_or_comes_twice_is_dropped() {
    for piece in [piece4 as Piece, piece6] {
        let mut scene = scene();
        scene.passes(Ingress, &piece(Ingress, OPEN, 1, 0), Reason::Allowed);
        // A second first piece could have other ports.
        scene.drops(Ingress, &piece(Ingress, OPEN, 1, 0), Reason::OverlappingFragment);
        scene.drops(Ingress, &piece(Ingress, SHUT, 1, 0), Reason::OverlappingFragment);
        scene.passes(Ingress, &piece(Ingress, OPEN, 1, 1), Reason::Established);
        scene.drops(Ingress, &piece(Ingress, OPEN, 1, 1), Reason::OverlappingFragment);
        scene.passes(Ingress, &piece(Ingress, OPEN, 1, 2), Reason::Established);
    }
    // Eight bytes into the first piece's end.
    let mut scene = scene();
    scene.passes(Ingress, &piece4(Ingress, OPEN, 1, 0), Reason::Allowed);
    let mut over = piece4(Ingress, OPEN, 1, 1);
    over[20..22].copy_from_slice(&(MORE | (PIECE / 8 - 1)).to_be_bytes());
    scene.drops(Ingress, &over, Reason::OverlappingFragment);
}

/// Neighbour discovery in pieces is none (RFC 6980).
#[test]
fn fragmented_neighbour_discovery_is_judged() {
    let mut scene = Scene::new();
    let group: Ipv6Addr = "ff02::1:ff00:2".parse().unwrap();
    let whole = sluice_tests::packet::neighbour(POD6, group, 135, PEER6, &[]);
    scene.passes(Egress, &whole.frame(), Reason::Control);
    scene.drops(Egress, &whole.with(fragment(0, true)).frame(), Reason::DefaultDeny);
}

/// First pieces from one side, however many, take nothing from the packets of the other.
#[test]
fn a_flood_of_first_fragments_stays_where_it_comes_from() {
    for piece in [piece4 as Piece, piece6] {
        let mut scene = scene();
        scene.passes(Egress, &piece(Egress, OPEN, 1, 0), Reason::Allowed);
        for id in 0..2_000 {
            scene.run(Ingress, &piece(Ingress, OPEN, id, 0));
        }
        scene.passes(Egress, &piece(Egress, OPEN, 1, 1), Reason::Established);
        scene.passes(Egress, &piece(Egress, OPEN, 1, 2), Reason::Established);
    }
}

/// Nor, however many, do those from one sender take anything from another's to the same pod.
#[test]
fn a_flood_of_first_fragments_displaces_the_senders_own() {
    let mut scene = scene();
    let from = |sender: u8, id: u16, number: u16| {
        let mut frame = piece4(Ingress, OPEN, id, number);
        // The last byte of the source address; nobody looks at the header's checksum.
        frame[29] = sender;
        frame
    };
    let senders = 10..17;
    for sender in senders.clone() {
        scene.passes(Ingress, &from(sender, 1, 0), Reason::Allowed);
    }
    for id in 0..500 {
        scene.run(Ingress, &from(99, id, 0));
    }
    for (sender, number) in senders.flat_map(|sender| [(sender, 1), (sender, 2)]) {
        scene.passes(Ingress, &from(sender, 1, number), Reason::Established);
    }
}

const CLIENT4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SERVER4: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1);
const SERVER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2);

/// Datagrams that the kernel cuts, through a node that routes them, to a pod that is isolated.
#[test]
fn datagrams_larger_than_a_packet_come_through_where_policy_lets_them() {
    let mut node = Node::new(BINARY);
    for (name, v4, v6, labels) in [
        ("client", CLIENT4, CLIENT6, "{app: client}"),
        ("server", SERVER4, SERVER6, "{app: server}"),
    ] {
        let host = node.add_pod(name, v4);
        node.add_ipv6(name, &host, v6);
        node.write(&format!("{name}.yaml"), &dual_stack_pod(name, v4, v6, labels));
    }
    node.write("policy.yaml", &allow_clients(OPEN));
    let _agent = node.start_agent();

    for (client, server) in
        [(IpAddr::from(CLIENT4), IpAddr::from(SERVER4)), (CLIENT6.into(), SERVER6.into())]
    {
        let bind = |pod, address: IpAddr, port| {
            let bound = node.inside(pod, || UdpSocket::bind(SocketAddr::new(address, port)));
            let socket = bound.expect("bound");
            socket.set_read_timeout(Some(SOON)).expect("set");
            socket
        };
        let (open, shut) = (bind("server", server, OPEN), bind("server", server, SHUT));
        let sender = bind("client", client, 0);
        let arrives = |socket: &UdpSocket, length: usize| {
            let datagram = vec![7; length];
            let to = socket.local_addr().expect("bound");
            sender.send_to(&datagram, to).expect("sent");
            socket.recv(&mut vec![0; 65_536]).is_ok_and(|received| received == length)
        };
        for length in [4_000, 60_000] {
            assert!(arrives(&open, length), "{length} bytes to {server}");
        }
        assert!(!arrives(&shut, 4_000), "let through in pieces to {server}");
    }
}
