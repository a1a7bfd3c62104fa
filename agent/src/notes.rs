//! Files in the state directory that an agent leaves for the next one: there as a whole or not at all.
//!
//! Each is written as a draft beside it, which then takes its name. The draft's name is always the
//! same, so that one which was begun is found again. Nobody else writes there: the directory is locked.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

/// Replaces the file at `path` by what `write` writes.
///
/// # Errors
/// Of creating, writing or renaming: the former file is still there, perhaps beside a draft.
pub(crate) fn replace(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let draft = draft(path);
    let mut file = BufWriter::new(File::create(&draft)?);
    write(&mut file)?;
    // With what it has not written yet.
    file.into_inner()?;
    fs::rename(&draft, path)
}

/// Removes the file at `path`, then what [`replace`] may have begun. Nothing to remove is fine.
///
/// # Errors
/// Of removing, with the path that cannot be removed.
pub(crate) fn remove(path: &Path) -> Result<(), (PathBuf, io::Error)> {
    for path in [path.to_path_buf(), draft(path)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err((path, error)),
            _ => {}
        }
    }
    Ok(())
}

fn draft(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_file_is_there_as_it_was_until_the_new_one_is_whole() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("notes");
        replace(&path, |file| file.write_all(b"old")).expect("written");
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let failed = replace(&path, |file| file.write_all(b"ne").and(Err(full())));
        assert_eq!(failed.expect_err("it says so").kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(&path).expect("there"), b"old");
        remove(&path).expect("removed");
        let left = fs::read_dir(directory.path()).expect("readable").count();
        assert_eq!(left, 0, "nor what was begun");
        remove(&path).expect("removing nothing is fine");
    }

    #[test]
    fn what_cannot_be_removed_is_named() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (path, draft) = (directory.path().join("notes"), directory.path().join("notes.new"));
        replace(&path, |file| file.write_all(b"old")).expect("written");
        fs::create_dir(&draft).expect("made");
        let (named, _) = remove(&path).expect_err("a directory is no file");
        assert_eq!(named, draft);
        assert!(!path.exists(), "the notes themselves are gone");
    }
}
