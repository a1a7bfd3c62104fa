//! The control socket: how other commands ask a running agent.
//!
//! A unix socket in the state directory; each request is one line of JSON, answered by one line of
//! JSON, any number of times per connection. Only root can connect: the directory is root's.

use std::collections::BTreeSet;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::run::admit::Admission;
use crate::status::{EnforcementState, Status};

/// Name of the socket in the state directory.
const SOCKET: &str = "agent.sock";

/// Longest request line in bytes: a [`Request::Retain`] takes 67 for each container.
const REQUEST_MAX: u64 = 4 << 20;

/// What can be asked of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// What it enforces.
    Status,
    /// Read the source and the node again now, bring everything to the kernel, then answer. With this
    /// a caller that has changed manifests or interfaces waits until that change is in force.
    Sync {
        /// How long to wait for local pods whose interface is not found yet.
        timeout_ms: u64,
    },
    /// Compare the kernel with what should be in it and correct it, then answer.
    Heal,
    /// A pod has its interfaces, and nothing runs in it yet: answer when its policies are in the kernel.
    Admit(Admission),
    /// A container that was admitted is gone.
    Withdraw {
        /// The runtime's name for it.
        container: String,
    },
    /// Of the containers that were admitted, only these are still there.
    Retain {
        /// The runtime's names for them.
        containers: BTreeSet<String>,
    },
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// To [`Request::Status`].
    Status(Box<Status>),
    /// To [`Request::Sync`].
    Synced {
        /// Everything that should be enforced is.
        complete: bool,
        /// Generation of the kernel tables.
        generation: u32,
        /// What is not, each with its reason.
        missing: Vec<String>,
    },
    /// To [`Request::Heal`].
    Healed {
        /// Writes that were needed.
        corrections: u64,
    },
    /// To [`Request::Admit`]: the pod may start.
    Admitted {
        /// Its policies are in force, or it has none.
        state: EnforcementState,
    },
    /// To [`Request::Withdraw`] and [`Request::Retain`].
    Withdrawn,
    /// The request was not understood, or failed.
    Error {
        /// Why.
        message: String,
    },
}

/// A request on its way to the agent's loop, which answers on `reply`.
#[derive(Debug)]
pub struct Pending {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes. The asker may be gone.
    pub reply: oneshot::Sender<Response>,
}

/// Path of the socket.
pub fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

/// Listens in `state_dir` and serves until the runtime ends. The caller holds the agent's lock, so a
/// socket that is there is a dead agent's and is replaced.
///
/// # Errors
/// The socket cannot be made (the path of a unix socket has at most 107 bytes).
pub fn serve(state_dir: &Path, requests: mpsc::Sender<Pending>) -> io::Result<()> {
    let path = socket_path(state_dir);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    tokio::spawn(converse(stream, requests.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept on the control socket");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    });
    Ok(())
}

/// One connection. A peer that goes away ends it; there is nobody to tell.
async fn converse(stream: tokio::net::UnixStream, requests: mpsc::Sender<Pending>) {
    use tokio::io::AsyncReadExt as _;
    let (reader, mut writer) = stream.into_split();
    let mut reader = tokio::io::BufReader::new(reader);
    loop {
        let mut line = String::new();
        match (&mut reader).take(REQUEST_MAX).read_line(&mut line).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
        // What comes behind is the rest of it, and no request.
        let is_cut = line.len() as u64 == REQUEST_MAX && !line.ends_with('\n');
        let response = match serde_json::from_str(&line) {
            _ if is_cut => {
                let message = format!("a request has at most {REQUEST_MAX} bytes");
                Response::Error { message }
            }
            Ok(request) => ask_loop(request, &requests).await,
            Err(error) => Response::Error { message: format!("not a request: {error}") },
        };
        let mut text = encode(&response);
        text.push('\n');
        if writer.write_all(text.as_bytes()).await.is_err() || is_cut {
            return;
        }
    }
}

async fn ask_loop(request: Request, requests: &mpsc::Sender<Pending>) -> Response {
    let (reply, answer) = oneshot::channel();
    let stopping = || Response::Error { message: "the agent is stopping".into() };
    if requests.send(Pending { request, reply }).await.is_err() {
        return stopping();
    }
    answer.await.unwrap_or_else(|_| stopping())
}

fn encode(response: &Response) -> String {
    serde_json::to_string(response)
        .unwrap_or_else(|error| format!(r#"{{"answer":"error","message":"{error}"}}"#))
}

/// Why an agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None is listening: it does not run, or with another state directory.
    #[error("no agent answers on {}", .0.display())]
    NoAgent(PathBuf),
    /// The connection broke.
    #[error("cannot talk to the agent: {0}")]
    Io(#[from] io::Error),
    /// It does not answer in time.
    #[error("the agent does not answer: it is stopped or stuck; what it enforced stays enforced")]
    Silent,
    /// It answered something else than was asked for.
    #[error("the agent answered what was not expected: {0}")]
    Unexpected(String),
    /// It answered with an error.
    #[error("the agent: {0}")]
    Agent(String),
}

/// Asks the agent of `state_dir` and waits at most `timeout` for the answer.
///
/// # Errors
/// [`AskError`]; [`AskError::NoAgent`] where none listens.
pub fn ask(state_dir: &Path, request: Request, timeout: Duration) -> Result<Response, AskError> {
    let path = socket_path(state_dir);
    let mut stream = UnixStream::connect(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => AskError::NoAgent(path),
        _ => AskError::Io(error),
    })?;
    stream.set_read_timeout(Some(timeout))?;
    let mut line = serde_json::to_string(&request).map_err(io::Error::from)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => AskError::Silent,
        _ => AskError::Io(error),
    })?;
    match serde_json::from_str(&answer) {
        Ok(Response::Error { message }) => Err(AskError::Agent(message)),
        Ok(response) => Ok(response),
        Err(_) => Err(AskError::Unexpected(answer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_one_line_each_and_reversible() {
        let request = Request::Sync { timeout_ms: 5 };
        let text = serde_json::to_string(&request).expect("encodes");
        assert_eq!(text, r#"{"request":"sync","timeout_ms":5}"#);
        assert_eq!(serde_json::from_str::<Request>(&text).expect("decodes"), request);
        let response =
            Response::Synced { complete: false, generation: 3, missing: vec!["x/a\n".into()] };
        let text = encode(&response);
        assert!(!text.contains('\n'));
        assert_eq!(serde_json::from_str::<Response>(&text).expect("decodes"), response);
    }

    #[test]
    fn asking_where_no_agent_is_says_so() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let answer = ask(directory.path(), Request::Status, Duration::from_secs(1));
        assert!(matches!(answer, Err(AskError::NoAgent(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn a_socket_left_by_a_dead_agent_is_replaced_and_bad_requests_are_answered() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        drop(
            std::os::unix::net::UnixListener::bind(socket_path(directory.path()))
                .expect("a socket"),
        );
        let (sender, mut requests) = mpsc::channel::<Pending>(1);
        serve(directory.path(), sender).expect("listens");
        tokio::spawn(async move {
            while let Some(pending) = requests.recv().await {
                assert!(pending.reply.send(Response::Healed { corrections: 7 }).is_ok());
            }
        });
        let mut stream =
            tokio::net::UnixStream::connect(socket_path(directory.path())).await.expect("connects");
        stream.write_all(b"nonsense\n{\"request\":\"heal\"}\n").await.expect("sent");
        let mut lines = tokio::io::BufReader::new(stream).lines();
        let first = lines.next_line().await.expect("read").expect("a line");
        assert!(first.starts_with(r#"{"answer":"error""#), "{first}");
        let second = lines.next_line().await.expect("read").expect("a line");
        assert_eq!(second, r#"{"answer":"healed","corrections":7}"#);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_node_of_many_containers_is_one_request_and_what_is_longer_is_refused_as_such() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (sender, mut requests) = mpsc::channel::<Pending>(1);
        serve(directory.path(), sender).expect("listens");
        let path = directory.path().to_path_buf();
        let containers: BTreeSet<String> = (0..5000).map(|n| format!("{n:064x}")).collect();
        let request = Request::Retain { containers };
        let sent = request.clone();
        let patience = Duration::from_secs(60);
        let asking = tokio::task::spawn_blocking(move || ask(&path, sent, patience));
        let pending = requests.recv().await.expect("a request");
        assert_eq!(pending.request, request);
        pending.reply.send(Response::Withdrawn).expect("someone waits");
        let answer = asking.await.expect("asked").expect("answered");
        assert_eq!(answer, Response::Withdrawn);

        let socket = socket_path(directory.path());
        let mut stream = tokio::net::UnixStream::connect(socket).await.expect("connects");
        stream.write_all(&vec![b' '; REQUEST_MAX as usize]).await.expect("sent");
        let mut lines = tokio::io::BufReader::new(stream).lines();
        let said = lines.next_line().await.expect("read").expect("a line");
        assert!(said.contains("a request has at most 4194304 bytes"), "{said}");
        assert_eq!(lines.next_line().await.expect("read"), None, "it is the last");
    }

    #[test]
    fn an_agent_that_does_not_answer_is_called_silent() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let _listener = std::os::unix::net::UnixListener::bind(socket_path(directory.path()))
            .expect("a socket");
        let answer = ask(directory.path(), Request::Status, Duration::from_millis(1));
        assert!(matches!(answer, Err(AskError::Silent)), "{answer:?}");
    }
}
