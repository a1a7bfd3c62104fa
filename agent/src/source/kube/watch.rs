//! The watch of one kind: kube-rs keeps it alive, this passes on what it says and how it stands.
//!
//! The first list comes as a stream (`sendInitialEvents`): the server sends it from memory, one object
//! at a time, and 5,000 nodes that start at once cost it no more than 5,000 watches. A server that
//! cannot do that is asked for pages instead, until a list is needed again: it may have learned it by
//! then. After a failure the watch goes on from the last version that it saw; where the server does not
//! have that (any more, or not yet), it lists again. When it is asked again, `pace` says.
//!
//! A watch is asked for five to ten minutes, as the informers of Go's client do: 5,000 nodes with six
//! watches each ask about 70 times a second. A server that hangs is noticed long before that. It is asked
//! for bookmarks, and kube-apiserver sends one to each watch about every minute (`defaultBookmarkFrequency`
//! of its cacher; v1.34.4 sent them 59 to 62 s apart). But the API promises no bookmark at all, and there
//! is none while the server knows of no newer version: where nothing of a kind changes, that takes etcd's
//! notifications of progress, which kubeadm asks for every 5 s (etcd by itself: 10 minutes). So silence is
//! no failure: where there is some for too long, the watch is asked for anew, from where it was. A watch
//! with bookmarks or events lives for all of its time, one without is asked for every hundred seconds,
//! and a server that hangs gives no answer to that: it is noticed after two and a half minutes at the
//! latest.

use std::error::Error as _;
use std::future::pending;
use std::ops::RangeInclusive;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::kube::core::Status;
use ::kube::runtime::watcher as watch_events;
use ::kube::runtime::watcher::{self, Error, Event};
use ::kube::{Api, Client, Config};
use futures_util::StreamExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use super::client;
use super::pace::{Pace, PaceLayer};
use super::wire::{Object, Watched, Wire};
use crate::manifest::kinds::Kind;

/// A server that has accepted to stream a list and sends nothing for so long does not know how: it
/// took the request for an ordinary watch.
const STREAM_PATIENCE: Duration = Duration::from_secs(30);

/// The server is asked to end each watch after so many seconds. Each watch of each agent has its own
/// number, so that they do not come together.
const LIFE: RangeInclusive<u32> = 300..=600;

/// A watch that says nothing for so many seconds is asked for anew, likewise. Above the minute, and some
/// seconds, between two bookmarks. kube-runtime waits [`SILENCE_MARGIN`] longer.
const SILENCE: RangeInclusive<u32> = 80..=110;

/// See [`SILENCE`].
const SILENCE_MARGIN: u32 = 5;

/// No watch is silent for longer, unless its connection is broken.
pub(super) const SILENCE_MAX: u32 = *SILENCE.end() + SILENCE_MARGIN;

/// A watch that has lived or been silent for all of its time but this has ended as it should.
const SLACK: Duration = Duration::from_secs(2);

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lists {
    Streamed,
    Paged,
}

/// Watches all objects of a kind, or those that `fields` selects, until nobody listens.
pub(super) async fn watch<T: Watched>(
    config: Config,
    fields: Option<String>,
    news: mpsc::Sender<Message>,
) {
    let answered = Arc::new(Notify::new());
    let (life, silence) = (fastrand::u32(LIFE), fastrand::u32(SILENCE));
    let layer = layer(life, silence, answered.clone());
    match client::paced(&config, &layer) {
        Ok(client) => watch_by::<T>(client, &answered, fields, silence, &news).await,
        // Nothing will change that but another configuration: the watch never is.
        Err(error) => {
            let _ = news.send((T::KIND, News::Failed(chain(&error)), Instant::now())).await;
        }
    }
}

/// How often a watch is asked for that is to live so many seconds, and may be silent for so many.
fn layer(life: u32, silence: u32, answered: Arc<Notify>) -> PaceLayer {
    let whole = |seconds: u32| Duration::from_secs(seconds.into()) - SLACK;
    let pace = Pace::new(whole(life), whole(silence + SILENCE_MARGIN));
    PaceLayer::new(pace, life, answered)
}

/// `answered` is notified of each of the client's requests that succeeds; `silence` is in seconds.
async fn watch_by<T: Watched>(
    client: Client,
    answered: &Notify,
    fields: Option<String>,
    silence: u32,
    news: &mpsc::Sender<Message>,
) {
    let api: Api<Wire<T>> = Api::all(client);
    // For kube-runtime this is both: what it asks for, which the client's layer replaces, and how long it
    // bears silence.
    let paged =
        watcher::Config { field_selector: fields, timeout: Some(silence), ..Default::default() };
    let mut lists = Lists::Streamed;
    loop {
        let options = match lists {
            Lists::Streamed => paged.clone().streaming_lists(),
            Lists::Paged => paged.clone(),
        };
        match follow(&api, options, lists, answered, news).await {
            Some(next) => lists = next,
            None => return,
        }
    }
}

/// Says what happens, until all has to be listed again: returns how. `None` where nobody listens.
async fn follow<T: Watched>(
    api: &Api<Wire<T>>,
    options: watcher::Config,
    lists: Lists,
    answered: &Notify,
    news: &mpsc::Sender<Message>,
) -> Option<Lists> {
    let mut events = pin!(watch_events(api.clone(), options));
    let mut listing = true;
    // Runs while a streamed list is awaited from a server that has accepted to send one.
    let mut patience: Option<Instant> = None;
    loop {
        let (said, again) = tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) => (Some(of_event(event)), None),
                Some(Err(error)) => {
                    let again = restart(&error, lists, listing);
                    // A refusal to stream is no failure: pages are asked for instead.
                    let failed = (again != Some(Lists::Paged))
                        .then(|| News::Failed(describe::<T>(&error)));
                    (failed, again)
                }
                None => (None, Some(Lists::Streamed)),
            },
            () = answered.notified() => {
                let is_awaited = listing && lists == Lists::Streamed;
                patience = is_awaited.then(|| Instant::now() + STREAM_PATIENCE);
                (Some(News::Connected), None)
            }
            () = expire(patience) => (None, Some(Lists::Paged)),
        };
        match &said {
            Some(News::Begin) => listing = true,
            Some(News::Listed(_)) => {
                patience = patience.map(|_| Instant::now() + STREAM_PATIENCE);
            }
            Some(News::Complete) => {
                listing = false;
                patience = None;
            }
            Some(News::Failed(_)) => patience = None,
            Some(News::Connected | News::Changed(_) | News::Gone(_)) | None => {}
        }
        if let Some(said) = said {
            news.send((T::KIND, said, Instant::now())).await.ok()?;
        }
        if again.is_some() {
            return again;
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

/// How to begin from nothing, where the same again would not succeed, or not as well.
fn restart(error: &Error, lists: Lists, listing: bool) -> Option<Lists> {
    match error {
        Error::WatchStartFailed(::kube::Error::Api(status)) => match (status.code, lists) {
            // Streams of lists are switched off, or unknown.
            (400 | 422, Lists::Streamed) if listing => Some(Lists::Paged),
            // It does not know the version that the watch has come to, or takes it for none.
            (400 | 410 | 422, _) => Some(Lists::Streamed),
            // It is not there yet: its database was set back.
            (504, _) if is_version_ahead(status) => Some(Lists::Streamed),
            _ => None,
        },
        // Pages are asked for only as long as nothing goes wrong with them.
        Error::InitialListFailed(_) => Some(Lists::Streamed),
        _ => None,
    }
}

/// The server has not reached the resource version that it was asked for.
fn is_version_ahead(status: &Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let mut reasons = causes.map(|cause| cause.reason.as_str());
    reasons.any(|reason| reason == "ResourceVersionTooLarge")
        || status.message.contains("Too large resource version")
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
fn chain(error: &::kube::Error) -> String {
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

#[cfg(test)]
mod tests;
