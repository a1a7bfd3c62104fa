//! The agent's directory on the BPF file system: what keeps policies in force while no agent runs.
//!
//! | path | what |
//! |---|---|
//! | `maps/` | the tables, made by [`super::load`] |
//! | `maps-new/` | tables of another layout on their way in; see [`Pins::promote`] |
//! | `links/` | a pinned link per interface and direction, named `<ifindex>-<direction>`; see [`super::attach`] for clsact |
//!
//! One agent per directory: it holds a lock on the directory itself, which the kernel lets go when
//! the agent ends, however it ends.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use nix::sys::statfs::{FsType, statfs};

use crate::lock::{self, LockError};

/// `BPF_FS_MAGIC` of `linux/magic.h`.
const BPFFS: FsType = FsType(0xcafe_4a11);

/// Why the directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PinsError {
    /// It is not on a BPF file system.
    #[error(
        "{} is not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf`, or name a \
         directory on one with --bpffs", .0.display()
    )]
    NotBpffs(PathBuf),
    /// Another agent has it.
    #[error(
        "another agent enforces with {}; stop that one first, or give this one a directory of its own \
         with --bpffs", .0.display()
    )]
    Held(PathBuf),
    /// There is none.
    #[error("{} does not exist: nothing is enforced with it", .0.display())]
    Missing(PathBuf),
    /// A file operation failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PinsError {
    let path = path.to_path_buf();
    move |error| PinsError::Io { path, error }
}

/// The directory, held by this process.
#[derive(Debug)]
pub struct Pins {
    root: PathBuf,
    _lock: Flock<File>,
}

impl Pins {
    /// Makes the directory if it is missing, takes its lock, and ends a [`Self::promote`] that was cut
    /// short.
    ///
    /// # Errors
    /// [`PinsError`]; [`PinsError::Held`] while another agent has it.
    pub fn hold(root: &Path) -> Result<Self, PinsError> {
        on_bpffs(root)?;
        let make = |directory: &Path| fs::create_dir_all(directory).map_err(failed(directory));
        make(root)?;
        let held = Self::lock(root)?;
        finish_promotion(root)?;
        make(&links_of(root))?;
        make(&maps_of(root))?;
        Ok(held)
    }

    /// Takes the lock of a directory that is there.
    ///
    /// # Errors
    /// [`PinsError`]; [`PinsError::Missing`] where there is none.
    pub fn hold_existing(root: &Path) -> Result<Self, PinsError> {
        if !root.exists() {
            return Err(PinsError::Missing(root.to_path_buf()));
        }
        on_bpffs(root)?;
        Self::lock(root)
    }

    fn lock(root: &Path) -> Result<Self, PinsError> {
        match lock::hold(root) {
            Ok(lock) => Ok(Self { root: root.to_path_buf(), _lock: lock }),
            Err(LockError::Held) => Err(PinsError::Held(root.to_path_buf())),
            Err(LockError::Io(error)) => Err(failed(root)(error)),
        }
    }

    /// Directory of the pinned links.
    pub fn links(&self) -> PathBuf {
        links_of(&self.root)
    }

    /// Directory of the tables.
    pub fn maps(&self) -> PathBuf {
        maps_of(&self.root)
    }

    /// An empty directory for tables that are to replace those in [`Self::maps`], whose layout is
    /// another. What is left there of an attempt that did not finish is removed.
    ///
    /// # Errors
    /// [`PinsError::Io`].
    pub fn new_maps(&self) -> Result<PathBuf, PinsError> {
        let path = new_maps_of(&self.root);
        remove_dir(&path)?;
        fs::create_dir(&path).map_err(failed(&path))?;
        Ok(path)
    }

    /// Puts [`Self::new_maps`] in the place of [`Self::maps`]. To be called when every link that does not
    /// refuse runs the programs of the new tables. After an agent that dies in between, the next one goes
    /// on with the new tables; with new ones again where some of the old are left. The links go on with
    /// what they had.
    ///
    /// # Errors
    /// [`PinsError::Io`].
    pub fn promote(&self) -> Result<(), PinsError> {
        remove_dir(&self.maps())?;
        finish_promotion(&self.root)
    }

    /// Removes everything, the directory included: links first, so that nothing is left attached to
    /// tables that are gone.
    ///
    /// # Errors
    /// [`PinsError::Io`].
    pub fn remove(self) -> Result<(), PinsError> {
        for directory in [links_of(&self.root), new_maps_of(&self.root), maps_of(&self.root)] {
            remove_dir(&directory)?;
        }
        fs::remove_dir(&self.root).map_err(failed(&self.root))
    }
}

/// Directory of the tables of an agent whose directory is `root`.
pub fn maps_of(root: &Path) -> PathBuf {
    root.join("maps")
}

/// Directory of tables on their way to [`maps_of`].
fn new_maps_of(root: &Path) -> PathBuf {
    root.join("maps-new")
}

/// Directory of the pinned links of an agent whose directory is `root`.
pub fn links_of(root: &Path) -> PathBuf {
    root.join("links")
}

/// Gives the new tables the place of the old ones where those are gone. Where they are there, they count,
/// and what was begun beside them is removed: it would hold memory for nobody.
fn finish_promotion(root: &Path) -> Result<(), PinsError> {
    let (new, maps) = (new_maps_of(root), maps_of(root));
    if maps.exists() {
        return remove_dir(&new);
    }
    match fs::rename(&new, &maps) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&new)(error)),
        _ => Ok(()),
    }
}

/// Fails unless the nearest directory that exists is on a BPF file system.
fn on_bpffs(root: &Path) -> Result<(), PinsError> {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    match statfs(existing) {
        Ok(stat) if stat.filesystem_type() == BPFFS => Ok(()),
        Ok(_) => Err(PinsError::NotBpffs(root.to_path_buf())),
        Err(error) => Err(failed(existing)(error.into())),
    }
}

/// Removes a directory of pins, if it is there.
fn remove_dir(path: &Path) -> Result<(), PinsError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_on_bpffs_is_refused_and_not_made() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path().join("sluice");
        assert!(matches!(Pins::hold(&root), Err(PinsError::NotBpffs(_))));
        assert!(!root.exists());
    }

    #[test]
    fn tables_on_their_way_arrive_where_the_old_ones_are_gone_and_go_where_they_are_there() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path();
        let make_new = || {
            fs::create_dir(new_maps_of(root)).expect("made");
            fs::write(new_maps_of(root).join("flows"), "new").expect("written");
        };
        finish_promotion(root).expect("there is nothing to do");
        assert!(!maps_of(root).exists());
        make_new();
        finish_promotion(root).expect("moved");
        assert_eq!(fs::read(maps_of(root).join("flows")).expect("moved"), b"new");
        fs::write(maps_of(root).join("flows"), "old").expect("written");
        make_new();
        finish_promotion(root).expect("removed");
        assert!(!new_maps_of(root).exists());
        assert_eq!(fs::read(maps_of(root).join("flows")).expect("there"), b"old");
    }

    #[test]
    fn a_missing_directory_holds_nothing() {
        let root = Path::new("/nonexistent/sluice");
        assert!(matches!(Pins::hold_existing(root), Err(PinsError::Missing(_))));
    }
}
