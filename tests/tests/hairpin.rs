//! A pod that reaches itself through its service: what lets its translated packets in, and that
//! nothing less does (SEMANTICS 39). Needs root.

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use sluice::datapath::run::{Action, ELSEWHERE, LOOPBACK};
use sluice::datapath::{Datapath, LoadOptions};
use sluice::engine::packet::{frame, tcp, udp};
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::parse::{protocol, tcp_flag};
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::compile;
use sluice_policy::diff::{KernelState, diff};
use sluice_policy::model::{
    Backend, LocalEndpoint, Namespaces, Pod, PodName, PodSelector, Policy, PolicyKind, PolicyName,
    Protocol, Selector, Service, ServiceName, ServicePort, Tier, World,
};
use sluice_tests::needs_root;
use sluice_tests::packet::V4;

const SLOT: u32 = 3;
const POD: &str = "10.0.0.1";
const NODE: &str = "172.30.0.1";
/// A pod that the service leads to as well, and that is not isolated.
const OTHER_BACKEND: &str = "10.0.0.2";
const POD6: &str = "fd00::1";
const NODE6: &str = "fd00:1::1";
const OTHER_BACKEND6: &str = "fd00::2";
const VIP6: &str = "fd00:2::1";
const VIP: &str = "10.96.0.1";
/// The service's port, and the pod's.
const PORT: u16 = 80;
const TARGET: u16 = 8080;

fn address(text: &str) -> IpAddr {
    text.parse().expect("the test's own address is valid")
}

/// The pod's address of a family.
fn own_address(like: IpAddr) -> IpAddr {
    address(if like.is_ipv4() { POD } else { POD6 })
}

/// A pod that is all that its service leads to, isolated in these directions without a rule.
fn world(directions: &[Direction]) -> World {
    let pod = PodName { namespace: "x".to_owned(), name: "a".to_owned() };
    let addresses = [POD, POD6].map(address);
    let backends = addresses.map(|address| Backend { address, port: TARGET }).to_vec();
    let port = |protocol| ServicePort { protocol, port: PORT, backends: backends.clone() };
    let service = Service {
        addresses: vec![address(VIP), address(VIP6)],
        ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
    };
    let rules = |direction| directions.contains(&direction).then(Vec::new);
    let subject =
        PodSelector { namespaces: Namespaces::Named("x".to_owned()), pods: Selector::default() };
    let policy = Policy {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject,
        ingress: rules(Ingress),
        egress: rules(Egress),
    };
    let name = PolicyName {
        kind: PolicyKind::NetworkPolicy,
        namespace: Some("x".to_owned()),
        name: "closed".to_owned(),
    };
    let mut world = World::default();
    world.pods.insert(pod.clone(), Pod { addresses: addresses.to_vec(), ..Pod::default() });
    world.endpoints.insert(pod, LocalEndpoint { slot: SLOT, epoch: 9, flags: 0 });
    let own = ServiceName { namespace: "x".to_owned(), name: "web".to_owned() };
    world.services.insert(own, service);
    world.policies.insert(name, policy);
    world
}

struct Kernel {
    datapath: Datapath,
}

impl Kernel {
    fn new(directions: &[Direction]) -> Self {
        needs_root();
        let options = LoadOptions { stamp_in_mark: true, ..LoadOptions::default() };
        let mut datapath = Datapath::load(&options).expect("the programs load");
        let compiler = compile(&world(directions), Capacity::default());
        let empty = KernelState { generation: 1, ..KernelState::default() };
        let ops = diff(&empty, compiler.tables(), None);
        datapath.maps().apply(&ops).expect("the tables take it");
        datapath.maps().set_slot(LOOPBACK, SLOT).expect("the loopback has a place");
        Self { datapath }
    }

    /// The pod sends to its service. The stamp that the packet leaves with.
    fn sends(&self, payload: &[u8], protocol: u8) -> u32 {
        self.sends_to(VIP, payload, protocol)
    }

    /// The same to an address of the service.
    fn sends_to(&self, vip: &str, payload: &[u8], protocol: u8) -> u32 {
        let frame = frame(own_address(address(vip)), address(vip), protocol, payload);
        let (action, stamp) =
            self.datapath.run_stamped(Egress, &frame, ELSEWHERE, 0).expect("it runs");
        assert_eq!(action, Action::Pass);
        stamp
    }

    /// What becomes of a packet from the node's address with this stamp, that the node received from the
    /// pod's own interface.
    fn receives(&self, payload: &[u8], protocol: u8, stamp: u32) -> Action {
        self.receives_by(LOOPBACK, NODE, payload, protocol, stamp)
    }

    /// What becomes of a packet with this source and stamp, that the node received from an interface.
    fn receives_by(
        &self,
        interface: u32,
        source: &str,
        payload: &[u8],
        protocol: u8,
        stamp: u32,
    ) -> Action {
        let source = address(source);
        let frame = frame(source, own_address(source), protocol, payload);
        self.datapath.run_stamped(Ingress, &frame, interface, stamp).expect("it runs").0
    }
}

/// A SYN to the service, as the pod sends it.
fn syn() -> Vec<u8> {
    tcp(40_000, PORT, tcp_flag::SYN)
}

/// The same, as it comes back.
fn returning(source_port: u16) -> Vec<u8> {
    tcp(source_port, TARGET, tcp_flag::SYN)
}

#[test]
fn what_the_pod_sent_to_itself_comes_in_once() {
    for directions in [&[Ingress, Egress][..], &[Ingress]] {
        let kernel = Kernel::new(directions);
        let stamp = kernel.sends(&syn(), protocol::TCP);
        assert_eq!(stamp, SLOT, "{directions:?}");
        assert_eq!(kernel.receives(&returning(50_000), protocol::TCP, stamp), Action::Pass);
        // Its flow is known now; another connection with the same sequence number is not the pod's.
        assert_eq!(kernel.receives(&returning(50_000), protocol::TCP, 0), Action::Pass);
        assert_eq!(kernel.receives(&returning(50_001), protocol::TCP, stamp), Action::Drop);
    }
}

#[test]
fn a_stamp_alone_lets_nothing_in() {
    let kernel = Kernel::new(&[Ingress, Egress]);
    assert_eq!(kernel.receives(&returning(50_000), protocol::TCP, SLOT), Action::Drop);
    let datagram = udp(50_000, TARGET, b"data");
    assert_eq!(kernel.receives(&datagram, protocol::UDP, SLOT), Action::Drop);
}

#[test]
fn a_note_alone_lets_nothing_in() {
    let kernel = Kernel::new(&[Ingress, Egress]);
    assert_eq!(kernel.sends(&syn(), protocol::TCP), SLOT);
    for stamp in [0, SLOT + 1, u32::MAX] {
        let action = kernel.receives(&returning(50_000), protocol::TCP, stamp);
        assert_eq!(action, Action::Drop, "{stamp}");
    }
}

#[test]
fn a_note_is_for_its_packet_and_the_services_port() {
    let kernel = Kernel::new(&[Ingress, Egress]);
    let stamp = kernel.sends(&udp(40_000, PORT, b"this"), protocol::UDP);
    let other = udp(50_000, TARGET, b"that");
    assert_eq!(kernel.receives(&other, protocol::UDP, stamp), Action::Drop);
    let other_port = udp(50_000, TARGET + 1, b"this");
    assert_eq!(kernel.receives(&other_port, protocol::UDP, stamp), Action::Drop);
    // That attempt has used the note up.
    let same = udp(50_000, TARGET, b"this");
    assert_eq!(kernel.receives(&same, protocol::UDP, stamp), Action::Drop);
    kernel.sends(&udp(40_000, PORT, b"this"), protocol::UDP);
    assert_eq!(kernel.receives(&same, protocol::UDP, stamp), Action::Pass);
}

/// A datagram without data looks like any other to the same port: another backend of the service could
/// send it again as the pod's.
#[test]
fn a_packet_that_cannot_be_told_from_others_is_not_noted() {
    let kernel = Kernel::new(&[Ingress, Egress]);
    let stamp = kernel.sends(&udp(40_000, PORT, b""), protocol::UDP);
    assert_eq!(stamp, 0);
    assert_eq!(kernel.receives(&udp(50_000, TARGET, b""), protocol::UDP, SLOT), Action::Drop);
}

/// A datagram in pieces: only the first has a header to be noted, whatever the data of the others look
/// like. What comes back of them follows the first.
#[test]
fn a_later_fragment_leaves_no_note() {
    const MORE: u16 = 0x2000;
    const PIECE: usize = 16;
    let kernel = Kernel::new(&[Ingress, Egress]);
    let parsed = |text: &str| text.parse::<Ipv4Addr>().expect("an address");
    let piece = |source, destination, fragment, data: &[u8]| {
        let packet = V4::new(parsed(source), parsed(destination), protocol::UDP, data.to_vec());
        V4 { fragment, ..packet }.frame()
    };
    let runs = |direction, frame: &[u8], stamp| {
        kernel.datapath.run_stamped(direction, frame, LOOPBACK, stamp).expect("it runs")
    };
    let first = |from, to| udp(from, to, b"this is in two pieces.")[..PIECE].to_vec();
    let later = udp(40_000, PORT, b"that");
    let offset = PIECE as u16 / 8;
    let out = piece(POD, VIP, MORE, &first(40_000, PORT));
    assert_eq!(runs(Egress, &out, 0), (Action::Pass, SLOT));
    let out = piece(POD, VIP, offset, &later);
    assert_eq!(runs(Egress, &out, 0), (Action::Pass, 0), "it leaves without a stamp");
    let like_the_later = udp(50_000, TARGET, b"that");
    assert_eq!(kernel.receives(&like_the_later, protocol::UDP, SLOT), Action::Drop);

    let back = piece(NODE, POD, MORE, &first(50_001, TARGET));
    assert_eq!(runs(Ingress, &back, SLOT).0, Action::Pass);
    let back = piece(NODE, POD, offset, &later);
    assert_eq!(runs(Ingress, &back, 0).0, Action::Pass);
}

/// Puts this thread into the network namespace of a node that forwards, with an address of its own and
/// a route to the pods of [`OTHER_BACKEND`].
fn on_a_node() {
    unshare(CloneFlags::CLONE_NEWNET).expect("root makes namespaces");
    for forwarding in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{forwarding}"), "1").expect("forwarding is on");
    }
    for arguments in [
        "link set lo up".to_owned(),
        format!("address add {NODE}/32 dev lo"),
        format!("address add {NODE6}/128 dev lo"),
        "link add sluice-pods type veth peer name sluice-peer".to_owned(),
        "link set sluice-pods up".to_owned(),
        "link set sluice-peer up".to_owned(),
        format!("route add {OTHER_BACKEND}/32 dev sluice-pods"),
        format!("route add {OTHER_BACKEND6}/128 dev sluice-pods"),
    ] {
        let status = Command::new("ip").args(arguments.split(' ')).status().expect("ip runs");
        assert!(status.success(), "ip {arguments}");
    }
}

/// The node gave the pod's packet to another backend of the service, which can set the stamp, sends the
/// packet's words again at once.
#[test]
fn what_another_backend_repeats_is_not_the_pods_own() {
    const BRIDGE: u32 = 77;
    on_a_node();
    let kernel = Kernel::new(&[Ingress, Egress]);
    let payloads = [
        (udp(40_000, PORT, b"this"), udp(50_000, TARGET, b"this"), protocol::UDP),
        (syn(), returning(50_000), protocol::TCP),
    ];
    for (vip, node, other) in [(VIP, NODE, OTHER_BACKEND), (VIP6, NODE6, OTHER_BACKEND6)] {
        for (payload, returning, protocol) in &payloads {
            let stamp = kernel.sends_to(vip, payload, *protocol);
            let comes = |source| kernel.receives_by(BRIDGE, source, returning, *protocol, stamp);
            assert_eq!(comes(other), Action::Drop, "{vip}, protocol {protocol}");
            // What the node leads back through a bridge is still known: the attempt has cost nothing.
            assert_eq!(comes(node), Action::Pass, "{vip}, protocol {protocol}");
        }
    }
}

#[test]
fn what_goes_elsewhere_leaves_without_a_stamp() {
    let kernel = Kernel::new(&[Ingress]);
    let datagram = udp(40_000, PORT, b"data");
    let frame = frame(address(POD), address("10.0.0.2"), protocol::UDP, &datagram);
    let run = kernel.datapath.run_stamped(Egress, &frame, ELSEWHERE, 0).expect("it runs");
    assert_eq!(run, (Action::Pass, 0));
}
