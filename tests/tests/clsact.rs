//! Below Linux 6.6 programs are filters of a clsact qdisc, which newer kernels have as well. Needs root.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use sluice::datapath::attach::{Attached, Attacher, Backend, DIRECTIONS};
use sluice::datapath::{Datapath, LoadOptions};
use sluice_common::abi::{Endpoint, EndpointFlags, Versioned};
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
    let attacher = Attacher::new(Backend::Clsact, "/nonexistent".into());
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
