//! Scans the node for pods' interfaces.
//!
//! A pod is recognised by its addresses: the interface inside a namespace that carries one has a veth
//! peer here, and that is where the pod is enforced. Interface names are never looked at, so any CNI
//! that gives pods a veth works. Who has what is decided in `assign`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use super::links::{IfIndex, Links, LinksError};
use super::netns::{self, NetnsId};

/// Why a scan failed.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The namespaces could not be listed.
    #[error("cannot list network namespaces: {0}")]
    Netns(#[from] io::Error),
    /// Netlink.
    #[error(transparent)]
    Links(#[from] LinksError),
}

/// The host side of an interface inside a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index on the host.
    pub ifindex: IfIndex,
    /// Name on the host.
    pub name: String,
    /// The namespace of its peer.
    pub netns: NetnsId,
    /// A file that the namespace is mounted on.
    pub netns_path: PathBuf,
    /// Addresses of the peer.
    pub addresses: BTreeSet<IpAddr>,
}

impl Interface {
    /// The interface that a pod was found on before, if `scan` still sees it: its namespace is the same,
    /// whatever addresses are in it now, or is mounted on no file any more. `netns_inode` is 0 where it
    /// was never known; an address must tell then.
    pub fn still_there(
        ifindex: IfIndex,
        netns_inode: u64,
        addresses: &BTreeSet<IpAddr>,
        scan: &Scan,
    ) -> Option<Self> {
        if let Some(found) = scan.interfaces.get(&ifindex) {
            let is_same = match netns_inode {
                0 => !found.addresses.is_disjoint(addresses),
                inode => found.netns.inode == inode,
            };
            return is_same.then(|| found.clone());
        }
        Some(Self {
            ifindex,
            name: scan.veths.get(&ifindex)?.clone(),
            netns: NetnsId { device: 0, inode: netns_inode },
            netns_path: PathBuf::new(),
            addresses: addresses.clone(),
        })
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Host-side interfaces of namespaces that are mounted, by index, with or without addresses.
    pub interfaces: BTreeMap<IfIndex, Interface>,
    /// Names of all veths whose peer is in another namespace, mounted or not.
    pub veths: BTreeMap<IfIndex, String>,
    /// Addresses on interfaces that are no veths (loopback excepted), with their namespace.
    pub elsewhere: BTreeMap<IpAddr, PathBuf>,
    /// The node's own addresses (loopback excepted), on whatever interface: more than its Node object
    /// names, since a pod that sends to its bridge's address reaches the node as well.
    pub host: BTreeSet<IpAddr>,
}

impl Scan {
    /// Looks at the node as it is now.
    ///
    /// # Errors
    /// [`ScanError`]. A namespace that goes away during the scan is left out.
    pub async fn run(links: &Links, directories: &[PathBuf]) -> Result<Self, ScanError> {
        let namespaces = netns::list(directories)?;
        let mut hosts = BTreeMap::new();
        for link in links.host_links().await? {
            hosts.insert((link.peer_nsid, link.peer_ifindex), link);
        }
        let mut scan = Self::default();
        let host = links.own_addresses().await?.into_values().flatten();
        scan.host.extend(host.filter(|address| !address.is_loopback()));
        scan.veths.extend(hosts.values().map(|link| (link.ifindex, link.name.clone())));
        for (id, netns) in &namespaces {
            let Some(nsid) = links.nsid(&netns.file).await? else { continue };
            let mut inside = links.addresses(nsid).await?;
            for host in hosts.range((nsid, 0)..=(nsid, IfIndex::MAX)).map(|(_, host)| host) {
                let addresses = inside.remove(&host.peer_ifindex).unwrap_or_default();
                let interface = Interface {
                    ifindex: host.ifindex,
                    name: host.name.clone(),
                    netns: *id,
                    netns_path: netns.path.clone(),
                    addresses: addresses.into_iter().collect(),
                };
                scan.interfaces.insert(host.ifindex, interface);
            }
            inside.values_mut().for_each(|addresses| addresses.retain(|a| !a.is_loopback()));
            inside.retain(|_, addresses| !addresses.is_empty());
            // Of most pods nothing is left.
            let others = match inside.is_empty() {
                true => BTreeSet::new(),
                false => links.other_than_veths(nsid).await?,
            };
            inside.retain(|ifindex, _| others.contains(ifindex));
            let elsewhere = inside.into_values().flatten();
            scan.elsewhere.extend(elsewhere.map(|address| (address, netns.path.clone())));
        }
        Ok(scan)
    }
}
