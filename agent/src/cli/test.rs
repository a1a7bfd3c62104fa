//! `sluice test`: PolicyTests against policies.

use clap::{Args, ValueEnum};

use super::input::{InputArguments, all_problems};
use super::progress::ProgressLine;
use super::{Failure, print};
use crate::engine::EngineKind;
use crate::policytest;
use crate::report::terminal::Look;
use crate::report::{TestReport, json, junit, table};

/// Arguments of `sluice test`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice test policies/ tests/gateway.yaml
  sluice test policies/ tests/ --engine all         every engine must give the same answers
  helm template chart/ | sluice test - tests/ -o junit > report.xml

The cluster that each test starts from is every other object in the given paths.
Exit status 1: a probe did not do what its test expects, or engines disagree.")]
pub struct TestArguments {
    #[command(flatten)]
    input: InputArguments,
    /// What answers the probes
    #[arg(long, value_enum, default_value_t)]
    engine: EngineKind,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: TestOutput,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum TestOutput {
    /// What differs, and a summary
    #[default]
    Table,
    /// Every probe, as JSON
    Json,
    /// Every probe, as JUnit XML
    Junit,
}

/// Runs the command.
///
/// # Errors
/// Its exit status and what to say.
pub fn run(arguments: &TestArguments) -> Result<(), Failure> {
    let input = arguments.input.load()?;
    let tests = policytest::plan(&input.objects).map_err(|e| Failure::Usage(all_problems(&e)))?;
    if tests.is_empty() {
        return Err(Failure::usage("there is no PolicyTest in the given paths"));
    }
    let mut engines = arguments.engine.open()?;
    let results = policytest::run(tests, &mut engines, &mut ProgressLine::begin())?;
    let report = TestReport::new(arguments.engine.as_str(), &results, input.warnings);
    print(&match arguments.output {
        TestOutput::Table => table::render(&report, Look::of_stdout()),
        TestOutput::Json => json::render(&report),
        TestOutput::Junit => junit::render(&report).map_err(anyhow::Error::new)?,
    })?;
    if report.is_good() { Ok(()) } else { Err(Failure::No) }
}
