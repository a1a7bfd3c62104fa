//! Kubernetes Events: what is wrong is said on the object itself, where its author looks
//! (`kubectl describe`).
//!
//! The name of an Event is made of what it says and of whom. So every trouble is said once, however
//! many agents notice it and however often they restart: all but the first are told that it exists.
//! The API server forgets an Event after an hour; a trouble that lasts is said again then.
//!
//! The API server is not to suffer from thousands of agents that notice the same: the more of them may
//! have reason to say it, the longer is the time over which they spread (`outbox`).
//!
//! Events are a courtesy: where the server does not take them, status and log say the same.

mod outbox;
#[cfg(test)]
mod tests;

use std::hash::{DefaultHasher, Hasher as _};
use std::time::Duration;

use ::kube::api::PostParams;
use ::kube::core::Status;
use ::kube::{Api, Client};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use self::outbox::{Outbox, Outcome};
use super::store::Trouble;
use crate::convert::meta::DEFAULT_NAMESPACE;
use crate::manifest::kinds::Kind;

/// How often is looked whether something is to be said.
const TICK: Duration = Duration::from_secs(1);

/// A pod that is not enforced may just be starting.
const HOLD: Duration = Duration::from_secs(10);

/// For the server to take an Event. One that was lost on the way back has its name already.
const PATIENCE: Duration = Duration::from_secs(15);

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
    /// Nothing of an object can be read any more: what was read of it last stays in force.
    LastVersionKept,
    /// Nothing of an object could ever be read.
    NotRead,
    /// A pod's policies are not in force.
    NotEnforced,
    /// A pod is isolated, because its policies do not fit the tables.
    PodClosed,
    /// Services are closed to a pod, because their backends get different verdicts.
    MixedBackends,
    /// A policy names a port that no pod has: that part of it matches nothing.
    UnresolvedNamedPort,
}

impl Reason {
    /// As in the API.
    const fn as_str(self) -> &'static str {
        match self {
            Self::PolicyClosed => "PolicyClosed",
            Self::ServiceClosed => "ServiceClosed",
            Self::PartlyRead => "PartlyRead",
            Self::LastVersionKept => "LastVersionKept",
            Self::NotRead => "NotRead",
            Self::NotEnforced => "NotEnforced",
            Self::PodClosed => "PodClosed",
            Self::MixedBackends => "MixedBackends",
            Self::UnresolvedNamedPort => "UnresolvedNamedPort",
        }
    }

    /// How long it must last before it is said.
    const fn hold(self) -> Duration {
        match self {
            Self::NotEnforced => HOLD,
            Self::PolicyClosed
            | Self::ServiceClosed
            | Self::PartlyRead
            | Self::LastVersionKept
            | Self::NotRead
            | Self::PodClosed
            | Self::MixedBackends
            | Self::UnresolvedNamedPort => Duration::ZERO,
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

/// As many agents as are reckoned with: a cluster has up to 5,000 nodes.
pub(super) const EVERYBODY: u32 = 5000;

/// Something that is wrong, to be said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// What.
    pub(super) trouble: Trouble,
    /// How many agents, at most, have as much reason to say it as this one.
    pub(super) voices: u32,
}

/// Says what is wrong until nobody knows any more.
pub(super) async fn record(client: Client, node: String, mut now: watch::Receiver<Vec<Report>>) {
    let mut outbox = Outbox::new(&node, Instant::now());
    let mut tick = interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match now.has_changed() {
            Ok(true) => outbox.note(&now.borrow_and_update(), Instant::now()),
            Ok(false) => {}
            Err(_) => return,
        }
        while let Some(trouble) = outbox.next(Instant::now()) {
            let outcome = say(&client, &node, &trouble).await;
            outbox.done(&trouble, outcome, Instant::now());
        }
    }
}

/// The same for every agent: no keys of its own.
fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

async fn say(client: &Client, node: &str, trouble: &Trouble) -> Outcome {
    let event = event(node, trouble);
    let namespace = event.metadata.namespace.clone().unwrap_or_default();
    let events: Api<Event> = Api::namespaced(client.clone(), &namespace);
    match timeout(PATIENCE, events.create(&PostParams::default(), &event)).await {
        Ok(Ok(_)) => Outcome::Taken,
        Ok(Err(::kube::Error::Api(status))) => outcome(&status),
        Ok(Err(_)) | Err(_) => Outcome::Away(None),
    }
}

/// What an answer other than "yes" means.
fn outcome(status: &Status) -> Outcome {
    match status.code {
        // Somebody else has said it, or we before a restart.
        409 => Outcome::Taken,
        // The rights may come, or the namespace is on its way out, and the trouble with it.
        401 | 403 | 404 => Outcome::NotNow(status.message.clone()),
        408 | 429 | 500.. => {
            let asked_for = status.details.as_ref().map(|details| details.retry_after_seconds);
            Outcome::Away(asked_for.map(|seconds| Duration::from_secs(seconds.into())))
        }
        _ => Outcome::Refused(status.message.clone()),
    }
}

fn event(node: &str, trouble: &Trouble) -> Event {
    let Trouble { regarding, reason, note } = trouble;
    let (namespace, name) = match regarding.name.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, &*regarding.name),
    };
    let digest = hash(&(&*regarding.uid, reason.as_str(), note));
    // A part of the Event's name must not end in a dot or dash, and a dot comes next.
    let prefix = name[..name.floor_char_boundary(NAME_MAX)].trim_end_matches(['.', '-']);
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
