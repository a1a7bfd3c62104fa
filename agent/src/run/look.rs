//! When the loop looks at the node, and what it does while it cannot.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Agent, EAGERNESS, PATIENCE, RETRY};
use crate::endpoint::Scan;
use crate::endpoint::links::{self, Links, LinksError};
use crate::reconcile::kernel::Kernel;

/// Begins to wait for link events.
type Open = fn(mpsc::Sender<()>) -> Result<JoinHandle<()>, LinksError>;

/// The wait for link events. It is a task of its own, which may end.
#[derive(Debug)]
pub(super) struct LinkWatch {
    open: Open,
    /// `None` while nothing is waited for.
    changes: Option<mpsc::Receiver<()>>,
    failure: Option<String>,
    tried: Instant,
}

/// What there is to know of links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkNews {
    /// One was made, changed or removed.
    Changed,
    /// Nobody waits for them any more.
    Ended,
}

impl LinkWatch {
    pub(super) fn new() -> Self {
        Self { open: links::watch, changes: None, failure: None, tried: Instant::now() }
    }

    /// Waits for link events from now on.
    pub(super) fn start(&mut self) -> Result<(), LinksError> {
        self.tried = Instant::now();
        let (sender, changes) = mpsc::channel(1);
        match (self.open)(sender) {
            Ok(_task) => {
                self.changes = Some(changes);
                self.failure = None;
                Ok(())
            }
            Err(error) => {
                self.failure = Some(format!("cannot wait for link events: {error}"));
                Err(error)
            }
        }
    }

    /// The next news; none while nothing is waited for.
    pub(super) async fn news(&mut self) -> LinkNews {
        let Some(changes) = &mut self.changes else { return std::future::pending().await };
        if changes.recv().await.is_some() {
            return LinkNews::Changed;
        }
        self.changes = None;
        self.failure = Some("the wait for link events has ended".into());
        LinkNews::Ended
    }

    /// Forgets what has come meanwhile.
    pub(super) fn drain(&mut self) {
        while self.changes.as_mut().is_some_and(|changes| changes.try_recv().is_ok()) {}
    }

    /// Why no link event would be noticed.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    fn is_due(&self) -> bool {
        self.changes.is_none() && self.tried.elapsed() >= RETRY
    }
}

impl<K: Kernel> Agent<K> {
    /// Looks for interfaces. A scan that fails leaves what was found before, and is tried again.
    pub(super) async fn scan(&mut self) {
        self.last_scan = Instant::now();
        self.netns_times = self.netns_times_now();
        let failure = match Scan::run(&self.links, &self.netns_dirs).await {
            Ok(scan) => {
                self.reconciler.found(scan);
                self.changed = true;
                self.scanned = true;
                None
            }
            Err(error) => {
                // A connection that broke down stays broken.
                if let Ok(links) = Links::open() {
                    self.links = links;
                }
                let consequence = if self.scanned {
                    "what was found before stays in force"
                } else {
                    "nothing is enforced anew before that succeeds"
                };
                Some(format!("cannot look for pods' interfaces: {error}; {consequence}"))
            }
        };
        if failure != self.scan_failure {
            match &failure {
                Some(failure) => tracing::error!("{failure}"),
                None => tracing::info!("pods' interfaces can be looked for again"),
            }
        }
        self.scan_failure = failure;
    }

    fn netns_times_now(&self) -> Vec<Option<SystemTime>> {
        let time = |dir: &PathBuf| std::fs::metadata(dir).and_then(|m| m.modified()).ok();
        self.netns_dirs.iter().map(time).collect()
    }

    /// Pods get addresses inside their namespace without a sign on the host, so those that are not
    /// found are looked for again and again. Nor is there a sign while link events are not heard.
    pub(super) async fn look_after(&mut self) {
        if self.link_watch.is_due() {
            match self.link_watch.start() {
                Ok(()) => tracing::info!("link events are waited for again"),
                Err(error) => tracing::warn!(%error, "cannot wait for link events"),
            }
        }
        let awaited = !self.waiting.is_empty() || !self.admitting.is_empty();
        let eager = awaited || self.last_change.elapsed() < EAGERNESS;
        let patience = if eager { Duration::ZERO } else { PATIENCE };
        let missing = self.reconciler.is_something_missing();
        let blind = self.scan_failure.is_some() || self.link_watch.failure().is_some();
        let since = self.last_scan.elapsed();
        let due = missing && since >= patience || blind && since >= RETRY;
        if due || self.netns_times_now() != self.netns_times {
            self.scan().await;
        }
    }

    /// What keeps the loop from seeing the node as it is.
    pub(super) fn blindness(&self) -> Vec<String> {
        let deafness = self.link_watch.failure().map(str::to_owned);
        self.scan_failure.clone().into_iter().chain(deafness).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_that_ends_is_noticed_once_and_begun_again() {
        let ends_at_once: Open = |sender| Ok(tokio::spawn(async move { drop(sender) }));
        let mut watch = LinkWatch { open: ends_at_once, ..LinkWatch::new() };
        watch.start().expect("begun");
        assert_eq!(watch.failure(), None);
        assert_eq!(watch.news().await, LinkNews::Ended);
        assert!(watch.failure().is_some());
        let moment = Duration::from_millis(1);
        assert!(tokio::time::timeout(moment, watch.news()).await.is_err(), "it is said once");

        watch.open = |_| Err(LinksError::Socket(std::io::Error::other("no more sockets")));
        assert!(watch.start().is_err());
        assert!(watch.failure().is_some_and(|failure| failure.contains("no more sockets")));

        watch.open = |sender| {
            Ok(tokio::spawn(async move {
                sender.send(()).await.expect("someone waits");
                std::future::pending::<()>().await;
            }))
        };
        watch.start().expect("begun");
        assert_eq!(watch.failure(), None);
        assert_eq!(watch.news().await, LinkNews::Changed);
    }
}
