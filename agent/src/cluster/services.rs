//! Services and where they lead.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_policy::model::{PodName, Protocol};

use super::{Cluster, ServiceName};
use crate::convert::endpointslice::EndpointSlice;
use crate::convert::pod::Pod;
use crate::convert::service::{self, TargetPort};

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Its own addresses; empty for a headless one.
    pub addresses: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the service's own address.
    pub port: u16,
    /// Where it leads, ready ones only, in the order of the pods' names; several per pod where it has
    /// both families.
    pub backends: Vec<Backend>,
}

/// One place that a service leads to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Backend {
    /// The pod, where it is one.
    pub pod: Option<PodName>,
    /// Address.
    pub address: IpAddr,
    /// Port there.
    pub port: u16,
}

impl Cluster {
    /// Where a connection to a service's port goes: the first ready backend by name.
    pub fn backend(
        &self,
        service: &ServiceName,
        protocol: Protocol,
        port: u16,
        ipv4: bool,
    ) -> Option<&Backend> {
        let ports = &self.services.get(service)?.ports;
        let port = ports.iter().find(|p| p.protocol == protocol && p.port == port)?;
        port.backends.iter().find(|b| b.address.is_ipv4() == ipv4)
    }
}

/// The ports of a service with their backends: from its slices where it has any, else from its
/// selector.
pub(crate) fn resolve(
    service: &service::Service,
    slices: &[&EndpointSlice],
    pods: &BTreeMap<PodName, Pod>,
) -> Vec<ServicePort> {
    let resolve_port = |port: &service::ServicePort| {
        let mut backends = match slices {
            [] => from_selector(service, port, pods),
            slices => from_slices(port, slices, pods),
        };
        backends.sort();
        backends.dedup();
        ServicePort { protocol: port.protocol, port: port.port, backends }
    };
    service.ports.iter().map(resolve_port).collect()
}

fn from_selector(
    service: &service::Service,
    port: &service::ServicePort,
    pods: &BTreeMap<PodName, Pod>,
) -> Vec<Backend> {
    let Some(selector) = &service.selector else { return Vec::new() };
    let mut backends = Vec::new();
    for (name, pod) in pods.iter().filter(|(n, _)| n.namespace == service.namespace) {
        let selected = selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v));
        let usable = !pod.finished && (pod.ready || service.publish_not_ready);
        let Some(target) = target_port(port, pod).filter(|_| selected && usable) else { continue };
        let at = |&address| Backend { pod: Some(name.clone()), address, port: target };
        backends.extend(pod.addresses.iter().map(at));
    }
    backends
}

fn target_port(port: &service::ServicePort, pod: &Pod) -> Option<u16> {
    match &port.target {
        TargetPort::Number(number) => Some(*number),
        TargetPort::Name(name) => {
            let named = &pod.spec.named;
            let found = named.iter().find(|p| p.name == *name && p.protocol == port.protocol);
            found.map(|p| p.port)
        }
    }
}

/// Ready endpoints, or, where none is, those that still serve on their way out.
fn from_slices(
    port: &service::ServicePort,
    slices: &[&EndpointSlice],
    pods: &BTreeMap<PodName, Pod>,
) -> Vec<Backend> {
    let owner: BTreeMap<IpAddr, &PodName> = pods
        .iter()
        .filter(|(_, pod)| !pod.finished)
        .flat_map(|(name, pod)| pod.addresses.iter().map(move |&a| (a, name)))
        .collect();
    let (mut ready, mut serving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let matching =
            slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for (slice_port, endpoint) in
            matching.flat_map(|p| slice.endpoints.iter().map(move |e| (p, e)))
        {
            let Some(&address) = endpoint.addresses.first() else { continue };
            let target = slice_port.port.unwrap_or(port.port);
            let pod = owner.get(&address).map(|name| (*name).clone());
            let backend = Backend { pod, address, port: target };
            if endpoint.ready {
                ready.insert(backend);
            } else if endpoint.serving {
                serving.insert(backend);
            }
        }
    }
    let chosen = if ready.is_empty() { serving } else { ready };
    chosen.into_iter().collect()
}
