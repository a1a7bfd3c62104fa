//! The static binary of each architecture that the image has.

use std::env;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::{Map, Value, json};

use crate::process::{LLVM_PREFIX, cargo};
use crate::setup::{self, Purpose};
use crate::workspace;

/// An architecture that images are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Architecture {
    Amd64,
    Arm64,
}

const ALL: [Architecture; 2] = [Architecture::Amd64, Architecture::Arm64];

impl Architecture {
    /// By the name that images give it.
    pub(super) fn named(name: &str) -> anyhow::Result<Self> {
        ALL.into_iter().find(|one| one.name() == name).with_context(|| {
            format!(
                "there is no architecture `{name}`; there are {}",
                ALL.map(Self::name).join(", ")
            )
        })
    }

    pub(super) fn of_this_machine() -> anyhow::Result<Self> {
        ALL.into_iter().find(|one| one.rust_name() == env::consts::ARCH).with_context(|| {
            format!("images are not built for {}; name another with --arch", env::consts::ARCH)
        })
    }

    /// As images call it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Amd64 => "amd64",
            Self::Arm64 => "arm64",
        }
    }

    const fn rust_name(self) -> &'static str {
        match self {
            Self::Amd64 => "x86_64",
            Self::Arm64 => "aarch64",
        }
    }

    fn triple(self) -> String {
        format!("{}-unknown-linux-musl", self.rust_name())
    }

    /// What an image says of where it runs.
    pub(super) fn platform(self) -> Map<String, Value> {
        let mut platform = Map::new();
        platform.insert("architecture".into(), json!(self.name()));
        platform.insert("os".into(), json!("linux"));
        if self == Self::Arm64 {
            platform.insert("variant".into(), json!("v8"));
        }
        platform
    }

    /// The compiler for the C and assembly of the `ring` crate. On x86-64 they ask for a C library's
    /// headers; on others, with clang, for none at all.
    fn c_compiler(self) -> String {
        match self {
            Self::Amd64 => "gcc".into(),
            Self::Arm64 => format!("{LLVM_PREFIX}/bin/clang"),
        }
    }
}

/// How binaries are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    /// As they are released.
    Release,
    /// As tests are, in a third of the time, and slower when they run.
    Dev,
}

impl Profile {
    /// Its folder below that of a target.
    const fn folder(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "debug",
        }
    }
}

/// Builds for `architecture`, and installs what is missing for that; the binary.
pub(super) fn build(architecture: Architecture, profile: Profile) -> anyhow::Result<PathBuf> {
    if architecture == Architecture::Amd64 && env::consts::ARCH != "x86_64" {
        bail!("an image for amd64 is built on x86-64 only: gcc compiles for its own machine");
    }
    let triple = architecture.triple();
    setup::ensure(Purpose::Build)?;
    setup::ensure_static(&triple, &architecture.c_compiler())?;
    let underscored = triple.replace('-', "_");
    let linker = format!("CARGO_TARGET_{}_LINKER", underscored.to_uppercase());
    let build = cargo("rustc")
        .env(format!("CC_{underscored}"), architecture.c_compiler())
        // It comes with the toolchain, and links for every target.
        .env(linker, "rust-lld")
        .args(["--locked", "--package", "sluice", "--bin", "sluice", "--target", &triple]);
    match profile {
        Profile::Release => build.arg("--release"),
        // What it says of lines is three quarters of it.
        Profile::Dev => build.args(["--", "-C", "strip=debuginfo"]),
    }
    .run()?;
    let folder = workspace::target_dir()?.join(triple).join(profile.folder());
    Ok(folder.join("sluice"))
}
