//! The real agent in a node's namespace, and what it tells the lab.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use sluice_common::abi::Direction;
use sluice_common::reason::{Outcome, Reason};
use sluice_policy::model::PodName;

use super::netns;
use super::probe::Dropped;
use crate::control::{self, AskError, Request, Response};
use crate::datapath::KernelMaps;
use crate::datapath::counters::Snapshot;
use crate::status::Status;

/// How long an agent may take to listen, and then to have everything in the kernel.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries to reach an agent that has just been started.
const RETRY: Duration = Duration::from_millis(20);
/// Lines of the agent's log that an error shows.
const LOG_LINES: usize = 10;

/// Where an agent finds and keeps things.
#[derive(Clone, Debug)]
pub(super) struct NodeFiles {
    /// Its own directory.
    pub(super) directory: PathBuf,
    /// What it reads.
    pub(super) manifests: PathBuf,
    /// Its directory on the BPF file system.
    pub(super) pins: PathBuf,
}

impl NodeFiles {
    fn state(&self) -> PathBuf {
        self.directory.join("state")
    }

    fn namespaces(&self) -> PathBuf {
        self.directory.join("netns")
    }

    fn log(&self) -> PathBuf {
        self.directory.join("agent.log")
    }
}

/// A running agent.
#[derive(Debug)]
pub(super) struct NodeAgent {
    files: NodeFiles,
    child: Child,
    /// Slots of this node's pods, as of the last sync. A pod without is not isolated.
    slots: BTreeMap<PodName, u32>,
}

impl NodeAgent {
    /// Starts the agent of a node in its namespace.
    ///
    /// # Errors
    /// It cannot be run.
    pub(super) fn start(
        sluice: &Path,
        node: &str,
        netns: &str,
        files: NodeFiles,
    ) -> anyhow::Result<Self> {
        fs::create_dir_all(files.namespaces())?;
        fs::create_dir_all(files.state())?;
        let log = File::create(files.log())?;
        let mut command = Command::new(sluice);
        command
            .args(["agent", "--node-name", node])
            .arg("--source")
            .arg(format!("dir:{}", files.manifests.display()))
            .arg("--bpffs")
            .arg(&files.pins)
            .arg("--netns-dir")
            .arg(files.namespaces())
            .arg("--state-dir")
            .arg(files.state());
        // A group of its own: a terminal's Ctrl-C is for the lab, which ends its agents.
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        netns::run_inside(&mut command, netns)?;
        let child = command.spawn().with_context(|| format!("cannot run {}", sluice.display()))?;
        Ok(Self { files, child, slots: BTreeMap::new() })
    }

    /// Shows the agent which namespaces its pods have.
    ///
    /// # Errors
    /// The links to them cannot be made.
    pub(super) fn show(&self, namespaces: &[&str]) -> io::Result<()> {
        let directory = self.files.namespaces();
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            if !namespaces.iter().any(|name| entry.file_name() == *name) {
                fs::remove_file(entry.path())?;
            }
        }
        for name in namespaces {
            match symlink(netns::path(name), directory.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until the agent has read everything and has it in the kernel.
    ///
    /// # Errors
    /// It has ended, does not answer in time, or cannot enforce something: it says what.
    pub(super) fn sync(&mut self) -> anyhow::Result<()> {
        let request = Request::Sync { timeout_ms: PATIENCE.as_millis() as u64 };
        let missing = match self.ask(request)? {
            Response::Synced { complete: true, .. } => None,
            Response::Synced { missing, .. } => Some(missing),
            other => bail!("the agent answered what was not expected: {other:?}"),
        };
        let status = self.status()?;
        self.slots = status
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.slot != 0)
            .filter_map(|endpoint| {
                let (namespace, name) = endpoint.pod.split_once('/')?;
                let pod = PodName { namespace: namespace.into(), name: name.into() };
                Some((pod, endpoint.slot))
            })
            .collect();
        match missing {
            None => Ok(()),
            Some(missing) => {
                bail!("the agent does not enforce everything:\n{}", missing.join("\n"))
            }
        }
    }

    /// What the agent says of itself.
    ///
    /// # Errors
    /// It does not answer.
    fn status(&mut self) -> anyhow::Result<Status> {
        match self.ask(Request::Status)? {
            Response::Status(status) => Ok(*status),
            other => bail!("the agent answered what was not expected: {other:?}"),
        }
    }

    fn ask(&mut self, request: Request) -> anyhow::Result<Response> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match control::ask(&self.files.state(), request.clone(), 2 * PATIENCE) {
                Err(AskError::NoAgent(_)) if Instant::now() < deadline => {
                    if let Some(status) = self.child.try_wait()? {
                        bail!("the agent has ended ({status}):\n{}", self.end_of_log());
                    }
                    thread::sleep(RETRY);
                }
                Err(error) => bail!("{error}:\n{}", self.end_of_log()),
                Ok(response) => return Ok(response),
            }
        }
    }

    fn end_of_log(&self) -> String {
        let text = fs::read_to_string(self.files.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// Opens the node's counters.
    ///
    /// # Errors
    /// The agent's tables cannot be opened.
    pub(super) fn counters(&self) -> anyhow::Result<DropCounters<'_>> {
        let maps = KernelMaps::open(&self.files.pins.join("maps"))?;
        Ok(DropCounters { maps, slots: &self.slots })
    }

    /// Process id of the agent.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// The agent ends at once. What it enforces stays, until the lab's namespaces and pins are removed.
impl Drop for NodeAgent {
    fn drop(&mut self) {
        // Either fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a node's programs have dropped.
pub(super) struct DropCounters<'a> {
    maps: KernelMaps,
    slots: &'a BTreeMap<PodName, u32>,
}

impl DropCounters<'_> {
    /// Packets of a pod that were dropped so far, by direction. A pod without a slot is not isolated,
    /// and loses none.
    ///
    /// # Errors
    /// The tables cannot be read.
    pub(super) fn dropped(&self, pod: &PodName) -> anyhow::Result<Dropped> {
        match self.slots.get(pod) {
            Some(slot) => Ok(Dropped::of(&self.maps.snapshot(*slot)?)),
            None => Ok(Dropped::default()),
        }
    }
}

impl Dropped {
    fn of(snapshot: &Snapshot) -> Self {
        let sum = |wanted: Direction| {
            snapshot
                .iter()
                .filter(|((direction, reason), _)| *direction == wanted && drops(*reason))
                .map(|(_, counter)| counter.packets)
                .sum()
        };
        Self { ingress: sum(Direction::Ingress), egress: sum(Direction::Egress) }
    }
}

fn drops(reason: Reason) -> bool {
    reason.outcome() == Outcome::Drop
}
