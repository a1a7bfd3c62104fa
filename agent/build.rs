//! Builds the tc programs. This crate owns that build: nobody else pays for it.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use aya_build::{Package, Toolchain};

/// The toolchain that the programs are built with; the host side builds with any recent one.
const EBPF_TOOLCHAIN: &str = "1.98.0";

fn main() -> anyhow::Result<()> {
    // Asked when the script runs: what was there when it was built may be another checkout, whose
    // target directory was copied here.
    let here = std::env::var("CARGO_MANIFEST_DIR").context("cargo sets CARGO_MANIFEST_DIR")?;
    let root = &*format!("{here}/../ebpf");
    // aya-build watches the program's own folder only.
    println!("cargo::rerun-if-changed={here}/../common/src");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    // SAFETY: a build script has one thread here. `-Z build-std` on a stable toolchain needs this; it
    // is seen by the child cargo only.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    // SAFETY: as above.
    unsafe { std::env::set_var("CARGO_BUILD_BUILD_DIR", shared_build_dir(&out)?) };
    aya_build::build_ebpf(
        [Package { name: "sluice-ebpf", root_dir: root, ..Package::default() }],
        Toolchain::Custom(EBPF_TOOLCHAIN),
    )
    .context("cannot build the tc programs; `cargo xtask setup` installs what they need")
}

/// One place for `core` and the programs' dependencies, whoever builds them. Every profile, and clippy,
/// runs this script with an `OUT_DIR` of its own, and each would build all of them anew: a minute
/// each.
fn shared_build_dir(out: &Path) -> anyhow::Result<PathBuf> {
    // <target>/<profile>/build/<package>/out
    let target = out.ancestors().nth(4).context("OUT_DIR is not in a target directory")?;
    Ok(target.join("ebpf"))
}
