//! Kubernetes Events: what is wrong is said on the object itself, where its author looks
//! (`kubectl describe`).
//!
//! The name of an Event is made of what it says and of whom. So every trouble is said once, however
//! many agents notice it and however often they restart: all but the first are told that it exists.
//! The API server forgets an Event after an hour; a trouble that lasts is said again then.
//!
//! Events are a courtesy: where the server does not take them, status and log say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::store::Trouble;
use super::watch::chain;
use crate::convert::meta::DEFAULT_NAMESPACE;
use crate::manifest::kinds::Kind;

/// How often is looked whether something is to be said.
const TICK: Duration = Duration::from_secs(1);

/// A pod that is not enforced may just be starting.
const HOLD: Duration = Duration::from_secs(10);

/// A trouble that lasts is said again after this: Events are kept for an hour.
const REPEAT: Duration = Duration::from_secs(3900);

/// Events that may be sent at once; each leaves room for another after [`REFILL`].
const BURST: u32 = 25;

/// See [`BURST`].
const REFILL: Duration = Duration::from_secs(5);

/// After the server could not be reached.
const RETRY: Duration = Duration::from_secs(10);

/// All agents notice a broken policy at once; each waits for a part of this before it says so.
const SPREAD: Duration = Duration::from_secs(3);

/// Longest note that the API takes, in bytes.
const NOTE_MAX: usize = 1024;

/// Longest part of an Event's name that is the object's.
const NAME_MAX: usize = 230;

/// What follows from a trouble; the `reason` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Reason {
    /// A policy could not be converted: what it selects is isolated.
    PolicyClosed,
    /// Where a service leads is not known in full: it leads nowhere.
    ServiceClosed,
    /// The rest of an object counts.
    PartlyRead,
    /// Nothing of an object could be read.
    NotRead,
    /// A pod's policies are not in force.
    NotEnforced,
    /// A pod is isolated, because its policies do not fit the tables.
    PodClosed,
    /// Services are closed to a pod, because their backends get different verdicts.
    MixedBackends,
}

impl Reason {
    /// As in the API.
    const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyClosed => "PolicyClosed",
            Self::ServiceClosed => "ServiceClosed",
            Self::PartlyRead => "PartlyRead",
            Self::NotRead => "NotRead",
            Self::NotEnforced => "NotEnforced",
            Self::PodClosed => "PodClosed",
            Self::MixedBackends => "MixedBackends",
        }
    }

    /// How long it must last before it is said.
    const fn hold(self) -> Duration {
        match self {
            Self::NotEnforced => HOLD,
            Self::PolicyClosed
            | Self::ServiceClosed
            | Self::PartlyRead
            | Self::NotRead
            | Self::PodClosed
            | Self::MixedBackends => Duration::ZERO,
        }
    }
}

/// The object that an Event is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Regarding {
    /// Its kind.
    pub(super) kind: Kind,
    /// `namespace/name`, or the name alone.
    pub(super) name: Box<str>,
    /// `metadata.uid`.
    pub(super) uid: Box<str>,
}

/// How many Events may be sent now: many troubles at once must be no burden on the server, least of
/// all where thousands of agents see the same ones.
struct Budget {
    left: u32,
    /// From when on time counts towards the next.
    since: Instant,
}

impl Budget {
    fn full(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    /// True where another may be sent now, which then counts.
    fn take(&mut self, now: Instant) -> bool {
        while self.left < BURST && now - self.since >= REFILL {
            self.left += 1;
            self.since += REFILL;
        }
        if self.left == BURST {
            self.since = now;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

/// What is known of a trouble that lasts.
struct Lasting {
    since: Instant,
    said: Option<Instant>,
}

/// Says what is wrong until nobody knows any more.
pub(super) async fn record(client: Client, node: String, mut now: watch::Receiver<Vec<Trouble>>) {
    let mut lasting: BTreeMap<(Regarding, Reason, String), Lasting> = BTreeMap::new();
    let mut refused = BTreeSet::new();
    let mut budget = Budget::full(Instant::now());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let spread = SPREAD.mul_f64(f64::from(hash(&node) as u32) / f64::from(u32::MAX));
    loop {
        tick.tick().await;
        if now.has_changed().is_err() {
            return;
        }
        let troubles = now.borrow_and_update().clone();
        let current: BTreeSet<_> = troubles.iter().map(key).collect();
        lasting.retain(|key, _| current.contains(key));
        for trouble in &troubles {
            let state = lasting
                .entry(key(trouble))
                .or_insert_with(|| Lasting { since: Instant::now(), said: None });
            let is_due = state.since.elapsed() >= trouble.reason.hold() + spread
                && state.said.is_none_or(|said| said.elapsed() >= REPEAT);
            if !is_due {
                continue;
            }
            if !budget.take(Instant::now()) {
                break;
            }
            match say(&client, &node, trouble).await {
                Ok(()) => state.said = Some(Instant::now()),
                Err(::kube::Error::Api(status)) => {
                    if refused.insert(status.reason.clone()) {
                        tracing::warn!("the API server takes no Events: {}", status.message);
                    }
                    state.said = Some(Instant::now());
                }
                Err(error) => {
                    tracing::debug!("an Event could not be sent: {}", chain(&error));
                    sleep(RETRY).await;
                    break;
                }
            }
        }
    }
}

fn key(trouble: &Trouble) -> (Regarding, Reason, String) {
    (trouble.regarding.clone(), trouble.reason, trouble.note.clone())
}

/// The same for every agent: no keys of its own.
fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

async fn say(client: &Client, node: &str, trouble: &Trouble) -> Result<(), ::kube::Error> {
    let event = event(node, trouble);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match events.create(&PostParams::default(), &event).await {
        // Somebody else has said it, or we before a restart.
        Err(::kube::Error::Api(status)) if status.code == 409 => Ok(()),
        done => done.map(|_| ()),
    }
}

fn event(node: &str, trouble: &Trouble) -> Event {
    let Trouble { regarding, reason, note } = trouble;
    let (namespace, name) = match regarding.name.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, &*regarding.name),
    };
    let digest = hash(&(&*regarding.uid, reason.as_str(), note));
    let prefix = &name[..name.len().min(NAME_MAX)];
    Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.into())),
            name: Some(format!("{prefix}.{digest:016x}")),
            ..ObjectMeta::default()
        },
        regarding: Some(ObjectReference {
            api_version: Some(regarding.kind.api_version().into()),
            kind: Some(regarding.kind.as_str().into()),
            name: Some(name.into()),
            namespace,
            uid: Some(regarding.uid.to_string()),
            ..ObjectReference::default()
        }),
        reason: Some(reason.as_str().into()),
        note: Some(fitting(note)),
        type_: Some("Warning".into()),
        action: Some("Enforce".into()),
        event_time: Some(MicroTime(Timestamp::now())),
        reporting_controller: Some("sluice.dev/agent".into()),
        reporting_instance: Some(node.into()),
        ..Event::default()
    }
}

/// As much of a note as the API takes; the status has all of it, and the note says where it ends.
fn fitting(note: &str) -> String {
    const MORE: &str = " … (`sluice status` says all)";
    if note.len() <= NOTE_MAX {
        return note.to_owned();
    }
    let end = note.floor_char_boundary(NOTE_MAX - MORE.len());
    format!("{}{MORE}", &note[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(note: &str) -> Trouble {
        let regarding =
            Regarding { kind: Kind::NetworkPolicy, name: "x/p".into(), uid: "u-1".into() };
        Trouble { regarding, reason: Reason::PolicyClosed, note: note.into() }
    }

    #[test]
    fn the_same_trouble_has_one_name_whoever_says_it_and_another_has_another() {
        let name = |node, note| event(node, &trouble(note)).metadata.name.expect("a name");
        assert_eq!(name("node-1", "wrong"), name("node-2", "wrong"));
        assert_ne!(name("node-1", "wrong"), name("node-1", "wrong too"));
    }

    #[test]
    fn no_more_is_sent_at_once_than_the_budget_has() {
        let begin = Instant::now();
        let mut budget = Budget::full(begin);
        let taken = |budget: &mut Budget, now| (0..100).filter(|_| budget.take(now)).count();
        assert_eq!(taken(&mut budget, begin), 25);
        assert_eq!(taken(&mut budget, begin + REFILL * 2), 2);
        assert_eq!(taken(&mut budget, begin + REFILL * 1000), 25);
    }

    #[test]
    fn a_note_ends_where_the_api_ends_it() {
        let long = "é".repeat(600);
        let note = event("n", &trouble(&long)).note.expect("a note");
        assert!(note.len() <= NOTE_MAX && note.ends_with("says all)"), "{note}");
        assert_eq!(event("n", &trouble("short")).note.as_deref(), Some("short"));
    }
}
