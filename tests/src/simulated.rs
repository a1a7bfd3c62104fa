//! A server that speaks as much of the Kubernetes API as the agent listens to: lists as streams and
//! watches, of collections that are made up while they are sent. A real API server with 100,000 pods
//! takes minutes and gigabytes; this one takes what the agent does.
//!
//! It is a thread in the network namespace of a test and listens on loopback there.

pub mod objects;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use self::objects::Collection;
use crate::apiserver::Runtime;

/// Where it listens, in the namespace.
const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 6443);

/// The version of what is there from the beginning; each later event has the next one.
const FIRST_VERSION: usize = 1;

type Body = StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It was made.
    Added,
    /// It was changed.
    Modified,
    /// It is gone.
    Deleted,
}

impl Happened {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A collection, and everything that has happened in it since the beginning, as lines of a watch.
struct Watched {
    collection: Collection,
    log: watch::Sender<Vec<String>>,
}

/// A running server. It ends when it is dropped.
pub struct Simulated {
    collections: Arc<BTreeMap<&'static str, Watched>>,
    directory: tempfile::TempDir,
    _runtime: Runtime,
}

impl std::fmt::Debug for Simulated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Simulated").field("directory", &self.directory).finish_non_exhaustive()
    }
}

impl Simulated {
    /// Serves collections in a network namespace whose loopback interface is up.
    ///
    /// # Panics
    /// Where it cannot listen there.
    pub fn start(netns: &Path, collections: Vec<Collection>) -> Self {
        let watched = |collection: Collection| {
            (collection.path, Watched { collection, log: watch::Sender::new(Vec::new()) })
        };
        let collections: BTreeMap<_, _> = collections.into_iter().map(watched).collect();
        let collections = Arc::new(collections);
        let runtime = Runtime::new(netns);
        let (sender, listening) = std::sync::mpsc::channel();
        let served = collections.clone();
        runtime.handle.spawn(async move {
            let listener = TcpListener::bind(ADDRESS).await.expect("the address is free");
            sender.send(()).expect("the test waits for it");
            serve(listener, served).await;
        });
        listening.recv().expect("it listens");
        let directory = tempfile::tempdir().expect("a temporary directory");
        Self { collections, directory, _runtime: runtime }
    }

    /// Has something happen in a collection. `object` makes the object's JSON for the resource version
    /// that it is given.
    ///
    /// # Panics
    /// Where there is no such collection.
    pub fn push(&self, path: &str, happened: Happened, object: impl FnOnce(&str) -> String) {
        let watched = self.collections.get(path).expect("a collection that is served");
        watched.log.send_modify(|log| {
            let version = FIRST_VERSION + log.len() + 1;
            log.push(line(happened.as_str(), &object(&version.to_string())));
        });
    }

    /// A kubeconfig for it.
    ///
    /// # Panics
    /// Where it cannot be written.
    pub fn kubeconfig(&self) -> PathBuf {
        let path = self.directory.path().join("kubeconfig");
        let text = format!(
            "apiVersion: v1
kind: Config
current-context: test
contexts: [{{name: test, context: {{cluster: test, user: agent}}}}]
clusters: [{{name: test, cluster: {{server: \"http://{ADDRESS}\"}}}}]
users: [{{name: agent, user: {{}}}}]
"
        );
        fs::write(&path, text).expect("written");
        path
    }
}

fn line(happened: &str, object: &str) -> String {
    format!("{{\"type\":\"{happened}\",\"object\":{object}}}\n")
}

async fn serve(listener: TcpListener, collections: Arc<BTreeMap<&'static str, Watched>>) {
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        tokio::spawn(converse(stream, collections.clone()));
    }
}

/// A client that goes away in the middle has nobody to be told.
async fn converse(stream: TcpStream, collections: Arc<BTreeMap<&'static str, Watched>>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, &collections);
        async move { Ok::<_, Infallible>(response) }
    });
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

fn answer<B>(
    request: &Request<B>,
    collections: &BTreeMap<&'static str, Watched>,
) -> Response<Body> {
    let query: BTreeMap<&str, &str> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|q| q.split_once('='))
        .collect();
    let watched = collections.get(request.uri().path());
    let (Some(watched), &Method::GET, Some(&"true")) =
        (watched, request.method(), query.get("watch"))
    else {
        return refusal();
    };
    if query.get("sendInitialEvents") == Some(&"true") {
        return said(stream::iter(list(&watched.collection)).chain(events(watched, 0)).boxed());
    }
    let version = query.get("resourceVersion").and_then(|version| version.parse::<usize>().ok());
    match version.and_then(|version| version.checked_sub(FIRST_VERSION)) {
        Some(seen) => said(events(watched, seen).boxed()),
        None => refusal(),
    }
}

/// A list as a stream: every object, then the mark of its end.
fn list(collection: &Collection) -> impl Iterator<Item = String> + Send + use<> {
    let version = FIRST_VERSION.to_string();
    let end = format!(
        "{{\"apiVersion\":\"{}\",\"kind\":\"{}\",\"metadata\":{{\"resourceVersion\":\"{version}\",\
         \"annotations\":{{\"k8s.io/initial-events-end\":\"true\"}}}}}}",
        collection.api_version, collection.kind,
    );
    let objects = (0..collection.count).map({
        let object = collection.object.clone();
        move |index| line(Happened::Added.as_str(), &object(index, &version))
    });
    objects.chain([line("BOOKMARK", &end)])
}

/// What has happened, from the event of this number on, and what will.
fn events(watched: &Watched, seen: usize) -> impl futures_util::Stream<Item = String> + use<> {
    stream::unfold((watched.log.subscribe(), seen), |(mut log, seen)| async move {
        let news = log.wait_for(|log| log.len() > seen).await.ok()?[seen..].to_vec();
        let seen = seen + news.len();
        Some((news.concat(), (log, seen)))
    })
}

fn said(lines: BoxStream<'static, String>) -> Response<Body> {
    let body = StreamBody::new(lines.map(|line| Ok(Frame::data(Bytes::from(line)))).boxed());
    Response::new(body)
}

/// The answer to everything that no agent need ask to know the cluster, as to record an Event.
fn refusal() -> Response<Body> {
    let status = "{\"apiVersion\":\"v1\",\"kind\":\"Status\",\"status\":\"Failure\",\"code\":404,\
                  \"reason\":\"NotFound\",\"message\":\"not simulated\"}";
    let mut response = said(stream::iter([status.to_owned()]).boxed());
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
