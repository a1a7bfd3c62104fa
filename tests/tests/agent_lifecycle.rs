//! The agent's life: restart, kill, adoption, healing, removal. Needs root.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use sluice::datapath::pins::maps_of;
use sluice::datapath::{KernelMaps, MapFault};
use sluice::status::EnforcementState;
use sluice_common::abi::{ABI_VERSION, Control, Direction, Versioned};
use sluice_common::reason::Reason;
use sluice_policy::diff::{KernelState, Op};
use sluice_tests::node::{Node, allow_clients, pod, pod_created};
use sluice_tests::traffic::{
    CLIENT, OPEN, SERVER, SHUT, Traffic, bind, client_and_server, reaches,
};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");
const OTHER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 3);

fn maps(node: &Node) -> KernelMaps {
    KernelMaps::open(&maps_of(&node.bpffs())).expect("pinned tables")
}

fn state(node: &Node) -> KernelState {
    maps(node).state().expect("readable")
}

/// Packets that were dropped on their way to a pod by default.
fn dropped(node: &Node, slot: u32) -> u64 {
    let snapshot = maps(node).snapshot(slot).expect("readable");
    snapshot.get(&(Direction::Ingress, Reason::DefaultDeny)).map_or(0, |counter| counter.packets)
}

/// SEMANTICS 57.
#[test]
fn no_packet_is_judged_differently_while_agents_are_killed_and_started() {
    let node = client_and_server(BINARY);
    let mut agent = node.start_agent();
    let slot = node.endpoint("x/server").slot;
    let traffic = Traffic::start(&node);
    for round in 0..10 {
        if round % 3 == 0 {
            agent.stop();
        } else {
            agent.kill();
        }
        std::thread::sleep(Duration::from_millis(50));
        if round % 2 == 0 {
            // The next agent finds other objects than the last one knew.
            node.write("more.yaml", &pod("more", OTHER, &format!("{{round: \"{round}\"}}")));
            node.unwrite("more.yaml");
        }
        agent = node.start_agent();
    }
    traffic.check();
    assert!(dropped(&node, slot) > 100, "forbidden datagrams were sent and dropped");
    assert_eq!(node.endpoint("x/server").slot, slot);
}

/// SEMANTICS 61, over a restart.
#[test]
fn the_next_agent_adopts_everything_and_writes_nothing() {
    let node = client_and_server(BINARY);
    let agent = node.start_agent();
    let before = (state(&node), maps(&node).slots().expect("readable"));
    let notes = std::fs::read(node.state_dir().join("state.json")).expect("notes");
    agent.kill();
    let agent = node.start_agent();
    assert_eq!((state(&node), maps(&node).slots().expect("readable")), before);
    assert_eq!(std::fs::read(node.state_dir().join("state.json")).expect("notes"), notes);
    assert_eq!(node.heal(), 0);
    agent.stop();
}

#[test]
fn an_agent_without_notes_finds_its_endpoints_and_their_flows() {
    let node = client_and_server(BINARY);
    let agent = node.start_agent();
    let server = bind(&node, "server", SERVER, OPEN);
    assert!(reaches(&node, "client", &server));
    let before = node.endpoint("x/server");
    let flows = maps(&node).flows().expect("readable").len();
    assert!(flows > 0);
    agent.kill();
    std::fs::remove_file(node.state_dir().join("state.json")).expect("removed");
    let _agent = node.start_agent();
    let after = node.endpoint("x/server");
    assert_eq!((after.slot, after.epoch), (before.slot, before.epoch));
    assert_eq!(maps(&node).flows().expect("readable").len(), flows);
}

/// SEMANTICS 53 and 60.
#[test]
fn a_pod_recreated_under_its_name_starts_afresh_and_its_old_address_is_nobodys() {
    let mut node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let server = bind(&node, "server", SERVER, OPEN);
    assert!(reaches(&node, "client", &server));
    let before = node.endpoint("x/server");
    drop(server);

    // The server again, at the same address; and the client's address for a pod that is no client.
    node.remove_pod("server");
    node.remove_pod("client");
    node.add_pod("server", SERVER);
    node.add_pod("stranger", CLIENT);
    let later = "2026-01-02T00:00:00Z";
    node.write("server.yaml", &pod_created("server", SERVER, "{app: server}", later));
    node.write("client.yaml", &pod_created("stranger", CLIENT, "{app: stranger}", later));
    node.sync();
    let after = node.endpoint("x/server");
    assert_eq!(after.state, EnforcementState::Enforced);
    assert_ne!(after.epoch, before.epoch);
    assert_ne!(after.interfaces, before.interfaces);
    let server = bind(&node, "server", SERVER, OPEN);
    assert!(!reaches(&node, "stranger", &server), "an old flow or an old peer let it in");
    assert!(dropped(&node, after.slot) > 0);
    let stale = before.interfaces[0].ifindex;
    assert!(!maps(&node).slots().expect("readable").contains_key(&stale));
    assert!(!node.bpffs().join(format!("links/{stale}-ingress")).exists());
}

#[test]
fn healing_repairs_what_others_have_changed_in_the_kernel() {
    let node = client_and_server(BINARY);
    let agent = node.start_agent();
    let good = state(&node);
    let endpoint = node.endpoint("x/server");
    let server = bind(&node, "server", SERVER, OPEN);
    assert!(reaches(&node, "client", &server));

    // An entry is gone.
    let peer = *good.peers.keys().next().expect("a peer");
    maps(&node).apply(&[Op::RemovePeer(peer)]).expect("removed");
    assert_ne!(state(&node), good);
    node.heal();
    // By this one, or by a regular one just before.
    assert_eq!(node.status().corrections, 1);
    assert_eq!(state(&node).view(), good.view());
    assert!(reaches(&node, "client", &server));

    // A program is gone.
    let ifindex = endpoint.interfaces[0].ifindex;
    std::fs::remove_file(node.bpffs().join(format!("links/{ifindex}-ingress"))).expect("removed");
    node.heal();
    assert_eq!(node.status().corrections, 2);
    let shut = bind(&node, "server", SERVER, SHUT);
    assert!(!reaches(&node, "client", &shut));

    // An interface is led nowhere.
    maps(&node).set_slot(ifindex, 0).expect("set");
    assert!(reaches(&node, "client", &shut), "without a slot the interface is not managed");
    agent.signal(Signal::SIGHUP);
    node.sync();
    assert!(!reaches(&node, "client", &shut));
    assert_eq!(node.heal(), 0);
    assert_eq!(node.status().corrections, 3);
}

/// A new interface under an old index has no programs: it must not pass for the old one.
#[test]
fn an_interface_that_is_made_again_under_its_index_is_enforced_again() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let before = node.endpoint("x/server");
    node.remake_interface("server", &before.interfaces[0].name, "eth0", SERVER);
    node.sync();
    assert_eq!(node.endpoint("x/server").interfaces, before.interfaces);
    let open = bind(&node, "server", SERVER, OPEN);
    let shut = bind(&node, "server", SERVER, SHUT);
    assert!(!reaches(&node, "client", &shut));
    assert!(reaches(&node, "client", &open));
}

/// Notes that another state directory has kept say where pods were long ago.
#[test]
fn notes_older_than_the_kernel_are_not_believed() {
    let mut node = client_and_server(BINARY);
    node.start_agent().stop();
    let notes = node.state_dir().join("state.json");
    let old = std::fs::read(&notes).expect("notes");
    // Meanwhile the server has another place, and its old one is another pod's.
    let agent = node.start_agent();
    let server = node.endpoint("x/server");
    node.remove_pod("server");
    node.unwrite("server.yaml");
    node.add_pod("other", OTHER);
    node.write("other.yaml", &pod("other", OTHER, "{app: server}"));
    node.sync();
    node.remove_pod("other");
    node.unwrite("other.yaml");
    node.add_pod("server", SERVER);
    node.write("server.yaml", &pod("server", SERVER, "{app: server}"));
    node.sync();
    let before = node.endpoint("x/server");
    assert_ne!(before.epoch, server.epoch);
    agent.kill();
    std::fs::write(&notes, old).expect("written");
    let _agent = node.start_agent();
    let after = node.endpoint("x/server");
    assert_eq!((after.slot, after.epoch), (before.slot, before.epoch));
    assert!(node.log().contains("older than the kernel tables"), "{}", node.log());
}

/// A table whose pin is gone cannot be filled under the running programs.
#[test]
fn pins_that_are_half_there_are_replaced_as_a_whole() {
    let node = client_and_server(BINARY);
    node.start_agent().kill();
    std::fs::remove_file(maps_of(&node.bpffs()).join("peers")).expect("removed");
    let _agent = node.start_agent();
    let open = bind(&node, "server", SERVER, OPEN);
    let shut = bind(&node, "server", SERVER, SHUT);
    assert!(reaches(&node, "client", &open));
    assert!(!reaches(&node, "client", &shut));
    assert!(node.log().contains("replacing tables"), "{}", node.log());
    assert!(!node.bpffs().join("maps-new").exists());
}

#[test]
fn uninstalling_leaves_nothing_and_can_be_repeated() {
    let node = client_and_server(BINARY);
    let agent = node.start_agent();
    let shut = bind(&node, "server", SERVER, SHUT);
    assert!(!reaches(&node, "client", &shut));
    let refused = node.sluice(&["agent", "--uninstall"]).output().expect("run");
    assert_eq!(refused.status.code(), Some(3), "while an agent runs: {refused:?}");
    assert!(!reaches(&node, "client", &shut));
    agent.stop();
    assert!(!reaches(&node, "client", &shut), "enforcement outlives the agent");
    let status = node.sluice(&["status"]).output().expect("run");
    assert_eq!(status.status.code(), Some(1), "no agent follows what changes: {status:?}");
    let printed = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(printed.contains("what the last one pinned is"), "{printed}");
    for _ in 0..2 {
        let done = node.sluice(&["agent", "--uninstall"]).output().expect("run");
        assert!(done.status.success(), "{done:?}");
        assert!(!node.bpffs().exists());
        assert!(!node.state_dir().exists());
    }
    assert!(reaches(&node, "client", &shut));
}

#[test]
fn a_second_agent_on_the_same_pins_is_refused_and_changes_nothing() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let before = state(&node);
    let second = node.agent_command().output().expect("run");
    assert_eq!(second.status.code(), Some(3));
    let errors = String::from_utf8_lossy(&second.stderr);
    assert!(errors.contains("another agent enforces with"), "{errors}");
    assert_eq!(state(&node), before);
    assert!(node.status().synced);
}

/// Each would have tables of its own, and both would judge every packet.
#[test]
fn a_second_agent_with_pins_of_its_own_on_the_same_interfaces_is_refused() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let other = node.bpffs().with_extension("other");
    let state_dir = tempfile::tempdir().expect("a temporary directory");
    let mut command = std::process::Command::new("nsenter");
    command.arg(format!("--net={}", node.netns_path("node").display())).arg(BINARY);
    command.args(["agent", "--node-name", "node-1", "--source"]);
    command.arg(format!("dir:{}", node.manifests().display()));
    command.arg("--bpffs").arg(&other).arg("--state-dir").arg(state_dir.path());
    let refused = command.output().expect("run");
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("interfaces of this network namespace"), "{errors}");
    assert!(!other.exists());
    assert_eq!(node.endpoint("x/server").interfaces[0].foreign_programs, [""; 0]);
}

/// The pins are gone with the kernel that had them; notes on a disk are not. Pods have other interfaces
/// and namespaces, under their old names.
#[test]
fn a_node_that_was_booted_again_is_enforced_afresh_and_keeps_nothing() {
    let mut node = client_and_server(BINARY);
    let agent = node.start_agent();
    let before = node.endpoint("x/server");
    agent.kill();
    std::fs::remove_dir_all(node.bpffs()).expect("removed");
    for (pod, address) in [("client", CLIENT), ("server", SERVER)] {
        node.remove_pod(pod);
        node.add_pod(pod, address);
    }
    assert!(node.state_dir().join("state.json").exists());
    let _agent = node.start_agent();
    let after = node.endpoint("x/server");
    assert_eq!(after.state, EnforcementState::Enforced);
    assert!(after.epoch > before.epoch, "no flow of before is one of now");
    let led: Vec<u32> = maps(&node).slots().expect("readable").into_keys().collect();
    assert_eq!(led, [after.interfaces[0].ifindex]);
    let [open, shut] = [OPEN, SHUT].map(|port| bind(&node, "server", SERVER, port));
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
    assert_eq!(node.status().endpoints.len(), 2, "{:#?}", node.status());
}

/// Links that nothing holds are detached, tables that programs use live on.
#[test]
fn pins_that_are_lost_under_a_running_agent_are_made_again() {
    let node = client_and_server(BINARY);
    let agent = node.start_agent();
    let [open, shut] = [OPEN, SHUT].map(|port| bind(&node, "server", SERVER, port));
    for directory in ["links", "maps"] {
        let entries = std::fs::read_dir(node.bpffs().join(directory)).expect("listed");
        for entry in entries {
            std::fs::remove_file(entry.expect("an entry").path()).expect("removed");
        }
    }
    node.heal();
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
    agent.kill();
    assert!(!reaches(&node, "client", &shut), "what is attached outlives the agent");
    let _agent = node.start_agent();
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
    let endpoint = node.endpoint("x/server");
    assert_eq!(endpoint.state, EnforcementState::Enforced);
    assert_eq!(maps(&node).slots().expect("readable").len(), 1);
}

/// Tables and notes of a later version mean nothing to this one.
#[test]
fn an_agent_that_was_downgraded_replaces_what_it_cannot_read() {
    let node = client_and_server(BINARY);
    node.start_agent().kill();
    let control = maps(&node).control().expect("readable");
    set_abi_version(&node, Control { abi_version: ABI_VERSION + 1, ..control });
    let notes = node.state_dir().join("state.json");
    let text = std::fs::read_to_string(&notes).expect("notes");
    assert!(text.starts_with(r#"{"version":1,"#), "{text}");
    std::fs::write(&notes, text.replace(r#"{"version":1,"#, r#"{"version":2,"#)).expect("written");
    let _agent = node.start_agent();
    assert!(node.log().contains("going on without notes"), "{}", node.log());
    let [open, shut] = [OPEN, SHUT].map(|port| bind(&node, "server", SERVER, port));
    assert!(reaches(&node, "client", &open) && !reaches(&node, "client", &shut));
    assert_eq!(maps(&node).control().expect("readable").abi_version, ABI_VERSION);
    assert!(std::fs::read_to_string(&notes).expect("notes").starts_with(r#"{"version":1,"#));
}

#[test]
fn tables_of_another_layout_are_replaced_without_a_gap() {
    let node = client_and_server(BINARY);
    node.start_agent().kill();
    let control: Control = maps(&node).control().expect("readable");
    set_abi_version(&node, Control { abi_version: ABI_VERSION + 1, ..control });
    let shut = bind(&node, "server", SERVER, SHUT);
    let status = node.sluice(&["status"]).output().expect("run");
    assert_eq!(status.status.code(), Some(3), "{status:?}");

    let open = bind(&node, "server", SERVER, OPEN);
    shut.set_nonblocking(true).expect("set");
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let stop = stop.clone();
        let sender = bind(&node, "client", CLIENT, 30_000);
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                sender.send_to(b"forbidden", (SERVER, SHUT)).expect("sent");
            }
        })
    };
    let agent = node.start_agent();
    stop.store(true, Ordering::Relaxed);
    flood.join().expect("the flood went well");
    assert!(shut.recv(&mut [0; 64]).is_err(), "a forbidden datagram was let through");
    assert!(reaches(&node, "client", &open));
    assert_eq!(maps(&node).control().expect("readable").abi_version, ABI_VERSION);
    assert!(!node.bpffs().join("maps-new").exists());
    // And that is what the next one adopts.
    let before = state(&node);
    agent.kill();
    let _agent = node.start_agent();
    assert_eq!(state(&node), before);
}

/// The generation is a number of 32 bits. When it is used up nothing more is written, which could be
/// seen in part; what is in force stays, and the next agent makes new tables.
#[test]
fn generations_that_are_used_up_are_refused_and_then_replaced() {
    let node = client_and_server(BINARY);
    let agent = node.start_agent();
    let mut tables = maps(&node);
    tables.apply(&[Op::Flip(u32::MAX)]).expect("flipped");
    let before = state(&node);
    let address = IpAddr::from(Ipv4Addr::new(10, 9, 9, 9)).into();
    let change = [Op::Peer(address, Versioned::settled(1)), Op::Flip(u32::MAX)];
    assert!(matches!(tables.apply(&change), Err(MapFault::Exhausted)));
    assert_eq!(state(&node), before, "nothing was written");
    agent.kill();
    let _agent = node.start_agent();
    let after = state(&node);
    assert!(after.generation < u32::MAX, "new tables");
    assert_eq!(after.view().endpoints.len(), before.view().endpoints.len());
    let open = bind(&node, "server", SERVER, OPEN);
    assert!(reaches(&node, "client", &open));
}

/// Writes the element of the pinned table `control`, as an agent of another version would have.
fn set_abi_version(node: &Node, control: Control) {
    use aya::maps::{Array, Map, MapData};
    let data = MapData::from_pin(maps_of(&node.bpffs()).join("control")).expect("pinned");
    let mut table: Array<MapData, Control> =
        Map::from_map_data(data).expect("a map").try_into().expect("an array");
    table.set(0, &control, 0).expect("written");
}

#[test]
fn a_manifest_that_becomes_invalid_keeps_its_last_good_version_and_the_rest_goes_on() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let open = bind(&node, "server", SERVER, OPEN);
    let shut = bind(&node, "server", SERVER, SHUT);
    node.write("policy.yaml", &allow_clients(OPEN).replace("port: 80", "port: 70000"));
    node.write("other.yaml", &allow_clients(SHUT).replace("allow-clients", "allow-more"));
    node.sync();
    assert!(reaches(&node, "client", &open), "the last good version stays");
    assert!(reaches(&node, "client", &shut), "other objects go on changing");
    let faults = node.status().faults;
    assert!(
        faults.iter().any(|fault| fault.contains("NetworkPolicy x/allow-clients")),
        "{faults:?}"
    );
    node.write("policy.yaml", &allow_clients(OPEN));
    node.unwrite("other.yaml");
    node.sync();
    assert!(!reaches(&node, "client", &shut));
    assert_eq!(node.status().faults, [""; 0]);
}

#[test]
fn a_directory_that_vanishes_takes_no_policy_with_it() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let open = bind(&node, "server", SERVER, OPEN);
    let shut = bind(&node, "server", SERVER, SHUT);
    let away = node.manifests().with_extension("away");
    std::fs::rename(node.manifests(), &away).expect("renamed");
    node.sync();
    assert!(reaches(&node, "client", &open));
    assert!(!reaches(&node, "client", &shut));
    assert_eq!(node.status().faults.len(), 1);
    std::fs::rename(&away, node.manifests()).expect("renamed");
}

#[test]
fn a_policy_that_goes_takes_the_programs_with_it() {
    let node = client_and_server(BINARY);
    let _agent = node.start_agent();
    let shut = bind(&node, "server", SERVER, SHUT);
    let ifindex = node.endpoint("x/server").interfaces[0].ifindex;
    assert!(node.bpffs().join(format!("links/{ifindex}-ingress")).exists());
    node.unwrite("policy.yaml");
    node.sync();
    assert_eq!(node.endpoint("x/server").state, EnforcementState::NotIsolated);
    assert_eq!(std::fs::read_dir(node.bpffs().join("links")).expect("listed").count(), 0);
    assert!(maps(&node).slots().expect("readable").is_empty());
    assert!(reaches(&node, "client", &shut));
    node.write("policy.yaml", &allow_clients(OPEN));
    node.sync();
    assert!(!reaches(&node, "client", &shut));
}

#[test]
fn pins_off_the_bpf_file_system_are_refused() {
    let node = Node::new(BINARY);
    let mut command = std::process::Command::new(BINARY);
    let directory = node.state_dir().join("pins");
    command.args(["agent", "--node-name", "n", "--source", "dir:/", "--bpffs"]).arg(&directory);
    command.arg("--state-dir").arg(node.state_dir());
    let refused = command.output().expect("run");
    assert_eq!(refused.status.code(), Some(3));
    let errors = String::from_utf8_lossy(&refused.stderr);
    assert!(errors.contains("not on a BPF file system"), "{errors}");
    assert!(!directory.exists());
}
