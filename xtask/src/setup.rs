//! `cargo xtask setup`: installs what a fresh machine lacks.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::process::{self, LLVM_PREFIX, find, program};
use crate::workspace::TOOLCHAIN;
use crate::{helm, kubernetes, machine};

pub(crate) const SUMMARY: &str =
    "install what is missing to build and test, saying what before it does";
pub(crate) const HELP: &str = "
Usage: cargo xtask setup

Installs, where missing: Debian packages (as root, or by sudo), the Rust toolchain (rustup),
bpf-linker and cargo-deny (cargo install); and where go is there, builds kube-apiserver, etcd and
helm for the tests (5 minutes or more, once) and keeps them in ~/.cache/sluice.
Changes nothing where nothing is missing.
The other commands call it by themselves for what they need.";

/// What the tools are wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To build.
    Build,
    /// To build, and to run labs.
    Run,
    /// To build, run, and check everything.
    Test,
    /// To build, run, and compare with what else there is.
    Compare,
    /// To build, run, and boot other kernels.
    Emulate,
}

impl Purpose {
    /// True where this cannot do without what `other` needs.
    fn includes(self, other: Self) -> bool {
        match other {
            Self::Build => true,
            Self::Run => self != Self::Build,
            Self::Test | Self::Compare | Self::Emulate => self == other,
        }
    }
}

/// A Debian package, and the file or program by which it is known to be there.
struct Package {
    name: &'static str,
    proof: Proof,
    purpose: Purpose,
    why: &'static str,
}

enum Proof {
    File(&'static str),
    Program(&'static str),
}

const PROMETHEUS: &str = "prometheus";

const PACKAGES: &[Package] = &[
    Package {
        name: "llvm-22-dev",
        proof: Proof::File("/usr/lib/llvm-22/bin/llvm-config"),
        purpose: Purpose::Build,
        why: "bpf-linker links the eBPF programs with it",
    },
    Package {
        name: "libpolly-22-dev",
        proof: Proof::File("/usr/lib/llvm-22/lib/libPolly.a"),
        purpose: Purpose::Build,
        why: "LLVM's own libraries ask for it",
    },
    Package {
        name: "libzstd-dev",
        proof: Proof::File("/usr/include/zstd.h"),
        purpose: Purpose::Build,
        why: "likewise",
    },
    Package {
        name: "zlib1g-dev",
        proof: Proof::File("/usr/include/zlib.h"),
        purpose: Purpose::Build,
        why: "likewise",
    },
    Package {
        name: "g++",
        proof: Proof::Program("c++"),
        purpose: Purpose::Build,
        why: "bpf-linker and libFuzzer are C++ in part",
    },
    Package {
        name: "iproute2",
        proof: Proof::Program("ip"),
        purpose: Purpose::Run,
        why: "labs are entered with `ip netns exec`",
    },
    Package {
        name: "nftables",
        proof: Proof::Program("nft"),
        purpose: Purpose::Run,
        why: "labs translate services with it",
    },
    Package {
        name: "bpftool",
        proof: Proof::Program("bpftool"),
        purpose: Purpose::Run,
        why: "tests read the kernel tables with it",
    },
    Package {
        name: PROMETHEUS,
        proof: Proof::Program("promtool"),
        purpose: Purpose::Test,
        why: "tests have it check and scrape the agent's metrics",
    },
    Package {
        name: "ipset",
        proof: Proof::Program("ipset"),
        purpose: Purpose::Compare,
        why: "is one of the things that benches compare with",
    },
    Package {
        name: "iptables",
        proof: Proof::Program("iptables-restore"),
        purpose: Purpose::Compare,
        why: "likewise",
    },
    Package {
        name: "qemu-system-x86",
        proof: Proof::Program("qemu-system-x86_64"),
        purpose: Purpose::Emulate,
        why: "boots other kernels",
    },
    Package {
        name: "busybox-static",
        proof: Proof::File("/bin/busybox"),
        purpose: Purpose::Emulate,
        why: "is what they boot into",
    },
    Package {
        name: "cpio",
        proof: Proof::Program("cpio"),
        purpose: Purpose::Emulate,
        why: "packs that",
    },
    Package {
        name: "kmod",
        proof: Proof::Program("depmod"),
        purpose: Purpose::Emulate,
        why: "indexes their modules",
    },
    Package {
        name: "xz-utils",
        proof: Proof::Program("xz"),
        purpose: Purpose::Emulate,
        why: "unpacks their modules",
    },
];

/// What static binaries are built with, each for one architecture.
const C_COMPILERS: &[Package] = &[
    Package {
        name: "gcc",
        proof: Proof::Program("gcc"),
        purpose: Purpose::Build,
        why: "compiles the C of the `ring` crate for x86-64",
    },
    Package {
        name: "clang-22",
        proof: Proof::File("/usr/lib/llvm-22/bin/clang"),
        purpose: Purpose::Build,
        why: "compiles the C of the `ring` crate for ARM",
    },
];

/// A program that cargo installs.
struct Tool {
    name: &'static str,
    version: &'static str,
    arguments: &'static [&'static str],
    purpose: Purpose,
    why: &'static str,
}

const TOOLS: &[Tool] = &[
    Tool {
        name: "bpf-linker",
        version: "0.13.0",
        arguments: &["--no-default-features", "--features", "llvm-22"],
        purpose: Purpose::Build,
        why: "links the eBPF programs",
    },
    Tool {
        name: "cargo-deny",
        version: "0.20.2",
        arguments: &[],
        purpose: Purpose::Test,
        why: "checks licences, sources and advisories of the dependencies",
    },
];

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    if let Some(argument) = arguments.next()? {
        return Err(argument.unexpected().into());
    }
    if !ensure(Purpose::Test)? {
        println!("Nothing is missing.");
    }
    kubernetes::assets()?;
    helm::helm()?;
    Ok(())
}

/// Installs what is missing for `purpose`; true where something was.
///
/// # Errors
/// What could not be installed, and what to run.
pub(crate) fn ensure(purpose: Purpose) -> anyhow::Result<bool> {
    let packages = install_packages(purpose)?;
    let toolchain = install_toolchain()?;
    let tools = install_tools(purpose)?;
    Ok(packages | toolchain | tools)
}

/// Installs what a static binary for `triple` needs: Rust's libraries, and the C compiler, a program
/// or the path of one.
///
/// # Errors
/// What could not be installed, and what to run.
pub(crate) fn ensure_static(triple: &str, c_compiler: &str) -> anyhow::Result<()> {
    let packages: Vec<_> =
        C_COMPILERS.iter().filter(|package| package.proof.names(c_compiler)).collect();
    install(&packages)?;
    let libraries = |home: PathBuf| toolchain(&home).join("lib/rustlib").join(triple).join("lib");
    if rustup_home().map(libraries).is_some_and(|libraries| libraries.exists()) {
        return Ok(());
    }
    println!("Rust's libraries for {triple} are missing and will be installed:");
    program("rustup").args(["target", "add", "--toolchain", TOOLCHAIN, triple]).run()
}

fn install_packages(purpose: Purpose) -> anyhow::Result<bool> {
    let is_wanted = |package: &&Package| purpose.includes(package.purpose);
    let wanted: Vec<_> = PACKAGES.iter().filter(is_wanted).collect();
    install(&wanted)
}

impl Proof {
    fn is_there(&self) -> bool {
        match self {
            Self::File(path) => Path::new(path).exists(),
            Self::Program(name) => find(name).is_some(),
        }
    }

    fn names(&self, what: &str) -> bool {
        let (Self::File(name) | Self::Program(name)) = self;
        *name == what
    }
}

/// Installs those that are missing; true where some were.
fn install(packages: &[&Package]) -> anyhow::Result<bool> {
    let missing: Vec<_> = packages.iter().filter(|package| !package.proof.is_there()).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    println!("These Debian packages are missing and will be installed:");
    for package in &missing {
        println!("  {:16} {}", package.name, package.why);
    }
    let names: Vec<_> = missing.iter().map(|package| package.name).collect();
    let by_hand = format!("run as root: apt-get update && apt-get install {}", names.join(" "));
    if find("apt-get").is_none() {
        bail!("this is no Debian; install what corresponds to: {}", names.join(", "));
    }
    if !machine::is_root() && find("sudo").is_none() {
        bail!("this user cannot install packages; {by_hand}");
    }
    // The lists of a fresh machine are empty or old; a new one costs seconds.
    apt_get(&["update"]).run().with_context(|| by_hand.clone())?;
    let install = ["install", "--yes", "--no-install-recommends"];
    apt_get(&install).args(&names).run().with_context(|| by_hand.clone())?;
    if let Some(package) = missing.iter().find(|package| !package.proof.is_there()) {
        bail!("{} is installed, but what is needed of it is not there", package.name);
    }
    if names.contains(&PROMETHEUS) {
        stop_prometheus()?;
    }
    Ok(true)
}

/// The package starts a server on port 9090, which nobody asked for: tests start their own.
fn stop_prometheus() -> anyhow::Result<()> {
    if !Path::new("/run/systemd/system").exists() {
        return Ok(());
    }
    println!("The service that comes with {PROMETHEUS} is not needed and will be stopped.");
    program("systemctl").args(["disable", "--now", PROMETHEUS]).by_root().run()
}

fn apt_get(arguments: &[&str]) -> process::Program {
    program("apt-get").env("DEBIAN_FRONTEND", "noninteractive").args(arguments).by_root()
}

fn install_toolchain() -> anyhow::Result<bool> {
    let parts = ["bin/cargo", "bin/cargo-clippy", "bin/cargo-fmt", "lib/rustlib/src/rust/library"];
    let is_there = |home: PathBuf| {
        let toolchain = toolchain(&home);
        parts.iter().all(|part| toolchain.join(part).exists())
    };
    if rustup_home().is_some_and(is_there) {
        return Ok(false);
    }
    if find("rustup").is_none() {
        bail!("rustup is missing: install it from https://rustup.rs");
    }
    println!(
        "Rust {TOOLCHAIN} with rust-src, clippy and rustfmt is missing and will be installed:"
    );
    let install = ["toolchain", "install", TOOLCHAIN, "--profile", "minimal", "--no-self-update"];
    let components = ["--component", "rust-src,clippy,rustfmt"];
    program("rustup").args(install).args(components).run()?;
    Ok(true)
}

fn rustup_home() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".rustup"));
    env::var_os("RUSTUP_HOME").map(PathBuf::from).or_else(home)
}

/// Where rustup, at home in `home`, keeps the project's toolchain.
fn toolchain(home: &Path) -> PathBuf {
    home.join("toolchains").join(format!("{TOOLCHAIN}-{}", host_triple()))
}

/// rustup's name for this machine.
fn host_triple() -> String {
    let libc = if cfg!(target_env = "musl") { "musl" } else { "gnu" };
    format!("{}-unknown-linux-{libc}", env::consts::ARCH)
}

fn install_tools(purpose: Purpose) -> anyhow::Result<bool> {
    let missing: Vec<_> =
        TOOLS.iter().filter(|tool| purpose.includes(tool.purpose) && !tool.is_there()).collect();
    if missing.is_empty() {
        return Ok(false);
    }
    println!("These tools are missing and will be built and installed (minutes each):");
    for tool in &missing {
        println!("  {:16} {}", format!("{} {}", tool.name, tool.version), tool.why);
    }
    for tool in missing {
        process::cargo("install")
            .env("LLVM_PREFIX", LLVM_PREFIX)
            .args([tool.name, "--version", tool.version, "--locked"])
            .args(tool.arguments)
            .run()?;
    }
    Ok(true)
}

impl Tool {
    fn is_there(&self) -> bool {
        let wanted = format!("{} {}", self.name, self.version);
        find(self.name).is_some_and(|path| {
            program(path).arg("--version").output().is_ok_and(|found| found.trim() == wanted)
        })
    }
}
