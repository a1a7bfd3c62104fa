//! Where policy objects come from. A source knows nothing of kernel tables; the agent's loop knows
//! nothing of where the objects are kept.
//!
//! A source is a task that sends [`Event`]s in order: changes, then one [`Event::Synced`] when the
//! first full list is through (nothing is applied before), then further changes for as long as it
//! lives. On [`Refresh`] it looks again at once and echoes the token as [`Event::Refreshed`] behind
//! whatever it found, so that whoever asked knows when that has arrived.

use std::collections::BTreeMap;

use sluice_policy::model::{Change, PodName, PolicyName};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::status::WatchStatus;

pub mod dir;
pub mod kube;
pub mod objects;

pub use objects::{InvalidPod, ObjectState, Objects};

/// What a source sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// When the oldest of the [`Self::Changes`] that come next reached the source.
    Arrived(Instant),
    /// The cluster has changed. What belongs together is in one event: it is applied atomically.
    Changes(Vec<Change>),
    /// Everything that is wrong with the objects now, each with the object's name; replaces what was
    /// sent before.
    Faults(Vec<String>),
    /// What became of the objects; replaces what was sent before.
    Objects(Objects),
    /// The first full list is through. Sent once.
    Synced,
    /// How the watch of one kind stands now; replaces what was sent of this kind before.
    Watch(WatchStatus),
    /// UIDs of the pods of this node, as container runtimes know them; replaces what was sent before. Sent
    /// behind the changes of these pods, and by sources that have such a thing.
    Uids(BTreeMap<PodName, String>),
    /// Why no pod can be told to be of this node, and what to do; `None`: they can. Replaces what was sent
    /// before; a source that cannot know sends nothing.
    NodeUnknown(Option<String>),
    /// Everything that was there when this token was sent has been sent on.
    Refreshed(u64),
}

/// A request to look again now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refresh(pub u64);

/// What can be wrong with a pod of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PodTrouble {
    /// Its policies are not in force.
    NotEnforced,
    /// It is isolated, because its policies do not fit the tables.
    Closed,
    /// Services are closed to it, because their backends get different verdicts.
    MixedBackends,
}

/// Pods in trouble, by `namespace/name`, each with the reason in words.
pub type PodTroubles = BTreeMap<(String, PodTrouble), String>;

/// What the agent finds wrong, for a source that can say so where people look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Pods of this node.
    pub pods: PodTroubles,
    /// Policies that apply here and name ports that resolve nowhere, with the reason in words.
    pub unresolved_ports: BTreeMap<PolicyName, String>,
}

/// The agent's side of a running source.
#[derive(Debug)]
pub struct Source {
    /// How to name it to people.
    pub name: String,
    /// What it sends. Closed only if the source has failed for good.
    pub events: mpsc::Receiver<Event>,
    /// Asks it to look again.
    pub refresh: mpsc::Sender<Refresh>,
    /// Tells it what is wrong.
    pub troubles: watch::Sender<Troubles>,
}
