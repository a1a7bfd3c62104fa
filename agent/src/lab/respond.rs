//! The answering side of probes: everything that is sent comes back.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::resident::Port;
use super::sctp;
use crate::engine::ProbeProtocol;

/// The answering tasks of one namespace. They run on the runtime of the thread that listens.
#[derive(Debug, Default)]
pub(super) struct Responder {
    open: BTreeSet<Port>,
    sctp: Arc<Mutex<BTreeSet<u16>>>,
    sctp_runs: bool,
    heard: Heard,
}

/// Connections and datagrams that have arrived, by where they came from.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<BTreeMap<IpAddr, u64>>>);

impl Heard {
    fn note(&self, from: IpAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(from).or_default() += 1;
    }

    fn of(&self, from: IpAddr) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&from).copied().unwrap_or(0)
    }
}

impl Responder {
    /// Answers on further ports, on each of the addresses.
    ///
    /// # Errors
    /// A port cannot be opened. One that somebody else in the namespace has is theirs to answer.
    pub(super) async fn listen(
        &mut self,
        addresses: &[IpAddr],
        ports: &BTreeSet<Port>,
    ) -> io::Result<()> {
        for (protocol, port) in ports.difference(&self.open.clone()) {
            for address in addresses {
                let at = SocketAddr::new(*address, *port);
                let opened = match protocol {
                    ProbeProtocol::Tcp => listen_tcp(at, self.heard.clone()).await,
                    ProbeProtocol::Udp => listen_udp(at, self.heard.clone()).await,
                    ProbeProtocol::Sctp | ProbeProtocol::Icmp => Ok(()),
                };
                match opened {
                    Err(error) if error.kind() != io::ErrorKind::AddrInUse => return Err(error),
                    _ => {}
                }
            }
            if *protocol == ProbeProtocol::Sctp {
                self.sctp.lock().unwrap_or_else(PoisonError::into_inner).insert(*port);
                self.listen_sctp(addresses)?;
            }
            self.open.insert((*protocol, *port));
        }
        Ok(())
    }

    /// Connections and datagrams that have arrived from an address, whether they were answered or not.
    pub(super) fn heard(&self, from: IpAddr) -> u64 {
        self.heard.of(from)
    }

    /// One raw socket per address sees the packets to all ports.
    fn listen_sctp(&mut self, addresses: &[IpAddr]) -> io::Result<()> {
        if self.sctp_runs {
            return Ok(());
        }
        self.sctp_runs = true;
        for address in addresses {
            let socket = sctp::socket(*address)?;
            tokio::spawn(answer_sctp(socket, *address, self.sctp.clone()));
        }
        Ok(())
    }
}

async fn listen_tcp(at: SocketAddr, heard: Heard) -> io::Result<()> {
    let listener = TcpListener::bind(at).await?;
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, from)) => {
                    heard.note(from.ip());
                    tokio::spawn(echo_stream(stream));
                }
                // The connection is gone again, or there are too many: those that are there end.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    });
    Ok(())
}

/// Ends when the other side does. An error is the prober's to judge.
async fn echo_stream(mut stream: TcpStream) {
    // No packets after the end: they would be counted for probes that come later.
    if SockRef::from(&stream).set_linger(Some(Duration::ZERO)).is_err() {
        return;
    }
    let mut buffer = [0; 2048];
    while let Ok(n @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}

async fn listen_udp(at: SocketAddr, heard: Heard) -> io::Result<()> {
    let socket = UdpSocket::bind(at).await?;
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            // An error is an earlier answer's that found no way; it says nothing about the next.
            if let Ok((n, from)) = socket.recv_from(&mut buffer).await {
                heard.note(from.ip());
                let _ = socket.send_to(&buffer[..n], from).await;
            }
        }
    });
    Ok(())
}

async fn answer_sctp(socket: UdpSocket, address: IpAddr, ports: Arc<Mutex<BTreeSet<u16>>>) {
    let mut buffer = [0; 2048];
    loop {
        let Ok((n, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Some(packet) = sctp::Packet::decode(sctp::payload(address, &buffer[..n])) else {
            continue;
        };
        let open =
            ports.lock().unwrap_or_else(PoisonError::into_inner).contains(&packet.destination);
        if let (true, Some(answer)) = (open, packet.answer()) {
            // Raw sockets have no ports of their own.
            let _ = socket.send_to(&answer.encode(), SocketAddr::new(from.ip(), 0)).await;
        }
    }
}
