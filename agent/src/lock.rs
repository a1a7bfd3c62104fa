//! What one agent alone may have: its directories, and the interfaces of a network namespace. The
//! kernel lets go of these locks when the agent ends, however it ends.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket};

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
/// Anyone can make a socket of this name; only root's counts. `None` where another's is in the way, or
/// one that does not answer: that must not keep an agent from its work. The lock of its pins remains.
///
/// # Errors
/// [`LockError`]. It does not wait.
pub(crate) fn hold_network() -> Result<Option<UnixListener>, LockError> {
    hold_name(AT_WORK)
}

fn hold_name(name: &str) -> Result<Option<UnixListener>, LockError> {
    let address = SocketAddr::from_abstract_name(name)?;
    match UnixListener::bind_addr(&address) {
        Ok(held) => Ok(Some(held)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            if user_of(name)? == Some(0) {
                Err(LockError::Held)
            } else {
                Ok(None)
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// The user whose socket of this name listens; `None` where it does not, or takes no more connections.
fn user_of(name: &str) -> io::Result<Option<u32>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let asking = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match connect(asking.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?) {
        Ok(()) => Ok(Some(getsockopt(&asking, PeerCredentials)?.uid())),
        Err(Errno::ECONNREFUSED | Errno::EAGAIN) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::{Backlog, bind, listen};

    use super::*;

    #[test]
    fn a_name_has_one_holder_that_counts_and_is_free_when_that_one_is_gone() {
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
    fn a_socket_that_does_not_answer_is_neither_waited_for_nor_a_failure() {
        let name = format!("sluice-test-silent-{}", std::process::id());
        let address = UnixAddr::new_abstract(name.as_bytes()).expect("a name");
        let new = || {
            let none = SockFlag::SOCK_NONBLOCK;
            socket(AddressFamily::Unix, SockType::Stream, none, None).expect("a socket")
        };
        let silent = new();
        bind(silent.as_raw_fd(), &address).expect("bound");
        assert!(matches!(hold_name(&name), Ok(None)), "it does not listen");
        listen(&silent, Backlog::new(1).expect("a length")).expect("listens");
        // Whoever asks and is not accepted takes a place of its queue.
        let mut waiting = Vec::new();
        loop {
            let asking = new();
            match connect(asking.as_raw_fd(), &address) {
                Ok(()) => waiting.push(asking),
                Err(error) => break assert_eq!(error, Errno::EAGAIN),
            }
        }
        assert!(matches!(hold_name(&name), Ok(None)), "its queue is full");
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
