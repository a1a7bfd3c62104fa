//! A source that watches the API server of a test, and the world as it tells it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sluice::source::{Event, Source, kube};
use sluice::status::WatchStatus;
use sluice_policy::model::World;

use super::ApiServer;

/// For what takes a second, or the half minute that a watch may pause after failures.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a source has said so far.
#[derive(Debug)]
pub struct Watcher {
    /// The source itself.
    pub source: Source,
    /// The world after all changes.
    pub world: World,
    /// What is wrong.
    pub faults: Vec<String>,
    /// How the watches stand, by kind.
    pub watches: BTreeMap<String, WatchStatus>,
    /// The first lists are complete.
    pub synced: bool,
    /// Events with changes that came.
    pub batches: usize,
}

impl Watcher {
    /// Begins to watch as who the kubeconfig says, as the agent of a node.
    ///
    /// # Panics
    /// Where the configuration cannot be used.
    pub fn start(server: &ApiServer, kubeconfig: PathBuf, node: &str) -> Self {
        let config = server.config(kubeconfig);
        let node = node.to_owned();
        let source = server.run(async move { kube::start(config, node) }).expect("a client");
        Self {
            source,
            world: World::default(),
            faults: Vec::new(),
            watches: BTreeMap::new(),
            synced: false,
            batches: 0,
        }
    }

    /// Takes in what has been said since.
    pub fn look(&mut self) {
        while let Ok(event) = self.source.events.try_recv() {
            match event {
                Event::Changes(changes) => {
                    self.batches += 1;
                    changes.into_iter().for_each(|change| self.world.apply(change));
                }
                Event::Faults(faults) => self.faults = faults,
                Event::Synced => self.synced = true,
                Event::Watch(watch) => {
                    self.watches.insert(watch.kind.clone(), watch);
                }
                Event::Arrived(_)
                | Event::Objects(_)
                | Event::Uids(_)
                | Event::NodeUnknown(_)
                | Event::Refreshed(_) => {}
            }
        }
    }

    /// Waits until something holds.
    ///
    /// # Panics
    /// Where it does not come to hold.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        self.look();
        while !holds(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}: {self:#?}");
            std::thread::sleep(Duration::from_millis(10));
            self.look();
        }
    }

    /// Waits for the first lists.
    ///
    /// # Panics
    /// Where they do not come.
    pub fn until_synced(&mut self) {
        self.until("the first lists", |watcher| watcher.synced);
    }
}
