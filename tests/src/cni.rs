//! A container runtime, as far as it calls CNI plugins.

use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::node::Node;

/// What a plugin answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// It ended with status 0.
    pub ok: bool,
    /// Standard output.
    pub text: String,
    /// Standard error.
    pub errors: String,
}

impl Answer {
    /// Code and details of an error.
    ///
    /// # Panics
    /// Where it is none.
    pub fn error(&self) -> (u64, String) {
        assert!(!self.ok, "{self:?}");
        let value: Value = serde_json::from_str(&self.text).expect("JSON");
        let code = value["code"].as_u64().expect("a code");
        (code, value["details"].as_str().expect("details").to_owned())
    }
}

/// The plugin under test, which asks the agent of one node.
#[derive(Debug)]
pub struct Runtime {
    plugin: PathBuf,
    state_dir: PathBuf,
}

impl Runtime {
    /// Puts `binary` there under the plugin's name.
    ///
    /// # Panics
    /// Where that cannot be done.
    pub fn new(node: &Node, binary: &str) -> Self {
        let state_dir = node.state_dir();
        let plugin = state_dir.join(sluice::cni::NAME);
        let absolute = fs::canonicalize(binary).expect("the binary");
        std::os::unix::fs::symlink(absolute, &plugin).expect("linked");
        Self { plugin, state_dir }
    }

    /// The configuration that the plugin gets, with the result of the one before it.
    pub fn configuration(&self, timeout_seconds: u64, result: &str) -> String {
        let state_dir = json!(self.state_dir);
        format!(
            r#"{{"cniVersion":"1.0.0","name":"n","type":"sluice-cni","stateDir":{state_dir},
            "timeoutSeconds":{timeout_seconds},"prevResult":{result}}}"#
        )
    }

    /// Calls the plugin for a pod of the namespace `x`, in its network namespace.
    pub fn call(&self, node: &Node, verb: &str, pod: &str, uid: &str, text: &str) -> Answer {
        call(&self.plugin, node, verb, pod, uid, text)
    }

    /// ADD for a pod that got this address.
    pub fn add(&self, node: &Node, pod: &str, address: Ipv4Addr, timeout_seconds: u64) -> Answer {
        let text = self.configuration(timeout_seconds, &result(address));
        self.call(node, "ADD", pod, "", &text)
    }

    /// Any other verb for a pod.
    pub fn ask(&self, node: &Node, verb: &str, pod: &str) -> Answer {
        self.call(node, verb, pod, "", &self.configuration(1, "{}"))
    }
}

/// What a plugin says that has given a pod an address, laid out as nobody else would.
pub fn result(address: Ipv4Addr) -> String {
    format!(
        "{{ \"cniVersion\":\"1.0.0\",\n  \"interfaces\": [{{\"name\":\"eth0\",\"sandbox\":\"/n\"}}], \
         \"ips\":[ {{\"address\":\"{address}/32\", \"interface\": 0}} ],\"dns\" : {{}} }}"
    )
}

/// Calls a plugin in the node's network namespace.
///
/// # Panics
/// Where it cannot be run.
pub fn call(plugin: &Path, node: &Node, verb: &str, pod: &str, uid: &str, text: &str) -> Answer {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", node.netns_path("node").display()))
        .arg(plugin)
        .env("CNI_COMMAND", verb)
        .env("CNI_CONTAINERID", container(node, pod))
        .env("CNI_NETNS", node.netns_path(pod))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", plugin.parent().expect("a directory"))
        .env(
            "CNI_ARGS",
            format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=x;K8S_POD_NAME={pod};K8S_POD_UID={uid}"),
        )
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(text.as_bytes()).expect("written");
    drop(input);
    let output = child.wait_with_output().expect("ended");
    Answer {
        ok: output.status.success(),
        text: String::from_utf8(output.stdout).expect("text"),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The runtime's name for a pod's container.
pub fn container(node: &Node, pod: &str) -> String {
    format!("{}-container", node.netns(pod))
}

/// A directory with the reference plugins, of those in `CNI_PATH` and where distributions put them. Says
/// so where there is none.
pub fn reference_plugins() -> Option<PathBuf> {
    let named = std::env::var_os("CNI_PATH").unwrap_or_default();
    let known = ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from);
    let all = ["ptp", "bridge", "host-local"];
    let found = std::env::split_paths(&named)
        .chain(known)
        .find(|directory| all.iter().all(|plugin| directory.join(plugin).exists()));
    if found.is_none() {
        eprintln!(
            "skipped: the plugins {} are not there (Debian: containernetworking-plugins); name their \
             directory in CNI_PATH",
            all.join(", ")
        );
    }
    found
}

/// The first IPv4 address that a result gives.
///
/// # Panics
/// Where it gives none.
pub fn address_of(result: &str) -> Ipv4Addr {
    let result: Value = serde_json::from_str(result).expect("JSON");
    let text = result["ips"][0]["address"].as_str().expect("an address");
    match text.split('/').next().expect("an address").parse() {
        Ok(IpAddr::V4(address)) => address,
        other => panic!("{text}: {other:?}"),
    }
}
