//! Discovery of pods' interfaces, and the hooks on them. Needs root.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use std::process::Command;

use aya::programs::{SchedClassifier, TcAttachType};
use nix::sched::{CloneFlags, setns};
use sluice::datapath::attach::{Attached, Attacher, Backend, DIRECTIONS, is_ours};
use sluice::datapath::{Datapath, LoadOptions};
use sluice::endpoint::Scan;
use sluice::endpoint::links::Links;
use sluice::status::EnforcementState;
use sluice_tests::http::{agent as agent_http, sample};
use sluice_tests::node::{Node, allow_clients, pod};
use sluice_tests::traffic::{CLIENT, OPEN, SERVER, SHUT, bind, client_and_server, reaches};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const A: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const C: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

/// What a scan from the node's namespace finds.
fn scan(node: &Node) -> Scan {
    node.inside("node", || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let links = Links::open().expect("a netlink socket");
            Scan::run(&links, &[PathBuf::from("/run/netns")]).await.expect("scanned")
        })
    })
}

fn addresses(scan: &Scan, ifindex: u32) -> Vec<IpAddr> {
    let interface = &scan.interfaces[&ifindex];
    interface.addresses.iter().copied().filter(IpAddr::is_ipv4).collect()
}

#[test]
fn interfaces_are_found_by_the_addresses_inside_although_all_have_the_same_index_there() {
    let mut node = Node::new(BINARY);
    let hosts = [node.add_pod("a", A), node.add_pod("b", B)];
    let second = node.add_interface("a", "eth1", C);
    // Another node with the same indices and addresses must not be mistaken for this one.
    let mut other = Node::new(BINARY);
    other.add_pod("a", A);

    let scan = scan(&node);
    assert_eq!(scan.interfaces.len(), 3);
    assert_eq!(addresses(&scan, node.ifindex(&hosts[0])), [IpAddr::from(A)]);
    assert_eq!(addresses(&scan, node.ifindex(&hosts[1])), [IpAddr::from(B)]);
    assert_eq!(addresses(&scan, node.ifindex(&second)), [IpAddr::from(C)]);
    for interface in scan.interfaces.values() {
        let pod = if interface.addresses.contains(&IpAddr::from(B)) { "b" } else { "a" };
        assert_eq!(interface.netns_path, node.netns_path(pod));
    }
}

#[test]
fn a_hundred_pods_are_found_in_one_scan() {
    let mut node = Node::new(BINARY);
    for i in 0..100 {
        node.add_pod(&format!("p{i}"), Ipv4Addr::new(10, 9, 1, i));
    }
    scan(&node);
    let begun = Instant::now();
    let found = scan(&node);
    println!("100 pods scanned in {:?}", begun.elapsed());
    assert_eq!(found.interfaces.len(), 100);
}

/// Waits for the agent to notice something by itself.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pod_that_comes_later_is_found_without_being_asked_for() {
    let mut node = Node::new(BINARY);
    node.write("policy.yaml", &allow_clients(80));
    node.write("late.yaml", &pod("late", A, "{app: server}"));
    let _agent = node.spawn_agent();
    eventually("the pod is reported", || node.status().endpoints.iter().any(|e| e.pod == "x/late"));
    let missing = node.endpoint("x/late");
    assert_eq!(missing.state, EnforcementState::NotEnforced);
    assert!(missing.reason.is_some_and(|reason| reason.contains("no network namespace")));
    let status = node.sluice(&["status"]).output().expect("run");
    assert_eq!(status.status.code(), Some(1), "{status:?}");

    let host = node.add_pod("late", A);
    eventually("the pod is found", || node.endpoint("x/late").state == EnforcementState::Enforced);
    let found = node.endpoint("x/late");
    assert_eq!(found.interfaces[0].name, host);
    let status = node.sluice(&["status"]).output().expect("run");
    assert_eq!(status.status.code(), Some(0), "{status:?}");
}

/// Policies cannot be enforced on it, so it is open: that is said wherever one looks.
#[test]
fn a_pod_without_a_veth_is_listed_as_not_enforced_with_the_reason() {
    for (kind, moved) in
        [("macvlan", true), ("macvlan", false), ("ipvlan", true), ("ipvlan", false)]
    {
        let mut node = Node::new(BINARY);
        node.add_bare_pod("a");
        if !node.add_sub_interface("a", kind, moved, A) {
            println!("left out: this kernel has no {kind}");
            continue;
        }
        node.write("policy.yaml", &allow_clients(80));
        node.write("a.yaml", &pod("a", A, "{app: server}"));
        let _agent = node.spawn_agent();
        eventually("it is listed", || node.status().endpoints.iter().any(|e| e.pod == "x/a"));
        let endpoint = node.endpoint("x/a");
        assert_eq!(endpoint.state, EnforcementState::NotEnforced);
        assert_eq!(endpoint.cause.as_deref(), Some("no-host-interface"), "{kind} {moved}");
        let why = endpoint.reason.expect("a reason");
        assert!(why.contains(&node.netns_path("a").display().to_string()), "{why}");
        let ready = agent_http(&node, "/readyz");
        assert_eq!((ready.status, ready.body.contains(&why)), (503, true), "{}", ready.body);
        let text = agent_http(&node, "/metrics").body;
        let counted = r#"sluice_unenforced_endpoints{reason="no-host-interface"}"#;
        assert_eq!(sample(&text, counted), Some(1.0));
        assert_eq!(node.sluice(&["status"]).output().expect("run").status.code(), Some(1));
    }
}

#[test]
fn every_interface_that_carries_an_address_of_the_pod_is_enforced() {
    let mut node = Node::new(BINARY);
    node.add_pod("a", A);
    node.add_interface("a", "eth1", B);
    let beside = node.add_interface("a", "eth2", C);
    node.write("policy.yaml", &allow_clients(80));
    let both = format!("podIPs: [{{ip: {A}}}, {{ip: \"fd00::1\"}}]");
    let manifest = pod("a", A, "{app: server}").replace(&format!("podIPs: [{{ip: {A}}}]"), &both);
    node.write("a.yaml", &manifest);
    // The IPv6 address is on the second interface.
    let command = ["-n", &node.netns("a"), "addr", "add", "fd00::1/128", "dev", "eth1", "nodad"];
    assert!(Command::new("ip").args(command).status().expect("run").success());
    let _agent = node.start_agent();
    let endpoint = node.endpoint("x/a");
    assert_eq!(endpoint.state, EnforcementState::Enforced);
    assert_eq!(endpoint.interfaces.len(), 2);
    assert!(endpoint.interfaces.iter().all(|interface| interface.name != beside));
}

#[test]
fn a_pod_whose_namespace_is_unmounted_stays_enforced_while_its_interface_is_there() {
    let mut node = Node::new(BINARY);
    node.add_pod("a", A);
    node.write("policy.yaml", &allow_clients(80));
    node.write("a.yaml", &pod("a", A, "{app: server}"));
    let agent = node.start_agent();
    let before = node.endpoint("x/a");
    let alive = std::fs::File::open(node.netns_path("a")).expect("the namespace");
    node.unmount_pod("a");
    node.sync();
    assert_eq!(node.endpoint("x/a").state, EnforcementState::Enforced);
    agent.kill();
    let _agent = node.start_agent();
    let after = node.endpoint("x/a");
    assert_eq!((after.state, after.slot, after.epoch), (before.state, before.slot, before.epoch));
    drop(alive);
    eventually("the pod is gone", || node.endpoint("x/a").state == EnforcementState::NotEnforced);
}

/// What is pinned and attached is all that is left of such a pod.
#[test]
fn without_notes_a_pod_whose_namespace_is_unmounted_stays_enforced_until_it_is_gone() {
    let mut node = Node::new(BINARY);
    node.add_pod("a", A);
    node.write("policy.yaml", &allow_clients(80));
    node.write("a.yaml", &pod("a", A, "{app: server}"));
    let agent = node.start_agent();
    let before = node.endpoint("x/a");
    let alive = std::fs::File::open(node.netns_path("a")).expect("the namespace");
    node.unmount_pod("a");
    agent.kill();
    std::fs::remove_file(node.state_dir().join("state.json")).expect("removed");
    let agent = node.start_agent();
    let after = node.endpoint("x/a");
    assert_eq!(after.state, EnforcementState::Enforced);
    assert_eq!((after.slot, after.epoch), (before.slot, before.epoch));
    // The new notes know no inode; the next agent makes nothing else of it.
    agent.kill();
    let _agent = node.start_agent();
    let again = node.endpoint("x/a");
    assert_eq!((again.state, again.epoch), (EnforcementState::Enforced, before.epoch));
    let ifindex = before.interfaces[0].ifindex;
    assert!(node.bpffs().join(format!("links/{ifindex}-ingress")).exists());
    drop(alive);
    eventually("the pod is gone", || node.endpoint("x/a").state == EnforcementState::NotEnforced);
}

/// Takes the labels of pods without an object out of the notes.
fn forget_the_gone(node: &Node) {
    let path = node.state_dir().join("state.json");
    let text = std::fs::read(&path).expect("notes");
    let mut notes: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(notes["gone"].as_array().map(Vec::len), Some(1), "{notes}");
    notes.as_object_mut().expect("an object").remove("gone");
    std::fs::write(path, notes.to_string()).expect("written");
}

/// SEMANTICS asks for policy on what runs: a forced deletion removes the object, not the pod.
#[test]
fn a_pod_that_runs_on_without_its_object_is_enforced_and_let_in_nowhere_until_it_is_gone() {
    let mut node = client_and_server(BINARY);
    let agent = node.start_agent();
    let before = node.endpoint("x/server");
    let [open, shut] = [OPEN, SHUT].map(|port| bind(&node, "server", SERVER, port));
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
    node.unwrite("server.yaml");
    node.sync();
    assert!(reaches(&node, "client", &open), "what it was allowed goes on");
    assert!(!reaches(&node, "client", &shut), "it is open");
    let name = format!("x/server (gone {})", before.epoch);
    let gone = node.endpoint(&name);
    assert_eq!((gone.state, gone.slot), (EnforcementState::Enforced, before.slot));
    assert_eq!(gone.cause.as_deref(), Some("object-gone"));
    // Policies still select it; as a peer it is nobody.
    node.write("policy.yaml", &allow_clients(SHUT));
    node.unwrite("client.yaml");
    node.sync();
    assert!(!reaches(&node, "client", &shut), "a client without an object is no client");
    node.write("client.yaml", &pod("client", CLIENT, "{app: client}"));
    node.sync();
    assert!(reaches(&node, "client", &shut));
    // The next agent has it in its notes.
    agent.kill();
    let agent = node.start_agent();
    assert_eq!(node.endpoint(&name), gone);
    assert!(reaches(&node, "client", &shut) && !reaches(&node, "client", &open));
    // What an agent does not know of it is closed, as from the notes of an agent of before.
    agent.kill();
    forget_the_gone(&node);
    let _agent = node.start_agent();
    assert!(!reaches(&node, "client", &shut) && !reaches(&node, "client", &open));
    let closed = node.endpoint(&format!("(closed)/{name}"));
    assert_eq!(closed.state, EnforcementState::Closed);
    assert_eq!(closed.cause.as_deref(), Some("object-unknown"));
    drop((open, shut));
    node.remove_pod("server");
    eventually("it is gone", || node.status().endpoints.iter().all(|e| e.pod == "x/client"));
    assert!(node.status().endpoints[0].cause.is_none());
}

/// A pod can be root in its own namespace, and give itself any address there.
#[test]
fn a_pod_that_takes_a_neighbours_address_or_drops_its_own_changes_nobodys_enforcement() {
    let node = client_and_server(BINARY);
    let agent = node.start_agent();
    let before = ["x/client", "x/server"].map(|pod| node.endpoint(pod).interfaces);
    let [open, shut] = [OPEN, SHUT].map(|port| bind(&node, "server", SERVER, port));
    node.exec("client", &format!("ip addr add {SERVER}/32 dev lo"));
    node.exec("client", &format!("ip addr add {SERVER}/32 dev eth0"));
    node.sync();
    assert_eq!(["x/client", "x/server"].map(|pod| node.endpoint(pod).interfaces), before);
    node.exec("client", &format!("ip addr del {SERVER}/32 dev lo"));
    node.exec("client", &format!("ip addr del {SERVER}/32 dev eth0"));
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
    node.exec("server", "ip addr flush dev eth0");
    node.sync();
    assert_eq!(node.endpoint("x/server").interfaces, before[1]);
    assert_eq!(node.endpoint("x/server").state, EnforcementState::Enforced);
    drop((open, shut));

    // At first sight, without notes and pins, nothing tells the two apart.
    node.exec("server", &format!("ip addr add {SERVER}/32 dev eth0"));
    node.exec("client", &format!("ip addr add {SERVER}/32 dev eth0"));
    agent.stop();
    assert!(node.sluice(&["agent", "--uninstall"]).output().expect("run").status.success());
    std::fs::create_dir_all(node.state_dir()).expect("a directory");
    let _agent = node.spawn_agent();
    eventually("it is seen", || node.status().generation > 0);
    for pod in ["x/client", "x/server"] {
        let contested = node.endpoint(pod);
        assert_eq!(contested.state, EnforcementState::Closed, "{contested:?}");
        assert_eq!(contested.cause.as_deref(), Some("address-contested"));
    }
    let closed = node.status().endpoints.into_iter().filter(|e| e.pod.starts_with("(closed)/"));
    let closed: Vec<u32> = closed.map(|e| e.interfaces[0].ifindex).collect();
    assert_eq!(closed, before.each_ref().map(|interfaces| interfaces[0].ifindex));
    assert!(agent_http(&node, "/readyz").body.contains("x/server: which network namespace"));
    node.exec("client", &format!("ip addr del {SERVER}/32 dev eth0"));
    node.sync();
    let [open, shut] = [OPEN, SHUT].map(|port| bind(&node, "server", SERVER, port));
    assert_eq!(["x/client", "x/server"].map(|pod| node.endpoint(pod).interfaces), before);
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
}

/// A file where a directory of namespaces should be makes every scan fail.
#[test]
fn a_node_that_cannot_be_looked_at_is_said_so_and_what_is_enforced_stays() {
    let node = client_and_server(BINARY);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let broken = directory.path().join("netns");
    std::fs::write(&broken, "").expect("written");
    let path = broken.display().to_string();
    let _agent = node.spawn_agent_with(&["--netns-dir", "/run/netns", "--netns-dir", &path]);
    let says = |text: &str| {
        let faults = node.status().faults;
        let ready = agent_http(&node, "/readyz");
        faults.iter().any(|fault| fault.contains(text))
            && (ready.status, ready.body.contains(text)) == (503, true)
    };
    eventually("it says so", || says("nothing is enforced anew before that succeeds"));
    assert!(node.log().contains("cannot look for pods' interfaces"), "{}", node.log());
    std::fs::remove_file(&broken).expect("removed");
    node.sync();
    assert_eq!((node.status().faults, agent_http(&node, "/readyz").status), (Vec::new(), 200));
    std::fs::write(&broken, "").expect("written");
    eventually("it says so", || says("what was found before stays in force"));
    let [open, shut] = [OPEN, SHUT].map(|port| bind(&node, "server", SERVER, port));
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
    assert_eq!(node.endpoint("x/server").state, EnforcementState::Enforced);
    std::fs::remove_file(&broken).expect("removed");
    node.sync();
}

#[test]
fn tcx_programs_are_attached_replaced_and_detached() {
    let mut node = Node::new(BINARY);
    let host = node.add_pod("a", A);
    let ifindex = node.ifindex(&host);
    let pins = node.bpffs().join("links");
    std::fs::create_dir_all(&pins).expect("a directory");
    let attacher = Attacher::new(Backend::Tcx, pins);
    let netns = std::fs::File::open(node.netns_path("node")).expect("the namespace");
    // The programs stay on the thread that entered the namespace.
    let thread = std::thread::spawn(move || {
        setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("entered");
        let mut first = Datapath::load(&LoadOptions::default()).expect("loaded");
        let mut second = Datapath::load(&LoadOptions::default()).expect("loaded");
        for direction in DIRECTIONS {
            let program = first.program_mut(direction).expect("a program");
            assert_eq!(
                attacher.attach(program, ifindex, direction).expect("attached"),
                Attached::New
            );
            let program = second.program_mut(direction).expect("a program");
            let replaced = attacher.attach(program, ifindex, direction).expect("attached");
            assert_eq!(replaced, Attached::Replaced);
        }
        for direction in DIRECTIONS {
            let present = second.program_mut(direction).expect("a program");
            assert!(!attacher.ensure(present, ifindex, direction).expect("known"));
        }
        attacher.detach(ifindex).expect("detached");
        for direction in DIRECTIONS {
            let present = second.program_mut(direction).expect("a program");
            assert!(attacher.ensure(present, ifindex, direction).expect("attached"));
        }
        // Dropping the programs must not detach them.
        drop((first, second));
        eventually("each is attached once", || programs_on(ifindex) == 2);
        attacher.detach(ifindex).expect("detached");
        eventually("the programs are gone", || programs_on(ifindex) == 0);
        attacher.detach(ifindex).expect("nothing to detach is fine");
    });
    thread.join().expect("the thread went well");
}

/// How many of our programs are on an interface of this thread's namespace.
fn programs_on(ifindex: u32) -> usize {
    let ours = |hook| {
        let (_, programs) = SchedClassifier::query_tcx(ifindex, hook).expect("known");
        programs.iter().filter(|p| is_ours(p.name_as_str().unwrap_or_default())).count()
    };
    [TcAttachType::Ingress, TcAttachType::Egress].into_iter().map(ours).sum()
}

#[test]
fn programs_of_others_are_named_in_the_status() {
    let mut node = Node::new(BINARY);
    let host = node.add_pod("a", A);
    node.write("policy.yaml", &allow_clients(80));
    node.write("a.yaml", &pod("a", A, "{app: server}"));
    let tc = |arguments: &str, program: &[&str]| {
        let netns = node.netns("node");
        let mut command = Command::new("tc");
        command.args(["-n", &netns]).args(arguments.split_whitespace());
        command.args(program);
        assert!(command.status().expect("tc runs").success(), "{command:?}");
    };
    tc(&format!("qdisc add dev {host} clsact"), &[]);
    tc(&format!("filter add dev {host} ingress bpf da bytecode"), &["1,6 0 0 0"]);
    let _agent = node.start_agent();
    let endpoint = node.endpoint("x/a");
    assert_eq!(endpoint.state, EnforcementState::Enforced);
    assert_eq!(endpoint.interfaces[0].foreign_programs, ["egress: bpf (clsact)"]);
}
