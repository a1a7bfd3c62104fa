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
    /// The namespace of a pod (`namespace/pod`, or `namespace/workload` for its first pod), a node
    /// (`node/name`) or an outside host (an address).
    pub(super) fn netns(&self, whom: &str) -> Option<&str> {
        self.netns_of(whom).or_else(|| self.netns_of(&format!("{whom}-0")))
    }

    fn netns_of(&self, whom: &str) -> Option<&str> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_found_by_its_name_or_its_workloads() {
        let pod = |name: &str| EndpointDescription {
            pod: name.into(),
            node: "n".into(),
            netns: format!("of {name}"),
            addresses: Vec::new(),
            interface: String::new(),
        };
        let endpoints = vec![pod("x/a-0"), pod("x/a-1"), pod("x/b")];
        let lab = Description { endpoints, ..Description::default() };
        assert_eq!(lab.netns("x/a-1"), Some("of x/a-1"));
        assert_eq!(lab.netns("x/a"), Some("of x/a-0"));
        assert_eq!(lab.netns("x/b"), Some("of x/b"));
        assert_eq!(lab.netns("x/c"), None);
    }
}
