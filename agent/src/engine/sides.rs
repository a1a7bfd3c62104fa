//! A probe as questions to policy: the check at the source and the check at the destination.

use std::net::IpAddr;

use sluice_policy::model::{Answer, Direction, PodName, Question, ServiceName};

use super::{End, Family, Outcome, Probe, ProbeProtocol, ProbeVerdict};
use crate::cluster::Cluster;

/// What policy is asked about a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sides {
    /// Address and port that it is sent to: of a service, the service's own.
    pub sent_to: (IpAddr, u16),
    /// Address and port where it arrives: behind a service, the backend's; `None` if there is none.
    pub arrives_at: Option<(IpAddr, u16)>,
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

/// The questions of a probe; `None` where there is nothing to send to (an end without an address of
/// the family).
pub fn sides(cluster: &Cluster, probe: &Probe) -> Option<Sides> {
    let source = place(cluster, &probe.from, probe.family)?;
    let sent_to = sent_to(cluster, probe)?;
    let destination = destination(cluster, probe);
    let question = |pod: &PodName, direction, remote, port, from_own_host| Question {
        pod: pod.clone(),
        direction,
        remote,
        protocol: probe.protocol.number(probe.family),
        port: match (probe.protocol, probe.family) {
            (ProbeProtocol::Icmp, Family::IPv4) => ECHO_REQUEST_V4,
            (ProbeProtocol::Icmp, Family::IPv6) => ECHO_REQUEST_V6,
            _ => port,
        },
        from_own_host,
    };
    let ask_source = |pod| question(pod, Direction::Egress, sent_to.0, sent_to.1, false);
    let ask_destination = |(place, port): &(Place, u16)| {
        let pod = place.pod.as_ref()?;
        let node = cluster.world.pods.get(pod).map(|pod| pod.node.as_str());
        let from_own_host = source.node.is_some() && source.node.as_deref() == node;
        Some(question(pod, Direction::Ingress, source.address, *port, from_own_host))
    };
    Some(Sides {
        sent_to,
        arrives_at: destination.as_ref().map(|(place, port)| (place.address, *port)),
        egress: source.pod.as_ref().map(ask_source),
        ingress: destination.as_ref().and_then(ask_destination),
    })
}

/// Type and code of an echo request, as [`Question::port`] wants them.
const ECHO_REQUEST_V4: u16 = 8 << 8;
const ECHO_REQUEST_V6: u16 = 128 << 8;

fn sent_to(cluster: &Cluster, probe: &Probe) -> Option<(IpAddr, u16)> {
    let End::Service(namespace, name) = &probe.to else {
        return Some((place(cluster, &probe.to, probe.family)?.address, probe.port));
    };
    let name = ServiceName { namespace: namespace.clone(), name: name.clone() };
    let addresses = cluster.world.services.get(&name)?.addresses.iter();
    let address = addresses.copied().find(|address| probe.family.is_of(*address))?;
    Some((address, probe.port))
}

fn destination(cluster: &Cluster, probe: &Probe) -> Option<(Place, u16)> {
    let End::Service(namespace, name) = &probe.to else {
        return Some((place(cluster, &probe.to, probe.family)?, probe.port));
    };
    let service = ServiceName { namespace: namespace.clone(), name: name.clone() };
    let ipv4 = probe.family == Family::IPv4;
    let protocol = probe.protocol.transport()?;
    let backend = cluster.backend(&service, protocol, probe.port, ipv4)?;
    let pod = cluster.pod_at(backend.address).cloned();
    let node = cluster.node_at(backend.address).map(str::to_owned);
    Some((Place { pod, node, address: backend.address }, backend.port))
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

/// Answers a probe with an engine that answers questions: both checks must allow it, and it must arrive
/// somewhere.
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
    let verdict = match (allowed, sides.arrives_at) {
        (false, _) => ProbeVerdict::Deny,
        (true, Some(_)) => ProbeVerdict::Allow,
        (true, None) => ProbeVerdict::Unreachable,
    };
    Outcome { verdict, egress, ingress }
}
