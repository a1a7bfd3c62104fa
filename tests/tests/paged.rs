//! Headers beyond the linear part of a packet are read like any other (SEMANTICS 73), those of a packet
//! that stands for many too. A tap device, asked for a linear part of 14 bytes, gives the programs nothing
//! but the Ethernet header to read directly. Needs root.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::process::Command;

use aya::programs::{TcAttachType, tc};
use nix::sched::{CloneFlags, unshare};
use sluice::engine::packet::{self, tcp};
use sluice_common::abi::Direction;
use sluice_common::parse::{protocol, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::packet::{V6, options};
use sluice_tests::scene::{PEER, PEER6, POD, POD6, SLOT, Scene};

const NAME: &str = "sluice-paged";

/// A tap in this thread's namespace, whose frames begin with a `struct virtio_net_hdr`.
fn tap() -> File {
    const IFF_TAP: u16 = 0x0002;
    const IFF_NO_PI: u16 = 0x1000;
    const IFF_VNET_HDR: u16 = 0x4000;
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").expect("tun");
    // `struct ifreq`: a name of 16 bytes, then the flags.
    let mut request = [0_u8; 40];
    request[..NAME.len()].copy_from_slice(NAME.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR).to_ne_bytes());
    const TUNSETIFF: nix::libc::c_ulong = 0x4004_54ca;
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, for which there is room.
    let result = unsafe { nix::libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(result, 0, "a tap: {}", std::io::Error::last_os_error());
    device
}

/// What a frame in the tap is.
#[derive(Clone, Copy)]
enum Kind {
    /// A packet, of which 14 bytes are linear.
    Single,
    /// TCP that a NIC has put together from packets with so many bytes of data, or is to cut into such
    /// (GRO, GSO). `head` bytes are headers.
    Many { gso_type: u8, head: u16, data: u16 },
}

const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;

/// Sends a frame into the tap.
fn send(tap: &mut File, frame: &[u8], kind: Kind) {
    /// The sum's place in a TCP header, and the header's length.
    const SUM: u16 = 16;
    const TCP: u16 = 20;
    const NEEDS_SUM: u8 = 1;
    // `struct virtio_net_hdr`: flags and kind, length of the headers, data of a packet, from where the
    // sum is to be taken and where it goes.
    let (bytes, words) = match kind {
        Kind::Single => ([0, 0], [14, 0, 0, 0]),
        Kind::Many { gso_type, head, data } => {
            ([NEEDS_SUM, gso_type], [head, data, head - TCP, SUM])
        }
    };
    let words = words.map(u16::to_ne_bytes).concat();
    let bytes = [&bytes[..], &words, frame].concat();
    tap.write_all(&bytes).expect("the tap takes the frame");
}

#[test]
fn headers_beyond_the_linear_part_are_read() {
    let mut scene = Scene::new();
    scene.allow(Direction::Egress, protocol::TCP, 80);
    // A namespace of this thread's own; it ends with the thread.
    unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
    let mut tap = tap();
    let up = Command::new("ip").args(["link", "set", NAME, "up"]).status().expect("ip runs");
    assert!(up.success());
    let ifindex = nix::net::if_::if_nametoindex(NAME).expect("the tap is there");
    scene.datapath.maps().set_slot(ifindex, SLOT).unwrap();
    // Below Linux 6.6 the hook is one of this qdisc.
    tc::qdisc_add_clsact(ifindex).expect("a qdisc");
    let program = scene.datapath.program_mut(Direction::Egress).unwrap();
    program.attach(c"sluice-paged", TcAttachType::Ingress).expect("the program attaches");

    let mut next_port = 1000;
    let mut syn = |port| {
        next_port += 1;
        // The tap makes a packet linear that fits a page.
        [tcp(next_port, port, tcp_flag::SYN), vec![0; 8000]].concat()
    };
    let expected = [(80, Reason::Allowed), (81, Reason::DefaultDeny)];
    for (port, reason) in expected {
        let v4 = packet::frame(POD.into(), PEER.into(), protocol::TCP, &syn(port));
        let v6 = V6::new(POD6, PEER6, protocol::TCP, syn(port));
        let v6 = v6.with(options(0, 2)).with(options(60, 1)).frame();
        let before = count(&mut scene, reason);
        send(&mut tap, &v4, Kind::Single);
        send(&mut tap, &v6, Kind::Single);
        assert_eq!(count(&mut scene, reason), before + 2, "port {port}");
    }
    for (port, reason) in expected {
        let segment = [syn(port), vec![0; 50_000]].concat();
        let v4 = packet::frame(POD.into(), PEER.into(), protocol::TCP, &segment);
        let v6 = packet::frame(POD6.into(), PEER6.into(), protocol::TCP, &segment);
        let many = |gso_type, head| Kind::Many { gso_type, head, data: 1400 };
        let before = count(&mut scene, reason);
        send(&mut tap, &v4, many(GSO_TCPV4, 14 + 20 + 20));
        send(&mut tap, &v6, many(GSO_TCPV6, 14 + 40 + 20));
        assert_eq!(count(&mut scene, reason), before + 2, "port {port}, many packets in one");
    }
    for reason in [Reason::Truncated, Reason::Unreadable] {
        assert_eq!(count(&mut scene, reason), 0);
    }
}

fn count(scene: &mut Scene, reason: Reason) -> u64 {
    let snapshot = scene.datapath.maps().snapshot(SLOT).expect("the counters can be read");
    snapshot.get(&(Direction::Egress, reason)).map_or(0, |counter| counter.packets)
}
