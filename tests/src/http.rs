//! The least of an HTTP client: one request a connection, inside a node's namespace.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::time::{Duration, Instant};

use crate::node::{METRICS, Node};

/// For answers that take milliseconds; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers, as they are.
    pub head: String,
    /// Body.
    pub body: String,
}

/// Asks a server in the node's namespace, and waits for it to listen.
///
/// # Panics
/// Where none answers.
pub fn get(node: &Node, server: SocketAddrV4, path: &str, accept: &str) -> Answer {
    let begun = Instant::now();
    loop {
        match node.inside("node", || ask(server, path, accept)) {
            Ok(answer) => return answer,
            Err(error) if begun.elapsed() > PATIENCE => {
                panic!("{server}{path}: {error}\n{}", node.log())
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

/// What the agent answers.
///
/// # Panics
/// Where it does not.
pub fn agent(node: &Node, path: &str) -> Answer {
    get(node, METRICS, path, "text/plain")
}

fn ask(server: SocketAddrV4, path: &str, accept: &str) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(server)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {server}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let malformed = || std::io::Error::other(format!("no answer of HTTP: {text}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    Ok(Answer { status, head: head.into(), body: body.into() })
}

/// The value of the sample that begins with a name and labels, as they are written.
pub fn sample(text: &str, series: &str) -> Option<f64> {
    let line = text
        .lines()
        .find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')))?;
    line[series.len()..].trim().parse().ok()
}
