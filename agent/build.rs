//! Builds the tc programs. This crate owns that build: nobody else pays for it.

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

/// The toolchain that the programs are built with; the host side builds with any recent one.
const EBPF_TOOLCHAIN: &str = "1.98.0";

fn main() -> anyhow::Result<()> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf");
    // aya-build watches the program's own folder only.
    println!("cargo::rerun-if-changed={}", concat!(env!("CARGO_MANIFEST_DIR"), "/../common/src"));
    // SAFETY: a build script has one thread here. `-Z build-std` on a stable toolchain needs this; it
    // is seen by the child cargo only.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    aya_build::build_ebpf(
        [Package { name: "sluice-ebpf", root_dir: root, ..Package::default() }],
        Toolchain::Custom(EBPF_TOOLCHAIN),
    )
    .context("cannot build the tc programs; `cargo xtask setup` installs what they need")
}
