//! `cargo xtask build`: the release binary.

use std::path::{Path, PathBuf};

use lexopt::Arg;

use crate::process::cargo;
use crate::setup::{self, Purpose};
use crate::workspace;

pub(crate) const SUMMARY: &str = "build `sluice` in release";
pub(crate) const HELP: &str = "
Usage: cargo xtask build [--target-dir DIR]

Leaves the binary in `release/sluice` of the target directory (CARGO_TARGET_DIR is respected).

Options:
  --target-dir DIR   where cargo builds";

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let mut target = None;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("target-dir") => target = Some(PathBuf::from(arguments.value()?)),
            other => return Err(other.unexpected().into()),
        }
    }
    let target = match target {
        Some(target) => std::path::absolute(target)?,
        None => workspace::target_dir()?,
    };
    let binary = release(&target)?;
    println!("Built {}", binary.display());
    Ok(())
}

/// Builds in release under `target`; the binary.
pub(crate) fn release(target: &Path) -> anyhow::Result<PathBuf> {
    setup::ensure(Purpose::Build)?;
    let arguments = ["--locked", "--release", "--package", "sluice", "--bin", "sluice"];
    cargo("build").args(arguments).arg("--target-dir").arg(target).run()?;
    Ok(target.join("release/sluice"))
}
