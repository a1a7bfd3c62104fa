//! The asking side of probes: one connection, conversation or exchange.
//!
//! An attempt is one packet and whatever its answer lets follow: TCP sends its SYN again after a
//! second, and no window is that long. So packets dropped and attempts unanswered can be compared.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};

use super::sctp;
use crate::engine::ProbeProtocol;

/// First of the ports that SCTP probes come from (RFC 6335, dynamic ports).
const EPHEMERAL_FIRST: u16 = 49_152;

/// Type numbers of echo requests (RFC 792, RFC 4443).
const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;
/// Bytes before the payload of an echo.
const ECHO_HEADER: usize = 8;

/// Something that answered once, and can be asked again.
#[derive(Debug)]
pub(super) enum Connection {
    /// TCP.
    Stream(TcpStream),
    /// UDP.
    Datagrams(UdpSocket),
    /// ICMP: one socket is one identifier.
    Echoes(UdpSocket, u8),
    /// SCTP: the other side, our port, our tag and the other side's.
    Association {
        /// Raw, connected.
        socket: UdpSocket,
        /// The other side.
        to: SocketAddr,
        /// Our port.
        port: u16,
        /// Our tag; 0 until the other side's is known.
        tag: u32,
    },
}

impl Connection {
    /// Makes what is needed to ask, and for TCP connects.
    ///
    /// # Errors
    /// No way there, or refused.
    pub(super) async fn open(
        protocol: ProbeProtocol,
        from: IpAddr,
        to: SocketAddr,
    ) -> io::Result<Self> {
        let local = SocketAddr::new(from, 0);
        Ok(match protocol {
            ProbeProtocol::Tcp => {
                let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.bind(local)?;
                let stream = socket.connect(to).await?;
                // When it is closed, one packet: no FIN that is sent again until it is answered.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                stream.set_nodelay(true)?;
                Self::Stream(stream)
            }
            ProbeProtocol::Udp => {
                let socket = UdpSocket::bind(local).await?;
                socket.connect(to).await?;
                Self::Datagrams(socket)
            }
            ProbeProtocol::Icmp => {
                let kind = if to.is_ipv4() { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
                let socket = echo_socket(from)?;
                socket.connect(SocketAddr::new(to.ip(), 0)).await?;
                Self::Echoes(socket, kind)
            }
            ProbeProtocol::Sctp => {
                let socket = sctp::socket(from)?;
                socket.connect(SocketAddr::new(to.ip(), 0)).await?;
                Self::Association { socket, to, port: ephemeral_port(), tag: 0 }
            }
        })
    }

    /// Sends one message and waits for its answer, as long as the caller does.
    ///
    /// # Errors
    /// The connection is broken, or an ICMP error came back.
    pub(super) async fn ask(&mut self) -> io::Result<()> {
        let number = number();
        match self {
            Self::Stream(stream) => {
                stream.write_all(&number.to_be_bytes()).await?;
                // Answers to questions that were given up may come first.
                while stream.read_u64().await? != number {}
                Ok(())
            }
            Self::Datagrams(socket) => {
                socket.send(&number.to_be_bytes()).await?;
                received(socket, |bytes| bytes == number.to_be_bytes()).await
            }
            Self::Echoes(socket, kind) => {
                // Identifier and checksum are the kernel's.
                let mut request = vec![*kind, 0, 0, 0, 0, 0, 0, 1];
                request.extend(number.to_be_bytes());
                socket.send(&request).await?;
                received(socket, |bytes| {
                    bytes.get(ECHO_HEADER..) == Some(number.to_be_bytes().as_slice())
                })
                .await
            }
            Self::Association { socket, to, port, tag } => {
                associate(socket, *to, *port, tag, number).await
            }
        }
    }
}

/// INIT the first time, HEARTBEAT from then on.
async fn associate(
    socket: &UdpSocket,
    to: SocketAddr,
    port: u16,
    tag: &mut u32,
    number: u64,
) -> io::Result<()> {
    let own_tag = number as u32 | 1;
    let chunk = match *tag {
        0 => sctp::Chunk::Init(own_tag),
        _ => sctp::Chunk::Heartbeat(number),
    };
    let request = sctp::Packet { source: port, destination: to.port(), tag: *tag, chunk };
    socket.send(&request.encode()).await?;
    let mut found = *tag;
    received(socket, |bytes| {
        let Some(packet) = sctp::Packet::decode(sctp::payload(to.ip(), bytes)) else {
            return false;
        };
        if (packet.source, packet.destination) != (to.port(), port) {
            return false;
        }
        match packet.chunk {
            sctp::Chunk::InitAck(theirs) if *tag == 0 && packet.tag == own_tag => {
                found = theirs;
                true
            }
            sctp::Chunk::HeartbeatAck(answer) => answer == number,
            _ => false,
        }
    })
    .await?;
    *tag = found;
    Ok(())
}

async fn received(socket: &UdpSocket, mut wanted: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    let mut buffer = [0; 2048];
    loop {
        let n = socket.recv(&mut buffer).await?;
        if wanted(&buffer[..n]) {
            return Ok(());
        }
    }
}

/// An unprivileged ICMP socket: the kernel writes the identifier and delivers only its own replies.
fn echo_socket(from: IpAddr) -> io::Result<UdpSocket> {
    let local = SocketAddr::new(from, 0);
    let protocol = if from.is_ipv4() { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(protocol))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(local))?;
    UdpSocket::from_std(socket.into())
}

/// A number that tells this question from every other of this process.
fn number() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn ephemeral_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    EPHEMERAL_FIRST + NEXT.fetch_add(1, Ordering::Relaxed) % (u16::MAX - EPHEMERAL_FIRST)
}
