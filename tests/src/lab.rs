//! What the tests of the lab share: a small cluster, and what is left of a lab.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sluice::lab::{BPFFS, Description};

/// For what takes a second; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Pods x/a and x/b on node-1, x/c on node-2.
pub const THREE_PODS: &str = "
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
pub const POLICIES: &str = "
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: from-a, namespace: x},
 spec: {podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress],
  ingress: [{from: [{podSelector: {matchLabels: {pod: a}}}],
   ports: [{port: 80}, {port: 80, protocol: UDP}, {port: 80, protocol: SCTP}]}]}}
---
{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: silent, namespace: x},
 spec: {podSelector: {matchLabels: {pod: c}}, policyTypes: [Egress]}}
---
";

/// A name for a lab that no other test has.
pub fn unique(name: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("lab-{name}-{}-{number}", std::process::id())
}

/// The namespace of a pod.
///
/// # Panics
/// Where the lab has no such pod.
pub fn netns_of(description: &Description, pod: &str) -> String {
    let endpoint = description.endpoints.iter().find(|e| e.pod == pod).expect("the pod");
    endpoint.netns.clone()
}

/// Everything of a lab that can be left: namespaces, state, pins, processes in its namespaces.
///
/// # Panics
/// Without /proc.
pub fn remains(name: &str) -> Vec<String> {
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

/// Waits for the end of a lab.
///
/// # Panics
/// When it does not come.
pub fn wait_until_nothing_remains(name: &str) {
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
