//! `cargo xtask lint`: format, lints, documentation, layout, licences.

use crate::process::{Program, cargo};
use crate::setup::{self, Purpose};
use crate::{layout, licences};

pub(crate) const SUMMARY: &str = "format, clippy (host and bpf), rustdoc, layout, licences";
pub(crate) const HELP: &str = "
Usage: cargo xtask lint

Runs what `cargo xtask test` runs before the tests. Changes nothing; `cargo fmt` repairs the format.";

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    if let Some(argument) = arguments.next()? {
        return Err(argument.unexpected().into());
    }
    setup::ensure(Purpose::Test)?;
    format()?;
    layout::check()?;
    clippy_host()?;
    clippy_bpf()?;
    documentation()?;
    licences::check()
}

/// Every file is formatted.
pub(crate) fn format() -> anyhow::Result<()> {
    cargo("fmt").args(["--all", "--check"]).run()
}

/// No lint on the host's side: all crates, all targets.
pub(crate) fn clippy_host() -> anyhow::Result<()> {
    let scope = ["--locked", "--workspace", "--all-targets"];
    cargo("clippy").args(scope).args(["--", "-D", "warnings"]).run()
}

/// No lint in what the kernel runs, as it is compiled for the kernel.
pub(crate) fn clippy_bpf() -> anyhow::Result<()> {
    let bpf = ["--locked", "--package", "sluice-ebpf", "--target", "bpfel-unknown-none"];
    // The `core` library for this target must be built along; a stable toolchain allows that only so.
    with_unstable(cargo("clippy"))
        .args(bpf)
        .args(["-Z", "build-std=core", "--", "-D", "warnings"])
        .run()
}

fn with_unstable(cargo: Program) -> Program {
    let arch = std::env::consts::ARCH;
    cargo
        .env("RUSTC_BOOTSTRAP", "1")
        // As aya-build does: the aya crates ask for the machine that the programs will run on.
        .env("CARGO_ENCODED_RUSTFLAGS", format!("--cfg=bpf_target_arch=\"{arch}\""))
}

/// The documentation builds without a warning, private items included.
pub(crate) fn documentation() -> anyhow::Result<()> {
    cargo("doc")
        .env("RUSTDOCFLAGS", "-D warnings")
        .args(["--locked", "--workspace", "--no-deps", "--document-private-items"])
        .run()
}
