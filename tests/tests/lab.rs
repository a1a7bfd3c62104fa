//! The lab: reachability, verdicts, and that nothing is left of it. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::cluster::{AddressPlan, Cluster};
use sluice::engine::ProbeVerdict::{Allow, Deny, Unreachable};
use sluice::engine::{End, Family, Probe, ProbeProtocol, ProbeVerdict};
use sluice::lab::{BPFFS, Description, Lab, LabOptions};
use sluice::manifest;
use sluice_policy::model::PodName;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// For what takes a second; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

const PROTOCOLS: [ProbeProtocol; 4] =
    [ProbeProtocol::Tcp, ProbeProtocol::Udp, ProbeProtocol::Sctp, ProbeProtocol::Icmp];

const OUTSIDE: &str = "203.0.113.9";
const OUTSIDE_V6: &str = "2001:db8:5::9";

/// Pods x/a and x/b on node-1, x/c on node-2.
const THREE_PODS: &str = "
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}}
---
{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: x, labels: {pod: a}},
 spec: {nodeName: node-1, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: b, namespace: x, labels: {pod: b}},
 spec: {nodeName: node-1, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: c, namespace: x, labels: {pod: c}},
 spec: {nodeName: node-2, containers: [{name: c, image: i, ports: [{containerPort: 80}]}]}}
---
";

/// b takes port 80 from a only; c sends nothing.
const POLICIES: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: from-a, namespace: x},
 spec: {podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress],
  ingress: [{from: [{podSelector: {matchLabels: {pod: a}}}],
   ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: silent, namespace: x},
 spec: {podSelector: {matchLabels: {pod: c}}, policyTypes: [Egress]}}
---
";

fn need_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run it with sudo");
}

fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("lab-{name}-{}-{number}", std::process::id())
}

fn cluster(manifests: &str) -> Cluster {
    let text = manifest::read::Text {
        file: "test.yaml".into(),
        directory: ".".into(),
        text: manifests.into(),
    };
    let loaded = manifest::load_text(&text);
    assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
    let objects = loaded.objects.iter().map(|placed| &placed.object);
    Cluster::from_objects(objects, &mut AddressPlan::default()).expect("a cluster")
}

fn externals() -> BTreeSet<IpAddr> {
    [OUTSIDE, OUTSIDE_V6].iter().map(|a| a.parse().expect("an address")).collect()
}

fn lab(name: &str, manifests: &str, agents: bool) -> Lab {
    need_root();
    let options =
        LabOptions { name: unique(name), sluice: SLUICE.into(), bpffs: BPFFS.into(), agents };
    Lab::up(options, &cluster(manifests), &externals()).expect("the lab comes up")
}

fn end(text: &str) -> End {
    if let Ok(address) = text.parse() {
        return End::External(address);
    }
    match text.split_once('/').expect("an end") {
        ("node", node) => End::Node(node.into()),
        (namespace, name) => End::Pod(PodName { namespace: namespace.into(), name: name.into() }),
    }
}

fn probe(from: &str, to: &str, protocol: ProbeProtocol, port: u16, family: Family) -> Probe {
    let port = if protocol == ProbeProtocol::Icmp { 0 } else { port };
    Probe { from: end(from), to: end(to), protocol, port, family, established: false }
}

fn tcp(from: &str, to: &str, port: u16) -> Probe {
    probe(from, to, ProbeProtocol::Tcp, port, Family::IPv4)
}

fn verdicts(lab: &mut Lab, probes: &[Probe]) -> Vec<ProbeVerdict> {
    lab.probe(probes).expect("probes run").into_iter().map(|outcome| outcome.verdict).collect()
}

/// Every protocol, port 80, with a line per probe that differs from what is expected.
fn assert_verdicts(lab: &mut Lab, expected: &[(Probe, ProbeVerdict)]) {
    let probes: Vec<Probe> = expected.iter().map(|(probe, _)| probe.clone()).collect();
    let found = verdicts(lab, &probes);
    let differing: Vec<String> = expected
        .iter()
        .zip(found)
        .filter(|((_, expected), found)| expected != found)
        .map(|((probe, expected), found)| format!("{probe:?}: {found:?}, not {expected:?}"))
        .collect();
    assert!(differing.is_empty(), "{}", differing.join("\n"));
}

fn netns_of(description: &Description, pod: &str) -> String {
    let endpoint = description.endpoints.iter().find(|e| e.pod == pod).expect("the pod");
    endpoint.netns.clone()
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// Everything of a lab that can be left: namespaces, state, pins, processes in its namespaces.
fn remains(name: &str) -> Vec<String> {
    let mut remains = Vec::new();
    for directory in ["/run/netns", "/run/sluice/labs", BPFFS] {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().contains(name) {
                remains.push(entry.path().display().to_string());
            }
        }
    }
    for entry in fs::read_dir("/proc").expect("processes").flatten() {
        let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).replace('\0', " ");
        if arguments.contains(name) {
            remains.push(format!("process {}: {arguments}", entry.file_name().display()));
        }
    }
    remains
}

fn wait_until_nothing_remains(name: &str) {
    let begin = Instant::now();
    loop {
        let left = remains(name);
        if left.is_empty() {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "left behind:\n{}", left.join("\n"));
        thread::sleep(Duration::from_millis(50));
    }
}

fn links_of_the_machine() -> BTreeSet<String> {
    let names = fs::read_dir("/sys/class/net").expect("links").flatten();
    names
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("sluice"))
        .collect()
}

#[test]
fn without_policies_every_end_reaches_every_other_by_every_protocol_and_family() {
    let mut lab = lab("open", THREE_PODS, false);
    let ends = ["x/a", "x/b", "x/c", "node/node-1", "node/node-2"];
    let mut expected = Vec::new();
    for family in [Family::IPv4, Family::IPv6] {
        let outside = if family == Family::IPv4 { OUTSIDE } else { OUTSIDE_V6 };
        let all: Vec<&str> = ends.iter().copied().chain([outside]).collect();
        for from in &all {
            for to in &all {
                for protocol in PROTOCOLS {
                    expected.push((probe(from, to, protocol, 80, family), Allow));
                }
            }
        }
    }
    assert_verdicts(&mut lab, &expected);
    assert_eq!(links_of_the_machine(), BTreeSet::new());
    lab.down().expect("down");
}

#[test]
fn policies_deny_and_the_counters_account_for_it() {
    let mut lab = lab("deny", &[THREE_PODS, POLICIES].concat(), true);
    let mut expected = Vec::new();
    for family in [Family::IPv4, Family::IPv6] {
        let outside = if family == Family::IPv4 { OUTSIDE } else { OUTSIDE_V6 };
        for protocol in PROTOCOLS {
            let mut expect = |from, to, port, verdict| {
                expected.push((probe(from, to, protocol, port, family), verdict));
            };
            // The rule names ports, so it does not cover ICMP.
            let by_rule = if protocol == ProbeProtocol::Icmp { Deny } else { Allow };
            expect("x/a", "x/b", 80, by_rule);
            expect("x/a", "x/b", 81, Deny);
            expect("x/c", "x/b", 80, Deny);
            expect(outside, "x/b", 80, Deny);
            expect("node/node-2", "x/b", 80, Deny);
            expect("node/node-1", "x/b", 80, Allow);
            expect("x/b", "x/b", 80, Allow);
            expect("x/c", "x/a", 80, Deny);
            expect("x/c", outside, 80, Deny);
            expect("x/a", "x/c", 80, Allow);
            expect("x/b", "x/a", 80, Allow);
        }
    }
    assert_verdicts(&mut lab, &expected);
    lab.down().expect("down");
}

#[test]
fn what_no_drop_accounts_for_is_unreachable() {
    let mut lab = lab("cut", &[THREE_PODS, POLICIES].concat(), true);
    // a loses its way out; b's policy would allow it.
    let netns = netns_of(&lab.description(), "x/a");
    ip(&format!("-n {netns} route del default"));
    let expected = [
        (tcp("x/a", "x/b", 80), Unreachable),
        (tcp("x/a", "x/b", 81), Unreachable),
        (tcp("x/b", "x/a", 80), Unreachable),
        (tcp("x/c", "x/b", 80), Deny),
        (tcp("x/b", "x/c", 80), Allow),
    ];
    assert_verdicts(&mut lab, &expected);
    lab.down().expect("down");
}

#[test]
fn a_lab_follows_its_cluster() {
    let mut lab = lab("change", THREE_PODS, true);
    assert_eq!(verdicts(&mut lab, &[tcp("x/c", "x/b", 80)]), [Allow]);
    // Policies come: what was open is cut, what is allowed goes on.
    let kept = |from, to| Probe { established: true, ..tcp(from, to, 80) };
    assert_eq!(verdicts(&mut lab, &[tcp("x/c", "x/b", 80), tcp("x/a", "x/b", 80)]), [Allow; 2]);
    let with_policies = [THREE_PODS, POLICIES].concat();
    lab.change(&cluster(&with_policies), &externals()).expect("changed");
    let probes = [kept("x/c", "x/b"), kept("x/a", "x/b"), tcp("x/c", "x/b", 80)];
    assert_eq!(verdicts(&mut lab, &probes), [Deny, Allow, Deny]);
    // A pod is relabelled, another goes.
    let relabelled = with_policies.replace("labels: {pod: c}", "labels: {pod: a}");
    let relabelled = relabelled.replacen("name: a, namespace: x", "name: d, namespace: x", 1);
    lab.change(&cluster(&relabelled), &externals()).expect("changed");
    assert_eq!(verdicts(&mut lab, &[tcp("x/c", "x/b", 80), tcp("x/d", "x/b", 80)]), [Allow; 2]);
    assert!(lab.probe(&[tcp("x/a", "x/b", 80)]).is_err(), "the pod is gone");
    lab.down().expect("down");
}

#[test]
fn two_labs_with_equal_addresses_do_not_meet() {
    let mut closed = lab("one", &[THREE_PODS, POLICIES].concat(), true);
    let mut open = lab("two", THREE_PODS, true);
    let probes = [tcp("x/c", "x/b", 80), tcp("x/a", "x/b", 81), tcp("x/a", "x/b", 80)];
    assert_eq!(verdicts(&mut closed, &probes), [Deny, Deny, Allow]);
    assert_eq!(verdicts(&mut open, &probes), [Allow; 3]);
    let addresses = |lab: &Lab| -> Vec<Vec<IpAddr>> {
        lab.description().endpoints.into_iter().map(|e| e.addresses).collect()
    };
    assert_eq!(addresses(&closed), addresses(&open));
    closed.down().expect("down");
    assert_eq!(verdicts(&mut open, &probes), [Allow; 3]);
    open.down().expect("down");
}

#[test]
fn a_matrix_of_nine_pods_on_two_ports_and_three_protocols_agrees_with_its_policies() {
    let mut manifests = String::new();
    for namespace in ["x", "y", "z"] {
        for (i, pod) in ["a", "b", "c"].iter().enumerate() {
            manifests += &format!(
                "{{apiVersion: v1, kind: Pod, metadata: {{name: {pod}, namespace: {namespace}}}, \
                 spec: {{nodeName: node-{}, containers: [{{name: c, image: i}}]}}}}\n---\n",
                i % 2 + 1
            );
        }
    }
    manifests += "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, \
                  metadata: {name: own, namespace: x}, spec: {podSelector: {}, \
                  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}}\n";
    let begin = Instant::now();
    let mut lab = lab("matrix", &manifests, true);
    let up = begin.elapsed();
    let pods: Vec<String> =
        lab.description().endpoints.iter().map(|endpoint| endpoint.pod.clone()).collect();
    assert_eq!(pods.len(), 9);
    let mut expected = Vec::new();
    for from in &pods {
        for to in &pods {
            for protocol in [ProbeProtocol::Tcp, ProbeProtocol::Udp, ProbeProtocol::Sctp] {
                for port in [80, 81] {
                    let open = !to.starts_with("x/")
                        || from == to
                        || from.starts_with("x/") && protocol == ProbeProtocol::Tcp && port == 80;
                    let verdict = if open { Allow } else { Deny };
                    expected.push((probe(from, to, protocol, port, Family::IPv4), verdict));
                }
            }
        }
    }
    let begin = Instant::now();
    assert_verdicts(&mut lab, &expected);
    println!("up in {up:?}; {} probes in {:?}", expected.len(), begin.elapsed());
    lab.down().expect("down");
}

/// A lab in a process of its own.
struct LabProcess {
    name: String,
    child: Child,
    description: Description,
    _manifests: tempfile::TempDir,
}

fn manifests_directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("all.yaml");
    fs::write(&file, [THREE_PODS, POLICIES].concat()).expect("written");
    (directory, file)
}

fn start(name: &str) -> LabProcess {
    need_root();
    let name = unique(name);
    let (directory, file) = manifests_directory();
    let mut child = Command::new(SLUICE)
        .args(["lab", "up", "--name", &name, "-o", "json"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sluice runs");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut text = String::new();
    // The output ends with the closing brace, but the process goes on.
    for line in &mut lines {
        let line = line.expect("a line");
        text += &line;
        if line == "}" {
            break;
        }
    }
    let description = serde_json::from_str(&text).expect("a description");
    LabProcess { name, child, description, _manifests: directory }
}

impl LabProcess {
    fn signal(&mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("signalled");
        self.child.wait().expect("ended")
    }
}

impl Drop for LabProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sluice(arguments: &[&str]) -> Output {
    Command::new(SLUICE).args(arguments).output().expect("sluice runs")
}

#[test]
fn nothing_is_left_of_a_lab_that_is_killed() {
    let mut lab = start("killed");
    assert!(Path::new("/run/netns").join(netns_of(&lab.description, "x/a")).exists());
    assert!(lab.description.pins.exists());
    let agents: Vec<u32> = lab.description.nodes.iter().filter_map(|node| node.agent_pid).collect();
    assert_eq!(agents.len(), 2);
    lab.signal(Signal::SIGKILL);
    wait_until_nothing_remains(&lab.name);
    for agent in agents {
        // One that has ended and that init has not noticed yet has no program any more.
        let program = fs::read_link(format!("/proc/{agent}/exe"));
        assert!(program.is_err(), "agent {agent} is left: {program:?}");
    }
}

#[test]
fn nothing_is_left_of_a_lab_that_is_interrupted() {
    let mut lab = start("interrupted");
    let status = lab.signal(Signal::SIGINT);
    assert_eq!(remains(&lab.name), Vec::<String>::new());
    assert!(status.success(), "{status}");
}

#[test]
fn what_is_left_when_the_reaper_is_killed_too_goes_with_the_next_command() {
    let mut lab = start("reaper");
    let reaper = remains(&lab.name)
        .iter()
        .find_map(|line| {
            let pid = line.strip_prefix("process ")?;
            line.contains(" lab reap ").then(|| pid.split(':').next())?
        })
        .and_then(|pid| pid.parse().ok())
        .expect("the reaper runs");
    kill(Pid::from_raw(reaper), Signal::SIGKILL).expect("killed");
    lab.signal(Signal::SIGKILL);
    assert_ne!(remains(&lab.name), Vec::<String>::new());
    let listed = sluice(&["lab", "list"]);
    assert!(listed.status.success(), "{listed:?}");
    wait_until_nothing_remains(&lab.name);
}

#[test]
fn a_detached_lab_can_be_listed_entered_and_taken_down() {
    need_root();
    let name = unique("detached");
    let (_directory, file) = manifests_directory();
    let file = file.to_str().expect("a path");
    let up = sluice(&["lab", "up", file, "--name", &name, "--detach", "-o", "json"]);
    assert!(up.status.success(), "{up:?}");
    let description: Description = serde_json::from_slice(&up.stdout).expect("a description");
    assert_eq!((description.lab.as_str(), description.endpoints.len()), (name.as_str(), 3));

    let again = sluice(&["lab", "up", file, "--name", &name, "--detach"]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("is up"), "{again:?}");

    let listed = sluice(&["lab", "list", "-o", "json"]);
    let listed: Vec<Description> = serde_json::from_slice(&listed.stdout).expect("a list");
    assert!(listed.contains(&description));

    let address = description.endpoints[0].addresses[0].to_string();
    let exec = ["lab", "exec", "--name", &name, "x/a", "--", "ip", "-o", "addr", "show", "eth0"];
    let output = sluice(&exec);
    assert!(String::from_utf8_lossy(&output.stdout).contains(&address), "{output:?}");
    let nobody = sluice(&["lab", "exec", "--name", &name, "x/z", "--", "true"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");

    assert!(sluice(&["lab", "down", &name]).status.success());
    assert_eq!(remains(&name), Vec::<String>::new());
    assert!(sluice(&["lab", "down", &name]).status.success(), "down is down");
}

#[test]
fn bad_manifests_and_bad_names_are_bad_usage_and_leave_nothing() {
    need_root();
    let (directory, file) = manifests_directory();
    let bad = directory.path().join("bad.yaml");
    fs::write(&bad, "{apiVersion: v1, kind: Pod, metadata: {name: A B}}").expect("written");
    let name = unique("bad");
    let bad = bad.to_str().expect("a path");
    let output = sluice(&["lab", "up", bad, "--name", &name, "--detach"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.yaml"), "{output:?}");
    assert_eq!(remains(&name), Vec::<String>::new());
    let file = file.to_str().expect("a path");
    let output = sluice(&["lab", "up", file, "--name", "../up", "--detach"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_watched_lab_follows_its_manifests() {
    need_root();
    let name = unique("watch");
    let (_directory, file) = manifests_directory();
    let mut child = Command::new(SLUICE)
        .args(["lab", "up", "--watch", "--name", &name])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sluice runs");
    let errors = BufReader::new(child.stderr.take().expect("its errors"));
    let state = Path::new("/run/sluice/labs").join(&name).join("lab.json");
    let begin = Instant::now();
    let endpoints = || {
        let mut text = String::new();
        fs::File::open(&state).ok()?.read_to_string(&mut text).ok()?;
        let notes: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(notes["description"]["endpoints"].as_array()?.len())
    };
    while endpoints() != Some(3) {
        assert!(begin.elapsed() < PATIENCE, "the lab does not come up");
        thread::sleep(Duration::from_millis(50));
    }
    let fewer =
        THREE_PODS.replacen("kind: Pod, metadata: {name: a,", "kind: Pod, metadata: {name: aa,", 1);
    let more = THREE_PODS.split("---").nth(2).expect("a pod");
    fs::write(&file, format!("{fewer}\n---\n{more}")).expect("written");
    while endpoints() != Some(4) {
        assert!(begin.elapsed() < PATIENCE, "the lab does not follow");
        thread::sleep(Duration::from_millis(50));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("signalled");
    assert!(child.wait().expect("ended").success());
    let said: Vec<String> = errors.lines().map_while(Result::ok).collect();
    assert!(said.iter().any(|line| line.contains("follows")), "{said:?}");
    assert_eq!(remains(&name), Vec::<String>::new());
}
