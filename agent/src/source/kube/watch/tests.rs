//! A watch against a server that is a function, in time that passes by itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;

use ::kube::client::{Body, ClientBuilder};
use futures_util::stream::{self, BoxStream};
use http::{Request, Response};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use k8s_openapi::api::core::v1::Namespace;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tower::service_fn;

use super::*;

/// Of the watches in these tests, in seconds.
const LIVES: u32 = 420;
/// Likewise.
const SILENT: u32 = 90;

/// What the server does with a request.
#[derive(Clone, Debug)]
enum Answer {
    /// An error status, with a message.
    Refused(u16, &'static str),
    /// Lines of a watch; then it ends.
    Ended(Vec<String>),
    /// Lines of a watch; then silence.
    Open(Vec<String>),
    /// Lines of a watch; then a bookmark every minute, until it has lived for as long as was asked for.
    Marked(Vec<String>),
    /// A list, in one page.
    List(&'static str),
    /// Nothing at all.
    Silence,
}

/// A request: when it came, in seconds from the beginning, and what was asked.
type Asked = (f64, String);

struct Setup {
    asked: Arc<Mutex<Vec<Asked>>>,
    news: mpsc::Receiver<Message>,
    task: JoinHandle<()>,
}

impl Setup {
    /// Watches a server that gives these answers and then the last one for ever.
    fn new(answers: Vec<Answer>) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
        let (begin, seen) = (Instant::now(), asked.clone());
        let server = service_fn(move |request: Request<Body>| {
            let (answers, seen) = (answers.clone(), seen.clone());
            async move {
                let query = request.uri().query().unwrap_or_default().to_owned();
                seen.lock().expect("held shortly").push((begin.elapsed().as_secs_f64(), query));
                let answer = {
                    let mut answers = answers.lock().expect("held shortly");
                    let last = answers.len() == 1;
                    if last { answers.front().cloned() } else { answers.pop_front() }
                };
                respond(answer.expect("one stays")).await
            }
        });
        let answered = Arc::new(Notify::new());
        let layer = layer(LIVES, SILENT, answered.clone());
        let (sender, news) = mpsc::channel(1024);
        let task = tokio::spawn(async move {
            let client = ClientBuilder::new(server, "default").with_layer(&layer).build();
            watch_by::<Namespace>(client, &answered, None, SILENT, &sender).await;
        });
        Self { asked, news, task }
    }

    /// Lets time pass, and returns what was asked and what was said until then.
    async fn after(mut self, seconds: u64) -> (Vec<Asked>, Vec<News>) {
        sleep_until(Instant::now() + Duration::from_secs(seconds)).await;
        let mut said = Vec::new();
        while let Ok((_, news, _)) = self.news.try_recv() {
            said.push(news);
        }
        self.task.abort();
        let asked = self.asked.lock().expect("held shortly").clone();
        (asked, said)
    }
}

/// What comes behind the lines of an answer.
enum Then {
    End,
    Silence,
    Bookmarks,
}

type Stream = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

async fn respond(answer: Answer) -> Result<Response<Stream>, Infallible> {
    let (status, lines, then) = match answer {
        Answer::Silence => pending().await,
        Answer::Refused(code, message) => {
            let status = format!(
                "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\
                 \"message\":\"{message}\",\"reason\":\"x\",\"code\":{code}}}"
            );
            (code, vec![status], Then::End)
        }
        Answer::Ended(lines) => (200, lines, Then::End),
        Answer::Open(lines) => (200, lines, Then::Silence),
        Answer::Marked(lines) => (200, lines, Then::Bookmarks),
        Answer::List(text) => (200, vec![text.to_owned()], Then::End),
    };
    let frames = lines.into_iter().map(|line| Ok::<_, Infallible>(Frame::data(Bytes::from(line))));
    let rest = match then {
        Then::End => stream::empty().boxed(),
        Then::Silence => stream::pending().boxed(),
        Then::Bookmarks => {
            let minutes = stream::iter(0..LIVES / 60).then(|_| async {
                sleep(Duration::from_secs(60)).await;
                Ok(Frame::data(Bytes::from(bookmark(8))))
            });
            minutes.boxed()
        }
    };
    let body = StreamBody::new(stream::iter(frames).chain(rest).boxed());
    Ok(Response::builder().status(status).body(body).expect("a response"))
}

fn added(name: &str, version: u32) -> String {
    format!(
        "{{\"type\":\"ADDED\",\"object\":{{\"kind\":\"Namespace\",\"apiVersion\":\"v1\",\
         \"metadata\":{{\"name\":\"{name}\",\"resourceVersion\":\"{version}\"}}}}}}\n"
    )
}

/// What a server sends where nothing has changed.
fn bookmark(version: u32) -> String {
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"Namespace\",\"apiVersion\":\"v1\",\
         \"metadata\":{{\"resourceVersion\":\"{version}\"}}}}}}\n"
    )
}

/// The mark at the end of a streamed list.
fn listed(version: u32) -> String {
    format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"Namespace\",\"apiVersion\":\"v1\",\
         \"metadata\":{{\"resourceVersion\":\"{version}\",\
         \"annotations\":{{\"k8s.io/initial-events-end\":\"true\"}}}}}}}}\n"
    )
}

fn error(code: u16) -> String {
    format!(
        "{{\"type\":\"ERROR\",\"object\":{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\
         \"status\":\"Failure\",\"message\":\"too old\",\"reason\":\"Expired\",\"code\":{code}}}}}\n"
    )
}

/// A streamed list of one namespace.
fn whole() -> Vec<String> {
    vec![added("x", 5), listed(7)]
}

const PAGE: &str = "{\"kind\":\"NamespaceList\",\"apiVersion\":\"v1\",\
    \"metadata\":{\"resourceVersion\":\"7\"},\"items\":[]}";

fn is_streamed(asked: &Asked) -> bool {
    asked.1.contains("sendInitialEvents=true")
}

fn is_watch_from(asked: &Asked, version: u32) -> bool {
    asked.1.contains("watch=true") && asked.1.contains(&format!("resourceVersion={version}"))
}

/// Seconds between requests.
fn gaps(asked: &[Asked]) -> Vec<f64> {
    asked.windows(2).map(|pair| pair[1].0 - pair[0].0).collect()
}

fn failures(said: &[News]) -> usize {
    said.iter().filter(|news| matches!(news, News::Failed(_))).count()
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_has_had_its_time_goes_on_at_once_from_where_it_was() {
    let answers = vec![Answer::Marked(whole()), Answer::Marked(vec![])];
    let (asked, said) = Setup::new(answers).after(1500).await;
    assert!(is_streamed(&asked[0]), "{asked:?}");
    assert!(asked[1..].iter().all(|asked| is_watch_from(asked, 8)), "{asked:?}");
    assert!(gaps(&asked).iter().all(|gap| (gap - f64::from(LIVES)).abs() < 0.1), "{asked:?}");
    assert_eq!((asked.len(), failures(&said)), (4, 0), "{said:?}");
    assert!(asked.iter().all(|asked| asked.1.contains("timeoutSeconds=420")), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_without_bookmarks_is_asked_for_anew_after_a_while_and_that_is_no_failure() {
    let (asked, said) =
        Setup::new(vec![Answer::Open(whole()), Answer::Open(vec![])]).after(400).await;
    assert!(asked[1..].iter().all(|asked| is_watch_from(asked, 7)), "{asked:?}");
    let expected = f64::from(SILENT + SILENCE_MARGIN);
    assert!(gaps(&asked).iter().all(|gap| (gap - expected).abs() < 0.1), "{asked:?}");
    assert_eq!((asked.len(), failures(&said)), (5, 0), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_hangs_is_noticed_within_two_and_a_half_minutes() {
    // The longest silence, and the time for an answer.
    const { assert!(SILENCE_MAX + 30 < 150) };
    let (asked, said) = Setup::new(vec![Answer::Open(whole()), Answer::Silence]).after(150).await;
    assert!(asked.len() >= 2, "{asked:?}");
    let failed = said.iter().find_map(|news| match news {
        News::Failed(why) => Some(why.as_str()),
        _ => None,
    });
    assert!(failed.is_some_and(|why| why.contains("no answer within 30s")), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn pages_that_are_refused_are_asked_for_later_and_later() {
    let refused = Answer::Refused(500, "broken");
    let answers = vec![Answer::Refused(400, "unknown"), refused.clone(), refused];
    let (asked, said) = Setup::new(answers).after(600).await;
    // Never two within 0.4 s, and at most one in 4 s in the long run.
    let gaps = gaps(&asked);
    assert!(gaps.iter().all(|gap| *gap >= 0.4), "{gaps:?}");
    assert!(gaps[5..].iter().all(|gap| (3.7..=30.1).contains(gap)), "{gaps:?}");
    assert!((20..=160).contains(&asked.len()), "{asked:?}");
    assert!(failures(&said) >= 19, "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_ends_each_watch_at_once_is_not_asked_without_pause() {
    for lines in [vec![], whole()] {
        let (asked, _) = Setup::new(vec![Answer::Ended(lines)]).after(600).await;
        assert!((20..=170).contains(&asked.len()), "{}: {asked:?}", asked.len());
    }
}

#[tokio::test(start_paused = true)]
async fn streams_are_tried_again_when_a_list_is_needed_again() {
    let answers = vec![
        Answer::Refused(422, "no sendInitialEvents"),
        Answer::List(PAGE),
        Answer::Refused(410, "too old"),
        Answer::Open(whole()),
    ];
    let (asked, said) = Setup::new(answers).after(60).await;
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert!(is_streamed(&asked[0]) && is_streamed(&asked[3]), "{asked:?}");
    assert!(asked[1].1.contains("limit=500") && !asked[1].1.contains("watch"), "{asked:?}");
    assert!(is_watch_from(&asked[2], 7), "{asked:?}");
    let complete = said.iter().filter(|news| **news == News::Complete).count();
    assert_eq!((complete, failures(&said)), (2, 1), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_version_that_the_server_does_not_have_leads_to_a_new_list() {
    let unknown = [
        Answer::Refused(410, "too old resource version"),
        Answer::Refused(400, "resourceVersion: Invalid value"),
        Answer::Refused(504, "Too large resource version: 900, current: 7"),
        Answer::Ended(vec![error(410)]),
    ];
    for answer in unknown {
        let answers = vec![Answer::Ended(whole()), answer.clone(), Answer::Open(whole())];
        let (asked, said) = Setup::new(answers).after(60).await;
        assert_eq!(asked.len(), 3, "{answer:?}: {asked:?}");
        assert!(is_watch_from(&asked[1], 7) && is_streamed(&asked[2]), "{answer:?}: {asked:?}");
        assert_eq!(failures(&said), 1, "{answer:?}: {said:?}");
        let complete = said.iter().filter(|news| **news == News::Complete).count();
        assert_eq!(complete, 2, "{answer:?}: {said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failure_the_watch_goes_on_from_the_last_version_without_a_list() {
    let answers = vec![
        Answer::Ended([whole(), vec![added("y", 9)]].concat()),
        Answer::Refused(503, "starting"),
        Answer::Refused(504, "timeout"),
        Answer::Open(vec![]),
    ];
    let (asked, said) = Setup::new(answers).after(60).await;
    assert_eq!(asked.iter().filter(|asked| is_streamed(asked)).count(), 1, "{asked:?}");
    assert!(asked[1..].iter().all(|asked| is_watch_from(asked, 9)), "{asked:?}");
    assert_eq!((asked.len(), failures(&said)), (4, 2), "{said:?}");
    assert_eq!(said.last(), Some(&News::Connected), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_a_list_for_a_watch_is_asked_for_pages() {
    let answers = vec![Answer::Open(vec![added("x", 5)]), Answer::List(PAGE), Answer::Open(vec![])];
    let (asked, said) = Setup::new(answers).after(60).await;
    assert!(is_streamed(&asked[0]) && asked[1].1.contains("limit=500"), "{asked:?}");
    assert!(said.contains(&News::Complete), "{said:?}");
}
