//! `sluice matrix`: who reaches whom.

use std::collections::BTreeSet;

use clap::{Args, ValueEnum};
use sluice_policy::model::PodName;

use super::input::InputArguments;
use super::{Failure, print};
use crate::cluster::Cluster;
use crate::convert::policytest;
use crate::engine::opinions::Opinions;
use crate::engine::{End, Engine, EngineKind, Family, Outcome, Probe, ProbeProtocol};
use crate::report::json;
use crate::report::matrix::{MatrixReport, MatrixRow, render};
use crate::report::terminal::Look;

/// Arguments of `sluice matrix`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice matrix policies/                            on the ports that the pods declare
  sluice matrix policies/ --port 80 --port 443
  sluice matrix policies/ --protocol UDP --port 53 -o json
  sluice matrix policies/ --protocol ICMP")]
pub struct MatrixArguments {
    #[command(flatten)]
    input: InputArguments,
    /// Protocols: TCP, UDP, SCTP or ICMP [default: those of the declared ports, or TCP]
    #[arg(long, value_name = "PROTOCOL", value_parser = parse_protocol)]
    protocol: Vec<ProbeProtocol>,
    /// Ports [default: those that the pods declare, or 80]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// Address family: IPv4 or IPv6
    #[arg(long, value_name = "FAMILY", default_value = "IPv4", value_parser = parse_family)]
    family: Family,
    /// What answers the probes
    #[arg(long, value_enum, default_value_t)]
    engine: EngineKind,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: MatrixOutput,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum MatrixOutput {
    /// A row for each source, a column for each destination
    #[default]
    Table,
    /// Every pair, as JSON
    Json,
}

/// For clap: a protocol of a probe.
pub(super) fn parse_protocol(text: &str) -> Result<ProbeProtocol, String> {
    policytest::protocol(Some(text))
}

/// For clap: a family.
pub(super) fn parse_family(text: &str) -> Result<Family, String> {
    policytest::family(Some(text)).map(Option::unwrap_or_default)
}

/// Port of a cluster in which no pod declares any.
const FALLBACK_PORT: u16 = 80;

/// Runs the command.
///
/// # Errors
/// Its exit status and what to say.
pub fn run(arguments: &MatrixArguments) -> Result<(), Failure> {
    let cluster = arguments.input.load()?.cluster()?;
    let pods = pods(&cluster, arguments.family);
    if pods.is_empty() {
        let family = arguments.family.as_str();
        let reason =
            format!("there is no pod with an {family} address of its own in the given paths");
        return Err(Failure::Usage(reason));
    }
    let columns = columns(&cluster, &arguments.protocol, &arguments.port);
    let probes = probes(&pods, &columns, arguments.family);
    let mut engines = arguments.engine.open()?;
    let opinions = ask(&mut engines, &cluster, &probes)?;
    let report = report(&pods, &columns, &probes, &opinions);
    print(&match arguments.output {
        MatrixOutput::Table => render(&report, Look::of_stdout()),
        MatrixOutput::Json => json::render(&report),
    })?;
    say_disagreements(&probes, &opinions)
}

/// Those that have an address of their own in the family.
fn pods(cluster: &Cluster, family: Family) -> Vec<PodName> {
    let world = cluster.world.pods.iter();
    world
        .filter(|(_, pod)| !pod.host_network && pod.addresses.iter().any(|a| family.is_of(*a)))
        .map(|(name, _)| name.clone())
        .collect()
}

/// The protocols and ports of each cell, in order.
fn columns(
    cluster: &Cluster,
    protocols: &[ProbeProtocol],
    ports: &[u16],
) -> Vec<(ProbeProtocol, u16)> {
    let declared = || cluster.listens.values().flatten();
    let all = [ProbeProtocol::Tcp, ProbeProtocol::Udp, ProbeProtocol::Sctp, ProbeProtocol::Icmp];
    let mut columns = BTreeSet::new();
    for protocol in all {
        let declared_ports: BTreeSet<u16> = declared()
            .filter(|(p, _)| Some(*p) == protocol.transport())
            .map(|(_, port)| *port)
            .collect();
        let wanted = match protocols {
            [] if ports.is_empty() => !declared_ports.is_empty(),
            [] => protocol == ProbeProtocol::Tcp,
            named => named.contains(&protocol),
        };
        if !wanted {
            continue;
        }
        if protocol == ProbeProtocol::Icmp {
            columns.insert((protocol, 0));
        } else if !ports.is_empty() {
            columns.extend(ports.iter().map(|port| (protocol, *port)));
        } else if declared_ports.is_empty() {
            columns.insert((protocol, FALLBACK_PORT));
        } else {
            columns.extend(declared_ports.into_iter().map(|port| (protocol, port)));
        }
    }
    if columns.is_empty() {
        columns.insert((ProbeProtocol::Tcp, FALLBACK_PORT));
    }
    columns.into_iter().collect()
}

fn probes(pods: &[PodName], columns: &[(ProbeProtocol, u16)], family: Family) -> Vec<Probe> {
    let mut probes = Vec::with_capacity(pods.len() * pods.len() * columns.len());
    for from in pods {
        for to in pods {
            probes.extend(columns.iter().map(|&(protocol, port)| Probe {
                from: End::Pod(from.clone()),
                to: End::Pod(to.clone()),
                protocol,
                port,
                family,
                established: false,
            }));
        }
    }
    probes
}

fn ask(
    engines: &mut [Box<dyn Engine>],
    cluster: &Cluster,
    probes: &[Probe],
) -> anyhow::Result<Vec<Opinions>> {
    let mut opinions: Vec<Opinions> = Vec::new();
    for engine in engines {
        engine.reset()?;
        let outcomes: Vec<Outcome> = engine.step(cluster, probes)?;
        engine.reset()?;
        anyhow::ensure!(
            outcomes.len() == probes.len(),
            "engine `{}` left probes out",
            engine.name()
        );
        if opinions.is_empty() {
            opinions = outcomes.into_iter().map(|o| Opinions::new(engine.name(), o)).collect();
        } else {
            for (opinion, outcome) in opinions.iter_mut().zip(outcomes) {
                opinion.add(engine.name(), outcome);
            }
        }
    }
    Ok(opinions)
}

fn report(
    pods: &[PodName],
    columns: &[(ProbeProtocol, u16)],
    probes: &[Probe],
    opinions: &[Opinions],
) -> MatrixReport {
    let ports: BTreeSet<u16> = columns.iter().map(|(_, port)| *port).filter(|p| *p != 0).collect();
    let row = |(probe, opinion): (&Probe, &Opinions)| MatrixRow {
        from: probe.from.to_string(),
        to: probe.to.to_string(),
        protocol: probe.protocol.as_str(),
        port: (probe.port != 0).then_some(probe.port),
        verdict: opinion.first().verdict.as_str(),
    };
    MatrixReport {
        ports: ports.into_iter().collect(),
        pods: pods.iter().map(ToString::to_string).collect(),
        verdicts: probes.iter().zip(opinions).map(row).collect(),
    }
}

/// Exit status 1 if the engines do not agree.
fn say_disagreements(probes: &[Probe], opinions: &[Opinions]) -> Result<(), Failure> {
    let mut agree = true;
    for (probe, opinion) in probes.iter().zip(opinions) {
        for found in opinion.disagreements() {
            agree = false;
            let (from, to) = (&probe.from, &probe.to);
            let ((one, a), (other, b)) = (&found.one, &found.other);
            let (protocol, port) = (probe.protocol.as_str(), probe.port);
            eprintln!(
                "engines disagree about {from} → {to} {protocol} {port}, {}: {one} says {a}; {other} says {b}",
                found.about
            );
        }
    }
    if agree { Ok(()) } else { Err(Failure::No) }
}
