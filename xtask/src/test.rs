//! `cargo xtask test`: everything that CI runs.

pub(crate) mod programs;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use self::programs::RunBy;
use crate::named::Named;
use crate::process::{cargo, program};
use crate::setup::{self, Purpose};
use crate::{chart, fuzz, kubernetes, layout, licences, lint, machine, two_nodes, workspace};

pub(crate) const SUMMARY: &str = "run every check and test, those that need root too; what CI runs";
pub(crate) const HELP: &str = "
Usage: cargo xtask test [PART]...

Installs what is missing, then runs the parts in this order, or only those named:
  format     cargo fmt --check
  layout     every crate inherits the lints, files have a bounded length
  clippy     for the host and for bpf, warnings are errors
  doc        rustdoc, warnings are errors
  licences   licences, bans, sources, advisories of the dependencies
  deploy     the chart, its manifests, alerts and dashboard (needs go or helm)
  unit       tests that need no root
  root       tests that need root (sudo where you are not root)
  cases      the PolicyTests of tests/cases in every engine (root)
  cluster    the agent against a real API server (root; needs go or KUBEBUILDER_ASSETS)
  e2e        an end-to-end run on two real nodes (root; needs SLUICE_CLUSTER)
  fuzz       short runs of the fuzz targets
Goes on after a part that fails; ends with a line per part, and fails if one did.";

/// Seconds that each fuzz target gets in a test run.
const FUZZ_SECONDS: u32 = 20;

/// A part: its name, and what it runs.
type Part = (&'static str, fn() -> anyhow::Result<()>);

const PARTS: &[Part] = &[
    ("format", lint::format),
    ("layout", layout::check),
    ("clippy", clippy),
    ("doc", lint::documentation),
    ("licences", licences::check),
    ("deploy", chart::check),
    ("unit", unit),
    ("root", root),
    ("cases", cases),
    ("cluster", cluster),
    ("e2e", two_nodes::run),
    ("fuzz", || fuzz::run(fuzz::TARGETS, FUZZ_SECONDS)),
];

/// How a part ended.
struct Ending {
    part: &'static str,
    error: Option<anyhow::Error>,
    took: Duration,
}

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let known: Vec<_> = PARTS.iter().map(|(part, _)| *part).collect();
    let named = Named::read(&mut arguments, "part", &known)?;
    setup::ensure(Purpose::Test)?;
    let endings: Vec<_> = PARTS
        .iter()
        .filter(|(part, _)| named.has(part))
        .map(|&(part, run)| {
            println!("\n=== {part}");
            let start = Instant::now();
            let error = run().err();
            if let Some(error) = &error {
                println!("error: {error:#}");
            }
            Ending { part, error, took: start.elapsed() }
        })
        .collect();
    summarise(&endings)
}

/// A line per part; an error if one failed.
fn summarise(endings: &[Ending]) -> anyhow::Result<()> {
    println!("\n=== summary");
    for Ending { part, error, took } in endings {
        let seconds = took.as_secs();
        match error {
            None => println!("{part:9} ok      {seconds:4} s"),
            Some(error) => println!("{part:9} FAILED  {seconds:4} s  {error:#}"),
        }
    }
    let total: Duration = endings.iter().map(|ending| ending.took).sum();
    let failed = endings.iter().filter(|ending| ending.error.is_some()).count();
    println!("{} of {} parts ok, {} s", endings.len() - failed, endings.len(), total.as_secs());
    if failed > 0 {
        bail!("{failed} of {} parts failed", endings.len());
    }
    Ok(())
}

fn clippy() -> anyhow::Result<()> {
    // The second runs also when the first fails: both are worth knowing.
    let host = lint::clippy_host();
    lint::clippy_bpf().and(host)
}

/// Tests of every crate but `sluice-tests`, and documentation tests.
fn unit() -> anyhow::Result<()> {
    // The second runs also when the first fails: both are worth knowing.
    let programs = programs::run(RunBy::Caller, &[]);
    cargo("test").args(["--locked", "--no-fail-fast", "--workspace", "--doc"]).run().and(programs)
}

/// Tests of the crate that needs root: built as this user, run by sudo.
fn root() -> anyhow::Result<()> {
    machine::ready()?;
    programs::run(RunBy::Root, &[])
}

/// Tests against a real API server, where there is one to be had.
fn cluster() -> anyhow::Result<()> {
    let Some(assets) = kubernetes::assets()? else { return Ok(()) };
    machine::ready()?;
    programs::run(RunBy::RootWithApiServer, &[(kubernetes::ASSETS, assets.as_os_str())])
}

/// The PolicyTests in every engine. Each file is a cluster of its own.
fn cases() -> anyhow::Result<()> {
    let folder = workspace::root().join("tests/cases");
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    files.push(workspace::root().join("deploy/examples"));
    machine::ready()?;
    build_binary()?;
    let binary = workspace::target_dir()?.join("debug/sluice");
    let mut failed = Vec::new();
    for file in &files {
        let engines = engines_of(file)?;
        let file = file.strip_prefix(workspace::root()).unwrap_or(file);
        for engine in engines {
            let test = program(&binary).args(["test", "--engine", &engine]).arg(file);
            if let Err(error) = test.by_root().run() {
                println!("error: {error:#}");
                failed.push(format!("{} in {engine}", file.display()));
            }
        }
    }
    println!("cases: {} files, {} failures", files.len(), failed.len());
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// `all`, or what a line `# engines: A B (why not the others)` of the case says. The line is printed:
/// nothing is left out without a word.
fn engines_of(case: &Path) -> anyhow::Result<Vec<String>> {
    const ALL: &str = "all";
    if case.is_dir() {
        return Ok(vec![ALL.to_owned()]);
    }
    let text = fs::read_to_string(case).with_context(|| case.display().to_string())?;
    let Some(said) = text.lines().find_map(|line| line.strip_prefix("# engines: ")) else {
        return Ok(vec![ALL.to_owned()]);
    };
    println!("{}: only in {said}", case.display());
    let names = said.split('(').next().unwrap_or_default();
    Ok(names.split_whitespace().map(str::to_owned).collect())
}

/// The binary that the cases run.
fn build_binary() -> anyhow::Result<()> {
    // Of the whole workspace, for the features that the tests were built with.
    cargo("build").args(["--locked", "--workspace", "--bin", "sluice"]).run()
}
