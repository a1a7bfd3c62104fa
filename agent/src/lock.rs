//! The lock that an agent has on a directory of its own: the kernel lets it go when the agent ends,
//! however it ends.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

/// Why a directory could not be locked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another process has it.
    #[error("another process has it")]
    Held,
    /// It cannot be opened or locked.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Takes the lock of a directory, until the returned value is dropped.
///
/// # Errors
/// [`LockError`]. It does not wait.
pub(crate) fn hold(directory: &Path) -> Result<Flock<File>, LockError> {
    let directory = File::open(directory)?;
    Flock::lock(directory, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => LockError::Held,
        other => LockError::Io(other.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder_and_is_free_when_that_one_is_gone() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let held = hold(directory.path()).expect("free");
        assert!(matches!(hold(directory.path()), Err(LockError::Held)));
        drop(held);
        hold(directory.path()).expect("free again");
        assert!(matches!(hold(Path::new("/nonexistent")), Err(LockError::Io(_))));
    }
}
