//! A pod's veth and a neighbour's, bridged in a node's namespace: frames of any kind, made by hand, go
//! through the programs at the pod's as they are. A router would look at them first.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::process::Command;
use std::time::Duration;

use aya::programs::{TcAttachType, tc};
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, SockaddrLike as _, bind, recv, send,
    setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::reason::Reason;

use crate::packet::{ARP, arp, ethernet};
use crate::scene::{PEER, POD, SLOT, Scene};

/// The pod's interface on the node, and its neighbour's.
const POD_SIDE: &CStr = c"sluice-pod";
const PEER_SIDE: &str = "sluice-peer";
/// In the namespaces of either.
const INSIDE: &str = "eth0";
/// The longest IP packet.
const MTU: u32 = 65_535;
/// For what takes microseconds; a frame that takes so long is lost.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a frame that stands for many is made of, as a network card says it (`struct virtio_net_hdr`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    gso_type: u8,
    /// Bytes of its headers, Ethernet's included.
    headers: u16,
}

impl Merged {
    /// TCP segments in IPv4 packets; so many bytes are headers, Ethernet's included.
    pub fn tcp_v4(headers: u16) -> Self {
        Self { gso_type: 1, headers }
    }

    /// TCP segments in IPv6 packets.
    pub fn tcp_v6(headers: u16) -> Self {
        Self { gso_type: 4, headers }
    }

    /// What stands before the frame: the checksum is to be filled in, and each packet has 1400 bytes of
    /// data.
    fn header(self) -> [u8; VNET_HEADER] {
        const NEEDS_SUM: u8 = 1;
        const DATA: u16 = 1400;
        /// Length of a TCP header, and the checksum's place in it.
        const TCP: u16 = 20;
        const SUM: u16 = 16;
        let mut header = [0; VNET_HEADER];
        header[..2].copy_from_slice(&[NEEDS_SUM, self.gso_type]);
        let words = [self.headers, DATA, self.headers - TCP, SUM];
        for (place, word) in header[2..].chunks_mut(2).zip(words) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        header
    }
}

/// Length of a `struct virtio_net_hdr`.
const VNET_HEADER: usize = 10;

/// A network namespace without a name; it ends with this.
struct Namespace(File);

impl Namespace {
    fn new() -> Self {
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
                Self(File::open("/proc/thread-self/ns/net").expect("the namespace's file"))
            });
            made.join().expect("made")
        })
    }

    /// A path that leads to it as long as it is held.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).expect("entered");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

/// The far end of a veth: frames are sent and received as they are.
struct End {
    sender: OwnedFd,
    receiver: OwnedFd,
    _namespace: Namespace,
}

impl End {
    /// A veth whose near end, of this name, is a port of the bridge.
    fn new(near: &str) -> Self {
        let namespace = Namespace::new();
        let far = namespace.path();
        run(&format!(
            "ip link add {near} mtu {MTU} type veth peer name {INSIDE} mtu {MTU} netns {far}"
        ));
        run(&format!("ip link set {near} master sluice-br up"));
        let (sender, receiver) = namespace.inside(|| {
            be_silent();
            run(&format!("ip link set {INSIDE} up"));
            let sender = raw_socket(0);
            set_option(&sender, libc::SOL_PACKET, libc::PACKET_VNET_HDR);
            let receiver = raw_socket(libc::ETH_P_ALL as u16);
            set_option(&receiver, libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING);
            let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
            setsockopt(&receiver, sockopt::ReceiveTimeout, &patience).expect("set");
            (sender, receiver)
        });
        Self { sender, receiver, _namespace: namespace }
    }

    fn send(&self, frame: &[u8], merged: Option<Merged>) {
        let header = merged.map_or([0; VNET_HEADER], Merged::header);
        let bytes = [&header[..], frame].concat();
        let sent = send(self.sender.as_raw_fd(), &bytes, MsgFlags::empty());
        assert_eq!(sent, Ok(bytes.len()), "{} bytes", frame.len());
    }

    /// The next frame.
    fn receive(&self) -> Vec<u8> {
        let mut frame = vec![0; MTU as usize + 64];
        let length = recv(self.receiver.as_raw_fd(), &mut frame, MsgFlags::empty());
        let length = length.expect("what was sent behind the frame arrives");
        frame.truncate(length);
        frame
    }
}

/// The wire.
pub struct Wire {
    pod: End,
    peer: End,
    sent: u32,
}

impl Wire {
    /// Two veths and a bridge, each in a namespace of its own: the bridge in that of the calling thread,
    /// which is a new one from then on. The thread keeps to one CPU, whose queue all that it sends goes
    /// through: so nothing overtakes anything.
    ///
    /// # Panics
    /// Without root.
    #[expect(clippy::new_without_default, reason = "it changes the thread")]
    pub fn new() -> Self {
        crate::needs_root();
        crate::keep_to_one_cpu();
        unshare(CloneFlags::CLONE_NEWNET).expect("a namespace");
        be_silent();
        run(&format!("ip link add sluice-br mtu {MTU} type bridge mcast_snooping 0"));
        run("ip link set sluice-br up");
        let pod = End::new(POD_SIDE.to_str().expect("ASCII"));
        let peer = End::new(PEER_SIDE);
        // Below Linux 6.6 the hooks are those of this qdisc.
        tc::qdisc_add_clsact(pod_side()).expect("a qdisc");
        Self { pod, peer, sent: 0 }
    }

    /// Puts the programs of a scene at the pod's interface, for as long as the scene lives.
    ///
    /// # Panics
    /// Where the kernel does not take them.
    pub fn attach(&self, scene: &mut Scene) {
        scene.datapath.maps().set_slot(pod_side(), SLOT).expect("the interface has a place");
        for (direction, hook) in [(Egress, TcAttachType::Ingress), (Ingress, TcAttachType::Egress)]
        {
            let program = scene.datapath.program_mut(direction).expect("it is loaded");
            program.attach(POD_SIDE, hook).expect("attached");
        }
    }

    /// What is counted along with each frame.
    pub fn companion(direction: Direction) -> (Direction, Reason) {
        (direction, Reason::Control)
    }

    /// Sends a frame from the pod to its neighbour (egress) or the other way, and says whether it arrived.
    ///
    /// An ARP request follows it, which passes whatever the policy ([`Self::companion`]). Once that has
    /// arrived, so has the frame, or it never will.
    ///
    /// # Panics
    /// Where it cannot be sent, or arrives as another than was sent.
    pub fn carry(&mut self, direction: Direction, frame: &[u8], merged: Option<Merged>) -> bool {
        let (from, to, sender, target) = match direction {
            Ingress => (&self.peer, &self.pod, PEER, POD),
            Egress => (&self.pod, &self.peer, POD, PEER),
        };
        // Its source address says which frame it is.
        let mut mark = |mut frame: Vec<u8>| {
            self.sent += 1;
            frame[6..8].copy_from_slice(&[2, 1]);
            frame[8..12].copy_from_slice(&self.sent.to_be_bytes());
            frame
        };
        let (frame, last) = (mark(frame.into()), mark(ethernet(&[], ARP, &arp(1, sender, target))));
        from.send(&frame, merged);
        from.send(&last, None);
        let mut has_arrived = false;
        loop {
            let received = to.receive();
            if received[6..12] == last[6..12] {
                return has_arrived;
            }
            if received[6..12] == frame[6..12] {
                assert!(!has_arrived, "it arrives twice");
                has_arrived = true;
                // The outer VLAN tag has gone into the metadata.
                let behind = &frame[12..];
                assert!(
                    behind.ends_with(&received[12..]),
                    "{received:02x?} instead of {frame:02x?}"
                );
                let missing = frame.len() - received.len();
                assert!(missing == 0 || missing == 4, "{missing} bytes are missing");
            }
        }
    }
}

/// Index of the pod's interface on the node.
fn pod_side() -> u32 {
    nix::net::if_::if_nametoindex(POD_SIDE).expect("an interface")
}

/// Has this namespace say nothing of its own, and look at nothing that it only bridges.
fn be_silent() {
    for (path, value) in [
        ("ipv6/conf/all/disable_ipv6", "1"),
        ("ipv6/conf/default/disable_ipv6", "1"),
        ("bridge/bridge-nf-call-iptables", "0"),
        ("bridge/bridge-nf-call-ip6tables", "0"),
        ("bridge/bridge-nf-call-arptables", "0"),
    ] {
        // A kernel without bridge netfilter, or without IPv6, has no such file and needs none.
        match std::fs::write(format!("/proc/sys/net/{path}"), value) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            written => written.unwrap_or_else(|error| panic!("{path}: {error}")),
        }
    }
}

/// Runs a command in the thread's namespace.
fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a program")).args(words).output().expect("runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {errors}");
}

/// A socket for frames of this thread's [`INSIDE`]; it receives those of a type, 0: none.
fn raw_socket(ethertype: u16) -> OwnedFd {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None);
    let socket = socket.expect("a socket");
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex(INSIDE).expect("an interface").cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let length = size_of_val(&address) as u32;
    // SAFETY: a whole `sockaddr_ll` with its length.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(length)) };
    bind(socket.as_raw_fd(), &address.expect("a link address")).expect("bound");
    socket
}

/// Switches an option on.
fn set_option(socket: &OwnedFd, level: i32, option: i32) {
    let on: i32 = 1;
    let length = size_of_val(&on) as u32;
    // SAFETY: the option is an integer, which outlives the call.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), length)
    };
    Errno::result(result).expect("the kernel knows the option");
}
