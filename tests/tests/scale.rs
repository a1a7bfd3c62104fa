//! An agent in a large cluster: its API server is simulated, its node and the pods there are not.
//! 2,000 pods by default; `SLUICE_SCALE=100000` makes as many, and `SLUICE_SCALE_AGENT=FILE` takes an
//! agent that was built for release, so that what is printed means something. Needs root.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use sluice::status::EnforcementState;
use sluice_tests::node::Node;
use sluice_tests::simulated::objects::{
    Cluster, LOCAL, PODS, Pod, full_name, local_address, remote_address,
};
use sluice_tests::simulated::{Happened, Simulated};
use sluice_tests::traffic::{OPEN, bind};

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// Pods while nobody asks for more: enough that policies differ by namespace and team.
const SMALL: u32 = 2000;

/// For the first lists of the largest cluster, with an agent that was not built for release.
const PATIENCE: Duration = Duration::from_secs(300);

/// Between two events: each comes alone, as most do.
const PACE: Duration = Duration::from_millis(5);

/// A pod of another node, as the API server says; its packets come from a namespace of the test.
const VISITOR: &str = "visitor";
const VISITOR_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 9, 1, 1);

/// Apps that the policy of the first local pod lets in, and that none does.
const WELCOME: u32 = 1;
const STRANGER: u32 = 5;

/// An agent on a node with its pods, in a cluster.
struct Scene {
    cluster: Cluster,
    server: Simulated,
    machine: Node,
}

impl Scene {
    fn new(cluster: Cluster, binary: &str) -> Self {
        let mut machine = Node::new(binary);
        for number in 0..LOCAL {
            machine.add_pod(&local(number), local_address(number));
        }
        machine.add_pod(VISITOR, VISITOR_ADDRESS);
        let server = Simulated::start(&machine.netns_path("node"), cluster.collections());
        machine.watch_api_server(&server.kubeconfig());
        Self { cluster, server, machine }
    }

    /// Waits until everything that the server has is enforced.
    fn until_ready(&self) {
        let begun = Instant::now();
        loop {
            let status = self.machine.status();
            if status.synced && status.watches.iter().all(|watch| watch.synced) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{status:#?}\n{}", self.machine.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn push(&self, happened: Happened, pod: &Pod) {
        self.server.push(PODS, happened, |version| pod.json(version));
    }

    /// Makes the visitor, or has it be of another app, and waits until that is in force: everything
    /// that was pushed before is too.
    fn visitor_becomes(&self, app: u32, server: &UdpSocket) {
        let first = self.cluster.pod(0);
        let (name, node) = (VISITOR.to_owned(), "node-2".to_owned());
        let visitor = Pod { namespace: first.namespace, name, app, node, address: VISITOR_ADDRESS };
        self.push(Happened::Modified, &visitor);
        let begun = Instant::now();
        while self.reaches(server) != (app == WELCOME) {
            assert!(begun.elapsed() < PATIENCE, "app {app}: {}", self.machine.log());
        }
    }

    /// Sends a datagram from the visitor to the first local pod, and says whether it came.
    fn reaches(&self, server: &UdpSocket) -> bool {
        let visitor = self.machine.inside(VISITOR, || UdpSocket::bind("0.0.0.0:0"));
        let visitor = visitor.expect("bound");
        let sent = format!("from {}", visitor.local_addr().expect("an address"));
        visitor.send_to(sent.as_bytes(), (local_address(0), OPEN)).expect("sent");
        let mut buffer = [0; 64];
        while let Ok(length) = server.recv(&mut buffer) {
            if &buffer[..length] == sent.as_bytes() {
                return true;
            }
        }
        false
    }

    /// Has the visitor, a stranger, become welcome and a stranger again, after an event of another
    /// pod. Returns how many generations of the tables that took: each write makes one.
    fn generations_with(&self, event: impl FnOnce(), server: &UdpSocket) -> u32 {
        let before = self.machine.status().generation;
        event();
        for app in [WELCOME, STRANGER] {
            self.visitor_becomes(app, server);
        }
        self.machine.status().generation - before
    }

    /// A pod that comes, is relabelled and goes, each alone.
    fn come_and_go(&self, number: u32, namespace: u32) {
        let mut pod = Pod {
            namespace,
            name: format!("passing-{number}"),
            app: WELCOME,
            node: "node-2".into(),
            address: remote_address(self.cluster.pods + number),
        };
        for (happened, app) in [
            (Happened::Added, WELCOME),
            (Happened::Modified, STRANGER),
            (Happened::Deleted, STRANGER),
        ] {
            pod.app = app;
            self.push(happened, &pod);
            std::thread::sleep(PACE);
        }
    }

    /// Births, relabels and deaths of pods elsewhere, each alone: half of them in namespaces with a
    /// local pod, where policies let them in or not. Returns how many there were.
    fn churn(&self, events: u32) -> u32 {
        let elsewhere = self.cluster.namespaces() - LOCAL;
        for number in 0..events / 3 {
            let namespace =
                if number % 2 == 0 { number % LOCAL } else { LOCAL + number % elsewhere };
            self.come_and_go(number, namespace);
        }
        events / 3 * 3
    }
}

/// Name of a local pod's namespace.
fn local(number: u32) -> String {
    format!("local-{number}")
}

/// What `/proc` says of a process: resident memory now and at its highest, in KiB.
fn memory(pid: u32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("a field");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// Time on a processor that a process has taken, of all its threads, in ticks of 10 ms.
fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    // The name, in parentheses, may contain anything.
    let (_, rest) = text.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Fields 14 and 15 of the whole line, `utime` and `stime`; `rest` begins with the third.
    let ticks: u64 =
        fields[11..=12].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

/// Prints what the machine has to do besides.
fn print_load() {
    let load = fs::read_to_string("/proc/loadavg").expect("the load");
    println!("load average: {}", load.trim());
}

#[test]
fn a_large_cluster_is_enforced_and_followed_pod_by_pod() {
    let pods = match std::env::var("SLUICE_SCALE") {
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("SLUICE_SCALE={text}: {error}")),
        Err(_) => SMALL,
    };
    let agent = std::env::var("SLUICE_SCALE_AGENT");
    let scene = Scene::new(Cluster { pods }, agent.as_deref().unwrap_or(BINARY));
    let cluster = scene.cluster;
    print_load();
    let begun = Instant::now();
    let _agent = scene.machine.spawn_agent();
    scene.until_ready();
    println!("{pods} pods, {} policies: ready after {:?}", cluster.policies(), begun.elapsed());
    let status = scene.machine.status();
    let pid = status.pid.expect("an agent answers");
    let (resident, highest) = memory(pid);
    println!("memory: {resident} KiB resident, {highest} KiB at the highest; CPU {:?}", cpu(pid));
    assert_eq!(status.faults, Vec::<String>::new());
    assert_eq!(status.endpoints.len(), LOCAL as usize, "{status:#?}");
    for number in 0..LOCAL {
        let endpoint = scene.machine.endpoint(&full_name(&cluster.pod(number)));
        assert_eq!(endpoint.state, EnforcementState::Enforced, "{endpoint:#?}");
    }

    let socket = bind(&scene.machine, &local(0), local_address(0), OPEN);
    for app in [STRANGER, WELCOME, STRANGER] {
        scene.visitor_becomes(app, &socket);
    }

    let alone = scene.generations_with(|| {}, &socket);
    let unselected = scene.generations_with(|| scene.come_and_go(0, LOCAL), &socket);
    assert_eq!(unselected, alone, "pods that nobody here selects are written nowhere");
    let selected = scene.generations_with(|| scene.come_and_go(0, 0), &socket);
    assert!(selected > alone, "{selected} generations with a pod that policies select");

    let (before, idle) = (cpu(pid), Instant::now());
    std::thread::sleep(PACE * 400);
    println!("idle: {:?} of CPU in {:?}", cpu(pid) - before, idle.elapsed());
    let (before, begun) = (cpu(pid), Instant::now());
    let events = scene.churn(if pods == SMALL { 198 } else { 1998 });
    scene.visitor_becomes(WELCOME, &socket);
    let (spent, took) = (cpu(pid) - before, begun.elapsed());
    println!("{events} pod events in {took:?}: {spent:?} of CPU, {:?} each", spent / events);
    let (resident, highest) = memory(pid);
    println!("memory: {resident} KiB resident, {highest} KiB at the highest");
    print_load();
}
