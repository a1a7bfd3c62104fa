//! The agent's loop: whatever happens to the source, to the node or to the agent itself ends in one
//! reconciliation.

pub mod admit;
mod lacking;
mod look;
mod observe;
mod signals;
#[cfg(test)]
mod tests;
mod warnings;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use sluice_common::abi::ABI_VERSION;
use sluice_policy::model::{PodName, PolicyName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use self::admit::Admitting;
use self::lacking::Lacking;
use self::look::{LinkNews, LinkWatch};
use self::observe::Starts;
pub use self::signals::until_stopped;
use self::signals::{Signals, Wish};
use crate::cni;
use crate::control::{Pending, Request, Response};
use crate::endpoint::links::Links;
use crate::memory;
use crate::metrics::{Inquiries, Timings};
use crate::reconcile::Reconciler;
use crate::reconcile::kernel::Kernel;
use crate::source::{Event, Objects, PodTrouble, PodTroubles, Refresh, Source, Troubles};
use crate::status::{EnforcementState, Status, WatchStatus};

/// Links come in bursts; a scan waits this long for the rest of one.
const BURST: Duration = Duration::from_millis(20);

/// Events of the source that are taken in before the loop goes on to something else.
const BATCH: usize = 64;

/// How often the loop looks whether something is due.
const TICK: Duration = Duration::from_millis(250);

/// How often the kernel is read back and corrected.
const HEAL: Duration = Duration::from_secs(30);

/// Pods that are not found are looked for at every tick this long after a change, then every
/// [`PATIENCE`].
const EAGERNESS: Duration = Duration::from_secs(10);

/// See [`EAGERNESS`].
const PATIENCE: Duration = Duration::from_secs(5);

/// After a failure, the next attempt.
const RETRY: Duration = Duration::from_secs(1);

const NOT_SYNCED: &str = "the source has not delivered its first full list yet";

/// An agent, ready to run.
#[derive(Debug)]
pub struct Agent<K> {
    reconciler: Reconciler<K>,
    source: Source,
    links: Links,
    link_watch: LinkWatch,
    netns_dirs: Vec<PathBuf>,
    node: String,
    synced: bool,
    /// A scan has succeeded: without one, every pod would count as gone.
    scanned: bool,
    /// Why the last scan failed.
    scan_failure: Option<String>,
    /// Something was taken in since the kernel was last brought to it.
    changed: bool,
    failure: Option<String>,
    retry_at: Instant,
    last_change: Instant,
    last_scan: Instant,
    netns_times: Vec<Option<SystemTime>>,
    faults: Vec<String>,
    /// Why no pod can be told to be of this node.
    node_unknown: Option<String>,
    objects: Objects,
    /// Warnings about objects that were logged and still hold.
    warned: BTreeSet<String>,
    /// When the oldest of the changes that come next reached the source.
    arrived: Option<Instant>,
    /// When the first change that is not enforced yet reached the source.
    unenforced_since: Option<Instant>,
    /// Policies that name ports that resolve nowhere, when it was last looked.
    unresolved_ports: BTreeMap<PolicyName, String>,
    /// Objects have changed since then.
    changed_since_looked: bool,
    last_heal_corrections: u64,
    timings: Timings,
    starts: Starts,
    /// By kind.
    watches: BTreeMap<String, WatchStatus>,
    waiting: Vec<Waiting>,
    admitting: Vec<Admitting>,
    /// UIDs of this node's pods; none: the source knows no such thing.
    uids: Option<BTreeMap<PodName, String>>,
    next_token: u64,
    lacking: Lacking,
    /// Why the CNI plugin is not in the node's network configuration, where it should be.
    cni_trouble: Option<cni::watch::Trouble>,
    logged: BTreeMap<String, (EnforcementState, Option<String>)>,
}

/// Someone who waits for [`Request::Sync`].
#[derive(Debug)]
struct Waiting {
    token: u64,
    /// The source has sent everything that was there when this was asked.
    refreshed: bool,
    deadline: Instant,
    reply: oneshot::Sender<Response>,
}

impl<K: Kernel> Agent<K> {
    /// Needs a tokio runtime.
    pub fn new(
        reconciler: Reconciler<K>,
        source: Source,
        links: Links,
        netns_dirs: Vec<PathBuf>,
        node: String,
    ) -> Self {
        let now = Instant::now();
        Self {
            reconciler,
            source,
            links,
            link_watch: LinkWatch::new(),
            netns_times: vec![None; netns_dirs.len()],
            netns_dirs,
            node,
            synced: false,
            scanned: false,
            scan_failure: None,
            changed: false,
            failure: None,
            retry_at: now,
            last_change: now,
            last_scan: now,
            faults: Vec::new(),
            node_unknown: None,
            objects: Objects::default(),
            warned: BTreeSet::new(),
            arrived: None,
            unenforced_since: None,
            unresolved_ports: BTreeMap::new(),
            changed_since_looked: false,
            last_heal_corrections: 0,
            timings: Timings::default(),
            starts: Starts::new(),
            watches: BTreeMap::new(),
            waiting: Vec::new(),
            admitting: Vec::new(),
            uids: None,
            next_token: 0,
            lacking: Lacking::default(),
            cni_trouble: None,
            logged: BTreeMap::new(),
        }
    }

    /// Has it tell why the CNI plugin is not in the network configuration that it is kept in.
    #[must_use]
    pub fn with_cni(self, cni_trouble: Option<cni::watch::Trouble>) -> Self {
        Self { cni_trouble, ..self }
    }

    /// Runs until SIGTERM or SIGINT. What is enforced stays enforced.
    ///
    /// # Errors
    /// Only what makes going on senseless: no signals, no link events, the source gone.
    pub async fn run(
        mut self,
        mut requests: mpsc::Receiver<Pending>,
        mut inquiries: Inquiries,
    ) -> anyhow::Result<()> {
        let mut signals = Signals::new().context("cannot wait for signals")?;
        self.link_watch.start().context("cannot wait for link events")?;
        let mut tick = tokio::time::interval(TICK);
        let mut heal = tokio::time::interval_at(Instant::now() + HEAL, HEAL);
        self.scan().await;
        loop {
            inquiries.turn();
            tokio::select! {
                event = self.source.events.recv() => {
                    self.take(event.context("the source has ended")?);
                    for _ in 1..BATCH {
                        let Ok(event) = self.source.events.try_recv() else { break };
                        self.take(event);
                    }
                }
                news = self.link_watch.news() => {
                    match news {
                        LinkNews::Changed => tokio::time::sleep(BURST).await,
                        LinkNews::Ended => tracing::error!("the wait for link events has ended"),
                    }
                    self.link_watch.drain();
                    self.last_change = Instant::now();
                    self.scan().await;
                }
                Some(pending) = requests.recv() => self.answer(pending).await,
                inquiry = inquiries.next() => self.inform(inquiry),
                _ = tick.tick() => self.look_after().await,
                _ = heal.tick() => {
                    self.scan().await;
                    self.heal();
                }
                signal = signals.next() => match signal {
                    Wish::Heal => {
                        self.scan().await;
                        self.heal();
                    }
                    Wish::Stop => break,
                },
            }
            self.reconcile();
            self.answer_admitting();
            self.answer_waiting().await;
        }
        tracing::info!("stopping; what is enforced stays enforced");
        Ok(())
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Arrived(at) => self.arrived = Some(at),
            Event::Changes(changes) => {
                self.reconciler.change(changes);
                self.changed_since_looked = true;
                self.changed = true;
                // In a great cluster something changes all the time.
                if self.reconciler.is_unplaced() {
                    self.note_change();
                }
                let arrived = self.arrived.take().unwrap_or_else(Instant::now);
                if self.synced {
                    self.unenforced_since.get_or_insert(arrived);
                }
            }
            Event::Faults(faults) => {
                let known: BTreeSet<&String> = self.faults.iter().collect();
                for fault in faults.iter().filter(|fault| !known.contains(fault)) {
                    tracing::warn!("{fault}");
                }
                self.faults = faults;
            }
            Event::Objects(objects) => self.take_objects(objects),
            Event::Synced => {
                self.synced = true;
                memory::give_back();
                self.note_change();
            }
            Event::Watch(watch) => {
                let before = self.watches.get(&watch.kind);
                if watch.connected && before.is_some_and(|before| before.error.is_some()) {
                    tracing::info!("{} is watched again", watch.kind);
                }
                self.watches.insert(watch.kind.clone(), watch);
            }
            Event::NodeUnknown(why) => {
                if let Some(why) = &why {
                    tracing::warn!("{why}");
                }
                self.node_unknown = why;
            }
            Event::Uids(uids) => self.uids = Some(uids),
            Event::Refreshed(token) => {
                for waiting in self.waiting.iter_mut().filter(|waiting| waiting.token == token) {
                    waiting.refreshed = true;
                }
            }
        }
    }

    fn take_objects(&mut self, objects: Objects) {
        for warning in objects.warnings.iter().filter(|warning| !self.warned.contains(*warning)) {
            tracing::warn!("{warning}");
        }
        self.warned = objects.warnings.iter().cloned().collect();
        self.objects = objects;
    }

    fn note_change(&mut self) {
        self.changed = true;
        self.last_change = Instant::now();
    }

    fn reconcile(&mut self) {
        if !self.is_ready() || !self.changed || Instant::now() < self.retry_at {
            return;
        }
        let begun = Instant::now();
        let done = self.reconciler.reconcile();
        self.changed = done.is_err();
        if done.is_ok() {
            Timings::observe(&self.timings.apply, begun.elapsed());
            self.note_enforced();
        }
        self.note_outcome(done.err());
    }

    /// All that was taken in is in the kernel.
    fn note_enforced(&mut self) {
        if let Some(since) = self.unenforced_since.take() {
            Timings::observe(&self.timings.event_to_enforced, since.elapsed());
        }
    }

    fn heal(&mut self) {
        if !self.is_ready() {
            return;
        }
        let healed = self.reconciler.heal();
        if let Ok(corrections) = healed {
            self.last_heal_corrections = corrections;
            self.note_enforced();
            if corrections > 0 {
                tracing::warn!(corrections, "the kernel was not as it should be; corrected");
            }
        }
        self.changed = healed.is_err();
        self.look_for_unresolved_ports();
        self.note_outcome(healed.err());
    }

    /// The source's first full list is through, and the node has been looked at.
    const fn is_ready(&self) -> bool {
        self.synced && self.scanned
    }

    fn note_outcome(&mut self, error: Option<anyhow::Error>) {
        let failure = error.map(|error| format!("{error:#}"));
        if failure.is_some() {
            self.retry_at = Instant::now() + RETRY;
        }
        if failure != self.failure {
            match &failure {
                Some(failure) => tracing::error!("{failure}; what was enforced stays enforced"),
                None => tracing::info!("the kernel is up to date again"),
            }
        }
        self.failure = failure;
        self.log_endpoints();
    }

    /// One line for every pod whose state is not what it was.
    fn log_endpoints(&mut self) {
        let mut now = BTreeMap::new();
        let endpoints = self.known_endpoints();
        self.note_starts(&endpoints);
        self.lacking.note(self.reconciler.lacking().into_keys().collect());
        for endpoint in endpoints {
            now.insert(endpoint.pod, (endpoint.state, endpoint.reason));
        }
        for (pod, state) in now.iter().filter(|(pod, state)| self.logged.get(*pod) != Some(*state))
        {
            let reason = state.1.as_deref().unwrap_or_default();
            match state.0 {
                EnforcementState::Enforced | EnforcementState::NotIsolated => {
                    tracing::info!(%pod, "{}", state.0.label());
                }
                EnforcementState::NotEnforced | EnforcementState::Closed => {
                    tracing::warn!(%pod, %reason, "{}", state.0.label());
                }
            }
        }
        for pod in self.logged.keys().filter(|pod| !now.contains_key(*pod)) {
            tracing::info!(%pod, "gone");
        }
        self.logged = now;
        self.tell_source();
    }

    /// Tells the source what is wrong now.
    fn tell_source(&self) {
        let troubled = self.logged.iter().filter_map(|(pod, (state, reason))| {
            let trouble = match state {
                EnforcementState::Enforced | EnforcementState::NotIsolated => return None,
                EnforcementState::NotEnforced => PodTrouble::NotEnforced,
                EnforcementState::Closed => PodTrouble::Closed,
            };
            let why = format!("{}: {}", state.label(), reason.as_deref().unwrap_or_default());
            Some(((pod.clone(), trouble), why))
        });
        let mut pods: PodTroubles = troubled.collect();
        let mixed = self.reconciler.mixed_services().into_iter();
        pods.extend(mixed.map(|(pod, why)| ((pod, PodTrouble::MixedBackends), why)));
        let troubles = Troubles { pods, unresolved_ports: self.unresolved_ports.clone() };
        self.source.troubles.send_if_modified(|before| {
            let changed = *before != troubles;
            *before = troubles;
            changed
        });
    }

    async fn answer(&mut self, Pending { request, reply }: Pending) {
        let response = match request {
            Request::Status => Response::Status(Box::new(self.status().await)),
            Request::Heal => {
                self.scan().await;
                let before = self.reconciler.corrections();
                self.heal();
                match &self.failure {
                    Some(message) => Response::Error { message: message.clone() },
                    None if !self.is_ready() => Response::Error { message: NOT_SYNCED.into() },
                    None => {
                        Response::Healed { corrections: self.reconciler.corrections() - before }
                    }
                }
            }
            Request::Admit(admission) => return self.admit(admission, reply).await,
            Request::Withdraw { container } => self.withdraw(|gone| gone == container),
            Request::Retain { containers } => self.withdraw(|gone| !containers.contains(gone)),
            Request::Sync { timeout_ms } => {
                self.next_token += 1;
                let deadline = Instant::now() + Duration::from_millis(timeout_ms);
                let token = self.next_token;
                self.waiting.push(Waiting { token, refreshed: false, deadline, reply });
                // A source whose queue is full is busy looking already, but perhaps since before.
                if self.source.refresh.try_send(Refresh(token)).is_err() {
                    tracing::debug!("the source takes no request to refresh");
                }
                return;
            }
        };
        // Who asked may have gone away.
        let _ = reply.send(response);
    }

    /// Answers those who wait for the kernel to be up to date, when it is or their time is over.
    async fn answer_waiting(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if self.waiting.iter().any(|waiting| waiting.refreshed) {
            self.scan().await;
            self.reconcile();
        }
        let missing = self.missing();
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.waiting) {
            let complete = waiting.refreshed && missing.is_empty();
            if complete || now >= waiting.deadline {
                let mut missing = missing.clone();
                if !waiting.refreshed {
                    missing.push("the source has not answered".into());
                }
                let generation = self.reconciler.generation();
                let _ = waiting.reply.send(Response::Synced { complete, generation, missing });
            } else {
                self.waiting.push(waiting);
            }
        }
    }

    async fn status(&mut self) -> Status {
        let mut faults = self.faults_of_objects();
        faults.extend(self.node_unknown.clone());
        faults.extend(self.reconciler.overflows());
        faults.extend(self.blindness());
        faults.extend(self.reconciler.notes_failure().map(str::to_owned));
        faults.extend(self.failure.clone());
        Status {
            agent: true,
            pid: Some(std::process::id()),
            node: self.node.clone(),
            source: self.source.name.clone(),
            synced: self.synced && !self.changed,
            generation: self.reconciler.generation(),
            abi_version: ABI_VERSION,
            corrections: self.reconciler.corrections(),
            endpoints: self.endpoints().await,
            faults,
            tables: self.reconciler.tables(),
            watches: self.watches.values().cloned().collect(),
            warnings: self.warnings(),
        }
    }
}
