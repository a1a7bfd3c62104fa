//! Network namespaces without names: they end with this process, however it ends, and with them the
//! interfaces, rules, sets and programs that were put there.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns, unshare};

/// A namespace, with its loopback up.
pub(crate) struct Netns(File);

impl Netns {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let file = on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace")?;
            File::open("/proc/thread-self/ns/net").context("/proc/thread-self/ns/net")
        })?;
        let netns = Self(file);
        netns.run("ip", &["link", "set", "lo", "up"], "")?;
        Ok(netns)
    }

    /// A path by which other programs find it as long as this value lives.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Does something on a thread in the namespace.
    pub(crate) fn inside<T: Send>(
        &self,
        inside: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        on_a_thread(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).context("cannot enter a namespace")?;
            inside()
        })
    }

    /// Runs a program in the namespace and gives it `input`.
    pub(crate) fn run(&self, name: &str, arguments: &[&str], input: &str) -> anyhow::Result<()> {
        self.inside(|| {
            let mut command = Command::new(name);
            let command = command.args(arguments).stdin(Stdio::piped()).stderr(Stdio::piped());
            let mut child = command
                .stdout(Stdio::null())
                .spawn()
                .with_context(|| format!("cannot run {name}"))?;
            let mut pipe = child.stdin.take().context("a pipe")?;
            // A program that ends early says why itself.
            let written = pipe.write_all(input.as_bytes());
            drop(pipe);
            let output = child.wait_with_output().with_context(|| name.to_owned())?;
            let errors = String::from_utf8_lossy(&output.stderr);
            let errors = errors.lines().take(5).collect::<Vec<_>>().join("\n");
            ensure!(output.status.success(), "{name} {arguments:?}: {}\n{errors}", output.status);
            written.with_context(|| format!("cannot write to {name}"))
        })
    }

    /// Sets a kernel parameter of the namespace, named by its path below `/proc/sys/net`.
    pub(crate) fn set(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let path = format!("/proc/sys/net/{name}");
        self.inside(|| fs::write(&path, value).with_context(|| path.clone()))
    }
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(work);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
