//! Where things are: the workspace, its packages, its target directory.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// The toolchain that everything but xtask itself is built with; `agent/build.rs` names it too.
pub(crate) const TOOLCHAIN: &str = "1.98.0";

/// A member of the workspace.
pub(crate) struct Member {
    /// Package name.
    pub(crate) name: String,
    /// Its `Cargo.toml`.
    pub(crate) manifest: PathBuf,
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask/ is a folder of the workspace")
}

/// The target directory that cargo uses here, absolute; `CARGO_TARGET_DIR` and cargo's own
/// configuration are respected.
pub(crate) fn target_dir() -> anyhow::Result<PathBuf> {
    let metadata = metadata()?;
    let path =
        metadata["target_directory"].as_str().context("cargo metadata has no target directory")?;
    Ok(PathBuf::from(path))
}

/// Every member of the workspace.
pub(crate) fn members() -> anyhow::Result<Vec<Member>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
    packages
        .iter()
        .map(|package| {
            let text = |field: &str| {
                package[field].as_str().with_context(|| format!("cargo metadata: no {field}"))
            };
            Ok(Member { name: text("name")?.to_owned(), manifest: text("manifest_path")?.into() })
        })
        .collect()
}

/// Runs in the current directory, so that a relative `CARGO_TARGET_DIR` means what it means to cargo.
fn metadata() -> anyhow::Result<Value> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version=1", "--manifest-path"])
        .arg(root().join("Cargo.toml"))
        .output()
        .context("cannot run cargo metadata")?;
    ensure!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    serde_json::from_slice(&output.stdout).context("cargo metadata")
}
