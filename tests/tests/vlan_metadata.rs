//! A VLAN tag that stands beside the packet and not in it (SEMANTICS 75): there the kernel puts the
//! outer tag of whatever it receives, and there it stays while a bridge forwards it. Needs root.

use std::ffi::CStr;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use aya::programs::{TcAttachType, tc};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, sendto, socket,
};
use sluice::engine::packet::{self, tcp};
use sluice_common::abi::{Counter, Direction};
use sluice_common::parse::{protocol, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::packet::{IPV4, VLAN, ethernet};
use sluice_tests::scene::{PEER, POD, SLOT, Scene};

use Direction::{Egress, Ingress};

/// The pod's end of its veth, and a neighbour's; the host's ends are ports of one bridge.
const POD_SIDE: &str = "sluice-pod";
const PEER_SIDE: &str = "sluice-peer";
const HOST_SIDE: &CStr = c"sluice-podh";

fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
}

fn index(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).expect("an interface")
}

/// Sends a frame out of an interface.
fn send(interface: &str, frame: &[u8]) {
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).expect("a socket");
    let address = nix::libc::sockaddr_ll {
        sll_family: nix::libc::AF_PACKET as u16,
        sll_protocol: IPV4.to_be(),
        sll_ifindex: index(interface).cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as u32;
    // SAFETY: a whole `sockaddr_ll` with its length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    let address = address.expect("a link address");
    let sent = sendto(socket.as_raw_fd(), frame, &address, MsgFlags::empty()).expect("sent");
    assert_eq!(sent, frame.len());
}

/// A SYN between the pod and its peer.
fn syn(direction: Direction, port: u16) -> Vec<u8> {
    let segment = tcp(40_000, port, tcp_flag::SYN);
    match direction {
        Ingress => packet::frame(PEER.into(), POD.into(), protocol::TCP, &segment),
        Egress => packet::frame(POD.into(), PEER.into(), protocol::TCP, &segment),
    }
}

/// Two veths whose host ends are ports of one bridge.
fn link() {
    run("ip link add sluice-br type bridge");
    run("ip link set sluice-br up");
    for side in [POD_SIDE, PEER_SIDE] {
        let host = format!("{side}h");
        run(&format!("ip link add {side} type veth peer name {host}"));
        run(&format!("ip link set {host} master sluice-br"));
        for interface in [&*host, side] {
            run(&format!("ip link set {interface} up"));
        }
    }
}

#[test]
fn a_tag_beside_the_packet_changes_no_verdict() {
    let mut scene = Scene::new();
    for direction in [Ingress, Egress] {
        scene.allow(direction, protocol::TCP, 80);
    }
    // A namespace of this thread's own; it ends with the thread.
    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
    link();
    let ifindex = index(HOST_SIDE.to_str().expect("ASCII"));
    scene.datapath.maps().set_slot(ifindex, SLOT).unwrap();
    // Below Linux 6.6 the hooks are those of this qdisc.
    tc::qdisc_add_clsact(ifindex).expect("a qdisc");
    for (direction, hook) in [(Egress, TcAttachType::Ingress), (Ingress, TcAttachType::Egress)] {
        let program = scene.datapath.program_mut(direction).unwrap();
        program.attach(HOST_SIDE, hook).expect("attached");
    }
    for (direction, side) in [(Egress, POD_SIDE), (Ingress, PEER_SIDE)] {
        for (port, reason) in [(80, Reason::Allowed), (81, Reason::DefaultDeny)] {
            let frame = syn(direction, port);
            send(side, &ethernet(&[VLAN], IPV4, &frame[14..]));
            let counted = scene.datapath.maps().snapshot(SLOT).unwrap();
            // With the tag in the data it would be four bytes longer.
            let expected = Counter { packets: 1, bytes: frame.len() as u64 };
            assert_eq!(
                counted.get(&(direction, reason)),
                Some(&expected),
                "{direction:?}, port {port}"
            );
        }
    }
}
