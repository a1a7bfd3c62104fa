//! The chained CNI plugin with a real agent, on a node that is a network namespace. Needs root.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use sluice::status::EnforcementState;
use sluice_tests::cni::{Runtime, address_of, call, container, reference_plugins, result};
use sluice_tests::http;
use sluice_tests::node::{Node, allow_clients, pod};
use sluice_tests::traffic::{OPEN, SHUT};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

/// For what takes a second or two.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the kubelet has before it starts a pod: an object that names no address.
fn starting(name: &str, labels: &str) -> String {
    let object = pod(name, SERVER, labels);
    let (head, _) = object.split_once("status:").expect("a status");
    head.to_owned()
}

/// A client, and the policy that lets no pod but it reach servers, and these on [`OPEN`] alone.
fn node() -> Node {
    let mut node = Node::new(BINARY);
    node.add_pod("client", CLIENT);
    node.write("client.yaml", &pod("client", CLIENT, "{app: client}"));
    node.write("policy.yaml", &allow_clients(OPEN));
    node
}

/// Sends a datagram from the client to a port of a pod, and says whether it came.
fn reaches(node: &Node, to: &str, address: Ipv4Addr, port: u16) -> bool {
    let server = node.inside(to, || UdpSocket::bind((address, port))).expect("bound");
    let client = node.inside("client", || UdpSocket::bind((CLIENT, 0))).expect("bound");
    client.send_to(b"hello", (address, port)).expect("sent");
    server.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
    server.recv(&mut [0; 8]).is_ok()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pod_starts_with_its_policies_in_the_kernel_before_its_object_names_an_address() {
    let mut node = node();
    node.write("server.yaml", &starting("server", "{app: server}"));
    let agent = node.start_agent();
    node.add_pod("server", SERVER);
    assert!(reaches(&node, "server", SERVER, SHUT), "nothing is enforced yet");

    let runtime = Runtime::new(&node, BINARY);
    let answer = runtime.add(&node, "server", SERVER, 20);
    assert_eq!((answer.ok, answer.text), (true, result(SERVER)), "{}", answer.errors);
    assert!(!reaches(&node, "server", SERVER, SHUT));
    assert!(reaches(&node, "server", SERVER, OPEN));
    let begun = node.endpoint("x/server");
    assert_eq!((begun.state, begun.addresses.len()), (EnforcementState::Enforced, 1));
    assert!(runtime.ask(&node, "CHECK", "server").ok);
    assert!(runtime.ask(&node, "STATUS", "server").ok);

    // The next agent knows of it as well, though no object does.
    agent.kill();
    let _agent = node.start_agent();
    assert!(!reaches(&node, "server", SERVER, SHUT));
    assert_eq!(node.endpoint("x/server").epoch, begun.epoch);

    node.write("server.yaml", &pod("server", SERVER, "{app: server}"));
    node.sync();
    assert_eq!(node.endpoint("x/server").epoch, begun.epoch, "the same pod");
    assert!(!reaches(&node, "server", SERVER, SHUT));
}

#[test]
fn what_add_waits_is_counted_and_a_pod_without_policies_may_start() {
    let mut node = node();
    node.write("server.yaml", &starting("server", "{app: server}"));
    node.write("free.yaml", &starting("free", "{app: other}"));
    let _agent = node.start_agent();
    let free = Ipv4Addr::new(10, 9, 0, 3);
    node.add_pod("server", SERVER);
    node.add_pod("free", free);
    let runtime = Runtime::new(&node, BINARY);
    assert!(runtime.add(&node, "server", SERVER, 20).ok);
    assert!(runtime.add(&node, "free", free, 20).ok);
    assert_eq!(node.endpoint("x/free").state, EnforcementState::NotIsolated);
    assert!(!runtime.add(&node, "unknown", Ipv4Addr::new(10, 9, 0, 4), 1).ok);
    let body = http::agent(&node, "/metrics").body;
    for result in ["enforced", "not-isolated", "failed"] {
        let series = format!(r#"sluice_cni_add_seconds_count{{result="{result}"}}"#);
        assert_eq!(http::sample(&body, &series), Some(1.0), "{result}: {body}");
    }
}

#[test]
fn a_pod_does_not_start_where_the_reason_is_named() {
    let mut node = node();
    node.write("server.yaml", &starting("server", "{app: server}"));
    node.write("free.yaml", &starting("free", "{app: other}"));
    let runtime = Runtime::new(&node, BINARY);
    let (code, details) = runtime.add(&node, "server", SERVER, 1).error();
    assert_eq!(code, 11);
    assert!(details.contains("no agent answers on"), "{details}");
    for verb in ["DEL", "GC", "STATUS"] {
        let answer = runtime.ask(&node, verb, "server");
        assert_eq!((answer.ok, answer.text.as_str()), (true, ""), "{}", answer.errors);
    }

    let _agent = node.start_agent();
    let add = |node: &Node, pod: &str| runtime.add(node, pod, SERVER, 1);
    // There is no such interface.
    let (code, details) = add(&node, "server").error();
    assert_eq!(code, 11);
    assert!(details.contains("no network namespace under --netns-dir has any"), "{details}");
    let (_, details) = add(&node, "unknown").error();
    assert!(details.contains("has not told of the pod"), "{details}");
    // What no policy selects need not be found.
    assert!(add(&node, "free").ok);
    let (code, details) = runtime.ask(&node, "CHECK", "server").error();
    assert_eq!(code, 100);
    assert!(details.contains("x/server"), "{details}");
    node.add_pod("server", SERVER);
    assert!(add(&node, "server").ok, "tried again");
}

#[test]
fn an_address_goes_with_its_container_to_the_next_pod() {
    let mut node = node();
    for name in ["server", "next"] {
        node.write(&format!("{name}.yaml"), &starting(name, "{app: server}"));
    }
    let _agent = node.start_agent();
    let runtime = Runtime::new(&node, BINARY);
    node.add_pod("server", SERVER);
    assert!(runtime.add(&node, "server", SERVER, 20).ok);
    let container = container(&node, "server");
    let valid = json!([{"containerID": container, "ifname": "eth0"}]);
    let gc = |node: &Node, valid: &serde_json::Value| {
        let text = runtime.configuration(1, "{}");
        let text = text.replacen('{', &format!(r#"{{"cni.dev/valid-attachments":{valid},"#), 1);
        assert!(runtime.call(node, "GC", "server", "", &text).ok);
        node.endpoint("x/server").addresses
    };
    assert_eq!(gc(&node, &valid), [SERVER]);
    assert!(gc(&node, &json!([])).is_empty(), "it is gone without a DEL");

    assert!(runtime.add(&node, "server", SERVER, 20).ok);
    assert!(runtime.ask(&node, "DEL", "server").ok);
    assert!(node.endpoint("x/server").addresses.is_empty());

    // Nobody said DEL, and the address is another pod's already.
    assert!(runtime.add(&node, "server", SERVER, 20).ok);
    node.remove_pod("server");
    node.add_pod("next", SERVER);
    assert!(runtime.add(&node, "next", SERVER, 20).ok);
    assert_eq!(node.endpoint("x/next").state, EnforcementState::Enforced);
    assert!(node.endpoint("x/server").addresses.is_empty());
    assert!(!reaches(&node, "next", SERVER, SHUT));
}

#[test]
fn an_agent_keeps_the_plugin_in_the_configuration_and_the_command_removes_it() {
    const LIST: &str =
        "{\"cniVersion\":\"1.0.0\", \"name\":\"n\",\n\"plugins\":[{\"type\":\"ptp\"}]}";
    let node = Node::new(BINARY);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (conf, bin) = (directory.path().join("net.d"), directory.path().join("bin"));
    for path in [&conf, &bin] {
        fs::create_dir(path).expect("a directory");
    }
    let list = conf.join("10-n.conflist");
    let cni = |verb: &str| {
        let output = std::process::Command::new(BINARY)
            .args(["cni", verb, "--cni-conf-dir"])
            .arg(&conf)
            .arg("--cni-bin-dir")
            .arg(&bin)
            .output()
            .expect("run");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.code(), text + &errors)
    };
    let (status, text) = cni("install");
    assert_eq!(status, Some(0), "{text}");
    assert!(text.contains("no network configuration"), "{text}");
    assert!(bin.join("sluice-cni").exists());
    fs::write(&list, "{").expect("written");
    let (status, text) = cni("install");
    assert_eq!(status, Some(0), "the agent starts behind it: {text}");
    assert!(text.contains("10-n.conflist") && text.contains("left alone"), "{text}");
    assert_eq!(fs::read_to_string(&list).expect("read"), "{");

    node.write("nothing.yaml", "");
    let mut command = node.agent_command();
    command.arg("--cni-conf-dir").arg(&conf).arg("--cni-bin-dir").arg(&bin);
    let mut agent = command.stderr(std::process::Stdio::null()).spawn().expect("started");
    until("the fault is told", || {
        let faults = node.status().faults;
        faults.iter().any(|fault| fault.contains("10-n.conflist") && fault.contains("left alone"))
    });
    let is_named = || fs::read_to_string(&list).expect("read").contains("sluice-cni");
    for round in 0..2 {
        fs::write(&list, LIST).expect("written");
        until(&format!("named, round {round}"), is_named);
    }
    until("no fault is left", || node.status().faults.is_empty());
    agent.kill().expect("killed");
    agent.wait().expect("ended");
    let (status, text) = cni("install");
    assert_eq!(status, Some(0), "{text}");
    for _ in 0..2 {
        let (status, text) = cni("uninstall");
        assert_eq!(status, Some(0), "{text}");
        assert_eq!(fs::read_to_string(&list).expect("read"), LIST);
        assert!(!bin.join("sluice-cni").exists());
    }
}

/// A chain of real plugins: `first` gives the pod its interface, ours has it wait.
fn chain(plugins: &Path, first: &serde_json::Value) {
    let mut node = node();
    let data = tempfile::tempdir().expect("a temporary directory");
    node.write("server.yaml", &starting("server", "{app: server}"));
    let _agent = node.start_agent();
    node.add_bare_pod("server");
    let kind = first["type"].as_str().expect("a type");
    let mut configuration = first.clone();
    configuration["cniVersion"] = json!("1.0.0");
    configuration["name"] = json!("n");
    configuration["ipam"] = json!({
        "type": "host-local",
        "dataDir": data.path(),
        "ranges": [[{"subnet": "10.9.7.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    });
    let text = configuration.to_string();
    let answer = call(&plugins.join(kind), &node, "ADD", "server", "", &text);
    assert!(answer.ok, "{answer:?}");
    let address = address_of(&answer.text);
    assert!(reaches(&node, "server", address, SHUT), "nothing is enforced yet");
    let runtime = Runtime::new(&node, BINARY);
    let ours = runtime.configuration(20, &answer.text);
    let begun = Instant::now();
    let passed = runtime.call(&node, "ADD", "server", "", &ours);
    println!("{kind}: ADD took {:?}", begun.elapsed());
    assert!(passed.ok, "{passed:?}");
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    assert_eq!(value(&passed.text), value(&answer.text));
    assert!(!reaches(&node, "server", address, SHUT));
    assert!(reaches(&node, "server", address, OPEN));
    assert!(runtime.ask(&node, "DEL", "server").ok);
    let answer = call(&plugins.join(kind), &node, "DEL", "server", "", &text);
    assert!(answer.ok, "{answer:?}");
}

#[test]
fn it_stands_behind_ptp() {
    let Some(plugins) = reference_plugins() else { return };
    chain(&plugins, &json!({"type": "ptp"}));
}

#[test]
fn it_stands_behind_bridge() {
    let Some(plugins) = reference_plugins() else { return };
    chain(&plugins, &json!({"type": "bridge", "bridge": "sluice0", "isGateway": true}));
}
