//! `sluice explain`: one probe, and which rule decides it on each side.

use clap::{Args, ValueEnum};
use sluice_policy::explain::{Explanation, explain};

use super::input::InputArguments;
use super::matrix::{parse_family, parse_protocol};
use super::{Failure, print};
use crate::cluster::Cluster;
use crate::convert::policytest::{self, EndName, ProbeLine};
use crate::engine::model::Model;
use crate::engine::sides::sides;
use crate::engine::{End, Engine as _, Family, Probe, ProbeProtocol};
use crate::policytest::ends;
use crate::report::explain::{BackendRow, ExplainReport, render};
use crate::report::{ProbeRow, json};

/// Arguments of `sluice explain`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice explain policies/ --from shop/web --to shop/db --port 5432
  sluice explain policies/ --from 203.0.113.9 --to shop/web --port 443
  sluice explain policies/ --from shop/web --to svc/shop/api --port 80
  sluice explain policies/ --from node/node-1 --to shop/web --protocol ICMP

An end is <namespace>/<pod>, <namespace>/<workload>, svc/<namespace>/<name> (as --to),
node/<name> or an address.")]
pub struct ExplainArguments {
    #[command(flatten)]
    input: InputArguments,
    /// Who connects
    #[arg(long, value_name = "END")]
    from: EndName,
    /// To whom
    #[arg(long, value_name = "END")]
    to: EndName,
    /// TCP, UDP, SCTP or ICMP
    #[arg(long, value_name = "PROTOCOL", default_value = "TCP", value_parser = parse_protocol)]
    protocol: ProbeProtocol,
    /// To which port; ICMP has none
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    port: Option<i64>,
    /// Address family: IPv4 or IPv6 [default: that of an address among the ends, or IPv4]
    #[arg(long, value_name = "FAMILY", value_parser = parse_family)]
    family: Option<Family>,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: ExplainOutput,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum ExplainOutput {
    /// Sentences
    #[default]
    Table,
    /// One probe, as JSON
    Json,
}

/// Runs the command.
///
/// # Errors
/// Its exit status and what to say.
pub fn run(arguments: &ExplainArguments) -> Result<(), Failure> {
    let line = probe_line(arguments)?;
    let cluster = arguments.input.load()?.cluster()?;
    let probe = ends::resolve(&cluster, &line).map_err(|errors| {
        let lines: Vec<_> = errors.iter().map(|(end, e)| format!("--{end}: {e}")).collect();
        Failure::Usage(lines.join("\n"))
    })?;
    let report = explain_probe(&cluster, &line, &probe)?;
    print(&match arguments.output {
        ExplainOutput::Table => render(&report),
        ExplainOutput::Json => json::render(&report),
    })
}

fn probe_line(arguments: &ExplainArguments) -> Result<ProbeLine, Failure> {
    let port = policytest::probe_port(arguments.protocol, arguments.port)
        .map_err(|reason| Failure::Usage(format!("--port: {reason}")))?;
    Ok(ProbeLine {
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        protocol: arguments.protocol,
        port,
        family: arguments.family,
        expect: None,
        established: false,
    })
}

fn explain_probe(
    cluster: &Cluster,
    line: &ProbeLine,
    probe: &Probe,
) -> anyhow::Result<ExplainReport> {
    let outcomes = Model.step(cluster, std::slice::from_ref(probe))?;
    let outcome = outcomes.first().ok_or_else(|| anyhow::anyhow!("the model gave no answer"))?;
    let asked = sides(cluster, probe);
    let backend = asked.as_ref().filter(|_| matches!(probe.to, End::Service(..)));
    let backend = backend.and_then(|s| s.arrives_at);
    let backend = backend.map(|(address, port)| BackendRow { address, port });
    let questions = asked.iter().flat_map(|s| s.egress.iter().chain(&s.ingress));
    let explanations: Vec<Explanation> =
        questions.map(|question| explain(&cluster.world, question)).collect();
    Ok(ExplainReport::new(ProbeRow::new(line, probe, outcome), backend, &explanations))
}
