//! One file as it was last read, and what of it counts.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sluice_policy::model::PodName;

use crate::cluster::ObjectKey;
use crate::convert::Item;
use crate::convert::networkpolicy::NetworkPolicy;
use crate::manifest::interpret::Broken;
use crate::manifest::kinds::Kind;
use crate::manifest::read::{self, ReadError};
use crate::manifest::{self, Loaded, Object};
use crate::source::{InvalidPod, ObjectState, Objects};

/// A file modified less than this before it was read may be modified again without a new time stamp.
const STAMP_PRECISION: Duration = Duration::from_secs(2);

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
pub(super) struct View {
    stamp: Stamp,
    recent: bool,
    /// What counts.
    pub(super) content: Content,
}

/// What counts of a file's objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    /// Good objects, and last good versions of others.
    pub(super) good: BTreeMap<ObjectKey, Object>,
    /// NetworkPolicies that never were good.
    pub(super) closed: Vec<NetworkPolicy>,
    /// What is wrong, each with its consequence.
    pub(super) faults: Vec<String>,
    /// What became of all objects.
    pub(super) objects: Objects,
}

impl View {
    /// Reads a file unless it is the one that `before` was read from.
    pub(super) fn read(path: &Path, before: Option<&Self>) -> io::Result<Option<Self>> {
        let stamp = Stamp::of(path)?;
        if before.is_some_and(|before| before.stamp == stamp && !before.recent) {
            return Ok(None);
        }
        let recent = stamp.is_recent();
        let last = before.map(|before| &before.content);
        let content = match read::read_file(path) {
            Ok(text) => Content::judge(manifest::load_text(&text), last),
            Err(ReadError::Io { error, .. }) if std::fs::symlink_metadata(path).is_err() => {
                return Err(error);
            }
            Err(error) => Content::unread(&error, last),
        };
        Ok(Some(Self { stamp, recent, content }))
    }
}

const STAYS: &str = "; what was read there before stays in force";

impl Content {
    /// Of a file that cannot be read.
    fn unread(error: &ReadError, last: Option<&Self>) -> Self {
        let mut content = Self { faults: vec![format!("{error}{STAYS}")], ..Self::default() };
        for (key, object) in last.iter().flat_map(|last| &last.good) {
            content.keep(key, object);
        }
        content
    }

    /// The objects that count of what a file holds now, given what it held before.
    fn judge(loaded: Loaded, last: Option<&Self>) -> Self {
        let mut content = Self::default();
        for placed in loaded.objects {
            if !matches!(placed.object.item, Item::PolicyTest(_)) {
                content.objects.count(&placed.object.key.kind, ObjectState::Converted);
                content.good.insert(placed.object.key.clone(), placed.object);
            }
        }
        content.objects.warnings = loaded.warnings.iter().map(ToString::to_string).collect();
        let mut consequences: BTreeMap<String, &str> = BTreeMap::new();
        for broken in loaded.broken {
            let object = broken.object.clone();
            if let Some(consequence) = content.add_broken(broken, last) {
                consequences.insert(object, consequence);
            }
        }
        let unclear = loaded.errors.iter().any(|problem| !is_named(&problem.object));
        if unclear {
            for (key, object) in last.iter().flat_map(|last| &last.good) {
                content.keep(key, object);
            }
        }
        content.faults = loaded
            .errors
            .iter()
            .map(|problem| {
                format!("{problem}{}", consequences.get(&problem.object).unwrap_or(&STAYS))
            })
            .collect();
        content
    }

    /// Takes in what can be of an object that is wrong, and says what that is.
    fn add_broken(&mut self, broken: Broken, last: Option<&Self>) -> Option<&'static str> {
        let last = last.and_then(|last| last.good.get(broken.key.as_ref()?));
        let kind = broken.key.as_ref().map_or(&broken.object, |key| &key.kind).clone();
        if let Some(object) = broken.readable {
            self.objects.count(&kind, ObjectState::Partial);
            self.good.entry(object.key.clone()).or_insert(object);
            return Some("; the rest of it counts");
        }
        if let Some(object) = last {
            self.keep(&object.key, object);
            return Some("; its last good version stays in force");
        }
        if let Some(policy) = broken.closed {
            self.objects.count(&kind, ObjectState::Closed);
            self.closed.push(policy);
            return Some("; closed: the pods that it selects are isolated");
        }
        self.objects.count(&kind, ObjectState::Rejected);
        if let Some(key) = broken.key.filter(|key| key.kind == Kind::Pod.as_str()) {
            let faults: Vec<String> = broken.faults.iter().map(ToString::to_string).collect();
            let pod = InvalidPod { node: broken.node, reason: faults.join("; ") };
            let name = PodName { namespace: key.namespace, name: key.name };
            self.objects.invalid_pods.insert(name, pod);
        }
        is_named(&broken.object).then_some("; it does not count")
    }

    /// Lets the last good version of an object count, if it has no other now.
    fn keep(&mut self, key: &ObjectKey, object: &Object) {
        if !self.good.contains_key(key) {
            self.objects.count(&key.kind, ObjectState::Kept);
            self.good.insert(key.clone(), object.clone());
        }
    }
}

/// True for `NetworkPolicy y/web`, false for what says no name.
fn is_named(object: &str) -> bool {
    object.contains(' ')
}
