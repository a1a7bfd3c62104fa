//! A cluster made of manifests: everything that engines and the lab need to know of it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use sluice_policy::model::World;

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
    /// The resolved objects as JSON (pods with `spec.nodeName` and `status.podIPs`, workloads as
    /// pods): what an agent with `--source dir:` is given to see the same cluster.
    pub objects: BTreeMap<ObjectKey, serde_json::Value>,
}
