//! The test programs: cargo builds those of all crates at once, xtask runs them, some as root.
//!
//! One build for all: cargo unifies the features of dependencies over the packages that a command
//! names, so a command for each package would compile most dependencies again.

use std::env;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::process::{cargo, program};
use crate::workspace;

/// The folder of the crate whose tests need root.
const ROOT_TESTS: &str = "tests";

/// Names of test programs of that crate that need an API server begin so.
const API_SERVER: &[u8] = b"kube_";

/// Variables that tests may read begin so; sudo would drop them.
const PASSED_TO_ROOT: &[&str] = &["SLUICE_", "PROPTEST_", "RUST_"];

/// Who runs a test program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum RunBy {
    /// Who called xtask.
    Caller,
    /// Root: by sudo where the caller is not.
    Root,
    /// Root, in a run of its own: these need the programs of an API server.
    RootWithApiServer,
}

/// A test program that cargo has built.
pub(crate) struct TestProgram {
    file: PathBuf,
    /// The folder of its package: where cargo would run it.
    package: PathBuf,
}

/// Builds all test programs and runs those of `run_by` with some variables set, also after one that
/// fails.
pub(super) fn run(run_by: RunBy, environment: &[(&str, &OsStr)]) -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for test in build()?.into_iter().filter(|test| test.run_by() == run_by) {
        if let Err(error) = test.run(environment) {
            println!("error: {error:#}");
            failed.push(test.file.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

/// Builds all test programs; those that root runs.
///
/// # Errors
/// Cargo's, who has said why.
pub(crate) fn build_for_root() -> anyhow::Result<Vec<TestProgram>> {
    Ok(build()?.into_iter().filter(|test| test.run_by() == RunBy::Root).collect())
}

fn build() -> anyhow::Result<Vec<TestProgram>> {
    let scope = ["--locked", "--workspace", "--no-run"];
    let build = cargo("test").args(scope).arg("--message-format=json-render-diagnostics");
    println!("$ {}", build.line());
    let output = build.output()?;
    let mut programs = Vec::new();
    for line in output.lines() {
        let message: Value = serde_json::from_str(line).context("cargo's messages")?;
        programs.extend(TestProgram::from_message(&message));
    }
    programs.sort_by(|a, b| a.file.cmp(&b.file));
    Ok(programs)
}

impl TestProgram {
    /// What a message of cargo says was built; none where that is no test program.
    fn from_message(message: &Value) -> Option<Self> {
        if message["profile"]["test"] != true {
            return None;
        }
        let file = message["executable"].as_str()?.into();
        let package = Path::new(message["manifest_path"].as_str()?).parent()?.into();
        Some(Self { file, package })
    }

    /// The program.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Its name as the sources have it: cargo adds a hash.
    pub(crate) fn name(&self) -> &str {
        let file = self.file.file_name().and_then(OsStr::to_str).unwrap_or_default();
        file.rsplit_once('-').map_or(file, |(name, _)| name)
    }

    fn run_by(&self) -> RunBy {
        let is_for_api_server =
            || self.file.file_name().is_some_and(|f| f.as_encoded_bytes().starts_with(API_SERVER));
        if self.package != workspace::root().join(ROOT_TESTS) {
            RunBy::Caller
        } else if is_for_api_server() {
            RunBy::RootWithApiServer
        } else {
            RunBy::Root
        }
    }

    fn run(&self, environment: &[(&str, &OsStr)]) -> anyhow::Result<()> {
        let test = program(&self.file).directory(&self.package);
        let test = environment.iter().fold(test, |test, (name, value)| test.env(name, value));
        if self.run_by() == RunBy::Caller {
            return test.run();
        }
        let passed = env::vars_os().filter(|(name, _)| {
            PASSED_TO_ROOT.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))
        });
        passed.fold(test, |test, (name, value)| test.env(name, value)).by_root().run()
    }
}
