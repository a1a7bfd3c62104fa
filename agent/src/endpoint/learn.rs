//! The connections that a pod has already when it becomes isolated.
//!
//! Nobody has followed them: without more, their next packet would be judged in whatever direction it
//! happens to go, and the answers to a connection that the pod opened would be cut. So they are asked
//! for in the pod's namespace and put into the flow table before the pod's policies come into force,
//! each with the end that opened it. There they are as flows of an old generation are: their next
//! packet has them judged in their initiator's direction. What is allowed lives on, answers included;
//! what is not is cut.
//!
//! Who opened a connection no socket says. It follows from the ports:
//!
//! * A port that was asked for by number, and is not a listener's: opened from here. The kernel gives
//!   what a listener accepts the listener's port, and marks it as not asked for.
//! * Otherwise, a port that a socket here waits on, or one that the kernel would not have chosen
//!   (`ip_local_port_range`): opened by the other end. The listener may be gone.
//! * Otherwise: opened from here, with a port of the kernel's choice.
//!
//! A pod can deceive only itself of what its own connections are, only for those that are older than
//! the isolation, and only if it takes a port to wait on that it has a connection from.
//!
//! Not learned, so that their next packet is judged by itself: UDP sockets that are not connected (the
//! kernel does not know to whom they talk), what an address translation inside the pod's namespace
//! shows the socket otherwise than the wire, protocols other than TCP and UDP, and connections of the
//! node's own addresses that are not a socket of the node's (someone's whom the node translates).

pub mod sockets;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use nix::sched::{CloneFlags, setns};
use sluice_common::abi::{Direction, Flow, FlowKey, FlowState, RULE_DEFAULT};

use self::sockets::{Protocol, Socket, Stage};

/// A pod whose connections are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolating {
    /// `namespace/name`, to name it in the log.
    pub pod: String,
    /// A file that its network namespace is mounted on.
    pub netns: PathBuf,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Number of its incarnation in the flow table.
    pub epoch: u32,
}

/// A connection between two ends that both have a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// Its protocol.
    pub protocol: Protocol,
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Where it stands.
    pub stage: Stage,
    /// Whose it is: [`Direction::Ingress`] where the other end opened it.
    pub initiator: Direction,
    /// The other end is a socket of the node's own.
    pub is_hosts: bool,
}

impl Connection {
    /// The flow of this connection, which no packet has been judged for: of a generation before the
    /// first. `last_seen` is left to who knows the kernel's clock.
    pub fn flow(&self, epoch: u32) -> (FlowKey, Flow) {
        let key = FlowKey {
            remote: self.remote.ip().into(),
            epoch,
            local_port_be: self.local.port().to_be(),
            remote_port_be: self.remote.port().to_be(),
            protocol: self.protocol.number().into(),
        };
        let (state, fins) = match self.stage {
            Stage::Opening | Stage::Waiting => (FlowState::Opening, 0),
            Stage::Open => (FlowState::Established, 0),
            Stage::ClosedHere => (FlowState::Established, Flow::FLAG_FIN_EGRESS),
            Stage::ClosedThere => (FlowState::Established, Flow::FLAG_FIN_INGRESS),
            Stage::Closing => (FlowState::Closing, Flow::FLAG_FIN_EGRESS | Flow::FLAG_FIN_INGRESS),
        };
        let host = if self.is_hosts { Flow::FLAG_HOST } else { 0 };
        let flow = Flow {
            last_seen: 0,
            generation: 0,
            state: state as u32,
            rule: RULE_DEFAULT,
            initiator: self.initiator as u32,
            flags: fins | host,
            reserved: 0,
        };
        (key, flow)
    }
}

/// Why connections could not be learned. The pod is isolated nevertheless.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The namespace cannot be entered.
    #[error("cannot enter {}: {error}", path.display())]
    Enter {
        /// The file that it should be mounted on.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Its sockets cannot be listed.
    #[error("cannot list sockets (sock_diag): {0}")]
    Sockets(io::Error),
    /// The ports that the kernel chooses from cannot be read.
    #[error("cannot read {PORT_RANGE}: {0}")]
    Ports(io::Error),
}

/// The live connections of each pod, in the order of `pods`, on a node with the addresses `node`. Enters
/// the pods' namespaces on a thread of its own, which ends with this call.
pub fn connections(
    pods: &[Isolating],
    node: &BTreeSet<IpAddr>,
) -> Vec<Result<Vec<Connection>, LearnError>> {
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            // Before any other namespace is entered: the node's own.
            let host = Host { addresses: node, ends: own_ends() };
            pods.iter().map(|pod| of_pod(pod, &host)).collect()
        });
        reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn of_pod(pod: &Isolating, host: &Host<'_>) -> Result<Vec<Connection>, LearnError> {
    let enter = || -> io::Result<()> {
        let netns = File::open(&pod.netns)?;
        Ok(setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?)
    };
    enter().map_err(|error| LearnError::Enter { path: pod.netns.clone(), error })?;
    let ports = port_range().map_err(LearnError::Ports)?;
    let sockets = sockets::list().map_err(LearnError::Sockets)?;
    Ok(tell(&sockets, &pod.addresses, &ports, host))
}

/// The ports that the kernel of the reading thread's network namespace chooses from.
const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

fn port_range() -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string(PORT_RANGE)?;
    let mut numbers = text.split_whitespace().map(str::parse::<u16>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(first)), Some(Ok(last))) => Ok(first..=last),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, text)),
    }
}

/// The node itself, as an end of connections.
#[derive(Debug)]
struct Host<'a> {
    addresses: &'a BTreeSet<IpAddr>,
    /// Its own ends of connections.
    ends: BTreeSet<(Protocol, SocketAddr)>,
}

/// The ends that the calling thread's network namespace has. Where they cannot be listed there are none:
/// what they would let pass is judged by policy.
fn own_ends() -> BTreeSet<(Protocol, SocketAddr)> {
    let sockets = sockets::list().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the node's own sockets");
        Vec::new()
    });
    let connected = sockets.iter().filter(|socket| socket.stage != Stage::Waiting);
    connected.map(|socket| (socket.protocol, socket.local)).collect()
}

/// Which of the sockets are connections of the pod with others, and who opened them.
fn tell(
    sockets: &[Socket],
    own: &BTreeSet<IpAddr>,
    chosen: &RangeInclusive<u16>,
    host: &Host<'_>,
) -> Vec<Connection> {
    let waiting: BTreeSet<(Protocol, u16)> = sockets
        .iter()
        .filter(|socket| socket.stage == Stage::Waiting)
        .map(|socket| (socket.protocol, socket.local.port()))
        .collect();
    let mut connections = Vec::new();
    for socket in sockets {
        let Socket { protocol, local, remote, stage, is_bound } = *socket;
        let is_outward = own.contains(&local.ip()) && !own.contains(&remote.ip());
        if stage == Stage::Waiting || !is_outward {
            continue;
        }
        let is_awaited = waiting.contains(&(protocol, local.port()));
        let initiator = match (protocol, is_bound, is_awaited) {
            (Protocol::Tcp, true, _) | (Protocol::Udp, false, _) => Direction::Egress,
            (Protocol::Tcp, false, true) | (Protocol::Udp, true, true) => Direction::Ingress,
            (Protocol::Tcp, false, false) if chosen.contains(&local.port()) => Direction::Egress,
            (Protocol::Tcp, false, false) => Direction::Ingress,
            // A port of one's own choice that nothing waits on: either end may have begun.
            (Protocol::Udp, true, false) => continue,
        };
        let is_hosts = initiator == Direction::Ingress && host.ends.contains(&(protocol, remote));
        let is_of_node = host.addresses.contains(&remote.ip());
        if initiator == Direction::Ingress && is_of_node && !is_hosts {
            continue;
        }
        connections.push(Connection { protocol, local, remote, stage, initiator, is_hosts });
    }
    connections
}

#[cfg(test)]
mod tests;
