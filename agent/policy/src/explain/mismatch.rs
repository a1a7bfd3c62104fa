//! Why a peer or a port of a rule does not match.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Remote, describe};
use crate::model::{
    Block, Labels, Peer, Peers, PodName, PodSelector, PortMatch, Ports, Protocol, Question, World,
};
use crate::oracle;

/// Why one peer or one port of a rule does not match. Ordered by how close it comes, the closest first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mismatch {
    /// The address is in the block, but taken out of it.
    InExcept {
        /// The address.
        remote: IpAddr,
        /// The except that it is in.
        except: IpNet,
    },
    /// The destination pod calls another port by this name.
    NamedPortIsAnother {
        /// The name.
        name: String,
        /// The pod.
        pod: PodName,
        /// What the pod calls so.
        is: u16,
        /// Where the packet goes.
        sent: u16,
    },
    /// The destination pod has no port of this name and protocol.
    NamedPortUndefined {
        /// The name.
        name: String,
        /// The protocol.
        protocol: Protocol,
        /// The pod.
        pod: PodName,
    },
    /// The pod's labels do not meet a requirement.
    Labels {
        /// The pod.
        pod: PodName,
        /// The label's key.
        key: String,
        /// What is required, as kubectl writes it.
        wanted: String,
        /// The value that the pod has for the key.
        has: Option<String>,
    },
    /// The pod is in a namespace that the peer does not choose.
    Namespace {
        /// The pod.
        pod: PodName,
        /// What is chosen: "in namespace x".
        wanted: String,
    },
    /// The port is another one.
    Port {
        /// What the rule names: "TCP 80".
        wanted: String,
        /// Where the packet goes.
        sent: u16,
    },
    /// The protocol is another one.
    Protocol {
        /// What the rule names: "TCP 80".
        wanted: String,
        /// "UDP 80".
        sent: String,
    },
    /// A rule with ports was asked about ICMP.
    PortsAreNotIcmp,
    /// A port's name was asked about an address that is no pod's.
    NamedPortWithoutPod {
        /// The name.
        name: String,
        /// The address.
        remote: IpAddr,
    },
    /// The address is not in the block.
    OutsideBlock {
        /// The address.
        remote: IpAddr,
        /// The block.
        cidr: IpNet,
    },
    /// The address is of the other family.
    OtherFamily {
        /// The address.
        remote: IpAddr,
        /// The block.
        cidr: IpNet,
    },
    /// A selector was asked about a node's address that this pod with host network uses.
    HostNetwork {
        /// The pod.
        pod: PodName,
        /// The address.
        remote: IpAddr,
    },
    /// A selector was asked about an address that is no pod's.
    NotAPod {
        /// The address.
        remote: IpAddr,
    },
    /// The rule names nobody or no port, and so matches nothing.
    Empty,
}

/// Why none of the peers match.
pub(super) fn of_peers(world: &World, question: &Question, peers: &Peers) -> Vec<Mismatch> {
    match peers {
        Peers::Any => Vec::new(),
        Peers::Of(list) if list.is_empty() => vec![Mismatch::Empty],
        Peers::Of(list) => list.iter().map(|p| of_peer(world, question.remote, p)).collect(),
    }
}

fn of_peer(world: &World, remote: IpAddr, peer: &Peer) -> Mismatch {
    match peer {
        Peer::Block(block) => of_block(block, remote),
        Peer::Pods(selector) => of_selector(world, selector, remote),
    }
}

fn of_block(block: &Block, remote: IpAddr) -> Mismatch {
    let cidr = block.cidr();
    if let Some(except) = block.except().iter().find(|e| oracle::in_cidr(**e, remote)) {
        return Mismatch::InExcept { remote, except: *except };
    }
    if cidr.addr().is_ipv4() != remote.is_ipv4() {
        return Mismatch::OtherFamily { remote, cidr };
    }
    Mismatch::OutsideBlock { remote, cidr }
}

fn of_selector(world: &World, selector: &PodSelector, remote: IpAddr) -> Mismatch {
    let Some((name, pod)) = oracle::holder(world, remote) else {
        return match super::remote(world, remote) {
            Remote::HostNetwork(pod) => Mismatch::HostNetwork { pod, remote },
            Remote::Pod(_) | Remote::Service(_) | Remote::NoPod => Mismatch::NotAPod { remote },
        };
    };
    if !oracle::selects_namespace(world, &selector.namespaces, &name.namespace) {
        let wanted = describe::namespaces(&selector.namespaces);
        return Mismatch::Namespace { pod: name.clone(), wanted };
    }
    of_labels(selector, name, &pod.labels)
}

fn of_labels(selector: &PodSelector, name: &PodName, labels: &Labels) -> Mismatch {
    let requirements = &selector.pods.requirements;
    match requirements.iter().find(|r| !oracle::requirement_holds(r, labels)) {
        Some(unmet) => Mismatch::Labels {
            pod: name.clone(),
            key: unmet.key.clone(),
            wanted: describe::requirement(unmet),
            has: labels.get(&unmet.key).map(str::to_owned),
        },
        // Not reached for a selector that does not match.
        None => Mismatch::Empty,
    }
}

/// Why none of the ports match.
pub(super) fn of_ports(world: &World, question: &Question, ports: &Ports) -> Vec<Mismatch> {
    match ports {
        Ports::Any => Vec::new(),
        Ports::Of(list) if list.is_empty() => vec![Mismatch::Empty],
        // ICMP and ICMPv6: the same for each of the ports.
        Ports::Of(_) if matches!(question.protocol, 1 | 58) => vec![Mismatch::PortsAreNotIcmp],
        Ports::Of(list) => list.iter().map(|p| of_port(world, question, p)).collect(),
    }
}

fn of_port(world: &World, question: &Question, port: &PortMatch) -> Mismatch {
    let (PortMatch::Protocol(protocol)
    | PortMatch::Range { protocol, .. }
    | PortMatch::Named { protocol, .. }) = port;
    if question.protocol != protocol.number() {
        let sent = describe::packet(question.protocol, question.port);
        return Mismatch::Protocol { wanted: describe::port(port), sent };
    }
    let PortMatch::Named { name, .. } = port else {
        return Mismatch::Port { wanted: describe::port(port), sent: question.port };
    };
    let name = name.clone();
    let Some((pod, _)) = oracle::destination(world, question) else {
        return Mismatch::NamedPortWithoutPod { name, remote: question.remote };
    };
    let pod = pod.clone();
    match oracle::named_port(world, question, *protocol, &name) {
        Some(is) => Mismatch::NamedPortIsAnother { name, pod, is, sent: question.port },
        None => Mismatch::NamedPortUndefined { name, protocol: *protocol, pod },
    }
}

/// A clause that goes on after "but".
impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InExcept { remote, except } => write!(f, "{remote} is in its except {except}"),
            Self::NamedPortIsAnother { name, pod, is, sent } => {
                write!(f, "named port `{name}` is {is} on {pod}, the probe is to {sent}")
            }
            Self::NamedPortUndefined { name, protocol, pod } => {
                write!(f, "{pod} has no {protocol} port named `{name}`")
            }
            Self::Labels { pod, key, wanted, has: Some(value) } => {
                write!(f, "{pod} does not match {wanted} (it has {key}={value})")
            }
            Self::Labels { pod, wanted, has: None, .. } => {
                write!(f, "{pod} does not match {wanted} (it has no such label)")
            }
            Self::Namespace { pod, wanted } => write!(f, "{pod} is not {wanted}"),
            Self::Port { wanted, sent } => write!(f, "the probe is to {sent}, not {wanted}"),
            Self::Protocol { wanted, sent } => write!(f, "the probe is {sent}, not {wanted}"),
            Self::PortsAreNotIcmp => f.write_str("a rule with ports does not match ICMP"),
            Self::NamedPortWithoutPod { name, remote } => {
                write!(f, "{remote} is no pod that could have a port named `{name}`")
            }
            Self::OutsideBlock { remote, cidr } => write!(f, "{remote} is not in {cidr}"),
            Self::OtherFamily { remote, cidr } => {
                write!(f, "{remote} is of another family than {cidr}")
            }
            Self::HostNetwork { pod, remote } => write!(
                f,
                "{remote} is the node of {pod}, and no selector matches a pod with host network"
            ),
            Self::NotAPod { remote } => write!(f, "{remote} is no pod's address"),
            Self::Empty => f.write_str("the empty list matches nothing"),
        }
    }
}
