//! Scans the node and assigns interfaces to pods.
//!
//! A pod is recognised by its addresses: the interface inside a namespace that carries one has a veth
//! peer here, and that is where the pod is enforced. Interface names are never looked at, so any CNI
//! that gives pods a veth works.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use sluice_policy::model::PodName;

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
    /// An interface that `scan` still sees, whose namespace is mounted on no file any more.
    pub fn unmounted(
        ifindex: IfIndex,
        netns_inode: u64,
        addresses: &BTreeSet<IpAddr>,
        scan: &Scan,
    ) -> Option<Self> {
        Some(Self {
            ifindex,
            name: scan
                .veths
                .get(&ifindex)
                .filter(|_| !scan.interfaces.contains_key(&ifindex))?
                .clone(),
            netns: NetnsId { device: 0, inode: netns_inode },
            netns_path: PathBuf::new(),
            addresses: addresses.clone(),
        })
    }
}

/// What a scan found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scan {
    /// Host-side interfaces of namespaces that are mounted, by index.
    pub interfaces: BTreeMap<IfIndex, Interface>,
    /// Names of all veths whose peer is in another namespace, mounted or not.
    pub veths: BTreeMap<IfIndex, String>,
    /// Addresses on interfaces without a host-side veth (loopback excepted), with their namespace.
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
            for (index, addresses) in links.addresses(nsid).await? {
                match hosts.get(&(nsid, index)) {
                    Some(host) => {
                        let interface = Interface {
                            ifindex: host.ifindex,
                            name: host.name.clone(),
                            netns: *id,
                            netns_path: netns.path.clone(),
                            addresses: addresses.into_iter().collect(),
                        };
                        scan.interfaces.insert(host.ifindex, interface);
                    }
                    None => scan.elsewhere.extend(
                        addresses
                            .into_iter()
                            .filter(|address| !address.is_loopback())
                            .map(|address| (address, netns.path.clone())),
                    ),
                }
            }
        }
        Ok(scan)
    }
}

/// A pod that the source says runs on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Creation time in seconds.
    pub created: i64,
}

/// Why a local pod has no interface to enforce it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// The source gives no address yet.
    NoAddress,
    /// No namespace has any of its addresses.
    NoInterface,
    /// A namespace has its address on an interface without a veth on the host.
    NoHostSide(PathBuf),
    /// A younger pod has its address.
    AddressOf(PodName),
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("it has no address yet"),
            Self::NoInterface => {
                f.write_str("no network namespace under --netns-dir has any of its addresses")
            }
            Self::NoHostSide(path) => write!(
                f,
                "its address is in {}, on an interface without a veth on the host",
                path.display()
            ),
            Self::AddressOf(pod) => write!(f, "its address now belongs to the younger pod {pod}"),
        }
    }
}

/// Interfaces of every local pod (those that carry its addresses, by index), or why it has none.
pub type Assignment = BTreeMap<PodName, Result<Vec<Interface>, NotFound>>;

/// Assigns the scan's interfaces to pods.
///
/// Of two pods with one address the younger has it (then the greater name), as in the policy model. Of
/// two namespaces with a pod's address the one with more of its addresses is the pod's, then the one
/// whose interface was made later: that of a deleted pod may linger.
pub fn assign(scan: &Scan, pods: &BTreeMap<PodName, LocalPod>) -> Assignment {
    let mut by_age: Vec<(&PodName, &LocalPod)> = pods.iter().collect();
    by_age.sort_by_key(|(name, pod)| std::cmp::Reverse((pod.created, *name)));
    let mut owners: BTreeMap<IpAddr, &PodName> = BTreeMap::new();
    for &(name, pod) in &by_age {
        for address in &pod.addresses {
            owners.entry(*address).or_insert(name);
        }
    }
    pods.iter().map(|(name, pod)| (name.clone(), find(scan, &owners, name, pod))).collect()
}

fn find(
    scan: &Scan,
    owners: &BTreeMap<IpAddr, &PodName>,
    name: &PodName,
    pod: &LocalPod,
) -> Result<Vec<Interface>, NotFound> {
    if pod.addresses.is_empty() {
        return Err(NotFound::NoAddress);
    }
    let own: BTreeSet<IpAddr> =
        pod.addresses.iter().copied().filter(|a| owners.get(a) == Some(&name)).collect();
    if own.is_empty() {
        let owner = pod.addresses.iter().find_map(|address| owners.get(address));
        return Err(owner.map_or(NotFound::NoAddress, |pod| NotFound::AddressOf((*pod).clone())));
    }
    // Per namespace: how many of the pod's addresses, and the newest interface that carries one.
    let mut places: BTreeMap<NetnsId, (usize, IfIndex)> = BTreeMap::new();
    for interface in scan.interfaces.values() {
        let matches = interface.addresses.intersection(&own).count();
        if matches > 0 {
            let place = places.entry(interface.netns).or_default();
            *place = (place.0 + matches, place.1.max(interface.ifindex));
        }
    }
    let Some((netns, _)) = places.into_iter().max_by_key(|(_, rank)| *rank) else {
        let elsewhere = own.iter().find_map(|address| scan.elsewhere.get(address));
        return Err(
            elsewhere.map_or(NotFound::NoInterface, |path| NotFound::NoHostSide(path.clone()))
        );
    };
    Ok(scan
        .interfaces
        .values()
        .filter(|i| i.netns == netns && !i.addresses.is_disjoint(&own))
        .cloned()
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(ifindex: IfIndex, inode: u64, addresses: &[&str]) -> Interface {
        Interface {
            ifindex,
            name: format!("veth{ifindex}"),
            netns: NetnsId { device: 4, inode },
            netns_path: PathBuf::from(format!("/run/netns/{inode}")),
            addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
        }
    }

    fn scan(interfaces: impl IntoIterator<Item = Interface>) -> Scan {
        let interfaces = interfaces.into_iter().map(|i| (i.ifindex, i)).collect();
        Scan { interfaces, ..Scan::default() }
    }

    fn pods(pods: &[(&str, i64, &[&str])]) -> BTreeMap<PodName, LocalPod> {
        pods.iter()
            .map(|(name, created, addresses)| {
                let addresses = addresses.iter().map(|a| a.parse().expect("an address")).collect();
                (pod(name), LocalPod { addresses, created: *created })
            })
            .collect()
    }

    fn pod(name: &str) -> PodName {
        PodName { namespace: "x".into(), name: name.into() }
    }

    fn indexes(found: &Result<Vec<Interface>, NotFound>) -> Vec<IfIndex> {
        found.as_ref().expect("found").iter().map(|i| i.ifindex).collect()
    }

    #[test]
    fn every_interface_that_carries_an_address_of_the_pod_is_its() {
        let scan = scan([
            interface(7, 1, &["10.0.0.1"]),
            interface(8, 1, &["fd00::1"]),
            interface(9, 1, &["192.168.0.1"]),
            interface(10, 2, &["10.0.0.2"]),
        ]);
        let found = assign(&scan, &pods(&[("a", 0, &["10.0.0.1", "fd00::1"])]));
        assert_eq!(indexes(&found[&pod("a")]), [7, 8]);
    }

    #[test]
    fn an_address_in_two_namespaces_belongs_to_the_one_with_more_matches_then_the_newer() {
        let lingering = scan([interface(7, 9, &["10.0.0.1"]), interface(8, 3, &["10.0.0.1"])]);
        let found = assign(&lingering, &pods(&[("a", 0, &["10.0.0.1"])]));
        assert_eq!(indexes(&found[&pod("a")]), [8]);
        let fuller =
            scan([interface(7, 9, &["10.0.0.1", "fd00::1"]), interface(8, 3, &["10.0.0.1"])]);
        let found = assign(&fuller, &pods(&[("a", 0, &["10.0.0.1", "fd00::1"])]));
        assert_eq!(indexes(&found[&pod("a")]), [7]);
    }

    #[test]
    fn the_younger_of_two_pods_has_the_address() {
        let scan = scan([interface(7, 1, &["10.0.0.1"])]);
        let found = assign(&scan, &pods(&[("a", 5, &["10.0.0.1"]), ("b", 4, &["10.0.0.1"])]));
        assert_eq!(indexes(&found[&pod("a")]), [7]);
        assert_eq!(found[&pod("b")], Err(NotFound::AddressOf(pod("a"))));
    }

    #[test]
    fn what_cannot_be_found_says_why() {
        let mut scan = scan([]);
        scan.elsewhere.insert("10.0.0.3".parse().expect("an address"), PathBuf::from("/n/c"));
        let found = assign(
            &scan,
            &pods(&[("a", 0, &[]), ("b", 0, &["10.0.0.2"]), ("c", 0, &["10.0.0.3"])]),
        );
        assert_eq!(found[&pod("a")], Err(NotFound::NoAddress));
        assert_eq!(found[&pod("b")], Err(NotFound::NoInterface));
        assert_eq!(found[&pod("c")], Err(NotFound::NoHostSide(PathBuf::from("/n/c"))));
    }
}
