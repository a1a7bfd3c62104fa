//! The server: `/metrics`, `/livez`, `/readyz`.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::errno::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::encode::{Format, encode};
use super::{Asker, Readiness};

/// Conversations at a time. Further ones wait: they must not take the agent's descriptors.
const CONVERSATIONS: usize = 64;

/// The longest wait for a request: who connects and says nothing must not hold up the kubelet's probe.
const REQUEST: Duration = Duration::from_secs(2);

/// The longest conversation: one request and its answer.
const CONVERSATION: Duration = Duration::from_secs(10);

/// A loop that has not turned for so long is stuck. Its longest step, the first load of a great
/// cluster, takes seconds.
const STUCK: Duration = Duration::from_secs(60);

/// How to answer.
#[derive(Clone, Debug)]
pub struct Options {
    /// Also tell what each rule decided on: a series for every rule in force on the node.
    pub rules: bool,
}

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens on `address`. `[::]` is every address of both families, whatever `net.ipv6.bindv6only` says;
/// where the kernel has no IPv6, those of IPv4. Needs a tokio runtime.
///
/// # Errors
/// The address is not this machine's, or in use.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    bind(address).or_else(|error| match without_ipv6(address, &error) {
        Some(instead) => {
            tracing::warn!("this node has no IPv6: listening on {instead} instead of {address}");
            bind(instead)
        }
        None => Err(error),
    })
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        socket.set_only_v6(false)?;
    }
    // What the agent before this one has closed must not be waited for.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What to listen on where `address` is every address and the kernel has no IPv6 (`ipv6.disable=1`).
fn without_ipv6(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let is_it = error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32);
    let is_any = address.ip() == Ipv6Addr::UNSPECIFIED;
    (is_it && is_any).then(|| (Ipv4Addr::UNSPECIFIED, address.port()).into())
}

/// Answers until the runtime ends.
pub async fn serve(listener: TcpListener, asker: Asker, options: Options) {
    let places = Arc::new(Semaphore::new(CONVERSATIONS));
    while let Ok(place) = places.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (asker, options) = (asker.clone(), options.clone());
                tokio::spawn(async move {
                    converse(stream, asker, options).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection for metrics");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
    }
}

/// One request. A peer that is too slow, gone or no HTTP client has nobody to be told.
async fn converse(stream: TcpStream, asker: Asker, options: Options) {
    let service = service_fn(|request: Request<Incoming>| {
        let (asker, options) = (asker.clone(), options.clone());
        async move { Ok::<_, Infallible>(answer(&request, &asker, &options).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(REQUEST).keep_alive(false);
    let conversation = server.serve_connection(TokioIo::new(stream), service);
    let _ = tokio::time::timeout(CONVERSATION, conversation).await;
}

async fn answer<B>(
    request: &Request<B>,
    asker: &Asker,
    options: &Options,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".into());
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
            metrics(asker, options, Format::accepted(accept.unwrap_or_default())).await
        }
        "/livez" => live(asker.since_turn()),
        "/readyz" => ready(asker).await,
        _ => {
            let text = "there are /metrics, /livez and /readyz\n";
            plain(StatusCode::NOT_FOUND, text.into())
        }
    }
}

async fn metrics(asker: &Asker, options: &Options, format: Format) -> Response<Full<Bytes>> {
    match asker.report(options.rules).await {
        Ok(report) => {
            let mut response = plain(StatusCode::OK, encode(report, format));
            let content_type = hyper::header::HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        Err(error) => plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

fn live(silence: Duration) -> Response<Full<Bytes>> {
    if silence < STUCK {
        return plain(StatusCode::OK, "the agent's loop turns\n".into());
    }
    let text = format!("the agent's loop has not turned for {} s\n", silence.as_secs());
    plain(StatusCode::SERVICE_UNAVAILABLE, text)
}

async fn ready(asker: &Asker) -> Response<Full<Bytes>> {
    let Readiness { missing, notes } = match asker.readiness().await {
        Ok(readiness) => readiness,
        Err(error) => return plain(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    };
    let (status, mut text) = if missing.is_empty() {
        (StatusCode::OK, "everything that is wanted is in the kernel\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, String::new())
    };
    let lines = missing.iter().map(|line| ("missing", line));
    for (what, line) in lines.chain(notes.iter().map(|line| ("note", line))) {
        text.push_str(&format!("{what}: {line}\n"));
    }
    plain(status, text)
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let content_type = hyper::header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::metrics::{Inquiry, inquiries};

    async fn get(path: &str, asker: &Asker) -> (StatusCode, String) {
        let request = Request::get(path).body(()).expect("a request");
        let response = answer(&request, asker, &Options { rules: true }).await;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.expect("a body").to_bytes();
        (parts.status, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn readiness_names_what_is_missing_and_what_to_know() {
        let (asker, mut inquiries) = inquiries(Duration::from_secs(60));
        let answers = [
            Readiness { missing: vec!["Pod: forbidden".into()], notes: vec!["rejected".into()] },
            Readiness { missing: vec![], notes: vec!["rejected".into()] },
        ];
        tokio::spawn(async move {
            for answer in answers {
                let Inquiry::Readiness { reply } = inquiries.next().await else { panic!("asked") };
                reply.send(answer).expect("someone waits");
            }
        });
        let (status, text) = get("/readyz", &asker).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "missing: Pod: forbidden\nnote: rejected\n");
        let (status, text) = get("/readyz", &asker).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(text, "everything that is wanted is in the kernel\nnote: rejected\n");
    }

    #[tokio::test]
    async fn an_agent_that_has_stopped_is_neither_ready_nor_scraped() {
        let (asker, inquiries) = inquiries(Duration::from_secs(60));
        drop(inquiries);
        for path in ["/readyz", "/metrics"] {
            assert_eq!(get(path, &asker).await.0, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        }
    }

    #[test]
    fn only_every_address_is_that_of_the_other_family_where_there_is_no_ipv6() {
        let any: SocketAddr = "[::]:9102".parse().expect("an address");
        let no_ipv6 = io::Error::from(Errno::EAFNOSUPPORT);
        let instead = without_ipv6(any, &no_ipv6).map(|address| address.to_string());
        assert_eq!(instead.as_deref(), Some("0.0.0.0:9102"));
        assert_eq!(without_ipv6(any, &io::Error::from(Errno::EADDRINUSE)), None);
        assert_eq!(without_ipv6("[::1]:9102".parse().expect("an address"), &no_ipv6), None);
    }

    #[test]
    fn a_loop_that_is_stuck_is_not_alive() {
        assert_eq!(live(Duration::from_secs(5)).status(), StatusCode::OK);
        assert_eq!(live(STUCK).status(), StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found() {
        let (asker, inquiries) = inquiries(Duration::from_secs(60));
        inquiries.turn();
        assert_eq!(get("/", &asker).await.0, StatusCode::NOT_FOUND);
        assert_eq!(get("/livez", &asker).await.0, StatusCode::OK);
    }
}
