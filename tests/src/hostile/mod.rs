//! Packets that a hostile pod or peer would send, and what each of them comes to. They are data: the same
//! packets are run by `BPF_PROG_TEST_RUN` (test `hostile_packets`) and sent through real interfaces (test
//! `hostile_lab`).
//!
//! Port 80 over TCP is open, so that a port that is read from the wrong place would pass.

mod addresses;
mod fragments;
mod frames;
mod headers;
mod lengths;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU16, Ordering};

use sluice::engine::packet::{self, tcp};
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::abi::EndpointFlags;
use sluice_common::parse::{protocol, tcp_flag};
use sluice_common::reason::{Outcome, Reason};

use crate::packet::{V4, V6};
use crate::scene::{Counted, PEER, PEER6, POD, POD6, SLOT, Scene};
use crate::wire::Merged;

/// The port that everyone may reach, and the pod at everyone's.
const OPEN: u16 = 80;
/// Any other.
const SHUT: u16 = 81;

/// The pod that sends or is sent the packets, and its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// Isolated in both directions, but for TCP to port 80.
    Isolated,
    /// The same for ingress only; nothing governs its egress.
    OpenEgress,
    /// Isolated in both directions, and it may send from any address.
    AnySource,
    /// Isolated in both directions in shadow mode: nothing is dropped.
    Shadow,
}

impl Setup {
    /// The pod, in tables of its own.
    pub fn scene(self) -> Scene {
        const PRESENT: u32 = EndpointFlags::PRESENT;
        let mut scene = match self {
            Self::Isolated => Scene::new(),
            Self::OpenEgress => Scene::isolated_in(Ingress),
            Self::AnySource => Scene::with(PRESENT | EndpointFlags::ANY_SOURCE, [1, 2]),
            Self::Shadow => Scene::with(PRESENT | EndpointFlags::SHADOW, [1, 2]),
        };
        for direction in [Ingress, Egress] {
            scene.allow(direction, protocol::TCP, OPEN);
        }
        scene
    }

    /// The packets for this pod.
    pub fn packets(self) -> Vec<Hostile> {
        match self {
            Self::Isolated => {
                let mut packets = Vec::new();
                for direction in [Ingress, Egress] {
                    packets.extend(headers::packets(direction));
                    packets.extend(lengths::packets(direction));
                    packets.extend(fragments::packets(direction));
                    packets.extend(frames::packets(direction));
                }
                packets.extend(addresses::packets());
                packets
            }
            Self::OpenEgress => [addresses::spoofed(), frames::ungoverned()].concat(),
            Self::AnySource => addresses::any_source(),
            Self::Shadow => frames::shadowed(),
        }
    }

    /// True where a packet with this reason goes on.
    pub fn passes(self, reason: Reason) -> bool {
        self == Self::Shadow || reason.outcome() == Outcome::Pass
    }
}

/// What can carry a packet to the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// A test run and real interfaces.
    Any,
    /// A test run only, because of this.
    Kernel(&'static str),
    /// Real interfaces only, because of this.
    Lab(&'static str),
}

/// A packet, and what it comes to.
#[derive(Clone, Debug)]
pub struct Hostile {
    /// What it is.
    pub name: String,
    /// Which way it goes.
    pub direction: Direction,
    /// It, with its Ethernet header.
    pub frame: Vec<u8>,
    /// The only thing that it is counted as.
    pub reason: Reason,
    /// What can carry it.
    pub carrier: Carrier,
    /// It stands for many (GSO, GRO).
    pub merged: Option<Merged>,
}

impl Hostile {
    fn new(name: impl Into<String>, direction: Direction, frame: Vec<u8>, reason: Reason) -> Self {
        Self { name: name.into(), direction, frame, reason, carrier: Carrier::Any, merged: None }
    }

    fn only_by(self, carrier: Carrier) -> Self {
        Self { carrier, ..self }
    }

    /// Checks that the packet was counted and recorded as it ought to be and as nothing else. `with` is
    /// what was sent along with it.
    ///
    /// # Panics
    /// Otherwise.
    pub fn check(
        &self,
        scene: &mut Scene,
        setup: Setup,
        passed: bool,
        with: &[(Direction, Reason)],
    ) {
        let mut expected = Counted::new();
        for key in with.iter().chain([&(self.direction, self.reason)]) {
            expected.entry(*key).or_default().0 += 1;
        }
        let mut counted = scene.counted();
        // How long it is as the kernel counts it is a matter of what carried it.
        counted.values_mut().for_each(|(_, bytes)| *bytes = 0);
        assert_eq!(counted, expected, "{self}");
        assert_eq!(passed, setup.passes(self.reason), "{self} has passed or not");
        let record = scene.event().map(|event| (event.slot, event.direction, event.reason));
        let is_dropped = self.reason.outcome() == Outcome::Drop;
        let expected = is_dropped.then_some((SLOT, self.direction as u32, self.reason as u32));
        assert_eq!(record, expected, "record of {self}");
        assert_eq!(scene.event(), None, "a second record of {self}");
    }
}

impl std::fmt::Display for Hostile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, direction, frame, reason, .. } = self;
        let shown = &frame[..frame.len().min(128)];
        write!(f, "{name}, {direction:?}, {}: {} bytes, {shown:02x?}", reason.label(), frame.len())
    }
}

/// Source and destination of a packet between the pod and its peer.
fn ends<T>(direction: Direction, pod: T, peer: T) -> (T, T) {
    match direction {
        Ingress => (peer, pod),
        Egress => (pod, peer),
    }
}

fn v4(direction: Direction, payload: Vec<u8>) -> V4 {
    let (source, destination): (Ipv4Addr, Ipv4Addr) = ends(direction, POD, PEER);
    V4::new(source, destination, protocol::TCP, payload)
}

fn v6(direction: Direction, payload: Vec<u8>) -> V6 {
    let (source, destination): (Ipv6Addr, Ipv6Addr) = ends(direction, POD6, PEER6);
    V6::new(source, destination, protocol::TCP, payload)
}

/// A TCP SYN to a port, from a source port of its own so that every packet is a first one.
fn syn(port: u16) -> Vec<u8> {
    static SOURCE_PORT: AtomicU16 = AtomicU16::new(20_000);
    tcp(SOURCE_PORT.fetch_add(1, Ordering::Relaxed), port, tcp_flag::SYN)
}

/// Two packets that differ in the port: one is let through, the other is not.
fn judged(name: &str, direction: Direction, frame: impl Fn(u16) -> Vec<u8>) -> [Hostile; 2] {
    [(OPEN, Reason::Allowed), (SHUT, Reason::DefaultDeny)].map(|(port, reason)| {
        Hostile::new(format!("{name}, port {port}"), direction, frame(port), reason)
    })
}

/// An ICMP error (`message`: its first eight bytes) from the other end, about a packet that it was sent.
fn error(direction: Direction, message: [u8; 8], quoted: &[u8], is_v4: bool) -> Vec<u8> {
    let (number, pod, peer): (u8, IpAddr, IpAddr) = if is_v4 {
        (protocol::ICMP, POD.into(), PEER.into())
    } else {
        (protocol::ICMPV6, POD6.into(), PEER6.into())
    };
    let (source, destination) = ends(direction, pod, peer);
    packet::frame(source, destination, number, &[&message[..], quoted].concat())
}
