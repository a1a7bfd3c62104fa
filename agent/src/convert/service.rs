//! Services.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sluice_policy::model::{Labels, Protocol};

use super::labels::SyntaxError;
use super::meta::{self, MetaError};
use super::port::{self, PortError};
use super::{At, Problems, address};

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Where its own address comes from.
    pub address: ServiceAddress,
    /// Further addresses that kube-proxy translates: external addresses, and those of load balancers
    /// that do not translate themselves (`ipMode: Proxy`).
    pub external: Vec<IpAddr>,
    /// Its ports.
    pub ports: Vec<ServicePort>,
    /// The pods that it leads to; `None` where EndpointSlices alone say it.
    pub selector: Option<Labels>,
    /// Pods count although they are not ready.
    pub publish_not_ready: bool,
    /// On each node only the endpoints of that node may count: `internalTrafficPolicy: Local`, or
    /// `externalTrafficPolicy: Local` and an external address, where kube-proxy's own settings decide
    /// what holds for pods.
    pub is_node_local: bool,
}

/// Labels of services that kube-proxy leaves to others.
const NOT_TRANSLATED: [&str; 2] =
    ["service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless"];

/// Where a service's own address comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceAddress {
    /// `clusterIPs`.
    Given(Vec<IpAddr>),
    /// To be assigned.
    Assigned,
    /// There is none, and nothing translates its external addresses either: `clusterIP: None`, a
    /// service that is only a DNS name, or one that kube-proxy is told to leave to others.
    None,
}

/// One port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name, empty where it has none.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the service's own address.
    pub port: u16,
    /// Port of the pods.
    pub target: TargetPort,
}

/// Port of a service's pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// What each pod calls by this name.
    Name(String),
}

/// What is wrong with a Service.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    /// Its metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Its name.
    #[error(transparent)]
    Name(#[from] SyntaxError),
    /// One of its ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// An address that is none.
    #[error("`{value}` is no IP address")]
    Address {
        /// The value.
        value: String,
    },
}

/// Converts a Service.
///
/// # Errors
/// Everything that is wrong with it.
pub fn convert(service: api::Service) -> Result<Service, Vec<At<ServiceError>>> {
    let (value, faults) = readable(service);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

/// Converts what can be converted, and says what cannot.
pub fn readable(service: api::Service) -> (Service, Vec<At<ServiceError>>) {
    let api::Service { metadata, spec, status } = service;
    let spec = spec.unwrap_or_default();
    let mut problems = Problems::default();
    let meta = problems.keep_value(meta::readable(&metadata));
    let mut external =
        parse_all("spec.externalIPs", spec.external_ips.iter().flatten(), &mut problems);
    let ingress = status.and_then(|s| s.load_balancer).and_then(|b| b.ingress).unwrap_or_default();
    let is_translated = |i: &&api::LoadBalancerIngress| i.ip_mode.as_deref() != Some("Proxy");
    let balanced = ingress.iter().filter(is_translated).filter_map(|i| i.ip.as_ref());
    // As with a host name instead.
    let balanced = balanced.filter(|ip| !ip.is_empty());
    external.extend(parse_all("status.loadBalancer.ingress", balanced, &mut problems));
    let mut address = own_address(&spec, &mut problems);
    if NOT_TRANSLATED.iter().any(|label| meta.labels.get(label).is_some()) {
        address = ServiceAddress::None;
    }
    if address == ServiceAddress::None {
        external.clear();
    }
    let mut ports = Vec::new();
    for (i, port) in spec.ports.into_iter().flatten().enumerate() {
        ports.extend(convert_port(&format!("spec.ports[{i}]"), port, &mut problems));
    }
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let is_node_local = is_local(&spec.internal_traffic_policy)
        || (is_local(&spec.external_traffic_policy) && !external.is_empty());
    let value = Service {
        namespace: meta.namespace,
        name: meta.name,
        address,
        external,
        ports,
        selector: spec.selector.filter(|s| !s.is_empty()).map(Labels::from_iter),
        publish_not_ready: spec.publish_not_ready_addresses.unwrap_or(false),
        is_node_local,
    };
    (value, problems.0)
}

fn own_address(spec: &api::ServiceSpec, problems: &mut Problems<ServiceError>) -> ServiceAddress {
    let given: Vec<&String> = match spec.cluster_ips.as_deref() {
        Some(list) if !list.is_empty() => list.iter().collect(),
        _ => spec.cluster_ip.iter().filter(|ip| !ip.is_empty()).collect(),
    };
    if spec.type_.as_deref() == Some("ExternalName") || given.iter().any(|ip| *ip == "None") {
        ServiceAddress::None
    } else if given.is_empty() {
        ServiceAddress::Assigned
    } else {
        ServiceAddress::Given(parse_all("spec.clusterIPs", given.into_iter(), problems))
    }
}

fn parse_all<'a>(
    field: &str,
    values: impl Iterator<Item = &'a String>,
    problems: &mut Problems<ServiceError>,
) -> Vec<IpAddr> {
    let parse = |(i, value): (usize, &String)| {
        let parsed =
            address::parse(value).ok_or_else(|| ServiceError::Address { value: value.clone() });
        problems.keep(&format!("{field}[{i}]"), parsed)
    };
    values.enumerate().filter_map(parse).collect()
}

fn convert_port(
    field: &str,
    port: api::ServicePort,
    problems: &mut Problems<ServiceError>,
) -> Option<ServicePort> {
    let api::ServicePort { app_protocol: _, name, node_port: _, port, protocol, target_port } =
        port;
    let protocol = problems.keep(&format!("{field}.protocol"), port::protocol(protocol.as_deref()));
    let number = problems.keep(&format!("{field}.port"), port::number(port.into()));
    let target_field = format!("{field}.targetPort");
    let target = match target_port {
        // The API server puts the service's own port in for an absent or zero one.
        None | Some(IntOrString::Int(0)) => number.map(TargetPort::Number),
        Some(IntOrString::Int(n)) => {
            problems.keep(&target_field, port::number(n.into())).map(TargetPort::Number)
        }
        Some(IntOrString::String(name)) => {
            problems.keep(&target_field, port::name(&name)).map(|()| TargetPort::Name(name))
        }
    };
    let (protocol, port) = (protocol?, number?);
    // Its slices say where it leads, whatever this says; without it the port would be no service's.
    let target = target.unwrap_or(TargetPort::Number(port));
    Some(ServicePort { name: name.unwrap_or_default(), protocol, port, target })
}
