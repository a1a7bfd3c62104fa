//! Files that are written as a whole or not at all: beside their place, then renamed into it.
//!
//! The draft has a fixed name, so that a process which is killed leaves one at most, which the next
//! takes over. Who writes it holds its lock.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

/// Where `path` is written before it takes that name: `.NAME.sluice-new` beside it, which no reader of
/// directories takes for the file.
pub(crate) fn of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.sluice-new"))
}

/// Has `write` write the file into an empty draft, which then takes its place.
///
/// # Errors
/// The file operation that failed, or `write`: the file is as it was.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<()> {
    let draft = of(path);
    let mut file = open(&draft)?;
    let written = file.set_len(0).and_then(|()| write(&mut file));
    let renamed = written.and_then(|()| fs::rename(&draft, path));
    renamed.inspect_err(|_| drop(fs::remove_file(&draft)))
}

/// Removes what [`replace`] may have left. Nothing to remove is fine.
///
/// # Errors
/// The draft cannot be removed.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(of(path)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes the file at `path`, then what [`replace`] may have left. Nothing to remove is fine.
///
/// # Errors
/// Of removing, with the path that cannot be removed.
pub(crate) fn remove_both(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path.into(), error)),
        _ => {}
    }
    remove(path).map_err(|error| (of(path), error))
}

/// The draft, locked until it is dropped.
fn open(draft: &Path) -> io::Result<Flock<File>> {
    loop {
        let file = File::options().create(true).truncate(false).write(true).open(draft)?;
        let locked = Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
        // Whoever had it has renamed it meanwhile: this is not the draft any more.
        let is_draft = fs::metadata(draft).is_ok_and(|now| {
            locked.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (now.dev(), now.ino()))
        });
        if is_draft {
            return Ok(locked);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn what_a_killed_writer_left_is_taken_over() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a.json");
        fs::write(of(&path), "much longer than what is written").expect("written");
        replace(&path, |file| file.write_all(b"new")).expect("replaced");
        assert_eq!(fs::read(&path).expect("read"), b"new");
        assert!(!of(&path).exists());
    }

    #[test]
    fn what_cannot_be_written_changes_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a.json");
        fs::write(&path, "old").expect("written");
        let full = |file: &mut File| {
            file.write_all(b"n")?;
            Err(io::ErrorKind::StorageFull.into())
        };
        replace(&path, full).expect_err("as told");
        assert_eq!(fs::read(&path).expect("read"), b"old");
        assert!(!of(&path).exists());
    }

    #[test]
    fn what_cannot_be_removed_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a.json");
        remove_both(&path).expect("removing nothing is fine");
        replace(&path, |file| file.write_all(b"old")).expect("written");
        fs::create_dir(of(&path)).expect("made");
        let (named, _) = remove_both(&path).expect_err("a directory is no file");
        assert_eq!(named, of(&path));
        assert!(!path.exists(), "the file itself is gone");
    }

    #[test]
    fn writers_at_the_same_time_write_one_after_another() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("a.json");
        std::thread::scope(|scope| {
            for byte in b"abcd" {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..200 {
                        let half = [*byte; 64];
                        let write = |file: &mut File| {
                            file.write_all(&half)?;
                            std::thread::yield_now();
                            file.write_all(&half)
                        };
                        replace(path, write).expect("replaced");
                        let read = fs::read(path).expect("read");
                        assert_eq!(read.len(), 128);
                        assert!(read.iter().all(|other| *other == read[0]), "torn");
                    }
                });
            }
        });
    }
}
