//! From one topology to another: namespaces, veths, addresses and routes, by `ip -batch`.
//!
//! One process per namespace rather than one per command; what is done to it can be read, and tried
//! by hand.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context as _, bail};

use super::netns;
use super::topology::{Leaf, Place, Topology};
use crate::engine::Family;

/// The fabric's end of a line (RFC 3927, RFC 4291 section 2.5.6).
const FABRIC: (&str, &str) = ("169.254.2.1", "fe80::1");
/// A node's end of a line to the fabric, besides the node's addresses: the way to its pods.
const NODE: (&str, &str) = ("169.254.2.2", "fe80::2");
/// A node's end of a line to a pod. Not the fabric's: a host does not listen to a neighbour that has
/// an address of its own.
const GATEWAY: (&str, &str) = ("169.254.1.1", "fe80::1");

/// Addresses of the parent's end of a line.
fn upper_addresses(leaf: &Leaf) -> (&'static str, &'static str) {
    if leaf.parent == Place::Fabric { FABRIC } else { GATEWAY }
}

/// Processes at a time.
const WORKERS: usize = 4;

/// Commands for `ip`, by namespace.
type Scripts = BTreeMap<String, String>;

/// Makes the fabric.
///
/// # Errors
/// The namespace cannot be made.
pub(super) fn make_fabric(topology: &Topology) -> anyhow::Result<()> {
    netns::create(&topology.fabric, true)?;
    run(&BTreeMap::from([(topology.fabric.clone(), "link set lo up\n".into())]))
}

/// Takes away what `new` does not have or has otherwise: links and routes first, so that nothing
/// answers any more, then the namespaces.
///
/// # Errors
/// `ip` fails, or a namespace cannot be removed.
pub(super) fn remove(old: &Topology, gone: &[&Place]) -> anyhow::Result<()> {
    let mut scripts = Scripts::new();
    let mut names = Vec::new();
    for place in gone {
        let Some(leaf) = old.leaves.get(*place) else { continue };
        names.push(leaf.netns.clone());
        // With the parent goes the line.
        if !gone.contains(&&leaf.parent) {
            let script = scripts.entry(parent_netns(old, leaf)?.to_string()).or_default();
            writeln!(script, "link del {}", leaf.interface)?;
        }
        // With the node's line go its routes.
        if matches!(place, Place::Pod(_)) && !gone.contains(&&leaf.parent) {
            let script = scripts.entry(old.fabric.clone()).or_default();
            for address in &leaf.addresses {
                writeln!(script, "route del {}", host_prefix(*address))?;
            }
        }
    }
    run(&scripts)?;
    netns::remove(&names)
}

/// Adds places: nodes and outside hosts before pods, since a pod's line ends in its node.
///
/// # Errors
/// A namespace cannot be made, or `ip` fails.
pub(super) fn add(new: &Topology, places: &[&Place]) -> anyhow::Result<()> {
    let leaves: Vec<(&Place, &Leaf)> =
        places.iter().filter_map(|place| new.leaves.get_key_value(*place)).collect();
    each(&leaves, |(place, leaf)| netns::create(&leaf.netns, matches!(place, Place::Node(_))))?;
    let (pods, others): (Vec<_>, Vec<_>) =
        leaves.into_iter().partition(|(place, _)| matches!(place, Place::Pod(_)));
    for group in [others, pods] {
        let mut upper = Scripts::new();
        let mut lower = Scripts::new();
        for (place, leaf) in group {
            let script = upper.entry(parent_netns(new, leaf)?.to_string()).or_default();
            upper_end(script, new, leaf);
            lower.insert(leaf.netns.clone(), lower_end(place, leaf));
            if let (Place::Pod(_), Some(node)) = (place, new.leaves.get(&leaf.parent)) {
                let script = upper.entry(new.fabric.clone()).or_default();
                fabric_routes(script, leaf, &node.interface);
            }
        }
        run(&upper)?;
        run(&lower)?;
    }
    Ok(())
}

fn parent_netns<'a>(topology: &'a Topology, leaf: &Leaf) -> anyhow::Result<&'a str> {
    topology.netns(&leaf.parent).with_context(|| format!("{} has no namespace", leaf.parent))
}

/// The parent's end of a line, and the line itself.
fn upper_end(script: &mut String, topology: &Topology, leaf: &Leaf) {
    let Leaf { interface, netns, .. } = leaf;
    let (v4, v6) = upper_addresses(leaf);
    let _ = writeln!(script, "link add {interface} type veth peer name eth0 netns {netns}");
    let _ = writeln!(script, "addr add {v4}/32 dev {interface} scope link");
    let _ = writeln!(script, "addr add {v6}/64 dev {interface} nodad");
    let _ = writeln!(script, "link set {interface} up");
    for address in &leaf.addresses {
        let family = super::topology::family_of(*address);
        let source = topology.leaves.get(&leaf.parent).and_then(|parent| parent.address(family));
        route(script, *address, &format!("dev {interface}"), source);
    }
}

/// What a namespace has of its own: addresses, and everything else by way of its parent.
fn lower_end(place: &Place, leaf: &Leaf) -> String {
    let mut script = String::from("link set lo up\nlink set eth0 up\n");
    for address in &leaf.addresses {
        let nodad = if address.is_ipv6() { "nodad" } else { "" };
        let _ = writeln!(script, "addr add {} dev eth0 {nodad}", host_prefix(*address));
    }
    if matches!(place, Place::Node(_)) {
        let _ = writeln!(script, "addr add {}/32 dev eth0 scope link", NODE.0);
        let _ = writeln!(script, "addr add {}/64 dev eth0 nodad", NODE.1);
    }
    let (v4, v6) = upper_addresses(leaf);
    for (family, gateway) in [(Family::IPv4, v4), (Family::IPv6, v6)] {
        if let Some(source) = leaf.address(family) {
            let way = format!("default via {gateway} dev eth0 onlink");
            let _ = writeln!(script, "route add {way} src {source}");
        }
    }
    script
}

fn fabric_routes(script: &mut String, pod: &Leaf, node_interface: &str) {
    for address in &pod.addresses {
        let gateway = if address.is_ipv4() { NODE.0 } else { NODE.1 };
        route(script, *address, &format!("via {gateway} dev {node_interface} onlink"), None);
    }
}

fn route(script: &mut String, to: IpAddr, way: &str, source: Option<IpAddr>) {
    let source = source.map(|source| format!("src {source}")).unwrap_or_default();
    let _ = writeln!(script, "route add {} {way} {source}", host_prefix(to));
}

fn host_prefix(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}

fn run(scripts: &Scripts) -> anyhow::Result<()> {
    let scripts: Vec<(&String, &String)> = scripts.iter().collect();
    each(&scripts, |(netns, script)| batch(netns, script))
}

/// `ip` tells the family of a route by its addresses.
fn batch(netns: &str, script: &str) -> anyhow::Result<()> {
    let mut child = Command::new("ip")
        .args(["-n", netns, "-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip` (package iproute2)")?;
    let mut stdin = child.stdin.take().context("`ip` has no input")?;
    // A batch that `ip` gives up on closes the pipe; its message says why.
    let written = stdin.write_all(script.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() || written.is_err() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("`ip -n {netns} -batch -` failed: {}\nIts input was:\n{script}", message.trim());
    }
    Ok(())
}

/// Does `work` for every item, several at a time; the first error ends it.
fn each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> anyhow::Result<()> + Sync,
) -> anyhow::Result<()> {
    let next = AtomicUsize::new(0);
    let worker = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            work(item)?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS.min(items.len())).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().try_for_each(|w| w.join().expect("the worker does not panic"))
    })
}
