//! Who answers a probe: the oracle, the compiled tables, the kernel programs, or a real lab.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sluice_policy::model::{Answer, PodName, Protocol};

use crate::cluster::Cluster;

pub mod kernel;
pub mod lab;
pub mod model;
pub mod opinions;
pub mod packet;
pub mod sides;
pub mod tables;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// The default.
    #[default]
    IPv4,
    /// IPv6.
    IPv6,
}

impl Family {
    /// True if an address is of this family.
    pub const fn is_of(self, address: IpAddr) -> bool {
        match self {
            Self::IPv4 => address.is_ipv4(),
            Self::IPv6 => address.is_ipv6(),
        }
    }

    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::IPv4 } else { Self::IPv6 }
    }

    /// `IPv4` or `IPv6`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IPv4 => "IPv4",
            Self::IPv6 => "IPv6",
        }
    }
}

/// What a probe sends.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "UPPERCASE")]
pub enum ProbeProtocol {
    /// A connection; the default.
    #[default]
    Tcp,
    /// A datagram and its answer.
    Udp,
    /// INIT and INIT ACK.
    Sctp,
    /// Echo request and reply (ICMPv6 for IPv6).
    Icmp,
}

impl ProbeProtocol {
    /// The IP protocol number.
    pub const fn number(self, family: Family) -> u8 {
        match (self, family) {
            (Self::Tcp, _) => 6,
            (Self::Udp, _) => 17,
            (Self::Sctp, _) => 132,
            (Self::Icmp, Family::IPv4) => 1,
            (Self::Icmp, Family::IPv6) => 58,
        }
    }

    /// The protocol that a policy can name; ICMP has none.
    pub const fn transport(self) -> Option<Protocol> {
        match self {
            Self::Tcp => Some(Protocol::Tcp),
            Self::Udp => Some(Protocol::Udp),
            Self::Sctp => Some(Protocol::Sctp),
            Self::Icmp => None,
        }
    }

    /// As written in tests and output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
            Self::Icmp => "ICMP",
        }
    }
}

/// An end of a probe, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// A pod.
    Pod(PodName),
    /// A node's own processes.
    Node(String),
    /// A service (as destination only): namespace and name.
    Service(String, String),
    /// A host outside the cluster.
    External(IpAddr),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod(pod) => pod.fmt(f),
            Self::Node(node) => write!(f, "node/{node}"),
            Self::Service(namespace, name) => write!(f, "svc/{namespace}/{name}"),
            Self::External(address) => address.fmt(f),
        }
    }
}

/// One connection attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Probe {
    /// Who connects.
    pub from: End,
    /// To whom.
    pub to: End,
    /// With what.
    pub protocol: ProbeProtocol,
    /// To which port; 0 for ICMP.
    pub port: u16,
    /// Over which family.
    pub family: Family,
    /// The connection was opened in the step before and kept open.
    pub established: bool,
}

/// What became of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ProbeVerdict {
    /// It got through.
    Allow,
    /// Policy dropped it.
    Deny,
    /// It did not get through, and no drop of ours accounts for it.
    Unreachable,
}

impl ProbeVerdict {
    /// As written in tests and output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unreachable => "unreachable",
        }
    }
}

/// An engine's answer to a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub verdict: ProbeVerdict,
    /// The check at the source, where the source is a pod and the engine can tell.
    pub egress: Option<Answer>,
    /// The check at the destination, where it is a pod and the engine can tell.
    pub ingress: Option<Answer>,
}

/// Something that answers probes.
pub trait Engine {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// Forgets everything: a new test begins.
    fn reset(&mut self) -> anyhow::Result<()>;

    /// Brings the engine to `cluster` (the state after a step's changes) and answers the probes, in
    /// their order.
    fn step(&mut self, cluster: &Cluster, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>>;
}

/// Which engine, as named on the command line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// The oracle, straight from the specification
    Model,
    /// The compiled tables and the decision code shared with the kernel, in user space
    #[default]
    Tables,
    /// The same tables in kernel maps, the real programs on real packets
    Kernel,
    /// Namespaces, veths, the real agent, real connections
    Lab,
    /// Each of them; any disagreement is a failure
    All,
}

impl EngineKind {
    /// As on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Tables => "tables",
            Self::Kernel => "kernel",
            Self::Lab => "lab",
            Self::All => "all",
        }
    }

    /// Makes the engine, or each of them.
    ///
    /// # Errors
    /// What this machine lacks for it.
    pub fn open(self) -> anyhow::Result<Vec<Box<dyn Engine>>> {
        match self {
            Self::Model => Ok(vec![Box::new(model::Model)]),
            Self::Tables => Ok(vec![Box::new(tables::Tables::default())]),
            Self::Kernel => Ok(vec![Box::new(kernel::Kernel::new()?)]),
            Self::Lab => Ok(vec![Box::new(lab::LabEngine::new(std::env::current_exe()?))]),
            Self::All => {
                let mut engines = Vec::new();
                for kind in [Self::Model, Self::Tables, Self::Kernel, Self::Lab] {
                    engines.extend(kind.open()?);
                }
                Ok(engines)
            }
        }
    }
}
