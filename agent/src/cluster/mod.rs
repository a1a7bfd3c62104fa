//! A cluster made of manifests: everything that engines and the lab need to know of it.

mod addresses;
mod build;
mod lint;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use sluice_policy::model::{PodName, Protocol, ServiceName, World};

pub use self::addresses::{AddressPlan, ClusterError};
pub(crate) use self::services::resolve as resolve_service;

/// The node of pods that name none.
pub const IMPLIED_NODE: &str = "node-1";

/// Which object: kind, namespace (empty for cluster-scoped kinds), name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// `kind:`.
    pub kind: String,
    /// Namespace, or empty.
    pub namespace: String,
    /// Name.
    pub name: String,
}

/// `NetworkPolicy y/web`; cluster-scoped kinds without namespace.
impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {}", self.kind, self.name),
            namespace => write!(f, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

/// A node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Internal addresses.
    pub addresses: Vec<IpAddr>,
}

/// A cluster made of manifests, with every address assigned.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// What policy looks at. `endpoints` is empty: whoever enforces fills it.
    pub world: World,
    /// Nodes, the implied `node-1` included.
    pub nodes: BTreeMap<String, Node>,
    /// The pods of each workload, by `namespace/name` of the workload, the first first.
    pub workloads: BTreeMap<PodName, Vec<PodName>>,
    /// The ports that each pod declares.
    pub listens: BTreeMap<PodName, BTreeSet<(Protocol, u16)>>,
    /// The resolved objects as JSON (pods with `spec.nodeName` and `status.podIPs`, workloads as
    /// pods): what an agent with `--source dir:` is given to see the same cluster.
    pub objects: BTreeMap<ObjectKey, serde_json::Value>,
}

impl Cluster {
    /// The pod that has an address now: of several one that is not being deleted, then the youngest, then
    /// the one with the greatest name.
    /// Pods with host network have none of their own.
    pub fn pod_at(&self, address: IpAddr) -> Option<&PodName> {
        self.world
            .pods
            .iter()
            .filter(|(_, pod)| !pod.host_network && pod.addresses.contains(&address))
            .max_by_key(|(name, pod)| (!pod.deleting, pod.created, *name))
            .map(|(name, _)| name)
    }

    /// The node that has an address.
    pub fn node_at(&self, address: IpAddr) -> Option<&str> {
        let found = self.nodes.iter().find(|(_, node)| node.addresses.contains(&address));
        found.map(|(name, _)| name.as_str())
    }

    /// The service that has an address.
    pub fn service_at(&self, address: IpAddr) -> Option<&ServiceName> {
        let found = self.world.services.iter().find(|(_, s)| s.addresses.contains(&address));
        found.map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests;
