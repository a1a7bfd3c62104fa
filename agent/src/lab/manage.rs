//! What can be done to labs from outside their processes.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::state::{Registry, StateDir};
use super::{Description, LabError, netns, reaper};

/// How long a lab may take to go down.
const DOWN_PATIENCE: Duration = Duration::from_secs(30);

/// Removes what labs have left behind whose process and reaper were both killed.
pub(super) fn remove_dead(registry: &Registry) -> anyhow::Result<()> {
    for name in StateDir::names().context("cannot list labs")? {
        let Ok(state) = StateDir::of(&name) else { continue };
        if let Some(_lock) = state.lock(registry)? {
            reaper::take_down(&state).with_context(|| format!("lab {name}"))?;
        }
    }
    Ok(())
}

/// What is up, by name. A lab that is on its way up or down has no description.
///
/// # Errors
/// The labs' notes cannot be read.
pub fn list() -> anyhow::Result<BTreeMap<String, Option<Description>>> {
    remove_dead(&Registry::hold()?)?;
    let mut labs = BTreeMap::new();
    for name in StateDir::names().context("cannot list labs")? {
        if let Ok(state) = StateDir::of(&name) {
            labs.insert(name, state.read()?.and_then(|notes| notes.description));
        }
    }
    Ok(labs)
}

/// Ends the process that runs a lab, and waits until nothing is left of it. False if there is none of
/// this name.
///
/// # Errors
/// [`LabError::Name`], or it does not go.
pub fn down(name: &str) -> Result<bool, LabError> {
    let state = StateDir::of(name)?;
    let registry = Registry::hold()?;
    if !StateDir::names().context("cannot list labs")?.iter().any(|n| n == name) {
        return Ok(false);
    }
    let deadline = Instant::now() + DOWN_PATIENCE;
    let mut told = false;
    loop {
        if let Some(_lock) = state.lock(&registry)? {
            reaper::take_down(&state)?;
            return Ok(true);
        }
        // While the lock is held, the notes' process is the lab's: it wrote them itself.
        if let (false, Some(notes)) = (told, state.read()?) {
            let pid = Pid::from_raw(notes.pid.cast_signed());
            // It may have ended by itself, and only its reaper be left.
            told = matches!(kill(pid, Signal::SIGTERM), Ok(()) | Err(nix::Error::ESRCH));
        }
        if Instant::now() > deadline {
            return Err(anyhow::anyhow!("the lab {name} does not go down").into());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Moves this process into a namespace of a lab: that of a pod (`namespace/pod`), of a node
/// (`node/name`) or of an outside host (an address).
///
/// # Errors
/// [`LabError::Missing`], [`LabError::NoPod`].
pub fn enter(name: &str, whom: &str) -> Result<(), LabError> {
    let description = StateDir::of(name)?.read()?.and_then(|notes| notes.description);
    let description = description.ok_or_else(|| LabError::Missing(name.into()))?;
    let netns = description.netns(whom).ok_or_else(|| LabError::NoPod {
        lab: name.into(),
        pod: whom.into(),
        known: description.endpoints.iter().map(|e| e.pod.as_str()).collect::<Vec<_>>().join(", "),
    })?;
    Ok(netns::enter(netns)?)
}
