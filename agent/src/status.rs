//! What an agent enforces, as `sluice status -o json` prints it.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sluice_common::abi::{ENDPOINT_MAX, capacity};
use sluice_policy::tables::Tables;

/// The whole state of an agent. Field names are a contract.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// An agent answered; false: read from the pins alone, and what cannot be known then is empty.
    pub agent: bool,
    /// Its process id.
    pub pid: Option<u32>,
    /// Its node.
    pub node: String,
    /// Where its policies come from.
    pub source: String,
    /// The source has delivered its first full list, and all of it that has arrived is in the kernel.
    pub synced: bool,
    /// Generation of the kernel tables.
    pub generation: u32,
    /// Version of the table layout.
    pub abi_version: u32,
    /// Corrections since the agent's start: what the kernel held or lacked against expectation.
    pub corrections: u64,
    /// Local pods by name.
    pub endpoints: Vec<EndpointStatus>,
    /// Objects that could not be converted, pods that do not fit, and the like: each named.
    pub faults: Vec<String>,
    /// How full the tables are.
    pub tables: Vec<TableStatus>,
    /// The watches of an API server, one for each kind; for a directory of manifests one of the kind
    /// `directory`.
    #[serde(default)]
    pub watches: Vec<WatchStatus>,
    /// What is valid in the policies and yet hardly meant, each with the object's name.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// How the watch of one kind of object stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchStatus {
    /// As written in `kind:`.
    pub kind: String,
    /// The API server sends what changes. False while it is asked for it, or after it has failed.
    pub connected: bool,
    /// The first full list is through.
    pub synced: bool,
    /// Why it is not connected, and what to do; none while nothing has failed.
    pub error: Option<String>,
}

/// A local pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// `namespace/name`.
    pub pod: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its host-side interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// Slot in the kernel tables; 0: none.
    pub slot: u32,
    /// Number of its incarnation; 0: none.
    pub epoch: u32,
    /// A policy isolates it for ingress.
    pub ingress: bool,
    /// A policy isolates it for egress.
    pub egress: bool,
    /// What should be enforced is.
    pub state: EnforcementState,
    /// Why not, or what to know besides.
    pub reason: Option<String>,
    /// The reason as one word. Of a pod whose policies are not in force: as in the metric
    /// `sluice_unenforced_endpoints`. Of what is enforced without an object: `object-gone`,
    /// `object-unknown` or `interface-of-nobody`.
    #[serde(default)]
    pub cause: Option<String>,
}

/// Whether a pod's policies are in force.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EnforcementState {
    /// They are.
    Enforced,
    /// No policy selects it: nothing is attached.
    NotIsolated,
    /// They are not.
    #[default]
    NotEnforced,
    /// It is enforced with a closed policy, because its own does not fit the tables.
    Closed,
}

impl EnforcementState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Enforced, Self::NotIsolated, Self::NotEnforced, Self::Closed];

    /// The metric label.
    pub const fn metric_label(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::NotIsolated => "not-isolated",
            Self::NotEnforced => "not-enforced",
            Self::Closed => "closed",
        }
    }

    /// As printed.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::NotIsolated => "not isolated",
            Self::NotEnforced => "NOT ENFORCED",
            Self::Closed => "closed",
        }
    }
}

/// A host-side interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name on the host.
    pub name: String,
    /// Index on the host.
    pub ifindex: u32,
    /// A file that the pod's namespace is mounted on.
    pub netns: PathBuf,
    /// Programs of others on the same hooks, in the form `ingress: name (id 7)`. They can redirect
    /// packets past ours.
    pub foreign_programs: Vec<String>,
}

/// How full a table is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Its name.
    pub table: String,
    /// Elements in use.
    pub used: u64,
    /// Elements that fit.
    pub capacity: u64,
    /// Of a table that packets fill: how long ago it was counted. Policy's own are known at any time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
}

impl TableStatus {
    /// Of all tables that policy fills.
    pub fn of(tables: &Tables) -> Vec<Self> {
        let status = |table: &str, used: usize, capacity: u32| Self {
            table: table.into(),
            used: used as u64,
            capacity: capacity.into(),
            age_seconds: None,
        };
        vec![
            status("endpoints", tables.endpoints.len(), ENDPOINT_MAX - 1),
            status("peers", tables.peers.len(), capacity::PEERS),
            status("vips", tables.vips.len(), capacity::VIPS),
            status("hairpins", tables.hairpins.len(), capacity::HAIRPINS),
            status("cidrs", tables.cidrs.len(), capacity::CIDRS),
            status("decisions", tables.decisions.len(), capacity::DECISIONS),
        ]
    }
}
