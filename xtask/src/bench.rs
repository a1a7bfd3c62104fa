//! `cargo xtask bench`: runs the benches and prints them beside the budgets and beside what else there
//! is.

mod forwarding;
mod report;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use lexopt::Arg;
use serde_json::Value;

use self::forwarding::Forwarding;
use crate::machine;
use crate::process::{Program, cargo};
use crate::setup::{self, Purpose};
use crate::workspace;

pub(crate) const SUMMARY: &str = "run the benches, beside budgets and references";
pub(crate) const HELP: &str = r#"
Usage: cargo xtask bench [OPTIONS] [PART]...

Runs these parts, or only those named; benches/README.md says how to read them:
  userspace    criterion; the median of its samples
  datapath     the programs alone (root): BPF_PROG_TEST_RUN; the median of several rounds, each
               measured against an empty program in the same round
  forwarding   traffic through a node of network namespaces (root), beside nftables, ipset and
               others, and what a change costs; about four minutes
A number over its budget is printed as such and is no failure.

Options:
  --quick       fewer sizes and rounds of forwarding; less than a minute
  --json FILE   also write {"datapath":[{"case","peers","ns","over_empty"}…],
                "userspace":[{"case","ms"}…],"forwarding":[{"config","case","value","unit",
                "ratio_to_none"}…],"changes":[{"config","case","value","unit","ratio_to_sluice"}…]}
  --charts      write all of that to benches/charts/results.json, and draw its charts there; needs
                all parts"#;

/// The result of a datapath case.
struct Datapath {
    case: String,
    peers: u64,
    /// Nanoseconds per packet.
    ns: f64,
    /// The same without what an empty program costs.
    over_empty: f64,
}

/// The result of a bench in user space.
struct Userspace {
    case: String,
    /// Milliseconds.
    ms: f64,
}

/// All that was measured; what was not asked for is empty.
struct Results {
    datapath: Vec<Datapath>,
    userspace: Vec<Userspace>,
    forwarding: Forwarding,
}

/// What is asked for.
#[derive(Default)]
struct Options {
    json: Option<PathBuf>,
    is_quick: bool,
    charts: bool,
    /// Of [`PARTS`]; none means all.
    parts: Vec<String>,
}

const PARTS: [&str; 3] = ["userspace", "datapath", "forwarding"];

impl Options {
    fn read(mut arguments: lexopt::Parser) -> anyhow::Result<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next()? {
            match argument {
                Arg::Long("json") => {
                    options.json = Some(std::path::absolute(arguments.value()?)?);
                }
                Arg::Long("quick") => options.is_quick = true,
                Arg::Long("charts") => options.charts = true,
                Arg::Value(part) => options.parts.push(part.to_string_lossy().into_owned()),
                other => return Err(other.unexpected().into()),
            }
        }
        for part in &options.parts {
            let known = PARTS.contains(&part.as_str());
            ensure!(known, "there is no part `{part}`; there are {}", PARTS.join(", "));
        }
        ensure!(!options.charts || options.parts.is_empty(), "--charts needs all parts");
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.parts.is_empty() || self.parts.iter().any(|wanted| wanted == part)
    }
}

pub(crate) fn main(arguments: lexopt::Parser) -> anyhow::Result<()> {
    let options = Options::read(arguments)?;
    setup::ensure(Purpose::Compare)?;
    machine::ready()?;
    let scratch = workspace::target_dir()?.join("xtask-bench");
    if scratch.exists() {
        // Results of benches that are no more would be read as new ones.
        fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    }
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let results = run(&options, &scratch)?;
    report::print(&results);
    let text = report::json(&results)?;
    if let Some(path) = &options.json {
        write(path, &text)?;
    }
    if options.charts {
        let folder = workspace::root().join("benches/charts");
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let path = folder.join("results.json");
        write(&path, &text)?;
        let bin = ["--locked", "--release", "--package", "sluice-benches", "--bin", "charts", "--"];
        cargo("run").args(bin).arg(&path).arg(&folder).run()?;
    }
    Ok(())
}

fn run(options: &Options, scratch: &Path) -> anyhow::Result<Results> {
    let mut results = Results {
        datapath: Vec::new(),
        userspace: Vec::new(),
        forwarding: Forwarding { traffic: Vec::new(), changes: Vec::new() },
    };
    if options.wants("userspace") {
        results.userspace = run_userspace(scratch)?;
    }
    if options.wants("datapath") {
        results.datapath = run_datapath(scratch)?;
    }
    if options.wants("forwarding") {
        results.forwarding = forwarding::run(scratch, options.is_quick)?;
    }
    Ok(results)
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| path.display().to_string())?;
    println!("\nWritten to {}", path.display());
    Ok(())
}

fn bench(name: &str) -> Program {
    cargo("bench").args(["--locked", "--package", "sluice-benches", "--bench", name])
}

/// A bench that root runs.
fn bench_by_root(name: &str) -> anyhow::Result<Program> {
    let run = bench(name);
    Ok(match machine::cargo_runner()? {
        Some((variable, sudo)) => run.env(variable, sudo),
        None => run,
    })
}

fn run_userspace(scratch: &Path) -> anyhow::Result<Vec<Userspace>> {
    let home = scratch.join("criterion");
    bench("userspace").env("CRITERION_HOME", &home).run()?;
    let mut results = Vec::new();
    for folder in result_folders(&home)? {
        let about = read(&folder.join("benchmark.json"))?;
        let estimates = read(&folder.join("estimates.json"))?;
        let case = about["full_id"].as_str().context("criterion: no full_id")?;
        let median = estimates["median"]["point_estimate"].as_f64();
        let ns = median.with_context(|| format!("criterion: no median of {case}"))?;
        results.push(Userspace { case: case.to_owned(), ms: ns / 1e6 });
    }
    ensure!(!results.is_empty(), "criterion left no results in {}", home.display());
    results.sort_by(|a, b| a.case.cmp(&b.case));
    Ok(results)
}

/// The folders called `new` below `folder`: criterion keeps a bench's last run there.
fn result_folders(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.ends_with("new") {
            found.push(path);
        } else if path.is_dir() {
            found.extend(result_folders(&path)?);
        }
    }
    Ok(found)
}

fn run_datapath(scratch: &Path) -> anyhow::Result<Vec<Datapath>> {
    let path = scratch.join("datapath.json");
    bench_by_root("datapath")?.args(["--", "--json"]).arg(&path).run()?;
    let results = read(&path)?;
    let results = results.as_array().context("the datapath bench wrote no list")?;
    results.iter().map(datapath_result).collect()
}

fn datapath_result(result: &Value) -> anyhow::Result<Datapath> {
    let number = |field: &str| {
        result[field].as_f64().with_context(|| format!("datapath bench: no {field} in {result}"))
    };
    Ok(Datapath {
        case: result["case"].as_str().context("datapath bench: no case")?.to_owned(),
        peers: result["peers"].as_u64().context("datapath bench: no peers")?,
        ns: number("ns")?,
        over_empty: number("over_empty")?,
    })
}

fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}
