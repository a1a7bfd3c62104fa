//! From the names of a probe's ends to the ends, in one state of the cluster.

use std::net::IpAddr;

use sluice_policy::model::{PodName, ServiceName};

use crate::cluster::Cluster;
use crate::convert::policytest::{EndName, ProbeLine};
use crate::engine::{End, Family, Probe, ProbeProtocol};

/// Why an end cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// Nothing has this name.
    #[error("no {what} `{name}`{}", did_you_mean(.near))]
    Unknown {
        /// Kind of thing.
        what: &'static str,
        /// Its name.
        name: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// It has no address in the family of the probe.
    #[error("{end} has no {} address", .family.as_str())]
    NoAddress {
        /// The end.
        end: String,
        /// The family.
        family: Family,
    },
    /// An address of another family than the probe says.
    #[error("{address} is no {} address", .family.as_str())]
    OtherFamily {
        /// The address.
        address: IpAddr,
        /// The family.
        family: Family,
    },
    /// A service as source.
    #[error("a service cannot connect")]
    ServiceConnects,
    /// A service has no such port.
    #[error("{service} has no port {port} for {}{}", .protocol.as_str(), has_ports(.ports))]
    NoServicePort {
        /// The service.
        service: String,
        /// The port.
        port: u16,
        /// Its protocol.
        protocol: ProbeProtocol,
        /// What it has.
        ports: Vec<String>,
    },
    /// ICMP to a service.
    #[error("{service} does not answer ICMP: services translate TCP, UDP and SCTP only")]
    ServiceIcmp {
        /// The service.
        service: String,
    },
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        names => format!("; did you mean {}?", names.join(" or ")),
    }
}

fn has_ports(ports: &[String]) -> String {
    match ports {
        [] => String::new(),
        ports => format!(", only {}", ports.join(", ")),
    }
}

/// The family of a probe: as it says, else that of an address among its ends, else IPv4.
pub fn family(line: &ProbeLine) -> Family {
    let of_end = |end: &EndName| match end {
        EndName::Address(address) => Some(Family::of(*address)),
        EndName::PodOrWorkload(_) | EndName::Service(..) | EndName::Node(_) => None,
    };
    line.family.or_else(|| of_end(&line.from)).or_else(|| of_end(&line.to)).unwrap_or_default()
}

/// Finds the ends of a probe.
///
/// # Errors
/// The field (`from`, `to` or `port`) and the reason, for each end that cannot be used.
pub fn resolve(
    cluster: &Cluster,
    line: &ProbeLine,
) -> Result<Probe, Vec<(&'static str, EndError)>> {
    let family = family(line);
    let from = find(cluster, &line.from, family).and_then(|end| match end {
        End::Service(..) => Err(EndError::ServiceConnects),
        end => Ok(end),
    });
    let to = find(cluster, &line.to, family);
    let mut errors = Vec::new();
    let mut keep = |field, result: Result<End, EndError>| {
        result.map_err(|error| errors.push((field, error))).ok()
    };
    let (from, to) = (keep("from", from), keep("to", to));
    if let Some(End::Service(namespace, name)) = &to {
        let service = ServiceName { namespace: namespace.clone(), name: name.clone() };
        errors.extend(check_service(cluster, &service, line).err());
    }
    match (from, to) {
        (Some(from), Some(to)) if errors.is_empty() => Ok(Probe {
            from,
            to,
            protocol: line.protocol,
            port: line.port,
            family,
            established: line.established,
        }),
        _ => Err(errors),
    }
}

fn find(cluster: &Cluster, name: &EndName, family: Family) -> Result<End, EndError> {
    match name {
        EndName::PodOrWorkload(name) => find_pod(cluster, name, family),
        EndName::Node(name) => find_node(cluster, name, family),
        EndName::Service(namespace, name) => find_service(cluster, namespace, name),
        EndName::Address(address) if !family.is_of(*address) => {
            Err(EndError::OtherFamily { address: *address, family })
        }
        EndName::Address(address) => Ok(at(cluster, *address)),
    }
}

/// An address stands for whoever has it.
fn at(cluster: &Cluster, address: IpAddr) -> End {
    if let Some(pod) = cluster.pod_at(address) {
        End::Pod(pod.clone())
    } else if let Some(node) = cluster.node_at(address) {
        End::Node(node.to_owned())
    } else if let Some(service) = cluster.service_at(address) {
        End::Service(service.namespace.clone(), service.name.clone())
    } else {
        End::External(address)
    }
}

fn find_pod(cluster: &Cluster, name: &PodName, family: Family) -> Result<End, EndError> {
    let first_of_workload = || cluster.workloads.get(name).and_then(|pods| pods.first());
    let found = match cluster.world.pods.get_key_value(name) {
        Some((name, _)) => Some(name),
        None => first_of_workload(),
    };
    let Some((name, pod)) = found.and_then(|name| cluster.world.pods.get_key_value(name)) else {
        let candidates = cluster.world.pods.keys().chain(cluster.workloads.keys());
        let near = near(&name.to_string(), candidates.map(ToString::to_string));
        return Err(EndError::Unknown { what: "pod or workload", name: name.to_string(), near });
    };
    if !pod.addresses.iter().any(|a| family.is_of(*a)) {
        return Err(EndError::NoAddress { end: format!("pod {name}"), family });
    }
    // A pod with host network is its node, to every policy.
    if pod.host_network {
        find_node(cluster, &pod.node, family)
    } else {
        Ok(End::Pod(name.clone()))
    }
}

fn find_node(cluster: &Cluster, name: &str, family: Family) -> Result<End, EndError> {
    let Some(node) = cluster.nodes.get(name) else {
        let near = near(name, cluster.nodes.keys().cloned());
        return Err(EndError::Unknown { what: "node", name: name.into(), near });
    };
    if !node.addresses.iter().any(|a| family.is_of(*a)) {
        return Err(EndError::NoAddress { end: format!("node {name}"), family });
    }
    Ok(End::Node(name.into()))
}

fn find_service(cluster: &Cluster, namespace: &str, name: &str) -> Result<End, EndError> {
    let key = ServiceName { namespace: namespace.into(), name: name.into() };
    if cluster.world.services.contains_key(&key) {
        return Ok(End::Service(key.namespace, key.name));
    }
    let near = near(&key.to_string(), cluster.world.services.keys().map(ToString::to_string));
    Err(EndError::Unknown { what: "service", name: key.to_string(), near })
}

fn check_service(
    cluster: &Cluster,
    name: &ServiceName,
    line: &ProbeLine,
) -> Result<(), (&'static str, EndError)> {
    let written = format!("service {name}");
    let Some(protocol) = line.protocol.transport() else {
        return Err(("protocol", EndError::ServiceIcmp { service: written }));
    };
    let ports = cluster.world.services.get(name).map(|s| s.ports.as_slice()).unwrap_or_default();
    if ports.iter().any(|p| p.protocol == protocol && p.port == line.port) {
        return Ok(());
    }
    let error = EndError::NoServicePort {
        service: written,
        port: line.port,
        protocol: line.protocol,
        ports: ports.iter().map(|p| format!("{} {}", p.protocol, p.port)).collect(),
    };
    Err(("port", error))
}

/// At most three names that look like `name`, the likeliest first.
fn near(name: &str, candidates: impl Iterator<Item = String>) -> Vec<String> {
    let mut scored: Vec<(f64, String)> = candidates
        .map(|candidate| (strsim::jaro_winkler(name, &candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.dedup_by(|a, b| a.1 == b.1);
    scored.into_iter().take(3).map(|(_, candidate)| candidate).collect()
}
