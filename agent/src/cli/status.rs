//! `sluice status`: what the agent of this node enforces.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::agent::{DEFAULT_BPFFS, DEFAULT_STATE_DIR};
use super::{Failure, need_root, print};
use crate::control::{self, AskError, Request, Response};
use crate::inspect::{self, InspectError};
use crate::report::json;
use crate::report::terminal::Look;
use crate::status::{EndpointStatus, EnforcementState, Status};

/// An agent that does not answer for so long is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Arguments of `sluice status`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice status                  the pods of this node, enforced or not and why
  sluice status -o json

Exit status 1 where a pod's policies are not in force, an object does not count as it is written
(it is invalid, does not fit the tables, or is of a policy kind that is not enforced), the agent is
not in sync, or nothing is enforced at all.
Where no agent answers, its pins tell what is enforced nevertheless.")]
pub struct StatusArguments {
    /// Directory for pins that the agent was started with
    #[arg(long, value_name = "DIR", env = "SLUICE_BPFFS", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// State directory that the agent was started with
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: StatusOutput,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum StatusOutput {
    /// For people
    #[default]
    Table,
    /// Everything, as JSON
    Json,
}

/// Prints what is enforced.
///
/// # Errors
/// [`Failure::No`] where something is not, or no agent runs; [`Failure::Cannot`] where that cannot be known.
pub fn run(arguments: &StatusArguments) -> Result<(), Failure> {
    // The agent's socket and the pinned tables are root's: without it, all would look absent.
    need_root("status")?;
    let status = status(&arguments.bpffs, &arguments.state_dir)?;
    match arguments.output {
        StatusOutput::Table => print(&render(&status, Look::of_stdout()))?,
        StatusOutput::Json => print(&json::render(&status))?,
    }
    let all = status.endpoints.iter().all(|e| e.state != EnforcementState::NotEnforced);
    // Tables without an agent stay in force and follow no change: that is not what was asked for.
    let live = status.agent && status.synced && status.generation > 0;
    let as_written = status.faults.is_empty();
    if live && all && as_written { Ok(()) } else { Err(Failure::No) }
}

fn status(bpffs: &Path, state_dir: &Path) -> Result<Status, Failure> {
    match control::ask(state_dir, Request::Status, TIMEOUT) {
        Ok(Response::Status(status)) => Ok(with_adopted(*status, bpffs, state_dir)),
        Ok(other) => Err(Failure::Cannot(AskError::Unexpected(format!("{other:?}")).into())),
        Err(AskError::NoAgent(_)) => match inspect::status_of_pins(bpffs, state_dir) {
            Ok(status) => Ok(status),
            Err(InspectError::NothingPinned(_)) => Ok(Status::default()),
            Err(error) => Err(Failure::Cannot(error.into())),
        },
        Err(error) => Err(Failure::Cannot(error.into())),
    }
}

/// Until an agent has its first full list it knows nothing, and what the one before it pinned is in
/// force.
fn with_adopted(mut status: Status, bpffs: &Path, state_dir: &Path) -> Status {
    if status.generation == 0
        && let Ok(pinned) = inspect::status_of_pins(bpffs, state_dir)
    {
        status.generation = pinned.generation;
        status.endpoints = pinned.endpoints;
        status.tables = pinned.tables;
    }
    status
}

fn render(status: &Status, look: Look) -> String {
    let mut text = head(status);
    if !status.endpoints.is_empty() {
        let mut table = look.table();
        table.set_header(["POD", "STATE", "ISOLATED", "INTERFACE", "ADDRESSES", "REASON"]);
        for endpoint in &status.endpoints {
            table.add_row(row(endpoint));
        }
        text.push_str(&format!("{table}\n"));
    }
    for table in &status.tables {
        text.push_str(&format!("table {}: {} of {}\n", table.table, table.used, table.capacity));
    }
    for watch in status.watches.iter().filter(|watch| !watch.connected) {
        let reason = watch.error.as_deref().unwrap_or("not connected yet");
        text.push_str(&format!("watch {}: {reason}\n", watch.kind));
    }
    for fault in &status.faults {
        text.push_str(&format!("fault: {fault}\n"));
    }
    for warning in &status.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    text
}

fn head(status: &Status) -> String {
    match (status.agent, status.generation) {
        (true, generation) => format!(
            "node {}, source {}, {}, generation {generation}, {} corrections\n",
            status.node,
            status.source,
            if status.synced { "in sync" } else { "NOT IN SYNC" },
            status.corrections,
        ),
        (false, 0) => "no agent answers, and nothing is enforced\n".into(),
        (false, generation) => format!(
            "no agent answers: nothing that changes from now on is enforced; what the last one pinned \
             is (generation {generation})\n"
        ),
    }
}

fn row(endpoint: &EndpointStatus) -> Vec<String> {
    let isolated = match (endpoint.ingress, endpoint.egress) {
        (true, true) => "ingress, egress",
        (true, false) => "ingress",
        (false, true) => "egress",
        (false, false) => "-",
    };
    let interfaces: Vec<String> = endpoint
        .interfaces
        .iter()
        .map(|i| match i.foreign_programs.as_slice() {
            [] => i.name.clone(),
            foreign => format!("{} (with foreign {})", i.name, foreign.join(", ")),
        })
        .collect();
    let addresses: Vec<String> = endpoint.addresses.iter().map(ToString::to_string).collect();
    vec![
        endpoint.pod.clone(),
        endpoint.state.label().into(),
        isolated.into(),
        interfaces.join(", "),
        addresses.join(", "),
        endpoint.reason.clone().unwrap_or_default(),
    ]
}
