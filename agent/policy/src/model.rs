//! What the policy core knows of a cluster.
//!
//! Every dialect is converted into these types at the edge; what cannot be converted never gets here
//! (the converter puts a closed policy in its place and reports it).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
pub use sluice_common::abi::Direction;

mod change;
mod service;
mod sorted;

pub use crate::labels::Labels;
pub use change::Change;
pub use service::{Backend, Service, ServiceName, ServicePort};
pub use sorted::Sorted;

/// `namespace/name` of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodName {
    /// Namespace.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that a policy can name (Kubernetes API: `NetworkPolicyPort.protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP, 6.
    Tcp,
    /// UDP, 17.
    Udp,
    /// SCTP, 132.
    Sctp,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// A container port with a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamedPort {
    /// Its name.
    pub name: String,
    /// Its protocol: a name used with another protocol does not refer to it.
    pub protocol: Protocol,
    /// Its number, 1 to 65535.
    pub port: u16,
}

/// A pod, as far as policy looks at it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Labels.
    pub labels: Labels,
    /// Addresses, at most one per family. Empty while it has none, and once it has finished: a
    /// finished pod releases its addresses.
    pub addresses: Vec<IpAddr>,
    /// It has succeeded or failed, or its object is gone: it is no peer of any policy. As long as it is
    /// an endpoint all the same (its interface is still there), its own policies hold, and an address
    /// that it keeps is the one that it may send from.
    pub finished: bool,
    /// Node that it runs on; empty while it is not scheduled.
    pub node: String,
    /// It uses its node's network: neither subject nor peer of a policy.
    pub host_network: bool,
    /// Named container ports (init containers included), the first of equal name and protocol.
    pub ports: Vec<NamedPort>,
    /// Creation time in seconds, 0 where unknown. Of two pods with one address the younger has it
    /// (then the greater name), unless it is being deleted.
    pub created: i64,
    /// It is being deleted: its address is any other pod's that has it and is not. The runtime gives an
    /// address away only when its former owner has lost it, which the API tells later.
    pub deleting: bool,
}

/// Where a policy's rules stand in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// First match wins, before everything else; `pass` goes on to the next tier.
    Admin,
    /// Any allow wins, else deny if a policy isolates the pod, else the next tier.
    NetworkPolicy,
    /// First match wins, after everything else; then allow.
    Baseline,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    /// The packet passes.
    Allow,
    /// The packet is dropped. In the NetworkPolicy tier there are no deny rules.
    Deny,
    /// The next tier decides. Only in the Admin and Baseline tiers.
    Pass,
}

/// The kind of a policy object, as users write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
    /// `policy.networking.k8s.io` ClusterNetworkPolicy (no converter yet).
    ClusterNetworkPolicy,
}

impl PolicyKind {
    /// As written in `kind:`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
        }
    }
}

/// Which policy object. Displays as `NetworkPolicy y/web`; cluster-scoped kinds without namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// Kind.
    pub kind: PolicyKind,
    /// Namespace; `None` for cluster-scoped kinds.
    pub namespace: Option<String>,
    /// Name.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.as_str(), self.name),
            None => write!(f, "{} {}", self.kind.as_str(), self.name),
        }
    }
}

/// Which rule of which policy. Displays as `NetworkPolicy y/web ingress[0]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy.
    pub policy: PolicyName,
    /// The list that the rule stands in.
    pub direction: Direction,
    /// Its index in that list, as the user wrote it.
    pub index: usize,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}[{}]", self.policy, direction_label(self.direction), self.index)
    }
}

/// `ingress` or `egress`.
pub const fn direction_label(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    }
}

/// A policy in any dialect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Tier of its rules.
    pub tier: Tier,
    /// Order among the policies of its tier, lower first; then by name. 0 in the NetworkPolicy tier.
    pub priority: i64,
    /// The pods that it applies to.
    pub subject: PodSelector,
    /// Rules for the ingress direction; `None`: it does not apply to ingress. An empty list in the
    /// NetworkPolicy tier isolates.
    pub ingress: Option<Vec<Rule>>,
    /// Rules for the egress direction, likewise.
    pub egress: Option<Vec<Rule>>,
}

impl Policy {
    /// The rules of a direction, if it applies to it.
    pub fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

/// One rule: it matches if its peers *and* its ports do.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// The other end.
    pub peers: Peers,
    /// Protocol and destination port.
    pub ports: Ports,
}

/// The other end of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peers {
    /// Every address, in the cluster or not.
    Any,
    /// Any of these; an empty list matches nothing.
    Of(Vec<Peer>),
}

/// One peer of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    /// Pods (never those with host network). Shared with the indexes of the compiler.
    Pods(Arc<PodSelector>),
    /// A block of addresses, pods' addresses included.
    Block(Block),
}

/// Pods by namespace and labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodSelector {
    /// Their namespaces.
    pub namespaces: Namespaces,
    /// Their labels.
    pub pods: Selector,
}

impl PodSelector {
    /// True if it selects every pod of its namespaces.
    pub(crate) fn selects_namespaces(&self) -> bool {
        self.pods == Selector::default()
    }
}

/// A choice of namespaces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespaces {
    /// The one of this name.
    Named(String),
    /// Those whose labels match.
    Matching(Selector),
}

/// A label selector: all requirements must hold; none: everything matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// The requirements (`matchLabels` are `In` with one value).
    pub requirements: Sorted<Requirement>,
}

/// One requirement of a selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What must hold of its value.
    pub operator: Operator,
}

/// Operators of the Kubernetes API's `LabelSelectorRequirement`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operator {
    /// The key is there with one of the values.
    In(Sorted<String>),
    /// The key is not there, or has none of the values.
    NotIn(Sorted<String>),
    /// The key is there.
    Exists,
    /// The key is not there.
    DoesNotExist,
}

/// A block of addresses without its excepts. The default is `0.0.0.0/0`, the first in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Block {
    cidr: IpNet,
    /// Ascending, each once. Without excepts (most blocks) a clone allocates nothing.
    except: Box<[IpNet]>,
}

/// Why a [`Block`] could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("except {except} is not strictly within {cidr}")]
pub struct ExceptOutside {
    /// The block.
    pub cidr: IpNet,
    /// The except that is not within it.
    pub except: IpNet,
}

impl Block {
    /// Host bits are cleared. An except must be a strict part of the block, as the API server
    /// demands.
    ///
    /// # Errors
    /// [`ExceptOutside`] for the first except that is not.
    pub fn new(
        cidr: IpNet,
        except: impl IntoIterator<Item = IpNet>,
    ) -> Result<Self, ExceptOutside> {
        let cidr = cidr.trunc();
        let except: BTreeSet<IpNet> = except.into_iter().map(|e| e.trunc()).collect();
        match except.iter().find(|e| !(cidr.contains(*e) && **e != cidr)) {
            Some(&except) => Err(ExceptOutside { cidr, except }),
            None => Ok(Self { cidr, except: except.into_iter().collect() }),
        }
    }

    /// The whole block, excepts included.
    pub const fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// What is taken off, ascending.
    pub const fn except(&self) -> &[IpNet] {
        &self.except
    }

    /// True if the address is in the block and in none of its excepts.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.cidr.contains(&address) && !self.except.iter().any(|e| e.contains(&address))
    }
}

/// Protocols and ports of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Ports {
    /// Every protocol (ICMP included) and port.
    Any,
    /// Any of these; an empty list matches nothing.
    Of(Vec<PortMatch>),
}

/// One entry of a rule's ports.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PortMatch {
    /// Every port of a protocol.
    Protocol(Protocol),
    /// `first..=last` of a protocol.
    Range {
        /// Protocol.
        protocol: Protocol,
        /// First port.
        first: u16,
        /// Last port, not below `first`.
        last: u16,
    },
    /// The port that the destination pod calls by this name; nothing where it has none.
    Named {
        /// Protocol.
        protocol: Protocol,
        /// Name.
        name: String,
    },
}

/// A pod of this node that has an interface, with its place in the kernel tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LocalEndpoint {
    /// Index into `endpoints`, above 0.
    pub slot: u32,
    /// Number of this incarnation, never given to another.
    pub epoch: u32,
    /// Further [`sluice_common::abi::EndpointFlags`]; `PRESENT` is added by compile.
    pub flags: u32,
}

/// Everything that compile, the oracle and explain look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// Namespaces with their labels. A namespace that is missing here has the label
    /// `kubernetes.io/metadata.name` alone.
    pub namespaces: BTreeMap<String, Labels>,
    /// All pods of the cluster.
    pub pods: BTreeMap<PodName, Pod>,
    /// All policies.
    pub policies: BTreeMap<PolicyName, Policy>,
    /// All services that have an address.
    pub services: BTreeMap<ServiceName, Service>,
    /// The pods of this node that are enforced.
    pub endpoints: BTreeMap<PodName, LocalEndpoint>,
    /// Addresses of this node, where egress to them is let out whatever the policies say; else empty.
    pub own_host: BTreeSet<IpAddr>,
}

/// A question to any engine: one side's check of a new connection's first packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The pod whose policies are asked.
    pub pod: PodName,
    /// The direction that is checked.
    pub direction: Direction,
    /// The address at the other end.
    pub remote: IpAddr,
    /// IP protocol number (6, 17, 132, 1, 58).
    pub protocol: u8,
    /// Destination port; for ICMP `type << 8 | code`.
    pub port: u16,
    /// The packet comes from the host stack of the pod's own node.
    pub from_own_host: bool,
}

/// The answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The packet passes.
    pub allowed: bool,
    /// At least one NetworkPolicy selects the pod in this direction.
    pub isolated: bool,
    /// What decided.
    pub decided_by: DecidedBy,
}

/// What decided. Of several allowing rules in the NetworkPolicy tier it is the first by policy name
/// and rule index. Displays as CLI.md's `decided_by`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DecidedBy {
    /// Nothing isolates the pod.
    DefaultAllow,
    /// Isolated, and no rule matched.
    DefaultDeny,
    /// The node's own host stack sent it, or it goes there and such egress is let out.
    Host,
    /// The pod talks to its own address, by itself or through a service that leads nowhere else.
    OwnAddress,
    /// The backends of the service get different verdicts, which closes the service.
    MixedBackends,
    /// A rule matched.
    Rule(RuleName),
}

impl fmt::Display for DecidedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultAllow => f.write_str("default-allow"),
            Self::DefaultDeny => f.write_str("default-deny"),
            Self::Host => f.write_str("host"),
            Self::OwnAddress => f.write_str("self"),
            Self::MixedBackends => f.write_str("mixed-backends"),
            Self::Rule(rule) => rule.fmt(f),
        }
    }
}
