//! Pods.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use sluice_policy::model::{self, Labels, NamedPort, PodName, Protocol};

use super::meta::{self, MetaError};
use super::port::{self, PortError};
use super::{At, Problems, address};

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub name: PodName,
    /// Labels.
    pub labels: Labels,
    /// `status.podIPs`, at most one per family; those of a finished pod too.
    pub addresses: Vec<IpAddr>,
    /// Node; empty while it is not scheduled.
    pub node: String,
    /// It has finished: its addresses are no longer its own.
    pub finished: bool,
    /// A service may send traffic to it.
    pub ready: bool,
    /// Creation time in seconds, 0 where unknown.
    pub created: i64,
    /// It is being deleted, and may run until it has ended in grace.
    pub deleting: bool,
    /// What its containers say.
    pub spec: Containers,
}

/// What a pod's or template's containers say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Containers {
    /// It uses its node's network.
    pub host_network: bool,
    /// Named ports, the first of equal name and protocol.
    pub named: Vec<NamedPort>,
    /// All declared ports.
    pub listens: BTreeSet<(Protocol, u16)>,
}

/// What is wrong with a Pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PodError {
    /// Its metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// A container port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// An address that is none.
    #[error("`{value}` is no IP address")]
    Address {
        /// The value.
        value: String,
    },
    /// More than one address of a family.
    #[error("{second} is a second address of the family of {first}")]
    SecondAddress {
        /// The one.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
}

/// Converts a Pod.
///
/// # Errors
/// Everything that is wrong with it.
pub fn convert(pod: api::Pod) -> Result<Pod, Vec<At<PodError>>> {
    let (value, faults) = readable(pod);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

/// Converts what can be converted, and says what cannot. What is left out can only narrow what
/// policies let through: an address that it does not have, a port that no rule finds by its name.
pub fn readable(pod: api::Pod) -> (Pod, Vec<At<PodError>>) {
    let api::Pod { metadata, spec, status } = pod;
    let mut problems = Problems::default();
    let meta = problems.keep_value(meta::readable(&metadata));
    let node = spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let spec = problems.keep_value(readable_containers("spec", spec.as_ref()));
    let status = status.unwrap_or_default();
    let addresses = addresses(&status, &mut problems);
    let value = Pod {
        name: PodName { namespace: meta.namespace, name: meta.name },
        labels: meta.labels,
        addresses,
        node,
        finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
        ready: is_ready(&status) && !meta.deleting,
        created: meta.created,
        deleting: meta.deleting,
        spec,
    };
    (value, problems.0)
}

fn addresses(status: &api::PodStatus, problems: &mut Problems<PodError>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for (field, value) in listed_addresses(status) {
        let Some(address) = problems.keep(
            &field,
            address::parse(value).ok_or_else(|| PodError::Address { value: value.to_owned() }),
        ) else {
            continue;
        };
        match found.iter().find(|a| a.is_ipv4() == address.is_ipv4()) {
            None => found.push(address),
            Some(&first) if first == address => {}
            Some(&first) => problems.add(field, PodError::SecondAddress { first, second: address }),
        }
    }
    found
}

/// Without conditions (a hand-written manifest) a pod counts as ready.
fn is_ready(status: &api::PodStatus) -> bool {
    match status.conditions.iter().flatten().find(|c| c.type_ == "Ready") {
        Some(condition) => condition.status == "True",
        None => true,
    }
}

/// Reads the containers of a pod or a template. Init containers count: those that restart always
/// live as long as the pod.
///
/// # Errors
/// Everything that is wrong with their ports.
pub fn containers(
    field: &str,
    spec: Option<&api::PodSpec>,
) -> Result<Containers, Vec<At<PortError>>> {
    let (value, faults) = readable_containers(field, spec);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

fn readable_containers(
    field: &str,
    spec: Option<&api::PodSpec>,
) -> (Containers, Vec<At<PortError>>) {
    let mut problems = Problems::default();
    let Some(spec) = spec else { return (Containers::default(), problems.0) };
    let mut read =
        Containers { host_network: spec.host_network.unwrap_or(false), ..Containers::default() };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    for (list, containers) in [("containers", spec.containers.as_slice()), ("initContainers", init)]
    {
        for (i, container) in containers.iter().enumerate() {
            for (j, port) in container.ports.iter().flatten().enumerate() {
                let field = format!("{field}.{list}[{i}].ports[{j}]");
                add_port(&field, port, &mut read, &mut problems);
            }
        }
    }
    (read, problems.0)
}

fn add_port(
    field: &str,
    port: &api::ContainerPort,
    read: &mut Containers,
    problems: &mut Problems<PortError>,
) {
    let api::ContainerPort { container_port, host_ip: _, host_port: _, name, protocol } = port;
    let protocol = problems.keep(&format!("{field}.protocol"), port::protocol(protocol.as_deref()));
    let number =
        problems.keep(&format!("{field}.containerPort"), port::number((*container_port).into()));
    let (Some(protocol), Some(port)) = (protocol, number) else { return };
    read.listens.insert((protocol, port));
    let Some(name) = name.as_deref().filter(|n| !n.is_empty()) else { return };
    problems.keep(&format!("{field}.name"), port::name(name));
    if !read.named.iter().any(|p| p.name == name && p.protocol == protocol) {
        read.named.push(NamedPort { name: name.to_owned(), protocol, port });
    }
}

/// `podIPs`, or `podIP` where only that is given, with the fields where they stand.
fn listed_addresses(status: &api::PodStatus) -> Vec<(String, &str)> {
    let listed: Vec<_> = status
        .pod_ips
        .iter()
        .flatten()
        .enumerate()
        .map(|(i, address)| (format!("status.podIPs[{i}].ip"), address.ip.as_str()))
        .collect();
    if !listed.is_empty() {
        return listed;
    }
    let single = status.pod_ip.as_deref().filter(|ip| !ip.is_empty());
    single.map(|ip| ("status.podIP".to_owned(), ip)).into_iter().collect()
}

impl Pod {
    /// As policy sees it. A finished pod has released its addresses.
    pub fn to_model(&self) -> model::Pod {
        model::Pod {
            labels: self.labels.clone(),
            addresses: if self.finished { Vec::new() } else { self.addresses.clone() },
            finished: self.finished,
            node: self.node.clone(),
            host_network: self.spec.host_network,
            ports: self.spec.named.clone(),
            created: self.created,
            deleting: self.deleting,
        }
    }
}
