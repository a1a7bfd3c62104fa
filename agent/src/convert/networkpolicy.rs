//! `networking.k8s.io/v1` NetworkPolicy: as the API server validates and defaults it.

use ipnet::IpNet;
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;
use sluice_policy::model::{
    Action, Block, Direction, ExceptOutside, Namespaces, Peer, Peers, PodSelector, Policy,
    PolicyKind, PolicyName, PortMatch, Ports, Protocol, Rule, Selector, Tier,
};

use super::meta::{self, MetaError};
use super::port::{self, PortError};
use super::selector::{self, SelectorError};
use super::{At, Problems};
use crate::manifest::kinds::Kind;
use crate::manifest::strict;

/// A converted NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its name.
    pub name: PolicyName,
    /// What it says.
    pub policy: Policy,
    /// Directions that it has rules for and does not apply to.
    pub inert: Vec<Direction>,
}

/// What is wrong with a NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkPolicyError {
    /// Its metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// One of its selectors.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// One of its ports.
    #[error(transparent)]
    Port(#[from] PortError),
    /// A policy type that does not exist.
    #[error("unknown policy type `{value}`: must be Ingress or Egress")]
    PolicyType {
        /// The value.
        value: String,
    },
    /// More policy types than there are.
    #[error("{count} policy types: there are only Ingress and Egress")]
    PolicyTypes {
        /// How many.
        count: usize,
    },
    /// Neither selector nor block.
    #[error("must have podSelector, namespaceSelector or ipBlock")]
    PeerEmpty,
    /// A block beside a selector.
    #[error("must not stand beside podSelector or namespaceSelector")]
    BlockBesideSelector,
    /// Not a block of addresses.
    #[error("`{value}` is no CIDR: must be like 10.0.0.0/8 or fd00::/8")]
    Cidr {
        /// The value.
        value: String,
    },
    /// A block of IPv4-mapped addresses, of which nobody can say what it means.
    #[error("`{value}` is IPv4 written as IPv6: must be written as IPv4")]
    MappedCidr {
        /// The value.
        value: String,
    },
    /// An except that is no strict part of its block.
    #[error(transparent)]
    Except(#[from] ExceptOutside),
    /// `endPort` without `port`.
    #[error("must not be set without port")]
    EndPortAlone,
    /// `endPort` with a port name.
    #[error("must not be set where port is a name (`{name}`)")]
    EndPortWithName {
        /// The name.
        name: String,
    },
    /// `endPort` below `port`.
    #[error("{end_port} is below port {port}")]
    EndPortBelow {
        /// First port.
        port: u16,
        /// Last port.
        end_port: u16,
    },
}

/// Converts a NetworkPolicy.
///
/// # Errors
/// Everything that the API server would refuse.
pub fn convert(policy: api::NetworkPolicy) -> Result<NetworkPolicy, Vec<At<NetworkPolicyError>>> {
    let api::NetworkPolicy { metadata, spec } = policy;
    let api::NetworkPolicySpec { egress, ingress, pod_selector, policy_types } =
        spec.unwrap_or_default();
    let mut problems = Problems::default();
    let meta = problems.keep_all(meta::convert(&metadata)).unwrap_or_default();
    let subject = problems.keep_all(selector::convert("spec.podSelector", pod_selector));
    let has_egress_rules = egress.as_ref().is_some_and(|rules| !rules.is_empty());
    let types = policy_types.unwrap_or_default();
    let directions = problems
        .keep_all(Directions::read(&types, has_egress_rules))
        .unwrap_or(Directions { ingress: true, egress: true });

    let mut convert_rules = |list: &str, rules: Vec<RuleParts>| -> Vec<Rule> {
        let convert_one = |(i, parts): (usize, RuleParts)| {
            convert_rule(&format!("spec.{list}[{i}]"), parts, &meta.namespace, &mut problems)
        };
        rules.into_iter().enumerate().map(convert_one).collect()
    };
    let ingress = convert_rules("ingress", ingress.into_iter().flatten().map(Into::into).collect());
    let egress = convert_rules("egress", egress.into_iter().flatten().map(Into::into).collect());
    let inert = [
        (Direction::Ingress, directions.ingress, &ingress),
        (Direction::Egress, directions.egress, &egress),
    ]
    .into_iter()
    .filter(|(_, applies, rules)| !applies && !rules.is_empty())
    .map(|(direction, _, _)| direction)
    .collect();
    let policy = Policy {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: pods_of(&meta.namespace, subject.unwrap_or_default()),
        // The rules of a direction that the policy does not apply to are checked, but inert.
        ingress: directions.ingress.then_some(ingress),
        egress: directions.egress.then_some(egress),
    };
    let name = policy_name(meta.namespace, meta.name);
    problems.into_result(NetworkPolicy { name, policy, inert })
}

fn policy_name(namespace: String, name: String) -> PolicyName {
    PolicyName { kind: PolicyKind::NetworkPolicy, namespace: Some(namespace), name }
}

fn pods_of(namespace: &str, pods: Selector) -> PodSelector {
    PodSelector { namespaces: Namespaces::Named(namespace.to_owned()), pods }
}

/// The directions that a policy applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Directions {
    ingress: bool,
    egress: bool,
}

impl Directions {
    /// An empty list is the same as none: Ingress always, Egress where there are egress rules.
    fn read(types: &[String], has_egress_rules: bool) -> Result<Self, Vec<At<NetworkPolicyError>>> {
        if types.is_empty() {
            return Ok(Self { ingress: true, egress: has_egress_rules });
        }
        let mut problems = Problems::default();
        let mut directions = Self { ingress: false, egress: false };
        if types.len() > 2 {
            let error = NetworkPolicyError::PolicyTypes { count: types.len() };
            problems.add("spec.policyTypes", error);
        }
        for (i, value) in types.iter().enumerate() {
            match value.as_str() {
                "Ingress" => directions.ingress = true,
                "Egress" => directions.egress = true,
                _ => problems.add(
                    format!("spec.policyTypes[{i}]"),
                    NetworkPolicyError::PolicyType { value: value.clone() },
                ),
            }
        }
        problems.into_result(directions)
    }
}

/// A rule of either direction.
struct RuleParts {
    /// What the list of peers is called.
    peers_field: &'static str,
    peers: Option<Vec<api::NetworkPolicyPeer>>,
    ports: Option<Vec<api::NetworkPolicyPort>>,
}

impl From<api::NetworkPolicyIngressRule> for RuleParts {
    fn from(rule: api::NetworkPolicyIngressRule) -> Self {
        let api::NetworkPolicyIngressRule { from, ports } = rule;
        Self { peers_field: "from", peers: from, ports }
    }
}

impl From<api::NetworkPolicyEgressRule> for RuleParts {
    fn from(rule: api::NetworkPolicyEgressRule) -> Self {
        let api::NetworkPolicyEgressRule { ports, to } = rule;
        Self { peers_field: "to", peers: to, ports }
    }
}

/// An absent and an empty list of peers or ports mean the same: all of them.
fn convert_rule(
    field: &str,
    parts: RuleParts,
    namespace: &str,
    problems: &mut Problems<NetworkPolicyError>,
) -> Rule {
    let RuleParts { peers_field, peers, ports } = parts;
    let peers = match peers.unwrap_or_default() {
        list if list.is_empty() => Peers::Any,
        list => Peers::Of(
            list.into_iter()
                .enumerate()
                .filter_map(|(i, peer)| {
                    let field = format!("{field}.{peers_field}[{i}]");
                    problems.keep_all(convert_peer(&field, peer, namespace))
                })
                .collect(),
        ),
    };
    let ports = match ports.unwrap_or_default() {
        list if list.is_empty() => Ports::Any,
        list => Ports::Of(
            list.into_iter()
                .enumerate()
                .filter_map(|(i, port)| {
                    problems.keep_all(convert_port(&format!("{field}.ports[{i}]"), port))
                })
                .collect(),
        ),
    };
    Rule { action: Action::Allow, peers, ports }
}

fn convert_peer(
    field: &str,
    peer: api::NetworkPolicyPeer,
    namespace: &str,
) -> Result<Peer, Vec<At<NetworkPolicyError>>> {
    let api::NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
    match (ip_block, namespace_selector, pod_selector) {
        (None, None, None) => Err(vec![At::new(field, NetworkPolicyError::PeerEmpty)]),
        (Some(block), None, None) => {
            convert_block(&format!("{field}.ipBlock"), block).map(Peer::Block)
        }
        (Some(_), _, _) => {
            let field = format!("{field}.ipBlock");
            Err(vec![At::new(field, NetworkPolicyError::BlockBesideSelector)])
        }
        (None, namespaces, pods) => convert_pods(field, namespaces, pods, namespace),
    }
}

/// Without a namespace selector: the policy's own namespace. Without a pod selector: all pods.
fn convert_pods(
    field: &str,
    namespaces: Option<LabelSelector>,
    pods: Option<LabelSelector>,
    namespace: &str,
) -> Result<Peer, Vec<At<NetworkPolicyError>>> {
    let mut problems = Problems::default();
    let namespaces = match namespaces {
        None => Some(Namespaces::Named(namespace.to_owned())),
        Some(selector) => {
            let field = format!("{field}.namespaceSelector");
            problems.keep_all(selector::convert(&field, Some(selector))).map(Namespaces::Matching)
        }
    };
    let pods = problems.keep_all(selector::convert(&format!("{field}.podSelector"), pods));
    match (namespaces, pods) {
        (Some(namespaces), Some(pods)) => {
            problems.into_result(Peer::Pods(PodSelector { namespaces, pods }.into()))
        }
        _ => Err(problems.0),
    }
}

fn convert_block(field: &str, block: api::IPBlock) -> Result<Block, Vec<At<NetworkPolicyError>>> {
    let api::IPBlock { cidr, except } = block;
    let mut problems = Problems::default();
    let cidr = problems.keep(&format!("{field}.cidr"), parse_cidr(cidr));
    let mut excepts = Vec::new();
    for (i, except) in except.into_iter().flatten().enumerate() {
        let field = format!("{field}.except[{i}]");
        let Some(except) = problems.keep(&field, parse_cidr(except)) else { continue };
        excepts.push(except);
        // Checked one by one, so that the error names the right one.
        if let Some(cidr) = cidr {
            problems.keep(&field, Block::new(cidr, [except]));
        }
    }
    let Some(cidr) = cidr else { return Err(problems.0) };
    match Block::new(cidr, excepts) {
        Ok(block) => problems.into_result(block),
        Err(_) => Err(problems.0),
    }
}

fn parse_cidr(value: String) -> Result<IpNet, NetworkPolicyError> {
    match value.parse::<IpNet>() {
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            Err(NetworkPolicyError::MappedCidr { value })
        }
        Ok(net) => Ok(net),
        Err(_) => Err(NetworkPolicyError::Cidr { value }),
    }
}

fn convert_port(
    field: &str,
    port: api::NetworkPolicyPort,
) -> Result<PortMatch, Vec<At<NetworkPolicyError>>> {
    let api::NetworkPolicyPort { end_port, port, protocol } = port;
    let mut problems = Problems::default();
    let protocol = problems.keep(&format!("{field}.protocol"), port::protocol(protocol.as_deref()));
    let end_field = format!("{field}.endPort");
    let end = end_port.and_then(|n| problems.keep(&end_field, port::number(n.into())));
    let matched = match port {
        None => {
            if end_port.is_some() {
                problems.add(&end_field, NetworkPolicyError::EndPortAlone);
            }
            protocol.map(PortMatch::Protocol)
        }
        Some(IntOrString::String(name)) => {
            problems.keep(&format!("{field}.port"), port::name(&name));
            if end_port.is_some() {
                let error = NetworkPolicyError::EndPortWithName { name: name.clone() };
                problems.add(&end_field, error);
            }
            protocol.map(|protocol| PortMatch::Named { protocol, name })
        }
        Some(IntOrString::Int(n)) => {
            let first = problems.keep(&format!("{field}.port"), port::number(n.into()));
            first.zip(protocol).and_then(|(first, protocol)| {
                port_range(&end_field, protocol, first, end, &mut problems)
            })
        }
    };
    match matched {
        Some(matched) => problems.into_result(matched),
        None => Err(problems.0),
    }
}

fn port_range(
    end_field: &str,
    protocol: Protocol,
    first: u16,
    end: Option<u16>,
    problems: &mut Problems<NetworkPolicyError>,
) -> Option<PortMatch> {
    let last = end.unwrap_or(first);
    if last < first {
        let error = NetworkPolicyError::EndPortBelow { port: first, end_port: last };
        problems.add(end_field, error);
        return None;
    }
    Some(PortMatch::Range { protocol, first, last })
}

/// What stands in for a NetworkPolicy that cannot be converted: it isolates the pods that the policy
/// selects, in the directions that `policyTypes` names, and allows nothing. What cannot be read of
/// selector or directions counts as the widest: the whole namespace, both directions.
///
/// `None` where the object does not even say its name.
pub fn closed(value: &Value) -> Option<NetworkPolicy> {
    let key = super::key(Kind::NetworkPolicy, value)?;
    let spec = value.get("spec").unwrap_or(&Value::Null);
    let selector = match spec.get("podSelector") {
        None | Some(Value::Null) => Selector::default(),
        Some(selector) => strict::decode(selector)
            .ok()
            .and_then(|s| selector::convert("", Some(s)).ok())
            .unwrap_or_default(),
    };
    let directions = closed_directions(spec);
    let policy = Policy {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject: pods_of(&key.namespace, selector),
        ingress: directions.ingress.then(Vec::new),
        egress: directions.egress.then(Vec::new),
    };
    let name = policy_name(key.namespace, key.name);
    Some(NetworkPolicy { name, policy, inert: Vec::new() })
}

/// Those that it names. Where it names none, its rules are no guide to what it means: a misspelled
/// `egress` looks like no egress rules.
fn closed_directions(spec: &Value) -> Directions {
    let both = Directions { ingress: true, egress: true };
    match spec.get("policyTypes").map(strict::decode::<Vec<String>>) {
        Some(Ok(types)) if !types.is_empty() => Directions::read(&types, true).unwrap_or(both),
        _ => both,
    }
}

#[cfg(test)]
mod tests;
