//! What a lab consists of, for people and programs.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What a lab consists of, as `sluice lab up -o json` prints it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name.
    pub lab: String,
    /// Pods with a network of their own.
    pub endpoints: Vec<EndpointDescription>,
    /// Hosts outside the cluster.
    pub externals: Vec<ExternalDescription>,
    /// Nodes.
    pub nodes: Vec<NodeDescription>,
    /// Directory of the agents' pins, with one directory per node.
    pub pins: PathBuf,
}

impl Description {
    /// The namespace of a pod (`namespace/pod`), a node (`node/name`) or an outside host (an
    /// address).
    pub(super) fn netns(&self, whom: &str) -> Option<&str> {
        let pods = self.endpoints.iter().map(|e| (e.pod.clone(), &e.netns));
        let nodes = self.nodes.iter().map(|n| (format!("node/{}", n.node), &n.netns));
        let hosts = self
            .externals
            .iter()
            .flat_map(|host| host.addresses.iter().map(|a| (a.to_string(), &host.netns)));
        pods.chain(nodes)
            .chain(hosts)
            .find(|(name, _)| name == whom)
            .map(|(_, netns)| netns.as_str())
    }
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointDescription {
    /// `namespace/name`.
    pub pod: String,
    /// Its node.
    pub node: String,
    /// Its namespace, for `ip netns exec`.
    pub netns: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its veth in the node's namespace.
    pub interface: String,
}

/// A host outside the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalDescription {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its namespace, for `ip netns exec`.
    pub netns: String,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDescription {
    /// Its name.
    pub node: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its namespace, for `ip netns exec`.
    pub netns: String,
    /// `--state-dir` of its agent.
    pub state_dir: PathBuf,
    /// `--bpffs` of its agent.
    pub bpffs: PathBuf,
    /// Process id of its agent.
    pub agent_pid: Option<u32>,
}
