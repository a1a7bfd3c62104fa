//! What the machine must offer to run the programs: root, BTF, bpffs.

use std::fs;
use std::io::IsTerminal as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use crate::process::{find, program};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const BPFFS: &str = "/sys/fs/bpf";

/// True where the effective user is root.
pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// Checks that the eBPF programs can be run here, and mounts bpffs where it is not.
///
/// # Errors
/// What is missing, and what to run.
pub(crate) fn ready() -> anyhow::Result<()> {
    can_be_root()?;
    ensure!(
        Path::new(BTF).exists(),
        "the kernel has no BTF ({BTF} is missing): run a kernel built with CONFIG_DEBUG_INFO_BTF=y; \
         Debian's own kernels are (`apt-get install linux-image-amd64`, then reboot)"
    );
    mount_bpffs()
}

/// Checks that root's work can be done: by ourselves or by sudo.
fn can_be_root() -> anyhow::Result<()> {
    ensure!(
        is_root() || find("sudo").is_some(),
        "this needs root, and there is no sudo: run it as root, or as root `apt-get install sudo` \
         and give this user the right to use it"
    );
    Ok(())
}

/// How cargo is told to run what it built as root: a variable and its value; nothing where we are
/// root.
pub(crate) fn cargo_runner() -> anyhow::Result<Option<(&'static str, String)>> {
    if is_root() {
        return Ok(None);
    }
    let variable = match std::env::consts::ARCH {
        "x86_64" => "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER",
        "aarch64" => "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER",
        other => bail!("{other}: sudo is not known to work with cargo here; run this as root"),
    };
    Ok(Some((variable, format!("{} -E", sudo().join(" ")))))
}

/// How to call sudo. Where nobody is there to type a password, it must fail instead of waiting.
pub(crate) fn sudo() -> &'static [&'static str] {
    if std::io::stdin().is_terminal() { &["sudo"] } else { &["sudo", "-n"] }
}

fn mount_bpffs() -> anyhow::Result<()> {
    let mounts =
        fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
    let is_bpffs = |line: &str| {
        let mut words = line.split(' ').skip(1);
        words.next() == Some(BPFFS) && words.next() == Some("bpf")
    };
    if mounts.lines().any(is_bpffs) {
        return Ok(());
    }
    if !Path::new(BPFFS).exists() {
        bail!(
            "{BPFFS} is missing: the kernel needs CONFIG_BPF_SYSCALL=y, and /sys must be mounted"
        );
    }
    println!("bpffs is not mounted on {BPFFS}: mounting it");
    let mount = program("mount").args(["-t", "bpf", "bpf", BPFFS]).by_root().run();
    mount.with_context(|| {
        format!(
            "cannot mount bpffs: run `mount -t bpf bpf {BPFFS}` as root (in a container: give it \
                 that mount and CAP_SYS_ADMIN)"
        )
    })
}
