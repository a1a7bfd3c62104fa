//! EndpointSlices: where a service really leads.

use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as api;
use sluice_policy::model::Protocol;

use super::meta::{self, MetaError};
use super::port::{self, PortError};
use super::{At, Problems, address};

/// The label that names the service of a slice.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// A slice of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// Namespace.
    pub namespace: String,
    /// The service, where it is one's.
    pub service: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<Endpoint>,
    /// Their ports.
    pub ports: Vec<EndpointPort>,
}

/// One endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its addresses: the first counts, the others are the same endpoint.
    pub addresses: Vec<IpAddr>,
    /// New connections may go to it. One that terminates is ready only where its service publishes
    /// addresses that are not.
    pub ready: bool,
    /// It answers, and is on its way out: used where nothing is ready.
    pub serves_to_its_end: bool,
}

/// One port of all endpoints of a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointPort {
    /// Name of the service's port, empty where it has none.
    pub name: String,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints; `None`: every port.
    pub port: Option<u16>,
}

/// What is wrong with an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointSliceError {
    /// Its metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// One of its ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// An address that is none.
    #[error("`{value}` is no {family} address")]
    Address {
        /// The value.
        value: String,
        /// `addressType`.
        family: String,
    },
    /// A type of addresses that does not exist.
    #[error("unknown address type `{value}`: must be IPv4, IPv6 or FQDN")]
    AddressType {
        /// The value.
        value: String,
    },
}

/// Converts an EndpointSlice.
///
/// # Errors
/// Everything that is wrong with it.
pub fn convert(slice: api::EndpointSlice) -> Result<EndpointSlice, Vec<At<EndpointSliceError>>> {
    let (value, faults) = readable(slice);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

/// Converts what can be converted, and says what cannot.
pub fn readable(slice: api::EndpointSlice) -> (EndpointSlice, Vec<At<EndpointSliceError>>) {
    let api::EndpointSlice { address_type, endpoints, metadata, ports } = slice;
    let mut problems = Problems::default();
    let meta = problems.keep_value(meta::readable(&metadata));
    let known = matches!(address_type.as_str(), "IPv4" | "IPv6" | "FQDN");
    if !known {
        let error = EndpointSliceError::AddressType { value: address_type.clone() };
        problems.add("addressType", error);
    }
    let mut converted = Vec::new();
    // Names instead of addresses are nothing that a packet can be sent to.
    if known && address_type != "FQDN" {
        for (i, endpoint) in endpoints.into_iter().enumerate() {
            let field = format!("endpoints[{i}]");
            converted.push(convert_endpoint(&field, endpoint, &address_type, &mut problems));
        }
    }
    let mut converted_ports = Vec::new();
    for (i, port) in ports.into_iter().flatten().enumerate() {
        converted_ports.extend(convert_port(&format!("ports[{i}]"), port, &mut problems));
    }
    let value = EndpointSlice {
        namespace: meta.namespace,
        service: meta.labels.get(SERVICE_LABEL).map(str::to_owned),
        endpoints: converted,
        ports: converted_ports,
    };
    (value, problems.0)
}

fn convert_endpoint(
    field: &str,
    endpoint: api::Endpoint,
    family: &str,
    problems: &mut Problems<EndpointSliceError>,
) -> Endpoint {
    let mut addresses = Vec::new();
    for (i, value) in endpoint.addresses.into_iter().enumerate() {
        let parsed = address::parse(&value)
            .filter(|ip| ip.is_ipv4() == (family == "IPv4"))
            .ok_or(EndpointSliceError::Address { value, family: family.to_owned() });
        addresses.extend(problems.keep(&format!("{field}.addresses[{i}]"), parsed));
    }
    let api::EndpointConditions { ready, serving, terminating } =
        endpoint.conditions.unwrap_or_default();
    // As kube-proxy reads them: unset, `ready` and `serving` are true and `terminating` is not.
    let serves_to_its_end = serving.unwrap_or(true) && terminating.unwrap_or(false);
    Endpoint { addresses, ready: ready.unwrap_or(true), serves_to_its_end }
}

fn convert_port(
    field: &str,
    port: api::EndpointPort,
    problems: &mut Problems<EndpointSliceError>,
) -> Option<EndpointPort> {
    let api::EndpointPort { app_protocol: _, name, port, protocol } = port;
    let protocol = problems.keep(&format!("{field}.protocol"), port::protocol(protocol.as_deref()));
    let number = match port {
        None => None,
        Some(n) => Some(problems.keep(&format!("{field}.port"), port::number(n.into()))?),
    };
    Some(EndpointPort { name: name.unwrap_or_default(), protocol: protocol?, port: number })
}
