//! `cargo xtask fuzz`: libFuzzer on the pieces that read what others wrote.
//!
//! libFuzzer needs coverage counters in the code under test. `cargo fuzz` puts them into every crate,
//! by way of a nightly toolchain and a build of its own of the whole dependency tree. Here xtask is
//! cargo's compiler wrapper for the workspace's own crates ([`compile_as_wrapper`]) and adds the same
//! flags there, all of them stable ones: the dependencies' normal build is used as it is.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use lexopt::{Arg, ValueExt as _};

use crate::process::{cargo, program};
use crate::setup::{self, Purpose};
use crate::workspace;

pub(crate) const SUMMARY: &str =
    "fuzz the packet parser, the manifest conversion, the CIDR resolution";
pub(crate) const HELP: &str = "
Usage: cargo xtask fuzz [TARGET]... [--seconds N]

Runs each target for N seconds (60 where omitted), one after the other; stops at the first crash and
says where its input is. `fuzz/README.md` says what to do with it.

Targets: packet, manifest, cidr

Options:
  --seconds N   how long each target runs";

/// A fuzz target, `fuzz/targets/<name>.rs`.
pub(crate) struct Target {
    name: &'static str,
    /// The folders with what it begins from, and with what once crashed it.
    inputs: &'static [&'static str],
}

/// Every fuzz target.
pub(crate) const TARGETS: &[Target] = &[
    Target { name: "packet", inputs: &["fuzz/inputs/packet"] },
    Target {
        name: "manifest",
        inputs: &["fuzz/inputs/manifest", "tests/cases", "deploy/examples"],
    },
    Target { name: "cidr", inputs: &["fuzz/inputs/cidr"] },
];

const SECONDS_DEFAULT: u32 = 60;

/// Set for the cargo that builds the targets: tells xtask that it is called in rustc's place.
const WRAPPER_VARIABLE: &str = "SLUICE_XTASK_IS_RUSTC_WRAPPER";

/// What `cargo fuzz` gives to rustc for coverage, and an optimised build.
const COVERAGE_FLAGS: &[&str] = &[
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Copt-level=2",
];

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let mut seconds = SECONDS_DEFAULT;
    let mut targets = Vec::new();
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("seconds") => seconds = arguments.value()?.parse()?,
            Arg::Value(name) => {
                let known = TARGETS.iter().find(|target| name == target.name);
                let unknown = || format!("there is no target `{}`", name.display());
                targets.push(known.with_context(unknown)?);
            }
            other => return Err(other.unexpected().into()),
        }
    }
    setup::ensure(Purpose::Build)?;
    if targets.is_empty() {
        targets.extend(TARGETS);
    }
    run(targets, seconds)
}

/// Builds all targets and runs the given ones.
pub(crate) fn run(
    targets: impl IntoIterator<Item = &'static Target>,
    seconds: u32,
) -> anyhow::Result<()> {
    let wrapper = env::current_exe().context("cannot tell where xtask itself is")?;
    cargo("build")
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
        .env(WRAPPER_VARIABLE, "1")
        // Of the whole workspace, so that dependencies have the features that tests built them with.
        .args(["--locked", "--workspace"])
        .args(TARGETS.iter().flat_map(|target| ["--bin".into(), format!("fuzz-{}", target.name)]))
        .run()?;
    let build = workspace::target_dir()?;
    targets.into_iter().try_for_each(|target| run_target(target, seconds, &build))
}

fn run_target(target: &Target, seconds: u32, build: &Path) -> anyhow::Result<()> {
    let name = target.name;
    // New inputs go to the first folder, which is not kept in the tree; the others are read only.
    let found = build.join("fuzz").join(name);
    let crashes = build.join("fuzz-crashes").join(name);
    fs::create_dir_all(&found).with_context(|| found.display().to_string())?;
    fs::create_dir_all(&crashes).with_context(|| crashes.display().to_string())?;
    program(build.join("debug").join(format!("fuzz-{name}")))
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-timeout=10", "-verbosity=0", "-print_funcs=0", "-print_final_stats=1"])
        .arg(found)
        .args(target.inputs)
        .run()
        .with_context(|| format!("{name}: the input is in {}", crashes.display()))
}

/// Does rustc's work where cargo called xtask as the wrapper of rustc: `xtask RUSTC ARGUMENT...`.
pub(crate) fn compile_as_wrapper() -> Option<ExitCode> {
    env::var_os(WRAPPER_VARIABLE)?;
    let mut words = env::args_os().skip(1);
    let rustc = words.next()?;
    let arguments: Vec<OsString> = words.collect();
    let mut command = Command::new(rustc);
    command.args(&arguments);
    if is_under_test(&arguments) {
        command.args(COVERAGE_FLAGS);
    }
    let error = command.exec();
    eprintln!("cannot run rustc: {error}");
    Some(ExitCode::FAILURE)
}

/// True for a crate of the workspace; not for build scripts (nothing would take their counters), nor
/// for questions like `rustc -vV`.
fn is_under_test(arguments: &[OsString]) -> bool {
    let mut after_name = arguments.iter().skip_while(|word| *word != "--crate-name").skip(1);
    after_name.next().is_some_and(|name| name != "build_script_build" && name != "___")
}
