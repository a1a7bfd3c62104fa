//! The watch of one kind: kube-rs keeps it alive, this passes on what it says and how it stands.
//!
//! The first list comes as a stream (`sendInitialEvents`): the server sends it from memory, one object
//! at a time, and 5,000 nodes that start at once cost it no more than 5,000 watches. A server that
//! cannot do that is asked for pages instead. After a failure kube-rs waits 0.8 to 30 s, with jitter,
//! and goes on from the last version that it saw; where that is too old for the server (410), it lists
//! again.

use std::error::Error as _;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::kube::runtime::watcher::{self, Error, Event};
use ::kube::runtime::{WatchStreamExt as _, watcher as watch_events};
use ::kube::{Api, Config};
use futures_util::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::client;
use super::wire::{Object, Watched, Wire};
use crate::manifest::kinds::Kind;

/// A server that has accepted to stream a list and sends nothing for so long does not know how: it
/// took the request for an ordinary watch.
const STREAM_PATIENCE: Duration = Duration::from_secs(30);

/// Before a watch is begun from nothing.
const AGAIN: Duration = Duration::from_secs(1);

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    /// The server answers.
    Connected,
    /// It does not: why. The watch goes on trying.
    Failed(String),
    /// A full list begins.
    Begin,
    /// An object of that list.
    Listed(Object),
    /// The list is complete: what it did not name is gone.
    Complete,
    /// An object was made or changed.
    Changed(Object),
    /// An object is gone.
    Gone(Object),
}

/// News of one kind, and when they arrived.
pub(super) type Message = (Kind, News, Instant);

/// How a list is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lists {
    Streamed,
    Paged,
}

/// Why a watch is begun anew.
enum Ending {
    /// Nobody listens any more.
    Closed,
    /// Lists are to be asked for differently.
    Begin(Lists),
}

/// Watches all objects of a kind, or those that `fields` selects, until nobody listens.
pub(super) async fn watch<T: Watched>(
    config: Config,
    fields: Option<String>,
    news: mpsc::Sender<Message>,
) {
    let answered = Arc::new(Notify::new());
    let client = match client::observed(&config, answered.clone()) {
        Ok(client) => client,
        Err(error) => {
            // Nothing will change that but another configuration: the watch never is.
            let _ = news.send((T::KIND, News::Failed(chain(&error)), Instant::now())).await;
            return;
        }
    };
    let api: Api<Wire<T>> = Api::all(client);
    let mut lists = Lists::Streamed;
    loop {
        let mut options = watcher::Config { field_selector: fields.clone(), ..Default::default() };
        if lists == Lists::Streamed {
            options = options.streaming_lists();
        }
        match follow(&api, options, lists, &answered, &news).await {
            Ending::Closed => return,
            Ending::Begin(next) => lists = next,
        }
        sleep(AGAIN).await;
    }
}

async fn follow<T: Watched>(
    api: &Api<Wire<T>>,
    options: watcher::Config,
    lists: Lists,
    answered: &Notify,
    news: &mpsc::Sender<Message>,
) -> Ending {
    let mut events = pin!(watch_events(api.clone(), options).default_backoff());
    let mut listing = true;
    // Runs while a streamed list is awaited from a server that has accepted to send one.
    let mut patience: Option<Instant> = None;
    loop {
        let said = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => of_event(event),
                Some(Err(error)) => {
                    patience = None;
                    if let Some(ending) = restart(&error, lists) {
                        return ending;
                    }
                    News::Failed(describe::<T>(&error))
                }
                None => return Ending::Begin(lists),
            },
            () = answered.notified() => {
                patience = (listing && lists == Lists::Streamed).then(|| Instant::now() + STREAM_PATIENCE);
                News::Connected
            }
            () = expire(patience) => return Ending::Begin(Lists::Paged),
        };
        match &said {
            News::Begin => listing = true,
            News::Listed(_) => {
                patience = patience.map(|_| Instant::now() + STREAM_PATIENCE);
            }
            News::Complete => {
                listing = false;
                patience = None;
            }
            News::Connected | News::Failed(_) | News::Changed(_) | News::Gone(_) => {}
        }
        if news.send((T::KIND, said, Instant::now())).await.is_err() {
            return Ending::Closed;
        }
    }
}

async fn expire(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn of_event<T>(event: Event<Wire<T>>) -> News {
    match event {
        Event::Init => News::Begin,
        Event::InitApply(object) => News::Listed(object.into_object()),
        Event::InitDone => News::Complete,
        Event::Apply(object) => News::Changed(object.into_object()),
        Event::Delete(object) => News::Gone(object.into_object()),
    }
}

/// Where kube-rs would try the same again for ever, although it cannot succeed.
fn restart(error: &Error, lists: Lists) -> Option<Ending> {
    let Error::WatchStartFailed(::kube::Error::Api(status)) = error else { return None };
    match (status.code, lists) {
        (410, _) => Some(Ending::Begin(lists)),
        // Streams of lists are switched off, or unknown.
        (400 | 422, Lists::Streamed) => Some(Ending::Begin(Lists::Paged)),
        _ => None,
    }
}

/// What failed, why, and what to do.
fn describe<T: Watched>(error: &Error) -> String {
    let (verb, cause) = match error {
        Error::InitialListFailed(cause) => ("list", cause),
        Error::WatchStartFailed(cause) | Error::WatchFailed(cause) => ("watch", cause),
        Error::WatchError(status) => return format!("watch: {}", status.message),
        Error::NoResourceVersion => return "watch: the server names no resource version".into(),
    };
    match cause {
        ::kube::Error::Api(status) if status.code == 403 => {
            let group = T::group(&());
            let group = if group.is_empty() { "the core group" } else { &group };
            format!(
                "{verb}: {}; allow the agent's account to list and watch {} of {group}, as \
                 deploy/rbac.yaml does",
                status.message,
                T::plural(&()),
            )
        }
        ::kube::Error::Api(status) if status.code == 401 => {
            format!("{verb}: {}; renew the agent's credentials", status.message)
        }
        ::kube::Error::Api(status) => format!("{verb}: {} ({})", status.message, status.code),
        other => format!("{verb}: {}", chain(other)),
    }
}

/// An error and what led to it.
pub(super) fn chain(error: &::kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
