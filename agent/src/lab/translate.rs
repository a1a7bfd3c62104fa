//! Services, translated in every node's namespace the way kube-proxy does it: to a random backend, and
//! with the node's address as source where a pod reaches itself.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use sluice_policy::model::{Backend, Protocol, ServicePort};

use super::netns;
use super::topology::{Leaf, family_of};
use crate::cluster::Cluster;

/// Name of the table in nftables.
const TABLE: &str = "inet sluice_services";

/// The rules of a node for the services of a cluster; empty where there is none with an address.
pub(super) fn rules(cluster: &Cluster, node: &Leaf) -> String {
    let mut translate = String::new();
    let mut backends = BTreeSet::new();
    for service in cluster.world.services.values() {
        for address in &service.addresses {
            for port in &service.ports {
                for backend in rules_of_port(&mut translate, *address, port) {
                    backends.insert(backend.address);
                }
            }
        }
    }
    if translate.is_empty() {
        return String::new();
    }
    let mut hairpin = String::new();
    for address in backends {
        if let Some(own) = node.address(family_of(address)) {
            let ip = family_word(address);
            let _ = writeln!(
                hairpin,
                "{ip} saddr {address} {ip} daddr {address} ct status dnat snat {ip} to {own}"
            );
        }
    }
    format!(
        "table {TABLE} {{
chain translate {{
{translate}}}
chain prerouting {{
type nat hook prerouting priority -100
jump translate
}}
chain output {{
type nat hook output priority -100
jump translate
}}
chain postrouting {{
type nat hook postrouting priority 100
{hairpin}}}
}}
"
    )
}

/// One rule per backend: of those that are left each takes an equal share.
fn rules_of_port<'a>(
    script: &mut String,
    address: IpAddr,
    port: &'a ServicePort,
) -> Vec<&'a Backend> {
    let ip = family_word(address);
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    let backends: Vec<&Backend> =
        port.backends.iter().filter(|b| b.address.is_ipv4() == address.is_ipv4()).collect();
    for (i, backend) in backends.iter().enumerate() {
        let to = SocketAddr::new(backend.address, backend.port);
        let left = backends.len() - i;
        let share = if left > 1 { format!("numgen random mod {left} 0 ") } else { String::new() };
        let _ = writeln!(
            script,
            "{ip} daddr {address} {protocol} dport {} {share}dnat {ip} to {to}",
            port.port
        );
    }
    backends
}

const fn family_word(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// Replaces a node's rules, in one transaction.
///
/// # Errors
/// There is no `nft`, or it does not take them.
pub(super) fn apply(netns: &str, rules: &str) -> anyhow::Result<()> {
    // Adding a table that is there does nothing, so that deleting it always works.
    let script = format!("add table {TABLE}\ndelete table {TABLE}\n{rules}");
    let mut command = Command::new("nft");
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    netns::run_inside(&mut command, netns)?;
    let mut child = command
        .spawn()
        .context("cannot run `nft` (package nftables), which the lab translates services with")?;
    let mut stdin = child.stdin.take().context("`nft` has no input")?;
    let written = stdin.write_all(script.as_bytes());
    drop(stdin);
    let output = child.wait_with_output()?;
    if !output.status.success() || written.is_err() {
        let message = String::from_utf8_lossy(&output.stderr);
        bail!("`nft` failed in {netns}: {}\nIts input was:\n{script}", message.trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::topology::Place;

    #[test]
    fn each_backend_takes_an_equal_share_and_families_do_not_mix() {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        let backend = |text: &str| Backend { address: address(text), port: 8080 };
        let port = ServicePort {
            protocol: Protocol::Tcp,
            port: 80,
            backends: vec![backend("10.0.0.1"), backend("10.0.0.2"), backend("fd00::1")],
        };
        let mut script = String::new();
        assert_eq!(rules_of_port(&mut script, address("10.96.0.1"), &port).len(), 2);
        let expected = "ip daddr 10.96.0.1 tcp dport 80 numgen random mod 2 0 dnat ip to 10.0.0.1:8080\n\
                        ip daddr 10.96.0.1 tcp dport 80 dnat ip to 10.0.0.2:8080\n";
        assert_eq!(script, expected);
        script.clear();
        rules_of_port(&mut script, address("fd00:96::1"), &port);
        assert_eq!(script, "ip6 daddr fd00:96::1 tcp dport 80 dnat ip6 to [fd00::1]:8080\n");
    }

    #[test]
    fn without_services_there_are_no_rules() {
        let node = Leaf {
            parent: Place::Fabric,
            netns: String::new(),
            interface: String::new(),
            addresses: Vec::new(),
            created: 0,
        };
        assert_eq!(rules(&Cluster::default(), &node), "");
    }
}
