//! The lab: reachability and verdicts. Needs root.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::time::Instant;

use sluice::cluster::{AddressPlan, Cluster};
use sluice::engine::ProbeVerdict::{Allow, Deny, Unreachable};
use sluice::engine::{End, Family, Probe, ProbeProtocol, ProbeVerdict};
use sluice::lab::{BPFFS, Lab, LabOptions};
use sluice::manifest;
use sluice_policy::model::PodName;
use sluice_tests::lab::{POLICIES, THREE_PODS, netns_of, unique};
use sluice_tests::needs_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice-under-test");

const PROTOCOLS: [ProbeProtocol; 4] =
    [ProbeProtocol::Tcp, ProbeProtocol::Udp, ProbeProtocol::Sctp, ProbeProtocol::Icmp];

const OUTSIDE: &str = "203.0.113.9";
const OUTSIDE_V6: &str = "2001:db8:5::9";

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
    needs_root();
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

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
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
