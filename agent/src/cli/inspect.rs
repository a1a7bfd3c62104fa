//! `sluice inspect`: what the kernel tables say of pods, by name.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::agent::{DEFAULT_BPFFS, DEFAULT_STATE_DIR, PodArg};
use super::{Failure, need_root, print};
use crate::inspect::{self, DirectionView, PodView, PortView};
use crate::report::json;

/// Arguments of `sluice inspect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice inspect                 all pods of this node that are in the tables
  sluice inspect shop/web-0      one of them
  sluice inspect shop/web-0 -o json

It reads the pinned tables themselves: what it prints is what packets meet, agent or not.")]
pub struct InspectArguments {
    /// The pod
    #[arg(value_name = "NS/POD")]
    pod: Option<PodArg>,
    /// Directory for pins that the agent was started with
    #[arg(long, value_name = "DIR", env = "SLUICE_BPFFS", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// State directory that the agent was started with
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: InspectOutput,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum InspectOutput {
    /// For people
    #[default]
    Table,
    /// Everything, as JSON
    Json,
}

/// Prints the views.
///
/// # Errors
/// [`Failure::No`] where the pod is not in the tables; [`Failure::Cannot`] where they cannot be read.
pub fn run(arguments: &InspectArguments) -> Result<(), Failure> {
    need_root("inspect")?;
    let only = arguments.pod.as_ref().map(|PodArg(name)| name);
    let views = inspect::pods(&arguments.bpffs, &arguments.state_dir, only)
        .map_err(|error| Failure::Cannot(error.into()))?;
    if let (Some(pod), true) = (only, views.is_empty()) {
        eprintln!("sluice: {pod} is not in the tables of this node");
        return Err(Failure::No);
    }
    match arguments.output {
        InspectOutput::Json => print(&json::render(&views)),
        InspectOutput::Table => {
            let texts: Vec<String> = views.iter().map(render).collect();
            print(&texts.join("\n"))
        }
    }
}

/// Writing to a string does not fail.
macro_rules! line {
    ($text:expr, $($rest:tt)*) => {
        let _ = writeln!($text, $($rest)*);
    };
}

fn render(view: &PodView) -> String {
    let mut text = String::new();
    let addresses: Vec<String> = view.addresses.iter().map(ToString::to_string).collect();
    line!(
        text,
        "{} ({}), slot {}, epoch {}",
        view.pod,
        addresses.join(", "),
        view.slot,
        view.epoch
    );
    for direction in &view.directions {
        render_direction(&mut text, direction);
    }
    line!(text, "  flows: {}", view.flows.len());
    for flow in &view.flows {
        let (remote, port) = (flow.remote, flow.remote_port);
        let host = if flow.host { ", by the node itself" } else { "" };
        line!(
            text,
            "    {} {remote} port {port}, own port {}: {}, opened on {}{host}",
            flow.protocol,
            flow.local_port,
            flow.state,
            flow.initiator
        );
    }
    for counter in &view.counters {
        let dropped = if counter.dropped { " DROPPED" } else { "" };
        line!(
            text,
            "  {} {}:{dropped} {} packets, {} bytes",
            counter.direction,
            counter.reason,
            counter.packets,
            counter.bytes
        );
    }
    text
}

fn render_direction(text: &mut String, view: &DirectionView) {
    if view.set == 0 {
        line!(text, "  {}: not isolated", view.direction);
        return;
    }
    line!(text, "  {}: isolated by {} (set {})", view.direction, view.policies, view.set);
    if view.classes.is_empty() {
        line!(text, "    closed: the set has no entries, everything is dropped");
    }
    for class in &view.classes {
        line!(
            text,
            "    class {}: {} ({} pod addresses)",
            class.class,
            class.peers,
            class.addresses
        );
        for port in &class.ports {
            line!(text, "      {}: {} by {}", ports(port), port.verdict, port.decided_by);
        }
    }
    for block in &view.blocks {
        line!(text, "    block {}: class {}", block.block, block.class);
    }
}

fn ports(view: &PortView) -> String {
    match (view.first, view.last) {
        (0, u16::MAX) if view.protocol == "any" => "everything".into(),
        (0, u16::MAX) => format!("{}, any port", view.protocol),
        (first, last) if first == last => format!("{} port {first}", view.protocol),
        (first, last) => format!("{} ports {first}-{last}", view.protocol),
    }
}
