//! A probe as questions to policy: the check at the source and the check at the destination.

use std::net::IpAddr;

use sluice_policy::model::{Answer, Direction, PodName, Question};

use super::{End, Family, Outcome, Probe, ProbeProtocol, ProbeVerdict};
use crate::cluster::{Cluster, ServiceName};

/// What policy is asked about a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides {
    /// Where it goes in the end: behind a service, the backend.
    pub destination: IpAddr,
    /// Port there.
    pub port: u16,
    /// The check at the source, where that is a pod.
    pub egress: Option<Question>,
    /// The check at the destination, where that is a pod.
    pub ingress: Option<Question>,
}

/// A place with an address.
struct Place {
    pod: Option<PodName>,
    /// The node whose own processes it stands for.
    node: Option<String>,
    address: IpAddr,
}

/// The questions of a probe; `None` where there is nothing to send to (a service without a ready
/// backend, an end without an address of the family).
pub fn sides(cluster: &Cluster, probe: &Probe) -> Option<Sides> {
    let source = place(cluster, &probe.from, probe.family)?;
    let (destination, port) = destination(cluster, probe)?;
    let packet_port = match (probe.protocol, probe.family) {
        (ProbeProtocol::Icmp, Family::IPv4) => ECHO_REQUEST_V4,
        (ProbeProtocol::Icmp, Family::IPv6) => ECHO_REQUEST_V6,
        _ => port,
    };
    let question = |pod: &PodName, direction, remote, from_own_host| Question {
        pod: pod.clone(),
        direction,
        remote,
        protocol: probe.protocol.number(probe.family),
        port: packet_port,
        from_own_host,
    };
    let ask_source = |pod| question(pod, Direction::Egress, destination.address, false);
    let ask_destination = |pod: &PodName| {
        let node = cluster.world.pods.get(pod).map(|pod| pod.node.as_str());
        let from_own_host = source.node.is_some() && source.node.as_deref() == node;
        question(pod, Direction::Ingress, source.address, from_own_host)
    };
    Some(Sides {
        destination: destination.address,
        port,
        egress: source.pod.as_ref().map(ask_source),
        ingress: destination.pod.as_ref().map(ask_destination),
    })
}

/// Type and code of an echo request, as [`Question::port`] wants them.
const ECHO_REQUEST_V4: u16 = 8 << 8;
const ECHO_REQUEST_V6: u16 = 128 << 8;

fn destination(cluster: &Cluster, probe: &Probe) -> Option<(Place, u16)> {
    let End::Service(namespace, name) = &probe.to else {
        return Some((place(cluster, &probe.to, probe.family)?, probe.port));
    };
    let service = ServiceName { namespace: namespace.clone(), name: name.clone() };
    let ipv4 = probe.family == Family::IPv4;
    let protocol = probe.protocol.transport()?;
    let backend = cluster.backend(&service, protocol, probe.port, ipv4)?;
    let pod = backend.pod.clone().filter(|pod| is_subject(cluster, pod));
    let node = cluster.node_at(backend.address).map(str::to_owned);
    Some((Place { pod, node, address: backend.address }, backend.port))
}

/// False for pods with host network, which no policy applies to.
fn is_subject(cluster: &Cluster, pod: &PodName) -> bool {
    cluster.world.pods.get(pod).is_some_and(|pod| !pod.host_network)
}

fn place(cluster: &Cluster, end: &End, family: Family) -> Option<Place> {
    let first = |addresses: &[IpAddr]| addresses.iter().copied().find(|a| family.is_of(*a));
    match end {
        End::Pod(name) => {
            let address = first(&cluster.world.pods.get(name)?.addresses)?;
            Some(Place { pod: Some(name.clone()), node: None, address })
        }
        End::Node(name) => {
            let address = first(&cluster.nodes.get(name)?.addresses)?;
            Some(Place { pod: None, node: Some(name.clone()), address })
        }
        End::External(address) if family.is_of(*address) => {
            Some(Place { pod: None, node: None, address: *address })
        }
        End::External(_) | End::Service(..) => None,
    }
}

/// Answers a probe with an engine that answers questions: both checks must allow it.
pub fn judge_probe(
    cluster: &Cluster,
    probe: &Probe,
    mut judge: impl FnMut(&Question) -> Answer,
) -> Outcome {
    let Some(sides) = sides(cluster, probe) else {
        return Outcome { verdict: ProbeVerdict::Unreachable, egress: None, ingress: None };
    };
    let egress = sides.egress.as_ref().map(&mut judge);
    let ingress = sides.ingress.as_ref().map(&mut judge);
    let allowed = [&egress, &ingress].into_iter().flatten().all(|answer| answer.allowed);
    let verdict = if allowed { ProbeVerdict::Allow } else { ProbeVerdict::Deny };
    Outcome { verdict, egress, ingress }
}
