//! An API server as a source.
//!
//! ```text
//! watch (one task for each kind) ── news ──► hub: store ──► gate ──► changes, faults, state of watches
//!                                                └──► Events on the objects
//! ```
//!
//! What is promised:
//!
//! * **Nothing is applied before every first list is complete** (`gate`); all kinds are required.
//! * While the API server is gone, slow or refuses, **the last state stays**. The watch of each kind
//!   tries again, later and later, each agent at its own time (`watch`); what it lacks stands in the
//!   status and among the faults.
//! * After a gap the server may have to be asked for a full list again. While that arrives, what it
//!   names counts at once; **what it does not name goes only when it is complete** (`store`).
//! * A service changes when it or one of its slices does, and only that service (`services`).
//! * What cannot be converted fails closed by name (`convert::arrival`), and an Event on the object
//!   says so (`events`).
//!
//! To [`Refresh`] the hub answers when everything has been sent on that had arrived by then. What the
//! API server has not told yet it cannot know: whoever changes an object and asks an agent for it must
//! ask for the object's effect.

mod client;
mod crowd;
mod events;
mod gate;
mod needed;
mod pace;
mod services;
mod store;
#[cfg(test)]
mod tests;
mod watch;
mod wire;

use std::collections::{BTreeMap, BTreeSet};

use ::kube::{Client, Config};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use sluice_policy::model::Change;
use tokio::sync::{mpsc, watch as latest};
use tokio::task::JoinSet;

pub use self::client::{ConfigError, config};
use self::events::{EVERYBODY, Reason, Regarding, Report};
use self::gate::Gate;
use self::store::{Revision, Store, Trouble};
use self::watch::{Message, News};
use super::{Event, Objects, PodTrouble, Refresh, Source, Troubles};
use crate::manifest::kinds::Kind;
use crate::status::WatchStatus;

/// The kinds that are watched.
const KINDS: [Kind; 6] = [
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::NetworkPolicy,
];

/// News on their way to the hub.
const QUEUE: usize = 1024;

/// News that may become one event.
const BATCH: usize = 4096;

/// Starts to watch, for the node of this name. Ends when the receiver of its events is gone. Needs a
/// tokio runtime.
///
/// # Errors
/// No client can be made from the configuration.
pub fn start(config: Config, node: String) -> Result<Source, ::kube::Error> {
    let client = Client::try_from(config.clone())?;
    let name = format!("kube:{}", config.cluster_url);
    let (sender, events) = mpsc::channel(16);
    let (refresh, refreshes) = mpsc::channel(16);
    let (troubles, found) = latest::channel(Troubles::default());
    let (said, to_say) = latest::channel(Vec::new());
    let (news, arriving) = mpsc::channel(QUEUE);
    let own_node = Some(format!("metadata.name={node}"));
    let mut tasks = JoinSet::new();
    tasks.spawn(watch::watch::<core::Namespace>(config.clone(), None, news.clone()));
    tasks.spawn(watch::watch::<core::Node>(config.clone(), own_node, news.clone()));
    tasks.spawn(watch::watch::<core::Pod>(config.clone(), None, news.clone()));
    tasks.spawn(watch::watch::<core::Service>(config.clone(), None, news.clone()));
    tasks.spawn(watch::watch::<EndpointSlice>(config.clone(), None, news.clone()));
    tasks.spawn(watch::watch::<NetworkPolicy>(config, None, news.clone()));
    tokio::spawn(events::record(client, node.clone(), to_say));
    // The hub holds a sender itself: that a watch has ended is told by its task, not by the queue.
    let hub = Hub::new(node, said);
    tokio::spawn(run(hub, Inbox { arriving, refreshes, found, tasks, _news: news }, sender));
    Ok(Source { name, events, refresh, troubles })
}

/// What reaches the hub.
struct Inbox {
    arriving: mpsc::Receiver<Message>,
    refreshes: mpsc::Receiver<Refresh>,
    /// What the agent finds wrong.
    found: latest::Receiver<Troubles>,
    /// One for each watch. None ends while the hub listens, but for one that breaks down or cannot even be
    /// begun.
    tasks: JoinSet<()>,
    _news: mpsc::Sender<Message>,
}

async fn run(mut hub: Hub, mut inbox: Inbox, events: mpsc::Sender<Event>) {
    loop {
        let mut token = None;
        let mut arrived = None;
        tokio::select! {
            Some((kind, news, at)) = inbox.arriving.recv() => {
                arrived = Some(at);
                hub.take(kind, news);
            }
            Some(Refresh(asked)) = inbox.refreshes.recv() => token = Some(asked),
            Ok(()) = inbox.found.changed() => {
                hub.found = inbox.found.borrow_and_update().clone();
                hub.say();
            }
            // Without one of its watches the agent would go on and never know; ended, it is started
            // again, and what is enforced stays enforced meanwhile.
            Some(ended) = inbox.tasks.join_next() => {
                let error = ended.err().map(|error| error.to_string()).unwrap_or_default();
                tracing::error!(error, "a watch has broken down");
                return;
            }
            // The agent is gone.
            else => return,
        }
        for _ in 0..BATCH {
            let Ok((kind, news, at)) = inbox.arriving.try_recv() else { break };
            arrived.get_or_insert(at);
            hub.take(kind, news);
        }
        let due = hub.due();
        let arrived = arrived.filter(|_| due.iter().any(|e| matches!(e, Event::Changes(_))));
        let arrived = arrived.map(Event::Arrived).into_iter();
        for event in arrived.chain(due).chain(token.map(Event::Refreshed)) {
            if events.send(event).await.is_err() {
                return;
            }
        }
    }
}

/// Everything that is known, and what has been sent on of it.
#[derive(Debug)]
struct Hub {
    node: String,
    store: Store,
    gate: Gate,
    synced: bool,
    watches: BTreeMap<Kind, WatchStatus>,
    /// Of these, the ones that the agent has not been told of.
    stirred: BTreeSet<Kind>,
    faults: Vec<String>,
    /// See [`Event::NodeUnknown`].
    node_unknown: Option<String>,
    outcome: Objects,
    /// [`Store::revision`] that [`Self::faults`] and [`Self::outcome`] are of; `None` where a watch has
    /// changed since.
    told: Option<Revision>,
    /// What the agent finds wrong.
    found: Troubles,
    said: latest::Sender<Vec<Report>>,
}

impl Hub {
    fn new(node: String, said: latest::Sender<Vec<Report>>) -> Self {
        let watch = |kind: Kind| WatchStatus { kind: kind.as_str().into(), ..Default::default() };
        Self {
            store: Store::new(node.clone()),
            node,
            gate: Gate::new(KINDS),
            synced: false,
            watches: KINDS.into_iter().map(|kind| (kind, watch(kind))).collect(),
            stirred: KINDS.into(),
            faults: Vec::new(),
            node_unknown: None,
            outcome: Objects::default(),
            told: None,
            found: Troubles::default(),
            said,
        }
    }

    /// Takes in what a watch says.
    fn take(&mut self, kind: Kind, news: News) {
        let changes: Vec<Change> = match news {
            News::Connected => {
                self.note_watch(kind, None);
                return;
            }
            News::Failed(why) => {
                self.note_watch(kind, Some(why));
                return;
            }
            News::Begin => {
                self.store.begin(kind);
                return;
            }
            News::Listed(object) | News::Changed(object) => self.store.put(kind, object),
            News::Gone(object) => self.store.remove(kind, &object.name),
            News::Complete => {
                self.gate.complete(kind);
                self.note_watch(kind, None);
                self.store.complete(kind)
            }
        };
        self.gate.hold(changes);
    }

    fn note_watch(&mut self, kind: Kind, error: Option<String>) {
        let Some(watch) = self.watches.get_mut(&kind) else { return };
        let kind_name = watch.kind.clone();
        let synced = self.gate.has(kind);
        let now = WatchStatus { kind: kind_name, connected: error.is_none(), synced, error };
        if *watch != now {
            *watch = now;
            self.told = None;
            self.stirred.insert(kind);
        }
    }

    /// What the agent is to be told now.
    fn due(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for kind in std::mem::take(&mut self.stirred) {
            events.extend(self.watches.get(&kind).cloned().map(Event::Watch));
        }
        let changes = self.gate.release();
        if !changes.is_empty() {
            // What is in trouble may be another object by now, under the same name.
            if self.found != Troubles::default() {
                self.say();
            }
            events.push(Event::Changes(changes));
        }
        if self.gate.is_open()
            && let Some(uids) = self.store.stirred_uids()
        {
            // This agent may have reason to say something now that it left to others.
            self.say();
            events.push(Event::Uids(uids));
        }
        let node_unknown = self.unknown_node();
        if self.node_unknown != node_unknown {
            self.node_unknown.clone_from(&node_unknown);
            events.push(Event::NodeUnknown(node_unknown));
        }
        let revision = self.store.revision();
        if self.told.as_ref().is_none_or(|told| told.troubles != revision.troubles) {
            let faults = self.faults_now();
            if self.faults != faults {
                self.faults.clone_from(&faults);
                events.push(Event::Faults(faults));
                self.say();
            }
        }
        if self.gate.is_open() && self.told.as_ref() != Some(&revision) {
            let outcome = self.store.outcome();
            if self.outcome != outcome {
                self.outcome.clone_from(&outcome);
                events.push(Event::Objects(outcome));
            }
        }
        self.told = Some(revision);
        if self.gate.is_open() && !std::mem::replace(&mut self.synced, true) {
            // From now on it is known how many may say the same.
            self.say();
            events.push(Event::Synced);
        }
        events
    }

    fn faults_now(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (kind, watch) in &self.watches {
            let Some(error) = &watch.error else { continue };
            let consequence = if watch.synced {
                "the last state stays in force"
            } else {
                "nothing is applied before its first list"
            };
            faults.push(format!("{} cannot be watched: {error}; {consequence}", kind.as_str()));
        }
        faults.extend(self.store.troubles().map(|trouble| {
            format!(
                "{} {}: {}",
                trouble.regarding.kind.as_str(),
                trouble.regarding.name,
                trouble.note
            )
        }));
        faults
    }

    /// Why the pods of this node cannot be told; nothing while that is not known itself.
    fn unknown_node(&self) -> Option<String> {
        let is_missing = self.gate.has(Kind::Node) && !self.store.knows_own_node();
        is_missing.then(|| {
            format!(
                "there is no Node {}: no pod of this machine can be told from others; give \
                 --node-name the name that `kubectl get nodes` lists",
                self.node
            )
        })
    }

    /// Passes on what Events are to say.
    fn say(&self) {
        // Nobody else says what is wrong with the pods of this node: they come first.
        let mut troubles = Vec::new();
        for ((pod, trouble), why) in &self.found.pods {
            let reason = match trouble {
                PodTrouble::NotEnforced => Reason::NotEnforced,
                PodTrouble::Closed => Reason::PodClosed,
                PodTrouble::MixedBackends => Reason::MixedBackends,
            };
            let Some(regarding) = self.store.regarding(Kind::Pod, pod) else { continue };
            troubles.push(Trouble { regarding, reason, note: why.clone() });
        }
        for (policy, why) in &self.found.unresolved_ports {
            let name =
                format!("{}/{}", policy.namespace.as_deref().unwrap_or_default(), policy.name);
            let Some(regarding) = self.store.regarding(Kind::NetworkPolicy, &name) else {
                continue;
            };
            let note = why.clone();
            troubles.push(Trouble { regarding, reason: Reason::UnresolvedNamedPort, note });
        }
        troubles.extend(self.store.troubles().cloned());
        let reports = troubles.into_iter().map(|trouble| self.report(trouble));
        self.said.send_replace(reports.collect());
    }

    fn report(&self, trouble: Trouble) -> Report {
        let Regarding { kind, name, uid: _ } = &trouble.regarding;
        // Before all pods are known, many agents may be where this one is.
        let voices = if self.gate.is_open() { self.store.voices(*kind, name) } else { EVERYBODY };
        Report { trouble, voices }
    }
}
