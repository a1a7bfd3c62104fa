//! What is said to a server that is a function, in time that passes by itself.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::sync::{Arc, Mutex};

use ::kube::client::Body;
use http::{Request, Response};
use tokio::time::sleep;
use tower::service_fn;

use super::*;

fn trouble(note: &str) -> Trouble {
    let regarding = Regarding { kind: Kind::NetworkPolicy, name: "x/p".into(), uid: "u-1".into() };
    Trouble { regarding, reason: Reason::PolicyClosed, note: note.into() }
}

#[test]
fn the_same_trouble_has_one_name_whoever_says_it_and_another_has_another() {
    let name = |node, note| event(node, &trouble(note)).metadata.name.expect("a name");
    assert_eq!(name("node-1", "wrong"), name("node-2", "wrong"));
    assert_ne!(name("node-1", "wrong"), name("node-1", "wrong too"));
}

#[test]
fn a_name_is_one_that_the_api_takes_however_long_the_objects_is() {
    for end in [".", "-", ".-", "a"] {
        let long = format!("x/{}{end}{}", "a".repeat(NAME_MAX - end.len()), "b".repeat(20));
        let mut of_long = trouble("wrong");
        of_long.regarding.name = long.into();
        let name = event("n", &of_long).metadata.name.expect("a name");
        assert!(name.len() <= 253, "{name}");
        crate::convert::labels::dns_name(&name).expect("a name of the API");
    }
}

#[test]
fn a_note_ends_where_the_api_ends_it() {
    let long = "é".repeat(600);
    let note = event("n", &trouble(&long)).note.expect("a note");
    assert!(note.len() <= NOTE_MAX && note.ends_with("says all)"), "{note}");
    assert_eq!(event("n", &trouble("short")).note.as_deref(), Some("short"));
}

/// What the server answers to an Event; `None`: nothing at all.
type Answer = Option<(u16, &'static str)>;

const TAKEN: Answer = Some((201, "{\"metadata\":{}}"));

const TOO_MANY: Answer = Some((
    429,
    "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"slow down\",\
     \"reason\":\"TooManyRequests\",\"code\":429,\"details\":{\"retryAfterSeconds\":100}}",
));

fn refusal(code: u16) -> Answer {
    let text = format!(
        "{{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"status\":\"Failure\",\"message\":\"no\",\
         \"reason\":\"x\",\"code\":{code}}}"
    );
    Some((code, text.leak()))
}

/// When a trouble that lasts is said within an hour, in seconds, to a server that gives these answers
/// and takes everything after them.
async fn said(answers: Vec<Answer>) -> Vec<f64> {
    let answers = Arc::new(Mutex::new(VecDeque::from(answers)));
    let times = Arc::new(Mutex::new(Vec::new()));
    let (begin, seen) = (Instant::now(), times.clone());
    let server = service_fn(move |_: Request<Body>| {
        seen.lock().expect("held shortly").push(begin.elapsed().as_secs_f64());
        let answer = answers.lock().expect("held shortly").pop_front().unwrap_or(TAKEN);
        async move {
            let Some((code, text)) = answer else { return pending().await };
            let body = Body::from(text.as_bytes().to_vec());
            Ok::<_, Infallible>(Response::builder().status(code).body(body).expect("a response"))
        }
    });
    let (sender, receiver) = watch::channel(Vec::new());
    let client = Client::new(server, "default");
    let task = tokio::spawn(record(client, "node-1".into(), receiver));
    sender.send_replace(vec![Report { trouble: trouble("wrong"), voices: 1 }]);
    sleep(Duration::from_secs(3600)).await;
    task.abort();
    let times = times.lock().expect("held shortly");
    times.clone()
}

#[tokio::test(start_paused = true)]
async fn a_trouble_that_lasts_is_said_once() {
    assert_eq!(said(vec![]).await.len(), 1);
    // Somebody else has said it already.
    assert_eq!(said(vec![refusal(409)]).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_does_not_take_now_is_said_again_later_and_later_until_it_does() {
    for answer in [refusal(500), refusal(503), refusal(408), refusal(403), refusal(404), None] {
        let times = said(vec![answer; 4]).await;
        assert_eq!(times.len(), 5, "{answer:?}: {times:?}");
        let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // 5 s, 10 s, 20 s, 40 s; half of it by chance. A silent one takes 15 s to be noticed.
        for (gap, (least, most)) in gaps.iter().zip([(2., 21.), (5., 27.), (10., 37.), (20., 57.)])
        {
            assert!((least..=most).contains(gap), "{answer:?}: {gaps:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_asks_for_silence_gets_it() {
    let times = said(vec![TOO_MANY]).await;
    assert_eq!(times.len(), 2, "{times:?}");
    assert!((100.0..105.0).contains(&(times[1] - times[0])), "{times:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_server_will_never_take_is_not_said_again() {
    for code in [400, 413, 422] {
        assert_eq!(said(vec![refusal(code)]).await.len(), 1, "{code}");
    }
}
