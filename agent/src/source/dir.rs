//! Manifests on disk as a source: a directory (or one file) that is looked at every second.
//!
//! Only files whose metadata changed are read again. Everything that changed between two looks becomes
//! one event, hence one atomic change on the node; whoever needs several files to change together
//! renames a directory or link into place.
//!
//! What happens when a manifest becomes invalid while the agent runs:
//!
//! * An object that was good before **keeps its last good version**. It says what its author wanted a
//!   moment ago; a typo must neither open a pod nor cut off one that works. It is named as a fault
//!   until it is good again or gone.
//! * A NetworkPolicy that never was good is **closed by name**: the pods that it selects are isolated,
//!   in the directions that it names or else in both, for as long as it stays. So is one that is invalid when the agent starts,
//!   since what it said before is not known then.
//! * A Pod or Namespace with unknown fields **counts without them**, since it is a fact and no intent:
//!   a pod that a newer API has written must not slip out of the policies that select it.
//! * Where an error cannot be laid to one object (no YAML, an object without a name), all objects that
//!   this file held before and now lacks stay: they may be in the part that cannot be read.
//! * A file that is gone takes its objects with it. A path that is gone (or cannot be listed)
//!   takes nothing: the last state stays, and a fault says so.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sluice_policy::model::World;
use tokio::sync::{mpsc, watch};

use super::{Event, PodTroubles, Refresh, Source};
use crate::cluster::{AddressPlan, Cluster, ObjectKey};
use crate::convert::Item;
use crate::convert::networkpolicy::NetworkPolicy;
use crate::manifest::read::{self, ReadError};
use crate::manifest::{self, Loaded, Object};

/// How often the path is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file modified less than this before it was read may be modified again without a new time stamp.
const STAMP_PRECISION: Duration = Duration::from_secs(2);

/// Events on their way to the agent's loop.
const QUEUE: usize = 16;

/// Starts to watch `path`. Ends when the receiver of its events is gone.
pub fn start(path: PathBuf) -> Source {
    let (sender, events) = mpsc::channel(QUEUE);
    let (refresh, refreshes) = mpsc::channel(QUEUE);
    let name = format!("dir:{}", path.display());
    tokio::spawn(follow(Directory::new(path), sender, refreshes));
    // Manifests have nobody to tell.
    let troubles = watch::Sender::new(PodTroubles::new());
    Source { name, events, refresh, troubles }
}

async fn follow(
    mut directory: Directory,
    events: mpsc::Sender<Event>,
    mut refreshes: mpsc::Receiver<Refresh>,
) {
    let mut interval = tokio::time::interval(INTERVAL);
    loop {
        let token = tokio::select! {
            _ = interval.tick() => None,
            Some(Refresh(token)) = refreshes.recv() => Some(token),
        };
        let looked = tokio::task::spawn_blocking(move || {
            let found = directory.look();
            (directory, found)
        });
        // It fails only if the runtime is shutting down or `look` has panicked.
        let Ok((same, found)) = looked.await else { return };
        directory = same;
        for event in found.into_iter().chain(token.map(Event::Refreshed)) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// The path as it was last seen.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, View>,
    world: World,
    faults: Vec<String>,
    synced: bool,
    /// The last look could not list the path.
    lost: bool,
}

impl Directory {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
            world: World::default(),
            faults: Vec::new(),
            synced: false,
            lost: false,
        }
    }

    /// Looks again, and returns what became of it since the last time.
    fn look(&mut self) -> Vec<Event> {
        let paths = match read::find(&self.path) {
            Ok(paths) => paths,
            // An empty directory is an empty cluster.
            Err(ReadError::Empty { .. }) => Vec::new(),
            Err(error) => return self.unreadable(&error),
        };
        // Found again, the fault that said so is over, whether or not a file is another.
        let mut changed = std::mem::take(&mut self.lost) || !self.synced;
        self.files.retain(|path, _| {
            let stays = paths.contains(path);
            changed |= !stays;
            stays
        });
        for path in paths {
            match View::read(&path, self.files.get(&path)) {
                Ok(Some(view)) => {
                    self.files.insert(path, view);
                    changed = true;
                }
                Ok(None) => {}
                // Gone since it was listed: the next look will see that.
                Err(_) => {}
            }
        }
        if changed { self.assemble() } else { Vec::new() }
    }

    fn unreadable(&mut self, error: &ReadError) -> Vec<Event> {
        self.lost = true;
        let consequence = if self.synced {
            "the state read last stays in force"
        } else {
            "nothing is applied before it can be read"
        };
        self.report(vec![format!("{error}: {consequence}")]).into_iter().collect()
    }

    /// The cluster that all files make together, as changes.
    fn assemble(&mut self) -> Vec<Event> {
        let mut faults: Vec<String> =
            self.files.values().flat_map(|view| view.faults.iter().cloned()).collect();
        let mut first: BTreeMap<&ObjectKey, &Path> = BTreeMap::new();
        let mut objects: Vec<&Object> = Vec::new();
        for (path, view) in &self.files {
            for (key, object) in &view.good {
                if let Some(other) = first.get(key) {
                    faults.push(format!(
                        "{}: {key}: is in the input twice: that of {} counts",
                        path.display(),
                        other.display()
                    ));
                } else {
                    first.insert(key, path);
                    objects.push(object);
                }
            }
        }
        let mut events = Vec::new();
        match Cluster::from_objects(objects, &mut AddressPlan::none()) {
            Ok(cluster) => {
                let mut world = cluster.world;
                for closed in self.files.values().flat_map(|view| &view.closed) {
                    world
                        .policies
                        .entry(closed.name.clone())
                        .or_insert_with(|| closed.policy.clone());
                }
                let changes = self.world.changes_to(&world);
                self.world = world;
                if !changes.is_empty() {
                    events.push(Event::Changes(changes));
                }
            }
            Err(error) => faults.push(format!("{error}: the state read last stays in force")),
        }
        events.extend(self.report(faults));
        if !std::mem::replace(&mut self.synced, true) {
            events.push(Event::Synced);
        }
        events
    }

    fn report(&mut self, faults: Vec<String>) -> Option<Event> {
        (self.faults != faults).then(|| {
            self.faults.clone_from(&faults);
            Event::Faults(faults)
        })
    }
}

/// What tells one content of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    /// Of what a link leads to; of the link itself where that is nothing.
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path).or_else(|_| std::fs::symlink_metadata(path))?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }

    /// True if the file could change now without another stamp.
    fn is_recent(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let modified = Duration::from_secs(u64::try_from(self.modified.0).unwrap_or_default());
        now.saturating_sub(modified) < STAMP_PRECISION
    }
}

/// What a file holds, as far as it counts.
#[derive(Debug)]
struct View {
    stamp: Stamp,
    recent: bool,
    /// Good objects, and last good versions of others.
    good: BTreeMap<ObjectKey, Object>,
    /// NetworkPolicies that never were good.
    closed: Vec<NetworkPolicy>,
    faults: Vec<String>,
}

impl View {
    /// Reads a file unless it is the one that `before` was read from.
    fn read(path: &Path, before: Option<&Self>) -> io::Result<Option<Self>> {
        let stamp = Stamp::of(path)?;
        if before.is_some_and(|before| before.stamp == stamp && !before.recent) {
            return Ok(None);
        }
        let recent = stamp.is_recent();
        let empty = BTreeMap::new();
        let last_good = before.map_or(&empty, |before| &before.good);
        let (good, closed, faults) = match read::read_file(path) {
            Ok(text) => judge(manifest::load_text(&text), last_good),
            Err(ReadError::Io { error, .. }) if std::fs::symlink_metadata(path).is_err() => {
                return Err(error);
            }
            Err(error) => (last_good.clone(), Vec::new(), vec![format!("{error}{}", STAYS)]),
        };
        Ok(Some(Self { stamp, recent, good, closed, faults }))
    }
}

const STAYS: &str = "; what was read there before stays in force";

/// The objects that count of what a file holds now, given what it held before.
fn judge(
    loaded: Loaded,
    last_good: &BTreeMap<ObjectKey, Object>,
) -> (BTreeMap<ObjectKey, Object>, Vec<NetworkPolicy>, Vec<String>) {
    let mut good: BTreeMap<ObjectKey, Object> = loaded
        .objects
        .into_iter()
        .filter(|placed| !matches!(placed.object.item, Item::PolicyTest(_)))
        .map(|placed| (placed.object.key.clone(), placed.object))
        .collect();
    let mut closed = Vec::new();
    let mut consequences: BTreeMap<String, &str> = BTreeMap::new();
    for broken in loaded.broken {
        let last = broken.key.as_ref().and_then(|key| last_good.get(key));
        if let Some(object) = broken.readable {
            good.entry(object.key.clone()).or_insert(object);
            consequences.insert(broken.object, "; the rest of it counts");
        } else if let Some(object) = last {
            good.entry(object.key.clone()).or_insert_with(|| object.clone());
            consequences.insert(broken.object, "; its last good version stays in force");
        } else if let Some(policy) = broken.closed {
            closed.push(policy);
            consequences.insert(broken.object, "; closed: the pods that it selects are isolated");
        } else if is_named(&broken.object) {
            consequences.insert(broken.object, "; it does not count");
        }
    }
    let unclear = loaded.errors.iter().any(|problem| !is_named(&problem.object));
    if unclear {
        for (key, object) in last_good {
            good.entry(key.clone()).or_insert_with(|| object.clone());
        }
    }
    let faults = loaded
        .errors
        .iter()
        .map(|problem| format!("{problem}{}", consequences.get(&problem.object).unwrap_or(&STAYS)))
        .collect();
    (good, closed, faults)
}

/// True for `NetworkPolicy y/web`, false for what says no name.
fn is_named(object: &str) -> bool {
    object.contains(' ')
}

#[cfg(test)]
mod tests;
