//! Which namespaces a cluster needs and how they hang together: a pure value.
//!
//! ```text
//!            fabric (router)
//!      ┌────────┼──────────┐
//!   node-1    node-2    outside hosts
//!   ┌─┴─┐       │
//!  pod  pod    pod
//! ```
//! Every line is a veth pair. The upper end has the same link-local gateway addresses everywhere, the
//! lower one its own addresses as /32 and /128; everything is routed, nothing is bridged.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::net::IpAddr;

use sluice_policy::model::PodName;

use crate::cluster::Cluster;
use crate::engine::{End, Family};

/// Addresses of the outside host that every lab has (RFC 5737, RFC 3849).
pub const OUTSIDE_HOST: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Longest name of a namespace: it is a file name.
const NETNS_NAME_MAX: usize = 200;

/// What a namespace stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// The router between the nodes and the outside.
    Fabric,
    /// A node.
    Node(String),
    /// A pod with a network of its own.
    Pod(PodName),
    /// A host outside the cluster, by its first address.
    External(IpAddr),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fabric => f.write_str("fabric"),
            Self::Node(node) => write!(f, "node/{node}"),
            Self::Pod(pod) => pod.fmt(f),
            Self::External(address) => address.fmt(f),
        }
    }
}

/// A namespace below the fabric or below a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leaf {
    /// What its veth's other end is in.
    pub(super) parent: Place,
    /// Name of its namespace in `/run/netns`.
    pub(super) netns: String,
    /// Name of its veth's other end, which is in the parent's namespace.
    pub(super) interface: String,
    /// Its addresses.
    pub(super) addresses: Vec<IpAddr>,
    /// Creation time of the pod: one that was created anew gets a new namespace.
    pub(super) created: i64,
}

impl Leaf {
    /// Its address of a family.
    pub(super) fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| family_of(*address) == family)
    }
}

/// The family of an address.
pub(super) const fn family_of(address: IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::IPv4,
        IpAddr::V6(_) => Family::IPv6,
    }
}

/// All namespaces of a lab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    /// Name of the fabric's namespace.
    pub(super) fabric: String,
    /// Everything else, without the fabric.
    pub(super) leaves: BTreeMap<Place, Leaf>,
    /// Pods that use their node's network, with the node.
    pub(super) host_network: BTreeMap<PodName, String>,
}

impl Topology {
    /// The fabric alone.
    pub(super) fn empty(lab: &str) -> Self {
        Self {
            fabric: netns_name(lab, &Place::Fabric),
            leaves: BTreeMap::new(),
            host_network: BTreeMap::new(),
        }
    }

    /// What `lab` needs for a cluster and for outside hosts at `externals`. An address that is a
    /// pod's, a node's or a service's makes no outside host.
    pub(super) fn new(lab: &str, cluster: &Cluster, externals: &BTreeSet<IpAddr>) -> Self {
        let mut topology = Self::empty(lab);
        for (name, node) in &cluster.nodes {
            let place = Place::Node(name.clone());
            topology.add(lab, place, Place::Fabric, node.addresses.clone(), 0);
        }
        for (name, pod) in &cluster.world.pods {
            if !cluster.nodes.contains_key(&pod.node) {
                continue; // Not scheduled: there is nothing to build.
            }
            if pod.host_network {
                topology.host_network.insert(name.clone(), pod.node.clone());
                continue;
            }
            let owned = |address: &IpAddr| cluster.pod_at(*address) == Some(name);
            let addresses: Vec<_> = pod.addresses.iter().copied().filter(owned).collect();
            if !addresses.is_empty() {
                let parent = Place::Node(pod.node.clone());
                topology.add(lab, Place::Pod(name.clone()), parent, addresses, pod.created);
            }
        }
        topology.add_externals(lab, cluster, externals);
        topology
    }

    fn add_externals(&mut self, lab: &str, cluster: &Cluster, externals: &BTreeSet<IpAddr>) {
        let taken: BTreeSet<IpAddr> =
            self.leaves.values().flat_map(|leaf| leaf.addresses.iter().copied()).collect();
        let free =
            |address: &IpAddr| !taken.contains(address) && cluster.service_at(*address).is_none();
        let default: Vec<IpAddr> =
            OUTSIDE_HOST.iter().filter_map(|text| text.parse().ok()).filter(free).collect();
        let hosts = externals.iter().filter(|a| free(a) && !default.contains(a)).map(|a| vec![*a]);
        for addresses in hosts.chain([default.clone()]) {
            if let Some(first) = addresses.first() {
                self.add(lab, Place::External(*first), Place::Fabric, addresses, 0);
            }
        }
    }

    fn add(
        &mut self,
        lab: &str,
        place: Place,
        parent: Place,
        addresses: Vec<IpAddr>,
        created: i64,
    ) {
        let leaf = Leaf {
            parent,
            netns: netns_name(lab, &place),
            interface: interface_name(&place),
            addresses,
            created,
        };
        self.leaves.insert(place, leaf);
    }

    /// Name of the namespace of a place; `None` for a place that this lab does not have.
    pub(super) fn netns(&self, place: &Place) -> Option<&str> {
        match place {
            Place::Fabric => Some(&self.fabric),
            _ => self.leaves.get(place).map(|leaf| leaf.netns.as_str()),
        }
    }

    /// The place where an end of a probe is; `None` for services and for what is not in the lab.
    pub(super) fn place(&self, end: &End) -> Option<Place> {
        let place = match end {
            End::Pod(pod) => match self.host_network.get(pod) {
                Some(node) => Place::Node(node.clone()),
                None => Place::Pod(pod.clone()),
            },
            End::Node(node) => Place::Node(node.clone()),
            End::External(address) => {
                let (place, _) =
                    self.leaves.iter().find(|(_, leaf)| leaf.addresses.contains(address))?;
                place.clone()
            }
            End::Service(..) => return None,
        };
        self.leaves.contains_key(&place).then_some(place)
    }

    /// The node that a place belongs to.
    pub(super) fn node<'a>(&'a self, place: &'a Place) -> Option<&'a str> {
        match (place, self.leaves.get(place).map(|leaf| &leaf.parent)) {
            (Place::Node(node), _) | (_, Some(Place::Node(node))) => Some(node),
            _ => None,
        }
    }
}

/// Readable, unique within the machine, and a file name: a lab's name and a Kubernetes namespace have no dots.
fn netns_name(lab: &str, place: &Place) -> String {
    let rest = match place {
        Place::Fabric => "fabric".into(),
        Place::Node(node) => format!("node-{node}"),
        Place::Pod(pod) => format!("pod-{}.{}", pod.namespace, pod.name),
        Place::External(address) => format!("ext-{}", address.to_string().replace(':', "-")),
    };
    let name = format!("sluice-{lab}.{rest}");
    if name.len() <= NETNS_NAME_MAX {
        return name;
    }
    format!("sluice-{lab}.{:016x}", hash(place))
}

/// At most 15 bytes, as the kernel demands. Unique enough within one parent.
fn interface_name(place: &Place) -> String {
    format!("sluice{:08x}", hash(place) as u32)
}

/// Short directory name for a node: paths of unix sockets are short.
pub(super) fn node_id(node: &str) -> String {
    format!("{:08x}", hash(&Place::Node(node.into())) as u32)
}

fn hash(place: &Place) -> u64 {
    let mut hasher = DefaultHasher::new();
    place.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use sluice_policy::model::Pod;

    use super::*;
    use crate::cluster::Node;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn name(name: &str) -> PodName {
        PodName { namespace: "x".into(), name: name.into() }
    }

    fn pod(addresses: &[&str], created: i64) -> Pod {
        let addresses = addresses.iter().map(|a| address(a)).collect();
        Pod { addresses, created, node: "n".into(), ..Pod::default() }
    }

    fn topology(pods: &[(&str, Pod)], externals: &[&str]) -> Topology {
        let mut cluster = Cluster::default();
        cluster.nodes.insert("n".into(), Node { addresses: vec![address("172.30.0.1")] });
        for (pod_name, pod) in pods {
            cluster.world.pods.insert(name(pod_name), pod.clone());
        }
        Topology::new("l", &cluster, &externals.iter().map(|a| address(a)).collect())
    }

    #[test]
    fn of_two_pods_with_one_address_the_younger_has_a_namespace() {
        let topology = topology(&[("a", pod(&["10.0.0.1"], 1)), ("b", pod(&["10.0.0.1"], 2))], &[]);
        assert_eq!(topology.place(&End::Pod(name("a"))), None);
        assert_eq!(topology.place(&End::Pod(name("b"))), Some(Place::Pod(name("b"))));
    }

    #[test]
    fn a_pod_on_its_nodes_network_is_where_the_node_is() {
        let host = Pod { host_network: true, ..pod(&["172.30.0.1"], 0) };
        let topology = topology(&[("h", host)], &[]);
        assert_eq!(topology.place(&End::Pod(name("h"))), Some(Place::Node("n".into())));
    }

    #[test]
    fn addresses_of_the_cluster_make_no_outside_host() {
        let topology =
            topology(&[("a", pod(&["10.0.0.1"], 0))], &["10.0.0.1", "172.30.0.1", "8.8.8.8"]);
        let hosts: Vec<&Place> =
            topology.leaves.keys().filter(|p| matches!(p, Place::External(_))).collect();
        let expected = ["8.8.8.8", OUTSIDE_HOST[0]].map(|a| Place::External(address(a)));
        assert_eq!(hosts, expected.iter().collect::<Vec<_>>());
        // Both addresses of the host that is always there are the same place.
        for own in OUTSIDE_HOST {
            let place = topology.place(&End::External(address(own)));
            assert_eq!(place, Some(Place::External(address(OUTSIDE_HOST[0]))));
        }
    }

    #[test]
    fn names_fit_and_differ() {
        let long = "n".repeat(250);
        let places = [
            Place::Fabric,
            Place::Node("fabric".into()),
            Place::Node(long.clone()),
            Place::Node(long + "n"),
            Place::Pod(PodName { namespace: "a".into(), name: "b-c".into() }),
            Place::Pod(PodName { namespace: "a-b".into(), name: "c".into() }),
            Place::External(address("2001:db8::1")),
        ];
        let names: BTreeSet<String> = places.iter().map(|place| netns_name("l", place)).collect();
        assert_eq!(names.len(), places.len());
        assert!(names.iter().all(|n| n.len() <= NETNS_NAME_MAX && !n.contains([':', '/'])));
        assert!(places.iter().all(|place| interface_name(place).len() < 16));
        // Labs whose names begin alike: nothing of one is called like anything of the other.
        assert_ne!(netns_name("a", &Place::Node("x".into())), netns_name("a-node", &Place::Fabric));
    }
}
