//! The end of a lab, whatever ends it.
//!
//! Every lab has a small process of its own, the reaper, that does nothing but wait for the lab's
//! process to end: it holds the reading end of a pipe whose writing end only that process has. Then
//! it takes the lab down. So an orderly end and a `kill -9` go the same way. Should the reaper itself
//! be killed, the next `lab` command finds a lab whose lock nobody holds, and takes it down.

use std::fs::File;
use std::io::{self, PipeWriter, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};
use nix::fcntl::{FcntlArg, FdFlag, Flock, fcntl};
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::setsid;

use super::netns;
use super::state::StateDir;

/// The running reaper of a lab.
#[derive(Debug)]
pub(super) struct Reaper {
    child: Child,
    /// Closed when this process ends, however it ends.
    alive: Option<PipeWriter>,
    /// Held by this process and by the reaper.
    lock: Option<Flock<File>>,
}

impl Reaper {
    /// Starts the reaper of a lab that is about to be made, and shares the lab's lock with it.
    ///
    /// # Errors
    /// The binary `sluice` cannot be run.
    pub(super) fn start(sluice: &Path, lab: &StateDir, lock: Flock<File>) -> anyhow::Result<Self> {
        let (reader, alive) = io::pipe()?;
        let mut command = Command::new(sluice);
        command.args(["lab", "reap", lab.name()]);
        command.stdin(reader).stdout(Stdio::null());
        // The lock is the open file's, of which this is another handle.
        let inherited = lock.try_clone()?;
        // SAFETY: between fork and exec only async-signal-safe calls: one setsid, one fcntl.
        unsafe {
            command.pre_exec(move || {
                // Away from the terminal's signals.
                setsid()?;
                fcntl(inherited.as_fd(), FcntlArg::F_SETFD(FdFlag::empty()))?;
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("cannot run {}", sluice.display()))?;
        Ok(Self { child, alive: Some(alive), lock: Some(lock) })
    }

    /// Has the lab taken down, and waits for it.
    ///
    /// # Errors
    /// The reaper failed; it has said why on standard error.
    pub(super) fn finish(&mut self) -> anyhow::Result<()> {
        self.alive.take();
        let status = self.child.wait()?;
        self.lock.take();
        if !status.success() {
            bail!("the lab could not be taken down completely ({status})");
        }
        Ok(())
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if self.alive.is_some()
            && let Err(error) = self.finish()
        {
            tracing::error!("{error:#}");
        }
    }
}

/// The reaper's whole life: `sluice lab reap NAME`, with the pipe as standard input.
///
/// # Errors
/// Something of the lab could not be taken down.
pub fn reap(name: &str) -> anyhow::Result<()> {
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: no handler is installed, the signal is ignored.
        unsafe { signal(ignored, SigHandler::SigIgn) }?;
    }
    // Nothing is ever written; the end of the file is the end of the lab's process.
    io::stdin().read_to_end(&mut Vec::new())?;
    take_down(&StateDir::of(name)?)
}

/// Takes down what is left of a lab: first what keeps programs attached, then the namespaces with
/// everything in them, then the files. Can be repeated. The caller holds the lab's lock.
///
/// # Errors
/// Something could not be removed.
pub(super) fn take_down(lab: &StateDir) -> anyhow::Result<()> {
    if let Some(notes) = lab.read()? {
        // Agents end first: a living one would pin again.
        netns::end_processes(&notes.namespaces)?;
        remove_pins(&notes.pins)?;
        netns::remove(&notes.namespaces)?;
    }
    lab.remove().with_context(|| format!("cannot remove {}", lab.path().display()))
}

/// A BPF file system has directories and pins, which are removed like files.
fn remove_pins(pins: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pins.display()))
        }
        _ => Ok(()),
    }
}
