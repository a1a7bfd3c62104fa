//! Helm, for the chart: the one in the path, or built once with Go and kept in the user's cache.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::process::{self, find, program};

/// The version that is built.
const VERSION: &str = "v3.20.2";

/// What `helm version` says of one that will do.
const MAJOR: &str = "v3.";

/// The program, built where it is missing; none where it cannot be had, which is said in one line.
///
/// # Errors
/// It could not be built.
pub(crate) fn helm() -> anyhow::Result<Option<PathBuf>> {
    if let Some(found) = find("helm").filter(|found| is_usable(found)) {
        return Ok(Some(found));
    }
    let home = env::var_os("HOME").context("HOME is not set")?;
    let folder = Path::new(&home).join(".cache/sluice/helm").join(VERSION);
    let place = folder.join("helm");
    if place.is_file() {
        return Ok(Some(place));
    }
    let Some(go) = process::go() else {
        println!("the chart is not checked: install go (1.25 or newer), or helm 3");
        return Ok(None);
    };
    // Built beside its place, so that a build that was broken off leaves nothing half done there.
    let staged = folder.join("staged");
    fs::create_dir_all(&staged).with_context(|| staged.display().to_string())?;
    println!("helm is built once, which takes a minute or two:");
    program(go)
        // Outside of every Go module.
        .directory(&folder)
        .env("GOWORK", "off")
        .env("CGO_ENABLED", "0")
        .env("GOFLAGS", "-trimpath -buildvcs=false")
        .env("GOBIN", &staged)
        .args(["install", "-ldflags", "-s -w"])
        .arg(format!("helm.sh/helm/v3/cmd/helm@{VERSION}"))
        .run()?;
    fs::rename(staged.join("helm"), &place).with_context(|| place.display().to_string())?;
    fs::remove_dir(&staged).with_context(|| staged.display().to_string())?;
    Ok(Some(place))
}

fn is_usable(helm: &Path) -> bool {
    let version = program(helm).args(["version", "--short"]).output();
    version.is_ok_and(|version| version.starts_with(MAJOR))
}
