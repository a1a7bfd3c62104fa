//! A thread that lives in one namespace and asks and answers there.
//!
//! The thread enters the namespace before anything else and never leaves it, so every socket of its
//! runtime is made inside. Nothing else of this process ever changes its namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc as blocking;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use tokio::sync::mpsc;

use super::connection::Connection;
use super::netns;
use super::respond::{Port, Responder};
use crate::engine::Probe;

/// One attempt.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    /// Which probe it belongs to: the connection is kept under this name.
    pub(super) probe: Probe,
    /// The address that it comes from.
    pub(super) from: IpAddr,
    /// Where it goes; the port counts for protocols that have one.
    pub(super) to: SocketAddr,
}

enum Job {
    Listen(BTreeSet<Port>, blocking::Sender<io::Result<()>>),
    Attempt(Vec<Attempt>, Duration, blocking::Sender<Vec<bool>>),
    NextStep,
}

/// The thread. It ends when this value is dropped, and its sockets with it.
#[derive(Debug)]
pub(super) struct Station {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Station {
    /// Starts a thread in a namespace that has these addresses.
    ///
    /// # Errors
    /// The namespace cannot be entered.
    pub(super) fn start(netns: &str, addresses: &[IpAddr]) -> anyhow::Result<Self> {
        let (jobs, queue) = mpsc::unbounded_channel();
        let (ready, started) = blocking::channel();
        let (name, netns) = (format!("in {netns}"), netns.to_string());
        let resident = Resident { addresses: addresses.to_vec(), ..Resident::default() };
        let thread = thread::Builder::new().name(name).spawn(move || {
            let entered = netns::enter(&netns).and_then(|()| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .map_err(Into::into)
            });
            match entered {
                Ok(runtime) => {
                    // Nobody waits for the answer any more if starting was given up.
                    let _ = ready.send(Ok(()));
                    runtime.block_on(resident.work(queue));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        })?;
        started.recv().context("the thread of a namespace ended")??;
        Ok(Self { jobs: Some(jobs), thread: Some(thread) })
    }

    /// Answers on further ports. The returned channel says when it does.
    pub(super) fn listen(&self, ports: BTreeSet<Port>) -> blocking::Receiver<io::Result<()>> {
        let (reply, answer) = blocking::channel();
        self.send(Job::Listen(ports, reply));
        answer
    }

    /// Makes all attempts at once, each with `window` to be answered. The returned channel says which
    /// were, once all are or the window is over.
    pub(super) fn attempt(
        &self,
        attempts: Vec<Attempt>,
        window: Duration,
    ) -> blocking::Receiver<Vec<bool>> {
        let (reply, answer) = blocking::channel();
        self.send(Job::Attempt(attempts, window, reply));
        answer
    }

    /// Keeps the connections that were opened or used since the last call and that answer, and closes
    /// the others.
    pub(super) fn next_step(&self) {
        self.send(Job::NextStep);
    }

    /// A thread that has ended drops the job, and with it the reply's sender: the caller sees it
    /// there.
    fn send(&self, job: Job) {
        if let Some(jobs) = &self.jobs {
            let _ = jobs.send(job);
        }
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// What the thread has.
#[derive(Default)]
struct Resident {
    addresses: Vec<IpAddr>,
    responder: Responder,
    /// Of the step before.
    kept: BTreeMap<Probe, Connection>,
    /// Of this step, and whether it answered the last time.
    fresh: BTreeMap<Probe, (Connection, bool)>,
}

impl Resident {
    async fn work(mut self, mut queue: mpsc::UnboundedReceiver<Job>) {
        while let Some(job) = queue.recv().await {
            // Whoever asked and is gone needs no answer.
            match job {
                Job::Listen(ports, reply) => {
                    let _ = reply.send(self.responder.listen(&self.addresses, &ports).await);
                }
                Job::Attempt(attempts, window, reply) => {
                    let _ = reply.send(self.attempt(attempts, window).await);
                }
                Job::NextStep => self.next_step(),
            }
        }
    }

    async fn attempt(&mut self, attempts: Vec<Attempt>, window: Duration) -> Vec<bool> {
        let probes: Vec<Probe> = attempts.iter().map(|attempt| attempt.probe.clone()).collect();
        let tries: Vec<_> = attempts
            .into_iter()
            .map(|attempt| {
                let kept = self.connection_for(&attempt.probe);
                attempt_one(attempt, kept, window)
            })
            .collect();
        let mut answered = Vec::with_capacity(probes.len());
        for (probe, (connection, yes)) in probes.into_iter().zip(join_all(tries).await) {
            answered.push(yes);
            if let Some(connection) = connection {
                self.fresh.insert(opening(&probe), (connection, yes));
            }
        }
        answered
    }

    /// A connection that no longer answers would go on trying.
    fn next_step(&mut self) {
        let fresh = std::mem::take(&mut self.fresh).into_iter();
        self.kept = fresh
            .filter_map(|(probe, (connection, answers))| answers.then_some((probe, connection)))
            .collect();
    }

    /// The open connection that a probe is about: only one that asks for it goes on with one.
    fn connection_for(&mut self, probe: &Probe) -> Option<Connection> {
        if !probe.established {
            return None;
        }
        let name = opening(probe);
        // Used before in this step: the probe is repeated.
        let used = self.fresh.remove(&name).map(|(connection, _)| connection);
        used.or_else(|| self.kept.remove(&name))
    }
}

/// The probe that opened the connection that `probe` goes on with.
fn opening(probe: &Probe) -> Probe {
    Probe { established: false, ..probe.clone() }
}

/// The connection, if there is one to keep, and whether it answered. One that was kept is kept on
/// though it did not answer, since the attempt may be repeated.
async fn attempt_one(
    attempt: Attempt,
    kept: Option<Connection>,
    window: Duration,
) -> (Option<Connection>, bool) {
    let Attempt { probe, from, to } = attempt;
    if let Some(mut connection) = kept {
        let answered = tokio::time::timeout(window, connection.ask()).await;
        return (Some(connection), matches!(answered, Ok(Ok(()))));
    }
    if probe.established {
        return (None, false);
    }
    let opened = tokio::time::timeout(window, async {
        let mut connection = Connection::open(probe.protocol, from, to).await?;
        connection.ask().await?;
        io::Result::Ok(connection)
    });
    match opened.await {
        Ok(Ok(connection)) => (Some(connection), true),
        _ => (None, false),
    }
}
