//! `cargo xtask bench`: runs the benches and prints them beside the budgets.

mod report;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use lexopt::Arg;
use serde_json::Value;

use crate::machine;
use crate::process::cargo;
use crate::setup::{self, Purpose};
use crate::workspace;

pub(crate) const SUMMARY: &str = "run the benches (user space and datapath), beside the budgets";
pub(crate) const HELP: &str = r#"
Usage: cargo xtask bench [--json FILE]

User space: criterion; the median of its samples. Datapath (root): BPF_PROG_TEST_RUN; the median of
several rounds, each measured against an empty program in the same round.
A number over its budget is printed as such and is no failure.

Options:
  --json FILE   also write {"datapath":[{"case","peers","ns","over_empty"}…],"userspace":[{"case","ms"}…]}"#;

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

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let mut json = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("json") => json = Some(std::path::absolute(arguments.value()?)?),
            other => return Err(other.unexpected().into()),
        }
    }
    setup::ensure(Purpose::Run)?;
    machine::ready()?;
    let scratch = workspace::target_dir()?.join("xtask-bench");
    if scratch.exists() {
        // Results of benches that are no more would be read as new ones.
        fs::remove_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    }
    fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
    let userspace = run_userspace(&scratch)?;
    let datapath = run_datapath(&scratch)?;
    report::print(&datapath, &userspace);
    if let Some(path) = json {
        let text = report::json(&datapath, &userspace)?;
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("\nWritten to {}", path.display());
    }
    Ok(())
}

fn bench(name: &str) -> crate::process::Program {
    cargo("bench").args(["--locked", "--package", "sluice-benches", "--bench", name])
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
    let mut run = bench("datapath");
    if let Some((variable, sudo)) = machine::cargo_runner()? {
        run = run.env(variable, sudo);
    }
    run.args(["--", "--json"]).arg(&path).run()?;
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
