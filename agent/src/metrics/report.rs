//! What the agent's loop answers to a scrape, and to the question whether it is ready.

use std::collections::BTreeMap;

use sluice_policy::model::RuleName;

use super::Timings;
use crate::datapath::counters::Snapshot;
use crate::source::ObjectState;
use crate::status::{EndpointStatus, TableStatus};

/// All that a scrape tells.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Local pods, with what became of their packets: empty for those that never had a slot.
    pub endpoints: Vec<(EndpointStatus, Snapshot)>,
    /// The rules in force on this node; empty where they were not asked for.
    pub rules: Vec<RuleReport>,
    /// How full the tables are.
    pub tables: Vec<TableStatus>,
    /// How many objects became of what, by kind.
    pub objects: BTreeMap<(&'static str, ObjectState), u64>,
    /// Policies that select a local pod and name ports that resolve nowhere.
    pub unresolved_ports: u64,
    /// By kind of object: what changes is being told.
    pub watches: BTreeMap<String, bool>,
    /// What the last comparison with the kernel had to correct.
    pub last_heal_corrections: u64,
    /// How long things took.
    pub timings: Timings,
    /// Live connections of pods that were learned when these became isolated.
    pub learned_connections: u64,
}

/// A rule and the packets that it decided on. Packets of flows that were judged before are not in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleReport {
    /// Its name.
    pub rule: RuleName,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// Packets since the rule is in force on this node.
    pub packets: u64,
}

/// Whether everything that is wanted is in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What is not, each with its reason; empty: ready.
    pub missing: Vec<String>,
    /// What an operator should know, although the agent can do no more about it.
    pub notes: Vec<String>,
}
