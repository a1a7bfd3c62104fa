//! Named network namespaces, as `ip netns` keeps them: mounted on files in `/run/netns`.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use anyhow::{Context as _, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where `ip netns` looks.
const DIRECTORY: &str = "/run/netns";

/// Settings of every namespace of a lab, below `/proc/sys/net`. Without duplicate address detection
/// an IPv6 address is usable at once; without filters and redirects the routes alone say who reaches
/// whom. The last is for the echo probes, which use unprivileged ICMP sockets.
const SETTINGS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/accept_ra", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/ping_group_range", "0 0"),
];

/// The file of a namespace.
pub(super) fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

/// Makes a namespace with the lab's settings. `forwarding` for nodes and the fabric.
///
/// # Errors
/// No privilege, or the name is taken.
pub(super) fn create(name: &str, forwarding: bool) -> anyhow::Result<()> {
    let path = path(name);
    fs::create_dir_all(DIRECTORY)?;
    File::create_new(&path).with_context(|| format!("cannot create {}", path.display()))?;
    // A thread of its own, since it ends up in the new namespace.
    let made = thread::scope(|scope| {
        scope.spawn(|| make_here(&path, forwarding)).join().expect("the thread does not panic")
    });
    made.with_context(|| format!("cannot make the network namespace {name}"))
}

fn make_here(path: &Path, forwarding: bool) -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    for (setting, value) in SETTINGS {
        let forwards = setting.ends_with("forward") || setting.ends_with("forwarding");
        if forwards && !forwarding {
            continue;
        }
        let file = Path::new("/proc/sys/net").join(setting);
        fs::write(&file, value).with_context(|| format!("cannot set {}", file.display()))?;
    }
    let own = Path::new("/proc/thread-self/ns/net");
    mount(Some(own), path, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
    Ok(())
}

/// Moves the calling thread into a namespace, for good.
///
/// # Errors
/// It is not there, or no privilege.
pub(super) fn enter(name: &str) -> anyhow::Result<()> {
    let file = open(name)?;
    setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
        .with_context(|| format!("cannot enter the network namespace {name}"))
}

/// Has a command run in a namespace. Nothing else changes for it: it sees the machine's files.
///
/// # Errors
/// The namespace is not there.
pub(super) fn run_inside(command: &mut Command, name: &str) -> anyhow::Result<()> {
    let namespace = open(name)?;
    // SAFETY: between fork and exec only one setns, which is async-signal-safe.
    unsafe {
        command.pre_exec(move || Ok(setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?));
    }
    Ok(())
}

/// A handle on a namespace.
fn open(name: &str) -> anyhow::Result<File> {
    let path = path(name);
    File::open(&path).with_context(|| format!("there is no network namespace {}", path.display()))
}

/// Ends every process in the namespaces, then removes their names; the kernel removes what is in
/// them. Names that are not there are done already.
///
/// # Errors
/// A mount that cannot be taken away, or processes that do not end.
pub(super) fn remove(names: &[String]) -> anyhow::Result<()> {
    end_processes(names)?;
    for name in names {
        let path = path(name);
        match umount2(&path, MntFlags::MNT_DETACH) {
            // EINVAL: the file is there, but nothing was mounted on it yet.
            Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
            Err(error) => bail!("cannot unmount {}: {error}", path.display()),
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                bail!("cannot remove {}: {error}", path.display())
            }
            _ => {}
        }
    }
    Ok(())
}

/// Agents, and whatever a user started inside. Namespaces identify them beyond doubt, where a process
/// id that was written down may by now be somebody else's.
pub(super) fn end_processes(names: &[String]) -> anyhow::Result<()> {
    // A name on which nothing was mounted yet is a plain file, whose inode number means nothing.
    let nsfs = fs::metadata("/proc/self/ns/net")?.dev();
    let inodes: BTreeSet<u64> = names
        .iter()
        .filter_map(|name| fs::metadata(path(name)).ok())
        .filter(|metadata| metadata.dev() == nsfs)
        .map(|metadata| metadata.ino())
        .collect();
    if inodes.is_empty() {
        return Ok(());
    }
    // A process can start another while the list is read: until none is left.
    for _ in 0..100 {
        let found = processes_in(&inodes)?;
        if found.is_empty() {
            return Ok(());
        }
        for pid in found {
            // It may have ended by itself.
            let _ = kill(pid, Signal::SIGKILL);
        }
        thread::sleep(std::time::Duration::from_millis(20));
    }
    bail!("processes in the lab's namespaces do not end")
}

fn processes_in(inodes: &BTreeSet<u64>) -> io::Result<Vec<Pid>> {
    let own = std::process::id();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // A process that has ended, or a zombie, has no namespace any more.
        let Ok(metadata) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if pid != own && inodes.contains(&metadata.ino()) {
            found.push(Pid::from_raw(pid.cast_signed()));
        }
    }
    Ok(found)
}
