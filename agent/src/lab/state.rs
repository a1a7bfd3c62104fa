//! What a lab keeps on disk: a lock that says that it lives, notes of what to take down, and the
//! files of its agents.
//!
//! | path below `/run/sluice/labs` | what |
//! |---|---|
//! | `NAME.lock` | locked by the lab and by its reaper, for as long as anything of it is left |
//! | `NAME/lab.json` | [`Notes`], written before anything that they name is made |
//! | `NAME/manifests/` | what the agents read |
//! | `NAME/nodes/ID/` | per node: `state/`, `netns/`, `agent.log` |

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::LabError;

/// Where all labs are.
const ROOT: &str = "/run/sluice/labs";

/// Longest name of a lab: it is a part of the names of namespaces and sockets.
const NAME_MAX: usize = 32;

/// What has to be taken down, and what there is to tell about the lab.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Notes {
    /// Namespaces, in `/run/netns`.
    pub(super) namespaces: Vec<String>,
    /// Directory of pins.
    pub(super) pins: PathBuf,
    /// The process that runs the lab.
    pub(super) pid: u32,
    /// What `lab up` printed, once it is up.
    pub(super) description: Option<super::Description>,
}

/// Held while locks of labs are tried: two that try at once would each see the other's attempt as a
/// lab that is up.
#[derive(Debug)]
pub(super) struct Registry {
    _lock: Flock<File>,
}

impl Registry {
    /// Waits for it.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub(super) fn hold() -> anyhow::Result<Self> {
        fs::create_dir_all(ROOT).with_context(|| format!("cannot create {ROOT}"))?;
        let directory = File::open(ROOT)?;
        match Flock::lock(directory, FlockArg::LockExclusive) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, error)) => Err(error).with_context(|| format!("cannot lock {ROOT}")),
        }
    }
}

/// The directory of a lab.
#[derive(Clone, Debug)]
pub(super) struct StateDir {
    name: String,
    path: PathBuf,
}

impl StateDir {
    /// That of `name`, there or not.
    ///
    /// # Errors
    /// [`LabError::Name`].
    pub(super) fn of(name: &str) -> Result<Self, LabError> {
        let fits = !name.is_empty() && name.len() <= NAME_MAX;
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !fits || !name.bytes().all(plain) || name.starts_with('-') {
            return Err(LabError::Name(name.into()));
        }
        Ok(Self { name: name.into(), path: Path::new(ROOT).join(name) })
    }

    /// Names of all labs of which anything is left.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(super) fn names() -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(ROOT) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            names.extend(name.to_str().and_then(|n| n.strip_suffix(".lock")).map(str::to_string));
        }
        names.sort();
        Ok(names)
    }

    /// The lab's name.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The directory itself.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What the agents read.
    pub(super) fn manifests(&self) -> PathBuf {
        self.path.join("manifests")
    }

    /// The files of a node's agent.
    pub(super) fn node(&self, id: &str) -> PathBuf {
        self.path.join("nodes").join(id)
    }

    /// What a detached lab says on its standard error.
    pub(super) fn log(&self) -> PathBuf {
        Path::new(ROOT).join(format!("{}.log", self.name))
    }

    fn lock_path(&self) -> PathBuf {
        Path::new(ROOT).join(format!("{}.lock", self.name))
    }

    /// Takes the lock; `None` while the lab or its reaper lives.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn lock(&self, _registry: &Registry) -> anyhow::Result<Option<Flock<File>>> {
        let path = self.lock_path();
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => lock,
                Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
                Err((_, error)) => return Err(error).context(path.display().to_string()),
            };
            // Whoever had it before may have removed the file: then this is a lock on nothing.
            let same = fs::metadata(&path)
                .is_ok_and(|there| lock.metadata().is_ok_and(|own| own.ino() == there.ino()));
            if same {
                return Ok(Some(lock));
            }
        }
    }

    /// Writes the notes, atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn write(&self, notes: &Notes) -> anyhow::Result<()> {
        fs::create_dir_all(&self.path)?;
        replace(&self.path.join("lab.json"), &serde_json::to_vec_pretty(notes)?)
    }

    /// Reads the notes; `None` where there are none.
    ///
    /// # Errors
    /// They cannot be read.
    pub(super) fn read(&self) -> anyhow::Result<Option<Notes>> {
        let path = self.path.join("lab.json");
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            text => Ok(Some(
                serde_json::from_slice(&text?).with_context(|| path.display().to_string())?,
            )),
        }
    }

    /// Removes everything, the lock last. The caller holds the lock.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub(super) fn remove(&self) -> io::Result<()> {
        let gone = |result: io::Result<()>| match result {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        gone(fs::remove_dir_all(&self.path))?;
        gone(fs::remove_file(self.log()))?;
        gone(fs::remove_file(self.lock_path()))
    }
}

/// Replaces a file at once: a reader finds the old contents or the new.
///
/// # Errors
/// It cannot be written.
pub(super) fn replace(path: &Path, contents: &[u8]) -> anyhow::Result<()> {
    let directory = path.parent().context("a file is in a directory")?;
    let mut file = tempfile::NamedTempFile::new_in(directory)?;
    io::Write::write_all(&mut file, contents)?;
    file.persist(path).with_context(|| format!("cannot replace {}", path.display()))?;
    Ok(())
}
