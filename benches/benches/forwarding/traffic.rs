//! The traffic that is measured. One thread holds both ends: what a packet sets off on its way is done
//! before the call that sends it returns, so nothing waits for a scheduler, and what is measured is
//! the way itself.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use sluice_benches::worlds::peer_address;
use socket2::{Domain, Protocol, Socket, Type};

use crate::node::{Node, PEER_KIND, server};

/// The port that peers may reach.
const OPEN_PORT: u16 = 443;
/// A port that nobody may reach.
const CLOSED_PORT: u16 = 444;

/// How long one measurement goes on.
const SPAN: Duration = Duration::from_millis(60);
/// New flows in one measurement: those of all rounds must find a port each.
const NEW_MAX: u32 = 6_000;
/// Source ports of new flows.
const PORTS: std::ops::Range<u16> = 1_024..65_024;
/// Packets that are sent before they are read.
const BURST: usize = 32;
/// Bytes that are written before they are read; they fit into the sockets' buffers.
const CHUNK: usize = 64 * 1024;
/// An answer that takes longer is none.
const PATIENCE: Duration = Duration::from_secs(5);
const REQUEST: [u8; 64] = [1; 64];

/// What is measured.
pub(crate) const CASES: [&str; 7] = [
    "udp-established",
    "udp-new",
    "tcp-established",
    "tcp-new",
    "udp-packets",
    "udp-denied",
    "tcp-bulk",
];

/// A measured number, and what of: `rate`, `p50`, `p99`.
pub(crate) struct Measured {
    pub(crate) what: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
}

const fn measured(what: &'static str, value: f64, unit: &'static str) -> Measured {
    Measured { what, value, unit }
}

/// The sockets of one node's client and server.
pub(crate) struct Traffic {
    peers: u32,
    udp_server: UdpSocket,
    /// Bound to the closed port, so that nobody answers for it where nothing is dropped; never read.
    _sink: UdpSocket,
    listener: TcpListener,
    udp: UdpSocket,
    denied: UdpSocket,
    tcp: (TcpStream, TcpStream),
    new_udp: u32,
    new_tcp: u32,
}

impl Traffic {
    /// Between a node's client, which is `peers` peers, and its server.
    pub(crate) fn new(node: &Node, peers: u32) -> anyhow::Result<Self> {
        let (udp_server, sink, listener) = node.server.inside(|| {
            let bind = |port| UdpSocket::bind((server(), port)).context("server");
            let listener = TcpListener::bind((server(), OPEN_PORT)).context("server")?;
            Ok((bind(OPEN_PORT)?, bind(CLOSED_PORT)?, listener))
        })?;
        udp_server.set_read_timeout(Some(PATIENCE))?;
        let first = peer_address(PEER_KIND, 0);
        let (udp, denied, stream) = node.client.inside(|| {
            let bind = |port| -> anyhow::Result<UdpSocket> {
                let socket = UdpSocket::bind((first, 0)).context("client")?;
                socket.connect((server(), port))?;
                socket.set_read_timeout(Some(PATIENCE))?;
                Ok(socket)
            };
            let stream = connected(SocketAddr::new(first, 65_050)).context("connect")?;
            Ok((bind(OPEN_PORT)?, bind(CLOSED_PORT)?, stream))
        })?;
        let (accepted, _) = listener.accept()?;
        for end in [&stream, &accepted] {
            end.set_nodelay(true)?;
            end.set_read_timeout(Some(PATIENCE))?;
        }
        for end in [socket2::SockRef::from(&stream), socket2::SockRef::from(&accepted)] {
            end.set_send_buffer_size(8 * CHUNK)?;
            end.set_recv_buffer_size(8 * CHUNK)?;
        }
        Ok(Self {
            peers,
            udp_server,
            _sink: sink,
            listener,
            udp,
            denied,
            tcp: (stream, accepted),
            new_udp: 0,
            new_tcp: 0,
        })
    }

    /// Measures a case; on a thread in the client's namespace.
    pub(crate) fn measure(&mut self, case: &str) -> anyhow::Result<Vec<Measured>> {
        let measured = match case {
            "udp-established" => exchanges(u32::MAX, || self.udp_exchange(&self.udp)),
            "udp-new" => exchanges(NEW_MAX, || self.udp_new()),
            "tcp-established" => exchanges(u32::MAX, || tcp_exchange((&self.tcp.0, &self.tcp.1))),
            "tcp-new" => exchanges(NEW_MAX, || self.tcp_new()),
            "udp-packets" => self.udp_packets(),
            "udp-denied" => self.udp_denied(),
            "tcp-bulk" => self.tcp_bulk(),
            _ => unreachable!("not one of the cases: {case}"),
        };
        measured.with_context(|| case.to_owned())
    }

    fn udp_exchange(&self, client: &UdpSocket) -> anyhow::Result<()> {
        let mut buffer = [0; REQUEST.len()];
        client.send(&REQUEST)?;
        let (_, from) = self.udp_server.recv_from(&mut buffer).context("no request came")?;
        self.udp_server.send_to(&buffer, from)?;
        client.recv(&mut buffer).context("no answer came")?;
        Ok(())
    }

    fn udp_new(&mut self) -> anyhow::Result<()> {
        let client = UdpSocket::bind(source(&mut self.new_udp, self.peers)?)?;
        client.set_read_timeout(Some(PATIENCE))?;
        client.connect((server(), OPEN_PORT))?;
        self.udp_exchange(&client)
    }

    fn tcp_new(&mut self) -> anyhow::Result<()> {
        let client = connected(source(&mut self.new_tcp, self.peers)?).context("cannot connect")?;
        let (accepted, _) = self.listener.accept()?;
        tcp_exchange((&client, &accepted))
    }

    fn udp_packets(&self) -> anyhow::Result<Vec<Measured>> {
        let mut buffer = [0; REQUEST.len()];
        let rate = rate(BURST as f64, || {
            (0..BURST).try_for_each(|_| self.udp.send(&REQUEST).map(drop))?;
            (0..BURST).try_for_each(|_| self.udp_server.recv(&mut buffer).map(drop))?;
            Ok(())
        })?;
        Ok(vec![measured("rate", rate, "packets/s")])
    }

    fn udp_denied(&self) -> anyhow::Result<Vec<Measured>> {
        let rate = rate(BURST as f64, || {
            (0..BURST).try_for_each(|_| self.denied.send(&REQUEST).map(drop))?;
            Ok(())
        })?;
        Ok(vec![measured("rate", rate, "packets/s")])
    }

    fn tcp_bulk(&self) -> anyhow::Result<Vec<Measured>> {
        let (mut client, mut accepted) = (&self.tcp.0, &self.tcp.1);
        let mut buffer = vec![0; CHUNK];
        let bits = 8.0 * CHUNK as f64;
        let rate = rate(bits, || {
            client.write_all(&buffer)?;
            accepted.read_exact(&mut buffer)?;
            Ok(())
        })?;
        Ok(vec![measured("rate", rate / 1e9, "Gbit/s")])
    }
}

/// The next source that no flow had before.
fn source(count: &mut u32, peers: u32) -> anyhow::Result<SocketAddr> {
    let number = *count;
    *count += 1;
    let port = u16::try_from(u32::from(PORTS.start) + number)?;
    ensure!(PORTS.contains(&port), "no source port is left: fewer rounds, or fewer new flows");
    // A prime step visits the peers out of their order, each before any again.
    let peer = u64::from(number) * 7_919 % u64::from(peers);
    Ok(SocketAddr::new(peer_address(PEER_KIND, u32::try_from(peer)?), port))
}

fn connected(from: SocketAddr) -> anyhow::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(from), Type::STREAM, Some(Protocol::TCP))?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&SocketAddr::new(server(), OPEN_PORT).into(), PATIENCE)?;
    Ok(socket.into())
}

fn tcp_exchange((mut client, mut accepted): (&TcpStream, &TcpStream)) -> anyhow::Result<()> {
    let mut buffer = [0; REQUEST.len()];
    client.write_all(&REQUEST)?;
    accepted.read_exact(&mut buffer).context("no request came")?;
    accepted.write_all(&buffer)?;
    client.read_exact(&mut buffer).context("no answer came")?;
    Ok(())
}

/// Repeats an exchange for a while, at most `most` times: how many a second, and how long one takes.
fn exchanges(
    most: u32,
    mut exchange: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<Measured>> {
    let mut took = Vec::new();
    let begun = Instant::now();
    let mut last = begun;
    while last - begun < SPAN && took.len() < most as usize {
        exchange()?;
        let now = Instant::now();
        took.push(now - last);
        last = now;
    }
    let rate = took.len() as f64 / (last - begun).as_secs_f64();
    took.sort();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    Ok(vec![
        measured("rate", rate, "1/s"),
        measured("p50", at(0.50), "µs"),
        measured("p99", at(0.99), "µs"),
    ])
}

/// Repeats something for a while: how much of it, `amount` at a time, comes about in a second.
fn rate(amount: f64, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut times = 0.0;
    while begun.elapsed() < SPAN {
        work()?;
        times += 1.0;
    }
    Ok(amount * times / begun.elapsed().as_secs_f64())
}
