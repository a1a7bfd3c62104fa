//! Services and where they lead.

use std::collections::{BTreeMap, BTreeSet};

use sluice_policy::model::{Backend, PodName, Protocol, ServiceName, ServicePort};

use super::Cluster;
use crate::convert::endpointslice::EndpointSlice;
use crate::convert::pod::Pod;
use crate::convert::service::{self, TargetPort};

impl Cluster {
    /// Where a connection to a service's port goes, as far as engines that follow one way say: to the
    /// first backend.
    pub fn backend(
        &self,
        service: &ServiceName,
        protocol: Protocol,
        port: u16,
        ipv4: bool,
    ) -> Option<&Backend> {
        let ports = &self.world.services.get(service)?.ports;
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
            slices => from_slices(port, slices, service.is_node_local),
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
    for (_, pod) in pods.iter().filter(|(n, _)| n.namespace == service.namespace) {
        let selected = selector.iter().all(|(k, v)| pod.labels.get(k) == Some(v));
        let usable = !pod.finished && (pod.ready || service.publish_not_ready);
        let Some(target) = target_port(port, pod).filter(|_| selected && usable) else { continue };
        let at = |&address| Backend { address, port: target };
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

/// Ready endpoints, or, where none of a family is, those that still serve on their way out. Of a
/// service whose endpoints count on their own node alone (`internalTrafficPolicy: Local`) each node
/// chooses by itself: it can be any of both.
fn from_slices(
    port: &service::ServicePort,
    slices: &[&EndpointSlice],
    is_node_local: bool,
) -> Vec<Backend> {
    let (mut ready, mut leaving) = (BTreeSet::new(), BTreeSet::new());
    for slice in slices {
        let matching =
            slice.ports.iter().filter(|p| p.name == port.name && p.protocol == port.protocol);
        for (slice_port, endpoint) in
            matching.flat_map(|p| slice.endpoints.iter().map(move |e| (p, e)))
        {
            let Some(&address) = endpoint.addresses.first() else { continue };
            let target = slice_port.port.unwrap_or(port.port);
            let backend = Backend { address, port: target };
            if endpoint.ready {
                ready.insert(backend);
            } else if endpoint.serves_to_its_end {
                leaving.insert(backend);
            }
        }
    }
    let of_family = |backends: &BTreeSet<Backend>, ipv4| -> Vec<Backend> {
        backends.iter().filter(|b| b.address.is_ipv4() == ipv4).copied().collect()
    };
    let mut chosen = Vec::new();
    for ipv4 in [true, false] {
        let ready = of_family(&ready, ipv4);
        if ready.is_empty() || is_node_local {
            chosen.extend(of_family(&leaving, ipv4));
        }
        chosen.extend(ready);
    }
    chosen
}
