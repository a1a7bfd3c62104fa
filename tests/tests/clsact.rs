//! Below Linux 6.6 programs are filters of a clsact qdisc, which newer kernels have as well. Needs root.

use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use aya::programs::TcAttach;
use aya::programs::tc::{NlOptions, TcHandle};
use sluice::datapath::attach::{AttachError, Attached, Attacher, Backend, DIRECTIONS};
use sluice::datapath::{Datapath, LoadOptions};
use sluice_common::abi::{Direction, Endpoint, EndpointFlags, Versioned};
use sluice_policy::diff::Op;
use sluice_tests::node::Node;

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PORT: u16 = 80;
const SLOT: u32 = 1;

/// Programs with tables that close one endpoint to everything.
fn closed(ifindex: u32) -> Datapath {
    let mut datapath = Datapath::load(&LoadOptions::default()).expect("the programs load");
    let endpoint = Endpoint {
        sets: [1, 0],
        epoch: 1,
        flags: EndpointFlags::PRESENT,
        v4: std::net::IpAddr::from(SERVER).into(),
        v6: Endpoint::default().v6,
    };
    let maps = datapath.maps();
    maps.apply(&[Op::Endpoint(SLOT, Versioned::settled(endpoint))]).expect("written");
    maps.set_slot(ifindex, SLOT).expect("written");
    datapath
}

#[test]
fn filters_enforce_are_replaced_in_place_and_go() {
    let mut node = Node::new(BINARY);
    node.add_pod("client", CLIENT);
    let host = node.add_pod("server", SERVER);
    let ifindex = node.ifindex(&host);
    let server = node.inside("server", || UdpSocket::bind((SERVER, PORT))).expect("bound");
    server.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    let reaches = || {
        let client = node.inside("client", || UdpSocket::bind((CLIENT, 0))).expect("bound");
        client.send_to(b"hello", (SERVER, PORT)).expect("sent");
        server.recv(&mut [0; 8]).is_ok()
    };
    let links = tempfile::tempdir().expect("a temporary directory");
    let attacher = Attacher::new(Backend::Clsact, links.path().into());
    let attach = |datapath: &mut Datapath| {
        DIRECTIONS.map(|direction| {
            let program = datapath.program_mut(direction).expect("there");
            node.inside("node", || attacher.attach(program, ifindex, direction)).expect("attached")
        })
    };
    let remains = || {
        let mut command = node.sluice(&["probe", "remains", "--cni-conf-dir", "/nonexistent"]);
        let output = command.args(["--cni-bin-dir", "/nonexistent"]).output().expect("it runs");
        let found: Vec<String> = serde_json::from_slice(&output.stdout).expect("a list");
        assert_eq!(output.status.success(), found.is_empty());
        found
    };
    assert!(reaches());
    assert_eq!(remains(), [""; 0]);
    let mut first = closed(ifindex);
    assert_eq!(attach(&mut first), [Attached::New; 2]);
    assert!(!reaches());
    let mut second = closed(ifindex);
    assert_eq!(attach(&mut second), [Attached::Replaced; 2]);
    // The filters hold on to their programs; the first one's are no longer among them.
    drop(first);
    assert!(!reaches());
    let dropped = |datapath: &mut Datapath| {
        datapath.maps().snapshot(SLOT).expect("readable").values().map(|c| c.packets).sum::<u64>()
    };
    assert!(dropped(&mut second) > 0);
    for direction in DIRECTIONS {
        let program = second.program_mut(direction).expect("there");
        let needed = node.inside("node", || attacher.ensure(program, ifindex, direction));
        assert!(!needed.expect("asked"), "{direction:?} was there");
    }
    drop(second);
    assert!(!reaches(), "filters outlive their loader");
    let ours = ["sluice_ingress", "sluice_egress"];
    let ours = ours.map(|program| format!("program on {host}: {program} (clsact)"));
    assert_eq!(remains(), ours);
    for _ in 0..2 {
        node.inside("node", || attacher.detach(ifindex)).expect("detached");
        assert!(reaches());
        assert_eq!(remains(), [""; 0]);
    }
}

/// A node with one pod, and what attaches to its interface.
struct Setup {
    node: Node,
    host: String,
    ifindex: u32,
    attacher: Attacher,
    _links: tempfile::TempDir,
}

impl Setup {
    fn new() -> Self {
        let mut node = Node::new(BINARY);
        let host = node.add_pod("server", SERVER);
        let ifindex = node.ifindex(&host);
        let links = tempfile::tempdir().expect("a temporary directory");
        let attacher = Attacher::new(Backend::Clsact, links.path().into());
        Self { node, host, ifindex, attacher, _links: links }
    }

    /// Runs tc with these arguments; `DEV` is the interface, and `_` a space within one of them.
    fn tc(&self, arguments: &str) -> String {
        let arguments = arguments.replace("DEV", &format!("dev {}", self.host));
        let mut command = Command::new("tc");
        command.args(arguments.split_whitespace().map(|argument| argument.replace('_', " ")));
        let output = self.node.inside("node", || command.output()).expect("tc runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tc {arguments}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn attach(
        &self,
        datapath: &mut Datapath,
        direction: Direction,
    ) -> Result<Attached, AttachError> {
        let program = datapath.program_mut(direction).expect("there");
        self.node.inside("node", || self.attacher.attach(program, self.ifindex, direction))
    }

    fn attach_both(&self, datapath: &mut Datapath) {
        for direction in DIRECTIONS {
            self.attach(datapath, direction).expect("attached");
        }
    }

    fn ensure(&self, datapath: &mut Datapath, direction: Direction) -> Result<bool, AttachError> {
        let program = datapath.program_mut(direction).expect("there");
        self.node.inside("node", || self.attacher.ensure(program, self.ifindex, direction))
    }

    fn detach(&self) {
        self.node.inside("node", || self.attacher.detach(self.ifindex)).expect("detached");
    }
}

/// A classic program that takes every packet.
const CLASSIC: &str = "bpf bytecode 1,6_0_0_4294967295";

#[test]
fn a_qdisc_without_room_for_both_directions_is_named_and_left_alone() {
    let setup = Setup::new();
    setup.tc("qdisc add DEV handle ffff: ingress");
    let mut datapath = closed(setup.ifindex);
    for direction in DIRECTIONS {
        let error = setup.attach(&mut datapath, direction).expect_err("no room").to_string();
        assert!(error.contains("qdisc `ingress`"), "{error}");
        setup.ensure(&mut datapath, direction).expect_err("no room");
    }
    assert_eq!(setup.tc("filter show DEV ingress"), "");
    setup.detach();
    assert!(setup.tc("qdisc show DEV").contains("qdisc ingress ffff:"));
}

#[test]
fn a_filter_of_another_that_keeps_ours_out_is_named_and_stays() {
    let setup = Setup::new();
    setup.tc("qdisc add DEV clsact");
    let mut datapath = closed(setup.ifindex);
    // As the CNI plugin `bandwidth` makes it, but for its action.
    setup.tc("filter add DEV ingress protocol all prio 1 u32 match u32 0 0 flowid 1:1");
    let error = setup.attach(&mut datapath, Direction::Egress).expect_err("kept out").to_string();
    assert!(error.contains("u32 (priority 1, handle 0x80"), "{error}");
    assert!(!setup.tc("filter show DEV ingress").contains("sluice"));
    setup.tc("filter del DEV ingress");
    for handle in ["0x51", "0x52"] {
        setup.tc(&format!("filter add DEV ingress protocol all prio 1 handle {handle} {CLASSIC}"));
    }
    let error = setup.attach(&mut datapath, Direction::Egress).expect_err("kept out").to_string();
    assert!(error.contains("bpf (priority 1, handle 0x5"), "{error}");
    let filters = setup.tc("filter show DEV ingress");
    assert!(filters.contains("handle 0x51") && filters.contains("handle 0x52"), "{filters}");
    assert!(!filters.contains("sluice"), "{filters}");
    assert_eq!(setup.attach(&mut datapath, Direction::Ingress).expect("free"), Attached::New);
}

#[test]
fn ours_is_the_first_filter_or_those_before_it_are_named() {
    let setup = Setup::new();
    setup.tc("qdisc add DEV clsact");
    setup.tc(&format!("filter add DEV ingress protocol all prio 1 handle 0x98 {CLASSIC}"));
    setup.tc("filter add DEV ingress protocol ip prio 2 u32 match u32 0 0 flowid 1:1");
    let mut datapath = closed(setup.ifindex);
    setup.attach_both(&mut datapath);
    for direction in DIRECTIONS {
        assert!(!setup.ensure(&mut datapath, direction).expect("asked"), "{direction:?} is first");
    }
    // The latest of a priority is the first.
    setup.tc(&format!("filter add DEV ingress protocol all prio 1 handle 0x99 {CLASSIC}"));
    let error = setup.ensure(&mut datapath, Direction::Egress).expect_err("not first").to_string();
    assert!(error.contains("0x99") && !error.contains("0x98"), "{error}");
    assert!(!setup.ensure(&mut datapath, Direction::Ingress).expect("asked"));
    setup.tc("filter del DEV ingress protocol all prio 1 handle 0x99 bpf");
    assert!(!setup.ensure(&mut datapath, Direction::Egress).expect("asked"));
}

#[test]
fn what_is_missing_or_anothers_is_not_taken_for_ours() {
    let setup = Setup::new();
    let mut datapath = closed(setup.ifindex);
    setup.attach_both(&mut datapath);
    let ensure = |datapath: &mut Datapath| {
        DIRECTIONS.map(|direction| setup.ensure(datapath, direction).expect("asked"))
    };
    assert_eq!(ensure(&mut datapath), [false, false]);
    setup.tc("filter del DEV egress");
    assert_eq!(ensure(&mut datapath), [true, false]);
    setup.tc("qdisc del DEV clsact");
    assert_eq!(ensure(&mut datapath), [true, true]);
    let mut other = closed(setup.ifindex);
    assert_eq!(ensure(&mut other), [true, true], "these are the first one's programs");
    assert_eq!(ensure(&mut other), [false, false]);
}

#[test]
fn a_filter_of_ours_at_another_handle_goes_when_the_new_one_is_there() {
    let setup = Setup::new();
    setup.tc("qdisc add DEV clsact");
    let (mut former, mut datapath) = (closed(setup.ifindex), closed(setup.ifindex));
    let program = former.program_mut(Direction::Egress).expect("there");
    setup.node.inside("node", || {
        let parent = TcHandle::new(0xffff, 0xfff2);
        let handle = TcHandle::new(0, 0x51);
        let options = NlOptions { priority: 1, handle, classid: None };
        let attached = program.attach(setup.ifindex, TcAttach::Netlink { parent, options });
        let link = attached.and_then(|id| program.take_link(id)).expect("attached");
        std::mem::forget(link);
    });
    setup.attach_both(&mut datapath);
    let filters = setup.tc("filter show DEV ingress");
    let ours = filters.lines().filter(|line| line.contains("sluice_egress"));
    assert_eq!(ours.count(), 1, "{filters}");
    assert!(!setup.ensure(&mut datapath, Direction::Egress).expect("asked"));
}

#[test]
fn the_qdisc_goes_with_the_filters_if_it_was_made_for_them_and_is_empty() {
    let setup = Setup::new();
    let mut datapath = closed(setup.ifindex);
    let has_qdisc = || setup.tc("qdisc show DEV").contains("clsact");
    let round = |datapath: &mut Datapath| {
        setup.attach_both(datapath);
        assert!(has_qdisc());
        setup.detach();
        assert!(setup.attacher.pinned().expect("readable").is_empty());
        has_qdisc()
    };
    assert!(!round(&mut datapath), "made for the filters");
    setup.tc("qdisc add DEV clsact");
    assert!(round(&mut datapath), "made by another");
    setup.tc("qdisc del DEV clsact");
    setup.attach_both(&mut datapath);
    setup.tc(&format!("filter add DEV egress protocol all prio 7 {CLASSIC}"));
    setup.detach();
    assert!(has_qdisc(), "another's filter is on it");
}
