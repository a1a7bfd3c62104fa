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
//! * A directory without any manifest is an empty cluster only if the agent has seen manifests in
//!   that very directory: then someone has removed them. An empty directory where another one was (a
//!   file system that was unmounted, a volume that is not mounted yet) counts as gone, also when the
//!   agent starts. Whoever wants an empty cluster from the start leaves a file that says nothing.

mod view;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_policy::model::{PodName, World};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use self::view::{Content, View};
use super::{Event, ObjectState, Objects, Refresh, Source, Troubles};
use crate::cluster::{AddressPlan, Cluster, ObjectKey};
use crate::manifest::Object;
use crate::manifest::kinds::Kind;
use crate::manifest::read::{self, ReadError};
use crate::status::WatchStatus;

/// How often the path is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// What this source watches, beside the kinds of objects that others do.
const KIND: &str = "directory";

/// Events on their way to the agent's loop.
const QUEUE: usize = 16;

/// Starts to watch `path`. Ends when the receiver of its events is gone.
pub fn start(path: PathBuf) -> Source {
    let (sender, events) = mpsc::channel(QUEUE);
    let (refresh, refreshes) = mpsc::channel(QUEUE);
    let name = format!("dir:{}", path.display());
    tokio::spawn(follow(Directory::new(path), sender, refreshes));
    // Manifests have nobody to tell.
    let troubles = watch::Sender::new(Troubles::default());
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
        let begun = Instant::now();
        let looked = tokio::task::spawn_blocking(move || {
            let found = directory.look();
            (directory, found)
        });
        // It fails only if the runtime is shutting down or `look` has panicked.
        let Ok((same, found)) = looked.await else { return };
        directory = same;
        let changed = found.iter().any(|event| matches!(event, Event::Changes(_)));
        let arrived = changed.then_some(Event::Arrived(begun));
        for event in arrived.into_iter().chain(found).chain(token.map(Event::Refreshed)) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// What tells a directory from another in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }
}

/// The path as it was last seen.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    files: BTreeMap<PathBuf, View>,
    world: World,
    faults: Vec<String>,
    objects: Objects,
    synced: bool,
    /// The directory in which manifests were seen last.
    filled: Option<Identity>,
    /// Why the last look could not list the path.
    lost: Option<String>,
    /// What was sent of that.
    watch: Option<WatchStatus>,
}

impl Directory {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            files: BTreeMap::new(),
            world: World::default(),
            faults: Vec::new(),
            objects: Objects::default(),
            synced: false,
            filled: None,
            lost: None,
            watch: None,
        }
    }

    /// Looks again, and returns what became of it since the last time.
    fn look(&mut self) -> Vec<Event> {
        let mut events = self.look_for_changes();
        let watch = WatchStatus {
            kind: KIND.into(),
            connected: self.lost.is_none(),
            synced: self.synced,
            error: self.lost.clone(),
        };
        if self.watch.as_ref() != Some(&watch) {
            self.watch = Some(watch.clone());
            events.insert(0, Event::Watch(watch));
        }
        events
    }

    fn look_for_changes(&mut self) -> Vec<Event> {
        let identity = Identity::of(&self.path).ok();
        let paths = match read::find(&self.path) {
            Ok(paths) => {
                self.filled = identity;
                paths
            }
            // Emptied by someone, and not another one in its place.
            Err(ReadError::Empty { .. }) if self.filled.is_some() && self.filled == identity => {
                Vec::new()
            }
            Err(error) => return self.unreadable(&error),
        };
        // Found again, the fault that said so is over, whether or not a file is another.
        let mut changed = self.lost.take().is_some() || !self.synced;
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
        let consequence = if self.synced {
            "the state read last stays in force"
        } else {
            "nothing is applied before it can be read"
        };
        let fault = format!("{error}: {consequence}");
        self.lost = Some(fault.clone());
        self.report(vec![fault]).into_iter().collect()
    }

    /// The cluster that all files make together, as changes.
    fn assemble(&mut self) -> Vec<Event> {
        let Sum { objects, mut faults, mut outcome } = Sum::of(&self.files);
        let mut events = Vec::new();
        match Cluster::from_objects(objects, &mut AddressPlan::none()) {
            Ok(cluster) => {
                outcome.warnings.extend(cluster.policy_warnings().iter().map(ToString::to_string));
                let mut world = cluster.world;
                for closed in self.files.values().flat_map(|view| &view.content.closed) {
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
        if self.objects != outcome {
            self.objects.clone_from(&outcome);
            events.push(Event::Objects(outcome));
        }
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

/// All files together.
struct Sum<'a> {
    /// What counts: of equal objects the one in the first file.
    objects: Vec<&'a Object>,
    faults: Vec<String>,
    outcome: Objects,
}

impl<'a> Sum<'a> {
    fn of(files: &'a BTreeMap<PathBuf, View>) -> Self {
        let mut sum = Self { objects: Vec::new(), faults: Vec::new(), outcome: Objects::default() };
        let mut first: BTreeMap<&ObjectKey, &Path> = BTreeMap::new();
        for (path, Content { good, closed: _, faults, objects }) in
            files.iter().map(|(path, view)| (path, &view.content))
        {
            sum.faults.extend(faults.iter().cloned());
            sum.outcome.add(objects);
            for (key, object) in good {
                if let Some(other) = first.get(key) {
                    sum.outcome.count(&key.kind, ObjectState::Rejected);
                    sum.faults.push(format!(
                        "{}: {key}: is in the input twice: that of {} counts",
                        path.display(),
                        other.display()
                    ));
                } else {
                    first.insert(key, path);
                    sum.objects.push(object);
                }
            }
        }
        // What one file has wrong another may have right.
        sum.outcome.invalid_pods.retain(|pod, _| {
            let PodName { namespace, name } = pod.clone();
            !first.contains_key(&ObjectKey { kind: Kind::Pod.as_str().into(), namespace, name })
        });
        sum
    }
}

#[cfg(test)]
mod tests;
