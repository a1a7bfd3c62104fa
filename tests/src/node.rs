//! A node of network namespaces with pods and, if wanted, an agent: for tests of the agent.
//!
//! Nothing is made in the machine's own namespace. Everything is removed when the [`Node`] is dropped.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::control::{self, Request, Response};
use sluice::status::{EndpointStatus, Status};

/// The node's name, as pods name it.
pub const NODE: &str = "node-1";

/// Address of the node on every link to a pod.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// Its link-local address there.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0xff);

/// Where the agent serves metrics, in the node's namespace.
pub const METRICS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9102);

/// For answers that take milliseconds; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// A node in a namespace of its own, its pods, and where its agent keeps what it needs.
#[derive(Debug)]
pub struct Node {
    /// Prefix of everything that is made.
    prefix: String,
    binary: PathBuf,
    directory: tempfile::TempDir,
    pods: Vec<String>,
    veths: u32,
    /// Of the API server to watch; without one, the manifests are.
    kubeconfig: Option<PathBuf>,
}

/// Runs a command and fails the test with its output if it does.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn ip(arguments: &str) -> String {
    run(Command::new("ip").args(arguments.split_whitespace()))
}

impl Node {
    /// A node without pods. `binary` is the program that is tested.
    ///
    /// # Panics
    /// Without root, which namespaces need; or if they cannot be made.
    pub fn new(binary: &str) -> Self {
        crate::needs_root();
        ensure_bpffs();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("sluice-daemon-{}-{number}", std::process::id());
        let directory = tempfile::tempdir().expect("a temporary directory");
        for name in ["manifests", "state"] {
            fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let node = Self {
            prefix,
            binary: binary.into(),
            directory,
            pods: Vec::new(),
            veths: 0,
            kubeconfig: None,
        };
        ip(&format!("netns add {}", node.netns("node")));
        ip(&format!("-n {} link set lo up", node.netns("node")));
        let forward = |node: &Self| {
            fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding is on");
            node.netns("node")
        };
        node.inside("node", || forward(&node));
        node
    }

    /// Name of the namespace of a pod, or of the node itself (`node`).
    pub fn netns(&self, pod: &str) -> String {
        format!("{}-{pod}", self.prefix)
    }

    /// File of that namespace.
    pub fn netns_path(&self, pod: &str) -> PathBuf {
        Path::new("/run/netns").join(self.netns(pod))
    }

    /// Makes a pod's namespace with one interface and returns the interface's name on the node.
    pub fn add_pod(&mut self, pod: &str, address: Ipv4Addr) -> String {
        self.add_bare_pod(pod);
        self.add_interface(pod, "eth0", address)
    }

    /// Makes a pod's namespace, without an interface.
    pub fn add_bare_pod(&mut self, pod: &str) {
        ip(&format!("netns add {}", self.netns(pod)));
        self.pods.push(pod.into());
        ip(&format!("-n {} link set lo up", self.netns(pod)));
    }

    /// Gives a pod an interface that is no veth, on top of one of the node's: a macvlan, say. `moved`: made
    /// on the node and moved, else made in the pod, as CNI plugins do. False where the kernel has no
    /// such driver.
    pub fn add_sub_interface(
        &mut self,
        pod: &str,
        kind: &str,
        moved: bool,
        address: Ipv4Addr,
    ) -> bool {
        self.veths += 1;
        let uplink = format!("uplink{}", self.veths);
        let (node, netns) = (self.netns("node"), self.netns(pod));
        ip(&format!("-n {node} link add {uplink} type veth peer name {uplink}-peer"));
        let at_once = if moved { String::new() } else { format!("netns {netns}") };
        let added = format!("-n {node} link add link {uplink} name sub0 {at_once} type {kind}");
        let output = Command::new("ip").args(added.split_whitespace()).output().expect("run");
        if String::from_utf8_lossy(&output.stderr).contains("Unknown device type") {
            return false;
        }
        assert!(output.status.success(), "{added}: {output:?}");
        if moved {
            ip(&format!("-n {node} link set sub0 netns {netns}"));
        }
        ip(&format!("-n {netns} addr add {address}/32 dev sub0"));
        true
    }

    /// Gives a pod a further interface and returns its name on the node.
    pub fn add_interface(&mut self, pod: &str, inside: &str, address: Ipv4Addr) -> String {
        self.veths += 1;
        let host = format!("veth{}", self.veths);
        let (node, netns) = (self.netns("node"), self.netns(pod));
        ip(&format!("-n {node} link add {host} type veth peer name {inside} netns {netns}"));
        self.configure(pod, &host, inside, address);
        host
    }

    /// Addresses and routes of a pod's interface, on both sides.
    fn configure(&self, pod: &str, host: &str, inside: &str, address: Ipv4Addr) {
        let (node, netns) = (self.netns("node"), self.netns(pod));
        ip(&format!("-n {node} addr add {GATEWAY}/32 dev {host}"));
        ip(&format!("-n {node} link set {host} up"));
        ip(&format!("-n {netns} addr add {address}/32 dev {inside}"));
        ip(&format!("-n {netns} link set {inside} up"));
        ip(&format!("-n {netns} route replace {GATEWAY} dev {inside}"));
        ip(&format!("-n {netns} route replace default via {GATEWAY} src {address}"));
        ip(&format!("-n {node} route replace {address}/32 dev {host}"));
    }

    /// Gives a pod an IPv6 address too, behind its interface `host` on the node, which forwards.
    pub fn add_ipv6(&self, pod: &str, host: &str, address: Ipv6Addr) {
        self.exec("node", "sysctl -qw net.ipv6.conf.all.forwarding=1");
        self.exec("node", &format!("ip addr add {GATEWAY6}/64 dev {host} nodad"));
        self.exec("node", &format!("ip route replace {address}/128 dev {host}"));
        self.exec(pod, &format!("ip addr add {address}/128 dev eth0 nodad"));
        self.exec(pod, &format!("ip route replace default via {GATEWAY6} dev eth0"));
    }

    /// Runs a command in the namespace of a pod, or of the node itself (`node`).
    pub fn exec(&self, pod: &str, command: &str) {
        ip(&format!("netns exec {} {command}", self.netns(pod)));
    }

    /// Removes a pod's interface and makes it again, with the same index and names.
    pub fn remake_interface(&self, pod: &str, host: &str, inside: &str, address: Ipv4Addr) {
        let index = self.ifindex(host);
        let (node, netns) = (self.netns("node"), self.netns(pod));
        ip(&format!("-n {node} link del {host}"));
        let peer = format!("peer name {inside} netns {netns}");
        ip(&format!("-n {node} link add {host} index {index} type veth {peer}"));
        self.configure(pod, host, inside, address);
    }

    /// Removes a pod's interfaces and its namespace. The interfaces are gone when this returns: the
    /// kernel removes those of a namespace that is deleted some time later.
    pub fn remove_pod(&mut self, pod: &str) {
        let netns = self.netns(pod);
        for line in ip(&format!("-n {netns} -o link show type veth")).lines() {
            let name = line.split([' ', '@']).nth(1).expect("INDEX: NAME@PEER");
            ip(&format!("-n {netns} link del {name}"));
        }
        self.unmount_pod(pod);
    }

    /// Takes away the name of a pod's namespace; whatever holds it open keeps it and its interfaces.
    pub fn unmount_pod(&mut self, pod: &str) {
        ip(&format!("netns del {}", self.netns(pod)));
        self.pods.retain(|name| name != pod);
    }

    /// Index of an interface of the node.
    pub fn ifindex(&self, host: &str) -> u32 {
        let text = ip(&format!("-n {} -o link show {host}", self.netns("node")));
        let index = text.split(':').next().expect("an index");
        index.trim().parse().expect("a number")
    }

    /// Runs `inside` on a thread of its own in the namespace of a pod or of the node.
    pub fn inside<T: Send>(&self, pod: &str, inside: impl FnOnce() -> T + Send) -> T {
        let netns = fs::File::open(self.netns_path(pod)).expect("the namespace");
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("entered");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a manifest, by rename.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.manifests().join(name);
        let staged = path.with_extension("staged");
        fs::write(&staged, text).expect("written");
        fs::rename(&staged, &path).expect("renamed");
    }

    /// Removes a manifest.
    pub fn unwrite(&self, name: &str) {
        fs::remove_file(self.manifests().join(name)).expect("removed");
    }

    /// Directory of the manifests.
    pub fn manifests(&self) -> PathBuf {
        self.directory.path().join("manifests")
    }

    /// State directory of the agent.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Directory of the agent's pins.
    pub fn bpffs(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(&self.prefix)
    }

    /// A command of the program under test, in the node's network namespace.
    pub fn sluice(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns_path("node").display()))
            .arg(&self.binary)
            .args(arguments)
            .arg("--bpffs")
            .arg(self.bpffs())
            .arg("--state-dir")
            .arg(self.state_dir());
        command
    }

    /// The command that starts an agent.
    pub fn agent_command(&self) -> Command {
        let metrics = METRICS.to_string();
        let fixed = ["agent", "--node-name", NODE, "--metrics-listen", &metrics];
        let mut command = self.sluice(&fixed);
        match &self.kubeconfig {
            Some(kubeconfig) => command.arg("--kubeconfig").arg(kubeconfig),
            None => command.arg("--source").arg(format!("dir:{}", self.manifests().display())),
        };
        command
    }

    /// Has agents watch an API server instead of the manifests.
    pub fn watch_api_server(&mut self, kubeconfig: &Path) {
        self.kubeconfig = Some(kubeconfig.to_owned());
    }

    /// Starts an agent and waits until everything is in the kernel.
    pub fn start_agent(&self) -> AgentProcess {
        let agent = self.spawn_agent();
        self.sync();
        agent
    }

    /// Starts an agent.
    pub fn spawn_agent(&self) -> AgentProcess {
        self.spawn_agent_with(&[])
    }

    /// Starts an agent with further arguments.
    pub fn spawn_agent_with(&self, arguments: &[&str]) -> AgentProcess {
        let mut command = self.agent_command();
        command.args(arguments);
        let log = fs::File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("agent.log"))
            .expect("a log file");
        command.stdout(Stdio::null()).stderr(log);
        AgentProcess { child: command.spawn().expect("started") }
    }

    /// What the agents have logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("agent.log")).unwrap_or_default()
    }

    /// Asks the agent, and waits for it to listen.
    pub fn ask(&self, request: Request) -> Response {
        let begun = std::time::Instant::now();
        loop {
            match control::ask(&self.state_dir(), request.clone(), PATIENCE) {
                Ok(response) => return response,
                Err(error) if begun.elapsed() > PATIENCE => panic!("{error}\n{}", self.log()),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Waits until everything that is wanted now is in the kernel.
    pub fn sync(&self) -> u32 {
        match self.ask(Request::Sync { timeout_ms: 25_000 }) {
            Response::Synced { complete: true, generation, .. } => generation,
            other => panic!("not in sync: {other:?}\n{}", self.log()),
        }
    }

    /// Has the agent correct the kernel, and returns the number of corrections.
    pub fn heal(&self) -> u64 {
        match self.ask(Request::Heal) {
            Response::Healed { corrections } => corrections,
            other => panic!("not healed: {other:?}\n{}", self.log()),
        }
    }

    /// The agent's status.
    pub fn status(&self) -> Status {
        match self.ask(Request::Status) {
            Response::Status(status) => *status,
            other => panic!("no status: {other:?}"),
        }
    }

    /// The status of one pod.
    pub fn endpoint(&self, pod: &str) -> EndpointStatus {
        let status = self.status();
        let found = status.endpoints.iter().find(|endpoint| endpoint.pod == pod);
        found.unwrap_or_else(|| panic!("{pod} is not in {status:#?}")).clone()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Best effort: what is left is named after this test.
        let _ = self.sluice(&["agent", "--uninstall"]).stderr(Stdio::null()).status();
        let own: Vec<String> = self.pods.iter().map(|pod| self.netns(pod)).collect();
        for netns in own.iter().chain([&self.netns("node")]) {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
    }
}

/// Mounts the BPF file system where it is not yet.
fn ensure_bpffs() {
    let mounts = fs::read_to_string("/proc/mounts").expect("mounts");
    if !mounts.lines().any(|line| line.split(' ').nth(1) == Some("/sys/fs/bpf")) {
        run(Command::new("mount").args(["-t", "bpf", "bpf", "/sys/fs/bpf"]));
    }
}

/// A running agent, killed when dropped.
#[derive(Debug)]
pub struct AgentProcess {
    child: Child,
}

impl AgentProcess {
    /// Kills it without a chance to do anything, and waits for its end.
    pub fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    /// Asks it to stop, and checks that it does so in order.
    pub fn stop(mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.child.wait().expect("ended");
        assert!(status.success(), "the agent ended with {status}");
    }

    /// True once it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("signalled");
    }
}

impl Drop for AgentProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pod's manifest.
pub fn pod(name: &str, address: Ipv4Addr, labels: &str) -> String {
    pod_created(name, address, labels, "2026-01-01T00:00:00Z")
}

/// A pod's manifest with its time of creation.
pub fn pod_created(name: &str, address: Ipv4Addr, labels: &str, created: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{namespace: x, name: {name}, labels: {labels}, creationTimestamp: \"{created}\"}}
spec: {{nodeName: {NODE}, containers: [{{name: c, image: i}}]}}
status: {{podIP: {address}, podIPs: [{{ip: {address}}}]}}
"
    )
}

/// A pod's manifest with an address of either family.
pub fn dual_stack_pod(name: &str, v4: Ipv4Addr, v6: Ipv6Addr, labels: &str) -> String {
    let one = format!("podIPs: [{{ip: {v4}}}]");
    pod(name, v4, labels).replace(&one, &format!("podIPs: [{{ip: {v4}}}, {{ip: \"{v6}\"}}]"))
}

/// A policy that lets the pods `app: client` reach those with `app: server`, on one TCP and UDP port.
pub fn allow_clients(port: u16) -> String {
    format!(
        "---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{namespace: x, name: allow-clients}}
spec:
  podSelector: {{matchLabels: {{app: server}}}}
  policyTypes: [Ingress]
  ingress:
  - from: [{{podSelector: {{matchLabels: {{app: client}}}}}}]
    ports: [{{protocol: TCP, port: {port}}}, {{protocol: UDP, port: {port}}}]
"
    )
}
