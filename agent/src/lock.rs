//! What one agent alone may have: its directories, and the interfaces of a network namespace. The
//! kernel lets go of these locks when the agent ends, however it ends.

use std::fs::File;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
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

/// Name of the socket that says that an agent is at work. It has no file: every network namespace has
/// such names of its own.
const AT_WORK: &str = "sluice-agent";

/// Takes the lock of this network namespace, whose interfaces two agents would otherwise both program,
/// each with tables of its own.
///
/// Anyone can make a socket of this name; only root's counts. `None` where another's is in the way:
/// that must not keep an agent from its work.
///
/// # Errors
/// [`LockError`]. Needs a tokio runtime.
pub(crate) fn hold_network() -> Result<Option<UnixListener>, LockError> {
    hold_name(AT_WORK)
}

fn hold_name(name: &str) -> Result<Option<UnixListener>, LockError> {
    let address = SocketAddr::from_abstract_name(name)?;
    match UnixListener::bind_addr(&address) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let stream = UnixStream::connect_addr(&address)?;
            stream.set_nonblocking(true)?;
            let holder = tokio::net::UnixStream::from_std(stream)?.peer_cred()?;
            if holder.uid() == 0 { Err(LockError::Held) } else { Ok(None) }
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_has_one_holder_that_counts_and_is_free_when_that_one_is_gone() {
        let name = format!("sluice-test-{}", std::process::id());
        let held = hold_name(&name).expect("free").expect("no other is in the way");
        let again = hold_name(&name);
        if nix::unistd::geteuid().is_root() {
            assert!(matches!(again, Err(LockError::Held)), "{again:?}");
        } else {
            assert!(matches!(again, Ok(None)), "{again:?}");
        }
        drop(held);
        assert!(hold_name(&name).expect("free again").is_some());
    }

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
