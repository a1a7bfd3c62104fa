//! PolicyTests: the schema, strictly.

use std::fmt;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;
use sluice_policy::model::PodName;

use super::{Fault, meta, port};
use crate::cluster::ObjectKey;
use crate::engine::{Family, ProbeProtocol, ProbeVerdict};
use crate::manifest::interpret::{Object, Reading, interpret};
use crate::manifest::kinds::Kind;
use crate::manifest::strict::{self, join};

/// A test.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyTest {
    /// Its name.
    pub name: String,
    /// Its steps, in order.
    pub steps: Vec<Step>,
}

/// One step of a test.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Objects to remove, first.
    pub delete: Vec<ObjectKey>,
    /// Objects to create or replace, after that.
    pub apply: Vec<Object>,
    /// Files with more of them, relative to the test's own.
    pub apply_files: Vec<String>,
    /// What is asked after all of it.
    pub probes: Vec<ProbeLine>,
}

/// A probe as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeLine {
    /// Who connects.
    pub from: EndName,
    /// To whom.
    pub to: EndName,
    /// With what.
    pub protocol: ProbeProtocol,
    /// To which port; 0 for ICMP.
    pub port: u16,
    /// Over which family; absent: that of an address among the ends, else IPv4.
    pub family: Option<Family>,
    /// What should become of it; absent: it is only reported.
    pub expect: Option<ProbeVerdict>,
    /// The connection was opened in the step before.
    pub established: bool,
}

/// An end of a probe, as written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EndName {
    /// `<namespace>/<pod>` or `<namespace>/<workload>`.
    PodOrWorkload(PodName),
    /// `svc/<namespace>/<name>`.
    Service(String, String),
    /// `node/<name>`.
    Node(String),
    /// An address.
    Address(IpAddr),
}

/// What is wrong with an end of a probe.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{value}` is no end of a probe: must be <namespace>/<pod>, <namespace>/<workload>, svc/<namespace>/<name>, node/<name> or an address"
)]
pub struct EndNameError {
    /// The value.
    pub value: String,
}

impl std::str::FromStr for EndName {
    type Err = EndNameError;

    fn from_str(text: &str) -> Result<Self, EndNameError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["svc", namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::Service((*namespace).into(), (*name).into()))
            }
            ["node", name] if !name.is_empty() => Ok(Self::Node((*name).into())),
            [namespace, name] if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self::PodOrWorkload(PodName {
                    namespace: (*namespace).into(),
                    name: (*name).into(),
                }))
            }
            _ => Err(EndNameError { value: text.into() }),
        }
    }
}

impl fmt::Display for EndName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PodOrWorkload(name) => name.fmt(f),
            Self::Service(namespace, name) => write!(f, "svc/{namespace}/{name}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Address(address) => address.fmt(f),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawTest {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: Value,
    steps: Vec<RawStep>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawStep {
    name: Option<String>,
    #[serde(default)]
    apply: Vec<Value>,
    #[serde(default)]
    apply_files: Vec<String>,
    #[serde(default)]
    delete: Vec<RawDelete>,
    #[serde(default)]
    probes: Vec<RawProbe>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawDelete {
    kind: String,
    namespace: Option<String>,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct RawProbe {
    from: String,
    to: String,
    protocol: Option<String>,
    port: Option<i64>,
    family: Option<String>,
    expect: Option<String>,
    #[serde(default)]
    established: bool,
}

/// Converts a PolicyTest.
///
/// # Errors
/// Everything that is wrong with it and with the objects in it.
pub fn convert(value: &Value) -> Result<PolicyTest, Vec<Fault>> {
    let raw: RawTest = strict::decode_loosely(value).map_err(|fault| vec![fault])?;
    let mut faults = Vec::new();
    let name = match strict::decode::<ObjectMeta>(&raw.metadata) {
        Ok(metadata) => metadata_name(&metadata, &mut faults),
        Err(found) => {
            faults.extend(found.into_iter().map(|fault| within("metadata", fault)));
            String::new()
        }
    };
    if raw.steps.is_empty() {
        faults.push(fault("steps", "must not be empty"));
    }
    let steps = raw
        .steps
        .into_iter()
        .enumerate()
        .map(|(i, step)| convert_step(&format!("steps[{i}]"), step, &mut faults))
        .collect();
    if faults.is_empty() { Ok(PolicyTest { name, steps }) } else { Err(faults) }
}

fn metadata_name(metadata: &ObjectMeta, faults: &mut Vec<Fault>) -> String {
    match meta::convert(metadata) {
        Ok(meta) => meta.name,
        Err(found) => {
            faults.extend(found.into_iter().map(Fault::from));
            String::new()
        }
    }
}

fn fault(field: impl Into<String>, reason: impl Into<String>) -> Fault {
    Fault { field: field.into(), reason: reason.into() }
}

fn within(prefix: &str, fault: Fault) -> Fault {
    Fault { field: join(prefix, &fault.field), reason: fault.reason }
}

fn convert_step(field: &str, step: RawStep, faults: &mut Vec<Fault>) -> Step {
    let mut apply = Vec::new();
    for (i, value) in step.apply.into_iter().enumerate() {
        read_applied(&format!("{field}.apply[{i}]"), value, &mut apply, faults);
    }
    let mut delete = Vec::new();
    for (i, raw) in step.delete.into_iter().enumerate() {
        let converted = convert_delete(&format!("{field}.delete[{i}]"), raw);
        delete.extend(converted.map_err(|fault| faults.push(fault)));
    }
    let mut probes = Vec::new();
    for (i, raw) in step.probes.iter().enumerate() {
        probes.extend(convert_probe(&format!("{field}.probes[{i}]"), raw, faults));
    }
    Step { name: step.name, delete, apply, apply_files: step.apply_files, probes }
}

fn read_applied(field: &str, value: Value, objects: &mut Vec<Object>, faults: &mut Vec<Fault>) {
    for (path, reading) in interpret(value) {
        let field = join(field, &path);
        match reading {
            Reading::Object(object) if object.key.kind == Kind::PolicyTest.as_str() => {
                faults.push(fault(field, "a PolicyTest cannot be applied"));
            }
            Reading::Object(object) => objects.push(*object),
            Reading::Broken(broken) => {
                let named =
                    |f: Fault| Fault { reason: format!("{}: {}", broken.object, f.reason), ..f };
                faults.extend(broken.faults.iter().cloned().map(|f| within(&field, named(f))));
            }
            Reading::Irrelevant { api_version, kind } => {
                let reason = format!("{kind} of {api_version} changes nothing for policy");
                faults.push(fault(join(&field, "kind"), reason));
            }
        }
    }
}

fn convert_delete(field: &str, raw: RawDelete) -> Result<ObjectKey, Fault> {
    let RawDelete { kind, namespace, name } = raw;
    let Some(known) = Kind::from_name(&kind).filter(|k| *k != Kind::PolicyTest) else {
        return Err(fault(format!("{field}.kind"), format!("unknown kind `{kind}`")));
    };
    let namespace = match (known.is_namespaced(), namespace) {
        (true, Some(namespace)) => namespace,
        (true, None) => meta::DEFAULT_NAMESPACE.into(),
        (false, None) => String::new(),
        (false, Some(_)) => {
            return Err(fault(format!("{field}.namespace"), format!("a {kind} has no namespace")));
        }
    };
    Ok(ObjectKey { kind, namespace, name })
}

fn convert_probe(field: &str, raw: &RawProbe, faults: &mut Vec<Fault>) -> Option<ProbeLine> {
    let mut keep =
        |name: &str, reason: String| faults.push(fault(format!("{field}.{name}"), reason));
    let from = raw.from.parse::<EndName>().map_err(|e| keep("from", e.to_string())).ok();
    if matches!(from, Some(EndName::Service(..))) {
        keep("from", "a service cannot connect".into());
    }
    let to = raw.to.parse().map_err(|e: EndNameError| keep("to", e.to_string())).ok();
    let protocol =
        protocol(raw.protocol.as_deref()).map_err(|reason| keep("protocol", reason)).ok();
    let family = family(raw.family.as_deref()).map_err(|reason| keep("family", reason)).ok();
    let expect = expect(raw.expect.as_deref()).map_err(|reason| keep("expect", reason)).ok();
    let port = probe_port(protocol?, raw.port).map_err(|reason| keep("port", reason)).ok();
    Some(ProbeLine {
        from: from?,
        to: to?,
        protocol: protocol?,
        port: port?,
        family: family?,
        expect: expect?,
        established: raw.established,
    })
}

/// `TCP` (where omitted), `UDP`, `SCTP` or `ICMP`.
///
/// # Errors
/// The reason, in words.
pub fn protocol(text: Option<&str>) -> Result<ProbeProtocol, String> {
    match text {
        None | Some("TCP") => Ok(ProbeProtocol::Tcp),
        Some("UDP") => Ok(ProbeProtocol::Udp),
        Some("SCTP") => Ok(ProbeProtocol::Sctp),
        Some("ICMP") => Ok(ProbeProtocol::Icmp),
        Some(other) => Err(format!("unknown protocol `{other}`: must be TCP, UDP, SCTP or ICMP")),
    }
}

/// `IPv4` or `IPv6`.
///
/// # Errors
/// The reason, in words.
pub fn family(text: Option<&str>) -> Result<Option<Family>, String> {
    match text {
        None => Ok(None),
        Some("IPv4") => Ok(Some(Family::IPv4)),
        Some("IPv6") => Ok(Some(Family::IPv6)),
        Some(other) => Err(format!("unknown family `{other}`: must be IPv4 or IPv6")),
    }
}

fn expect(text: Option<&str>) -> Result<Option<ProbeVerdict>, String> {
    match text {
        None => Ok(None),
        Some("allow") => Ok(Some(ProbeVerdict::Allow)),
        Some("deny") => Ok(Some(ProbeVerdict::Deny)),
        Some(other) => Err(format!("unknown verdict `{other}`: must be allow or deny")),
    }
}

/// The port of a probe: needed, except that ICMP has none (0).
///
/// # Errors
/// The reason, in words.
pub fn probe_port(protocol: ProbeProtocol, port: Option<i64>) -> Result<u16, String> {
    match (protocol, port) {
        (ProbeProtocol::Icmp, None) => Ok(0),
        (ProbeProtocol::Icmp, Some(_)) => Err("ICMP has no ports".into()),
        (_, None) => Err("must be set".into()),
        (_, Some(value)) => port::number(value).map_err(|e| e.to_string()),
    }
}
