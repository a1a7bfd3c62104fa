//! A service, translated in the namespace of a test's node as kube-proxy does it: to a random backend,
//! and with the node's address as source where a pod reaches itself.

use std::net::SocketAddrV4;

use crate::node::{GATEWAY, Node};

/// In nftables.
const TABLE: &str = "ip sluice_services";

/// Has the node translate UDP to a service's address and port to these backends, and to nothing else
/// any more.
///
/// # Panics
/// Where nftables does not take it.
pub fn translate(node: &Node, service: SocketAddrV4, backends: &[SocketAddrV4]) {
    let nft = |command: &str| node.exec("node", &format!("nft {command}"));
    // Adding a table that is there does nothing, so that deleting it always works.
    for command in ["add", "delete", "add"] {
        nft(&format!("{command} table {TABLE}"));
    }
    nft(&format!("add chain {TABLE} translate {{ type nat hook prerouting priority -100 ; }}"));
    nft(&format!("add chain {TABLE} hairpin {{ type nat hook postrouting priority 100 ; }}"));
    let to_service = format!("ip daddr {} udp dport {}", service.ip(), service.port());
    for (i, backend) in backends.iter().enumerate() {
        // Of those that are left each takes an equal share.
        let share = format!("numgen random mod {} 0", backends.len() - i);
        nft(&format!("add rule {TABLE} translate {to_service} {share} dnat to {backend}"));
        let address = backend.ip();
        let itself = format!("ip saddr {address} ip daddr {address} ct status dnat");
        nft(&format!("add rule {TABLE} hairpin {itself} snat to {GATEWAY}"));
    }
}
