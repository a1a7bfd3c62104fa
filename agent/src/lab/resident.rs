//! Who asks and answers in a place: told what to do by [`Job`]s, one after the other.
//!
//! In a lab that is a thread in a namespace; in a pod of a cluster it is `sluice probe`, which reads
//! jobs as lines of JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use super::connection::Connection;
use super::respond::Responder;
use crate::engine::ProbeProtocol;

/// A port to answer on. ICMP needs none: the kernel answers.
pub type Port = (ProbeProtocol, u16);

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// Names the connection: the next step finds it by this, where it is kept open.
    pub connection: String,
    /// Goes on with the connection of this name.
    pub established: bool,
    /// With what.
    pub protocol: ProbeProtocol,
    /// The address that it comes from.
    pub from: IpAddr,
    /// Where it goes; the port counts for protocols that have one.
    pub to: SocketAddr,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "job", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Job {
    /// Answer on further ports of these addresses.
    Listen {
        /// Addresses of this place.
        addresses: Vec<IpAddr>,
        /// Ports.
        ports: BTreeSet<Port>,
    },
    /// Make all attempts at once.
    Attempt {
        /// The attempts.
        attempts: Vec<Attempt>,
        /// How long each may wait for its answer, in milliseconds.
        window_ms: u64,
    },
    /// Keep the connections that were opened or used since the last such job and that answer, and
    /// close the others.
    NextStep,
    /// Say how many connections by TCP and datagrams by UDP have arrived from addresses.
    Heard {
        /// Where they came from.
        from: Vec<IpAddr>,
    },
    /// Ask the resolver for the addresses of a name.
    Resolve {
        /// The name.
        name: String,
        /// How long to wait, in milliseconds.
        window_ms: u64,
    },
}

/// What came of a [`Job`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Reply {
    /// It is done.
    Done,
    /// Which attempts were answered, in their order.
    Answered {
        /// True for those that were.
        answered: Vec<bool>,
    },
    /// How many have arrived.
    Heard {
        /// From all of the addresses together.
        count: u64,
    },
    /// The addresses of a name; none where nobody said any in time.
    Resolved {
        /// Addresses.
        addresses: Vec<IpAddr>,
    },
    /// It cannot be done.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A job or a reply on the wire, with the number that brings the two together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Numbered<T> {
    /// The number.
    pub number: u64,
    /// The job or the reply.
    pub content: T,
}

/// The sockets of a place. They belong to the runtime that the jobs are done on.
#[derive(Debug, Default)]
pub struct Resident {
    responder: Responder,
    /// Of the step before.
    kept: BTreeMap<String, Connection>,
    /// Of this step, and whether it answered the last time.
    fresh: BTreeMap<String, (Connection, bool)>,
}

impl Resident {
    /// Does a job.
    pub async fn work(&mut self, job: Job) -> Reply {
        match job {
            Job::Listen { addresses, ports } => {
                match self.responder.listen(&addresses, &ports).await {
                    Ok(()) => Reply::Done,
                    Err(error) => Reply::Failed { reason: format!("cannot listen: {error}") },
                }
            }
            Job::Attempt { attempts, window_ms } => {
                let window = Duration::from_millis(window_ms);
                Reply::Answered { answered: self.attempt(attempts, window).await }
            }
            Job::NextStep => {
                self.next_step();
                Reply::Done
            }
            Job::Heard { from } => {
                let count = from.into_iter().map(|from| self.responder.heard(from)).sum();
                Reply::Heard { count }
            }
            Job::Resolve { name, window_ms } => {
                Reply::Resolved { addresses: resolve(name, window_ms).await }
            }
        }
    }

    async fn attempt(&mut self, attempts: Vec<Attempt>, window: Duration) -> Vec<bool> {
        let names: Vec<String> = attempts.iter().map(|a| a.connection.clone()).collect();
        let tries: Vec<_> = attempts
            .into_iter()
            .map(|attempt| {
                let kept = self.connection_for(&attempt);
                attempt_one(attempt, kept, window)
            })
            .collect();
        let mut answered = Vec::with_capacity(names.len());
        for (name, (connection, yes)) in names.into_iter().zip(join_all(tries).await) {
            answered.push(yes);
            if let Some(connection) = connection {
                self.fresh.insert(name, (connection, yes));
            }
        }
        answered
    }

    /// A connection that no longer answers would go on trying.
    fn next_step(&mut self) {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        self.kept = fresh
            .filter_map(|(name, (connection, answers))| answers.then_some((name, connection)))
            .collect();
    }

    /// The open connection that an attempt is about: only one that asks for it goes on with one.
    fn connection_for(&mut self, attempt: &Attempt) -> Option<Connection> {
        if !attempt.established {
            return None;
        }
        // Used before in this step: the attempt is repeated.
        let used = self.fresh.remove(&attempt.connection).map(|(connection, _)| connection);
        used.or_else(|| self.kept.remove(&attempt.connection))
    }
}

/// The connection, if there is one to keep, and whether it answered. One that was kept is kept on
/// though it did not answer, since the attempt may be repeated.
async fn attempt_one(
    attempt: Attempt,
    kept: Option<Connection>,
    window: Duration,
) -> (Option<Connection>, bool) {
    let Attempt { connection: _, established, protocol, from, to } = attempt;
    if let Some(mut connection) = kept {
        let answered = tokio::time::timeout(window, connection.ask()).await;
        return (Some(connection), matches!(answered, Ok(Ok(()))));
    }
    if established {
        return (None, false);
    }
    let opened = tokio::time::timeout(window, async {
        let mut connection = Connection::open(protocol, from, to).await?;
        connection.ask().await?;
        io::Result::Ok(connection)
    });
    match opened.await {
        Ok(Ok(connection)) => (Some(connection), true),
        _ => (None, false),
    }
}

/// Sorted, each once.
async fn resolve(name: String, window_ms: u64) -> Vec<IpAddr> {
    let window = Duration::from_millis(window_ms);
    let found = tokio::time::timeout(window, tokio::net::lookup_host((name, 0))).await;
    let addresses: BTreeSet<IpAddr> =
        found.into_iter().flatten().flatten().map(|address| address.ip()).collect();
    addresses.into_iter().collect()
}
