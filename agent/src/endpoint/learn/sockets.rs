//! The sockets of the calling thread's network namespace, by sock_diag.

use std::io;
use std::net::{IpAddr, SocketAddr};

use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{
    AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_ESTABLISHED,
    TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_LISTEN, TCP_SYN_RECV, TCP_SYN_SENT,
};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags,
};
use rtnetlink::packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage};

use crate::netlink::Netlink;

/// `NETLINK_SOCK_DIAG` of `linux/netlink.h`.
const SOCK_DIAG: isize = libc::NETLINK_SOCK_DIAG as isize;

/// Transport protocols whose connections can be told from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => IPPROTO_TCP,
            Self::Udp => IPPROTO_UDP,
        }
    }
}

/// Where a socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for others: a TCP listener, or a UDP socket that is not connected.
    Waiting,
    /// TCP: the handshake is not through.
    Opening,
    /// Both ends have it.
    Open,
    /// TCP: this end has sent a FIN.
    ClosedHere,
    /// TCP: the other end has sent a FIN.
    ClosedThere,
    /// TCP: both have.
    Closing,
}

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its own end. An unspecified address: any.
    pub local: SocketAddr,
    /// The other end; unspecified while it waits for others.
    pub remote: SocketAddr,
    /// Where it stands.
    pub stage: Stage,
    /// Someone asked for the number of its own port (bind). What a listener accepts has the listener's
    /// port and yet was not bound; nor was what got a port of the kernel's choice.
    pub is_bound: bool,
}

/// All TCP and UDP sockets of the calling thread's network namespace. TCP's TIME_WAIT is left out:
/// nobody sends on such a connection any more. Where the kernel has no sock_diag for UDP (it is a module
/// of its own), those of TCP alone.
///
/// # Errors
/// The kernel does not answer, or has no sock_diag for TCP.
pub fn list() -> io::Result<Vec<Socket>> {
    let netlink = Netlink::open(SOCK_DIAG)?;
    let mut sockets = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        for family in [AF_INET, AF_INET6] {
            for is_bound in [false, true] {
                let dumped = dump(&netlink, protocol, family, is_bound, &mut sockets);
                dumped.or_else(|error| bear(protocol, error))?;
            }
        }
    }
    Ok(sockets)
}

/// # Errors
/// One that means more than that UDP sockets cannot be listed: of those, few are connected, and without
/// them the others would be cut as well.
fn bear(protocol: Protocol, error: io::Error) -> io::Result<()> {
    match (protocol, error.kind()) {
        (Protocol::Udp, io::ErrorKind::NotFound) => Ok(()),
        _ => Err(error),
    }
}

fn dump(
    netlink: &Netlink,
    protocol: Protocol,
    family: u8,
    is_bound: bool,
    sockets: &mut Vec<Socket>,
) -> io::Result<()> {
    netlink.ask(&request(protocol, family, is_bound), |answer| {
        if let SockDiagMessage::InetResponse(response) = answer {
            sockets.extend(read(protocol, &response, is_bound));
        }
    })
}

/// A dump of the sockets of one kind, with a filter that only the kernel can apply: no attribute of its
/// answer says whether a socket was bound.
fn request(protocol: Protocol, family: u8, is_bound: bool) -> Vec<u8> {
    /// `INET_DIAG_REQ_BYTECODE` of `linux/inet_diag.h`.
    const BYTECODE: u16 = 1;
    /// `INET_DIAG_BC_JMP`: takes the way of what is false.
    const JUMP: u8 = 1;
    /// `INET_DIAG_BC_AUTO`: true where the port was not asked for by number.
    const AUTO: u8 = 6;
    /// Bytes of an operation. Each says how far to go on where it is true, and where it is false: to the
    /// end of the filter, which accepts, or behind it, which does not.
    const OPERATION: u8 = 4;
    let operation = |code| {
        let [low, high] = u16::from(2 * OPERATION).to_ne_bytes();
        [code, OPERATION, low, high]
    };
    let filter = if is_bound {
        [operation(AUTO), operation(JUMP)].concat()
    } else {
        operation(AUTO).to_vec()
    };
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    let states = match protocol {
        Protocol::Tcp => StateFlags::all() - StateFlags::TIME_WAIT - StateFlags::CLOSE,
        Protocol::Udp => StateFlags::ESTABLISHED | StateFlags::CLOSE,
    };
    let extensions = ExtensionFlags::empty();
    let inner = InetRequest { family, protocol: protocol.number(), extensions, states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(inner).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    // An attribute (length, type, payload), which the crate's request has no place for.
    bytes.extend_from_slice(&(4 + filter.len() as u16).to_ne_bytes());
    bytes.extend_from_slice(&BYTECODE.to_ne_bytes());
    bytes.extend_from_slice(&filter);
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// `None` for states that were not asked for.
fn read(protocol: Protocol, response: &InetResponse, is_bound: bool) -> Option<Socket> {
    let id = &response.header.socket_id;
    let local = SocketAddr::new(plain(id.source_address), id.source_port);
    let remote = SocketAddr::new(plain(id.destination_address), id.destination_port);
    let stage = match (protocol, response.header.state) {
        (_, TCP_ESTABLISHED) => Stage::Open,
        (Protocol::Udp, _) => Stage::Waiting,
        (Protocol::Tcp, TCP_SYN_SENT | TCP_SYN_RECV) => Stage::Opening,
        (Protocol::Tcp, TCP_FIN_WAIT1 | TCP_FIN_WAIT2) => Stage::ClosedHere,
        (Protocol::Tcp, TCP_CLOSE_WAIT) => Stage::ClosedThere,
        (Protocol::Tcp, TCP_LAST_ACK | TCP_CLOSING) => Stage::Closing,
        (Protocol::Tcp, TCP_LISTEN) => Stage::Waiting,
        (Protocol::Tcp, _) => return None,
    };
    Some(Socket { protocol, local, remote, stage, is_bound })
}

/// An IPv4 address that a socket of the other family holds as `::ffff:a.b.c.d`, as it is on the wire.
fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

#[cfg(test)]
mod tests {
    use nix::errno::Errno;

    use super::*;

    #[test]
    fn a_kernel_without_sock_diag_for_udp_lists_the_sockets_of_tcp() {
        let missing = || io::Error::from(Errno::ENOENT);
        assert!(bear(Protocol::Udp, missing()).is_ok());
        assert!(bear(Protocol::Tcp, missing()).is_err());
        assert!(bear(Protocol::Udp, io::Error::from(Errno::EPERM)).is_err());
    }
}
