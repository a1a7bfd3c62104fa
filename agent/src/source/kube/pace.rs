//! When the API server is asked again.
//!
//! Every request of a watch passes here. So whatever goes wrong, in the server, on the way or in the
//! client library, makes no agent ask without pause, and no two agents at the same time: a request that
//! comes before the one before it has had its time waits, longer and longer, by chance.
//!
//! An agent that asks in vain for the first time waits 0.5 to 4 s, later 4 to 30 s.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use ::kube::client::Body;
use futures_util::future::BoxFuture;
use http::header::RETRY_AFTER;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use http_body_util::combinators::MapFrame;
use hyper::body::{Body as HttpBody, Bytes, Frame};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout};
use tower::{BoxError, Layer, Service};

/// At most so long is waited for the first time.
const FIRST: Duration = Duration::from_secs(4);

/// At most so long is waited at all, unless the server asks for more. A request that has lived for so
/// long has not failed at once: the next one waits as if it were the first.
const LONGEST: Duration = Duration::from_secs(30);

/// At least this part of what is waited at most.
const LEAST: f64 = 1.0 / 8.0;

/// What a server can ask for (`Retry-After`).
const ASKED_FOR_MAX: Duration = Duration::from_secs(120);

/// For the server to begin its answer to a watch. It may queue the request for 15 s.
const WATCH_ANSWER: Duration = Duration::from_secs(30);

/// For the server to begin its answer to anything else. It gives up by itself after 60 s.
const LIST_ANSWER: Duration = Duration::from_secs(65);

/// When the next request may be sent.
#[derive(Debug)]
pub(super) struct Pace {
    /// A request that has lived for so long has ended as it should.
    whole: Duration,
    /// So has one that has said nothing for so long.
    silence: Duration,
    /// When the last one was sent.
    sent: Option<Instant>,
    /// When something of an answer arrived last.
    heard: Option<Instant>,
    /// Requests in a row that came too early.
    early: u32,
    /// The server has asked for silence until then.
    not_before: Option<Instant>,
    /// The last one was a list, and succeeded: the watch from there on is no second attempt.
    listed: bool,
}

impl Pace {
    /// Nothing was sent yet. The server is asked to end every watch after `whole`, and one that is silent
    /// for `silence` is asked for anew.
    pub(super) const fn new(whole: Duration, silence: Duration) -> Self {
        let (sent, heard, not_before) = (None, None, None);
        Self { whole, silence, sent, heard, early: 0, not_before, listed: false }
    }

    /// When the request that is to be sent now is to be sent. `chance` is between 0 and 1.
    fn next(&mut self, now: Instant, chance: f64) -> Instant {
        let listed = std::mem::take(&mut self.listed);
        let wait = match self.sent.map(|sent| now.saturating_duration_since(sent)) {
            None => Duration::ZERO,
            Some(_) if listed => Duration::ZERO,
            Some(lived) if lived >= self.whole || self.silent_for(now) >= self.silence => {
                self.early = 0;
                Duration::ZERO
            }
            Some(lived) => {
                if lived >= LONGEST {
                    self.early = 0;
                }
                let most = FIRST.saturating_mul(2_u32.saturating_pow(self.early)).min(LONGEST);
                self.early = self.early.saturating_add(1);
                most.mul_f64(LEAST + (1.0 - LEAST) * chance)
            }
        };
        let asked_for = self.not_before.take().map_or(Duration::ZERO, |until| {
            // Everybody was asked for the same.
            until.saturating_duration_since(now) + FIRST.mul_f64(chance)
        });
        let at = now + wait.max(asked_for);
        self.sent = Some(at);
        at
    }

    /// How long nothing of an answer has arrived.
    fn silent_for(&self, now: Instant) -> Duration {
        let since = self.sent.max(self.heard);
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// A part of an answer has arrived.
    fn hear(&mut self, now: Instant) {
        self.heard = Some(now);
    }

    /// A list, or a page of it, has arrived.
    const fn list_arrived(&mut self) {
        self.listed = true;
    }

    /// The server asks for silence.
    fn hold(&mut self, now: Instant, asked_for: Duration) {
        self.not_before = Some(now + asked_for.min(ASKED_FOR_MAX));
    }
}

/// Makes a service keep a [`Pace`], and have `answered` notified of every request that succeeds: the
/// stream of a watch says nothing when it begins, only when something changes.
#[derive(Clone, Debug)]
pub(super) struct PaceLayer {
    pace: Arc<Mutex<Pace>>,
    /// Seconds after which the server is asked to end every watch.
    life: u32,
    answered: Arc<Notify>,
}

impl PaceLayer {
    /// See the type.
    pub(super) fn new(pace: Pace, life: u32, answered: Arc<Notify>) -> Self {
        Self { pace: Arc::new(Mutex::new(pace)), life, answered }
    }
}

impl<S> Layer<S> for PaceLayer {
    type Service = Paced<S>;

    fn layer(&self, inner: S) -> Paced<S> {
        Paced { inner, layer: self.clone() }
    }
}

/// See [`PaceLayer`].
#[derive(Clone, Debug)]
pub(super) struct Paced<S> {
    inner: S,
    layer: PaceLayer,
}

/// A body that tells of each of its frames.
type Heard<B> = MapFrame<B, Hear<<B as HttpBody>::Data>>;

/// Passes a frame on.
type Hear<D> = Box<dyn FnMut(Frame<D>) -> Frame<D> + Send>;

impl<S, B> Service<Request<Body>> for Paced<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: HttpBody<Data = Bytes>,
{
    type Response = Response<Heard<B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Heard<B>>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let PaceLayer { pace, life, answered } = self.layer.clone();
        let asked = |part: &str| {
            request.uri().query().is_some_and(|query| query.split('&').any(|q| q.starts_with(part)))
        };
        let is_watch = asked("watch=");
        let patience = if is_watch { WATCH_ANSWER } else { LIST_ANSWER };
        // A further page of a list that is under way.
        let at = (!asked("continue=")).then(|| lock(&pace).next(Instant::now(), fastrand::f64()));
        let request = if is_watch { with_timeout(request, life) } else { request };
        // Nothing is sent before it is polled.
        let response = self.inner.call(request);
        Box::pin(async move {
            if let Some(at) = at {
                sleep_until(at).await;
            }
            let response = match timeout(patience, response).await {
                Ok(response) => response.map_err(Into::into)?,
                Err(_) => return Err(format!("no answer within {patience:?}").into()),
            };
            if response.status().is_success() {
                answered.notify_one();
                if !is_watch {
                    lock(&pace).list_arrived();
                }
            } else if let Some(asked_for) = retry_after(&response) {
                lock(&pace).hold(Instant::now(), asked_for);
            }
            Ok(response.map(|body| {
                body.map_frame(Box::new(move |frame| {
                    lock(&pace).hear(Instant::now());
                    frame
                }) as Hear<Bytes>)
            }))
        })
    }
}

/// The request, with another time after which the server is to end it, where it names one.
fn with_timeout(mut request: Request<Body>, seconds: u32) -> Request<Body> {
    const NAME: &str = "timeoutSeconds=";
    let uri = request.uri();
    let time = format!("{NAME}{seconds}");
    let pairs = uri.query().unwrap_or_default().split('&');
    let pairs = pairs.map(|pair| if pair.starts_with(NAME) { &time } else { pair });
    let asked = format!("{}?{}", uri.path(), pairs.collect::<Vec<_>>().join("&"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = asked.parse().ok();
    // What was valid stays so: a number takes the place of a number.
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    request
}

/// Nothing panics while it is held.
fn lock(pace: &Mutex<Pace>) -> std::sync::MutexGuard<'_, Pace> {
    pace.lock().unwrap_or_else(PoisonError::into_inner)
}

fn retry_after<B>(response: &Response<B>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Duration = Duration::from_secs(300);
    const SILENCE: Duration = Duration::from_secs(90);

    /// How long each request in a row waits, where each lives for `lived` and chance is the same.
    fn waits(requests: usize, lived: Duration, chance: f64) -> Vec<Duration> {
        let mut pace = Pace::new(WHOLE, SILENCE);
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..requests {
            let at = pace.next(now, chance);
            waits.push(at - now);
            now = at + lived;
        }
        waits
    }

    #[test]
    fn whoever_is_refused_at_once_waits_longer_each_time_and_never_longer_than_half_a_minute() {
        let millis = |list: &[u64]| list.iter().copied().map(Duration::from_millis).collect();
        let longest: Vec<Duration> = millis(&[0, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(waits(6, Duration::ZERO, 1.0), longest);
        let shortest: Vec<Duration> = millis(&[0, 500, 1000, 2000, 3750, 3750]);
        assert_eq!(waits(6, Duration::ZERO, 0.0), shortest);
    }

    #[test]
    fn a_watch_that_had_its_time_is_followed_by_the_next_at_once() {
        assert_eq!(waits(4, WHOLE, 1.0), [Duration::ZERO; 4]);
        // One that breaks after a while waits as after a first failure, each time.
        let waits = waits(3, Duration::from_secs(40), 1.0);
        assert_eq!(waits, [Duration::ZERO, FIRST, FIRST]);
    }

    #[test]
    fn a_watch_that_was_silent_is_followed_by_the_next_at_once_and_one_that_breaks_is_not() {
        let begin = Instant::now();
        let mut pace = Pace::new(WHOLE, SILENCE);
        pace.next(begin, 1.0);
        pace.hear(begin + Duration::from_secs(60));
        // It had bookmarks, and the server goes away.
        let now = begin + Duration::from_secs(120);
        assert_eq!(pace.next(now, 1.0), now + FIRST);
        // The next one hears nothing at all, then the one after it from some time on.
        let now = now + FIRST + SILENCE;
        assert_eq!(pace.next(now, 1.0), now);
        pace.hear(now + Duration::from_secs(70));
        let now = now + Duration::from_secs(70) + SILENCE;
        assert_eq!(pace.next(now, 1.0), now);
    }

    #[test]
    fn the_watch_after_a_list_is_no_second_attempt_but_the_list_after_it_is() {
        let now = Instant::now();
        let mut pace = Pace::new(WHOLE, SILENCE);
        pace.next(now, 1.0);
        pace.list_arrived();
        assert_eq!(pace.next(now, 1.0), now);
        assert_eq!(pace.next(now, 1.0), now + FIRST);
    }

    #[test]
    fn a_server_that_asks_for_silence_gets_it_but_not_for_ever() {
        let now = Instant::now();
        let mut pace = Pace::new(WHOLE, SILENCE);
        pace.next(now, 0.5);
        pace.hold(now, Duration::from_secs(20));
        assert_eq!(pace.next(now, 0.5) - now, Duration::from_secs(22));
        pace.hold(now, Duration::from_secs(86_400));
        assert!(pace.next(now, 1.0) - now < Duration::from_secs(130));
    }

    #[test]
    fn five_thousand_agents_whose_server_went_away_come_back_spread_out() {
        let begin = Instant::now();
        let mut random = fastrand::Rng::with_seed(1);
        let (mut in_a_tenth, mut last) = (std::collections::BTreeMap::<u128, u32>::new(), begin);
        for _ in 0..5_000 {
            let mut pace = Pace::new(WHOLE, SILENCE);
            pace.next(begin - Duration::from_secs(60), 0.0);
            // Refused until the server is back after 20 s.
            let mut now = begin;
            while now - begin < Duration::from_secs(20) {
                now = pace.next(now, random.f64());
            }
            *in_a_tenth.entry((now - begin).as_millis() / 100).or_default() += 1;
            last = last.max(now);
        }
        let most = in_a_tenth.values().max().copied().unwrap_or_default();
        // Evenly over the longest wait would be 17 in each tenth of a second.
        assert!(most <= 60, "{most} in a tenth of a second");
        assert!(last - begin <= Duration::from_secs(50), "all within the longest wait");
    }
}
