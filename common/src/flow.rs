//! Connection tracking as a pure function: a flow, a packet, a generation and a time in; what to do
//! with the packet and what becomes of the flow out.
//!
//! ```text
//!            first packet            answer            its answer              both FIN, RST, …
//!   (none) ────────────► Opening ────────────► Answered ────────────► Established ────────────► Closing
//!      ▲                    │                      │                      │                        │
//!      │ silent for its     └───────────── policy takes it back ──────────┘        SYN, INIT: judged
//!      │ lifetime                                  ▼                               like a first packet
//!      └─────────────────────────────────────── Revoked
//! ```
//!
//! A flow is judged when it opens, and again at its next packet once the tables have changed: always
//! in the direction of its *initiator*, because that is whose connection it is.
//!
//! What policy took back stays known for as long as it would have, had policy not: the pod's own end
//! does not know that it was cut, retransmits after minutes and probes after hours, and in a direction
//! that nothing governs each of these packets would open the connection anew, as the pod's own.
//!
//! That is what the middle of a connection does that is not known: its packet is judged in its own
//! direction, and whose connection it was nobody can say. There are such packets only where a flow gave
//! way to others, where what was open before the pod was isolated could not be learned, and after an
//! established flow's lifetime; to refuse them would cut all of these. A SYN-ACK among them opens
//! nothing: it answers what the other end has opened, which that end's next packet shows.
//!
//! One packet that somebody forges, which the ends refuse for its sequence number, ends no connection: after
//! a reset it stands again once the end goes on that is said to have reset it; and a SYN from the end that
//! opened it changes nothing before the other end answers with a SYN-ACK.

use crate::abi::{Direction, Flow, FlowKey, FlowState, Lifetimes, RULE_DEFAULT, RuleId};
use crate::parse::{Packet, Transport, protocol, sctp_chunk, tcp_flag};

/// The kernel's tick counter (`bpf_jiffies64`) and its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Jiffies since boot (of an arbitrary start).
    pub now: u64,
    /// Jiffies per second, above 0.
    pub rate: u32,
}

/// Seconds after its last packet for which a flow is remembered; one that policy took back, as if both
/// ends still had it.
#[inline(always)]
pub const fn lifetime_seconds(protocol: u32, state: u32, lifetimes: &Lifetimes) -> u32 {
    const ESTABLISHED: u32 = FlowState::Established as u32;
    const ANSWERED: u32 = FlowState::Answered as u32;
    const CLOSING: u32 = FlowState::Closing as u32;
    const REVOKED: u32 = FlowState::Revoked as u32;
    let is_connection = protocol == protocol::TCP as u32 || protocol == protocol::SCTP as u32;
    match state {
        ESTABLISHED | REVOKED if is_connection => lifetimes.established,
        CLOSING if is_connection => lifetimes.closing,
        _ if is_connection => lifetimes.opening,
        ESTABLISHED | ANSWERED | REVOKED if protocol == protocol::UDP as u32 => lifetimes.udp,
        _ if protocol == protocol::UDP as u32 => lifetimes.udp_opening,
        _ => lifetimes.echo,
    }
}

/// The second (jiffies / HZ, truncated) of a time in jiffies.
#[inline(always)]
pub const fn second(jiffies: u64, rate: u32) -> u32 {
    // A rate is never 0; the kernel's verifier and the compiler want to see it.
    let rate = if rate == 0 { 1 } else { rate as u64 };
    (jiffies / rate) as u32
}

/// The second (jiffies / HZ, truncated) in which a flow is over if it stays silent; or the next one.
#[inline(always)]
pub const fn deadline(flow: &Flow, key: &FlowKey, rate: u32, lifetimes: &Lifetimes) -> u32 {
    let lifetime = lifetime_seconds(key.protocol, flow.state, lifetimes) as u64;
    (second(flow.last_seen, rate) as u64 + lifetime + 1) as u32
}

/// Key of the flow that the packet belongs to, seen from the pod in `direction`; `None` for packets
/// that are judged one by one (ICMP other than echo).
#[inline(always)]
pub fn key(packet: &Packet, direction: Direction, epoch: u32) -> Option<FlowKey> {
    match packet.transport {
        Transport::Unread
        | Transport::Error { .. }
        | Transport::Neighbour { .. }
        | Transport::OtherIcmp => return None,
        Transport::Tcp { .. }
        | Transport::Udp
        | Transport::Sctp { .. }
        | Transport::EchoRequest
        | Transport::EchoReply => {}
    }
    let (remote, remote_port_be, local_port_be) = match direction {
        Direction::Ingress => (packet.source, packet.source_port_be, packet.destination_port_be),
        Direction::Egress => {
            (packet.destination, packet.destination_port_be, packet.source_port_be)
        }
    };
    let protocol = u32::from(packet.protocol);
    Some(FlowKey { remote, epoch, local_port_be, remote_port_be, protocol })
}

/// The port that policy looks at in the flow's first packet: that of the side which did not open it
/// (see [`crate::abi::DecisionKey::new`]).
#[inline(always)]
pub const fn decision_port(key: &FlowKey, initiator: Direction) -> u16 {
    /// `type << 8 | code` of the requests.
    const ECHO_REQUEST: u16 = 8 << 8;
    const ECHO_REQUEST_V6: u16 = 128 << 8;
    const ICMP: u32 = protocol::ICMP as u32;
    const ICMPV6: u32 = protocol::ICMPV6 as u32;
    match key.protocol {
        ICMP => ECHO_REQUEST,
        ICMPV6 => ECHO_REQUEST_V6,
        _ => match initiator {
            Direction::Ingress => u16::from_be(key.local_port_be),
            Direction::Egress => u16::from_be(key.remote_port_be),
        },
    }
}

/// What a known flow makes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// It passes. The flow becomes this; nothing has changed where it is equal.
    Passes(Flow),
    /// The tables have changed since: the flow is to be judged in its initiator's direction, and the
    /// outcome given to [`judged_again`].
    Stale,
    /// It is no packet of this flow: to be judged in its own direction like a first one, and the flow
    /// replaced if that allows it. The flow stays where it denies.
    First,
    /// It begins a connection anew, or pretends to, that stands and that the same end has opened: to be
    /// judged like a first one. The flow stays, until the other end answers.
    Again,
    /// Policy took the flow back: the packet is dropped. The flow becomes this.
    Revoked(Flow),
}

/// What `flow`, found under `key`, makes of a packet at `generation`.
#[inline(always)]
pub fn known(
    flow: &Flow,
    key: &FlowKey,
    packet: &Packet,
    direction: Direction,
    generation: u32,
    clock: Clock,
    lifetimes: &Lifetimes,
) -> Known {
    if is_over(flow, key, clock, lifetimes) {
        return Known::First;
    }
    if opens(packet) && !continues_opening(flow) {
        let stands = flow.state == FlowState::Established as u32;
        return if stands && direction as u32 == flow.initiator {
            Known::Again
        } else {
            Known::First
        };
    }
    if flow.generation != generation && !passes_for_good(flow) {
        return Known::Stale;
    }
    if flow.state == FlowState::Revoked as u32 {
        return Known::Revoked(seen(*flow, clock));
    }
    Known::Passes(advance(seen(*flow, clock), packet, direction))
}

/// A flow after it was judged again at `generation`: allowed by a rule, or `None`.
#[inline(always)]
pub fn judged_again(
    flow: &Flow,
    packet: &Packet,
    direction: Direction,
    generation: u32,
    clock: Clock,
    rule: Option<RuleId>,
) -> Known {
    let mut next = seen(*flow, clock);
    next.generation = generation;
    match rule {
        Some(rule) => {
            next.rule = rule;
            // A flow that is allowed again goes on where it was: both sides know of it.
            if next.state == FlowState::Revoked as u32 {
                next.state = FlowState::Established as u32;
            }
            Known::Passes(advance(next, packet, direction))
        }
        None => {
            // That both ends wanted it stays noted: a flood does not end the memory of it either.
            next.state = FlowState::Revoked as u32;
            Known::Revoked(next)
        }
    }
}

/// The flow that an allowed first packet opens; `None` where it opens none: a reset ends whatever it
/// belonged to, and a SYN-ACK answers what the other end opens.
#[inline(always)]
pub fn open(
    packet: &Packet,
    direction: Direction,
    generation: u32,
    clock: Clock,
    rule: RuleId,
    flags: u32,
) -> Option<Flow> {
    let flow = Flow {
        last_seen: clock.now,
        generation,
        state: FlowState::Opening as u32,
        rule,
        initiator: direction as u32,
        flags,
        reserved: 0,
    };
    match packet.transport {
        Transport::Tcp { flags } if flags & tcp_flag::RST != 0 || is_acceptance(packet) => None,
        Transport::Sctp { chunk: sctp_chunk::ABORT | sctp_chunk::SHUTDOWN_COMPLETE } => None,
        // A connection that was open before we looked is not opening any more.
        Transport::Tcp { .. } | Transport::Sctp { .. } if !opens(packet) => {
            let established = Flow { state: FlowState::Established as u32, ..flow };
            Some(advance(established, packet, direction))
        }
        _ => Some(flow),
    }
}

/// The flow that a packet from the pod to its own address opens. It is there for the same packet to
/// be known when it comes back ([`is_own`]); each direction of a conversation has its own.
#[inline(always)]
pub const fn to_itself(generation: u32, clock: Clock) -> Flow {
    Flow {
        last_seen: clock.now,
        generation,
        state: FlowState::Opening as u32,
        rule: RULE_DEFAULT,
        initiator: Direction::Egress as u32,
        flags: 0,
        reserved: 0,
    }
}

/// True for a live flow that the pod's own packets opened. The key must be that of a packet to the
/// pod's own address, as seen when the pod sent it.
#[inline(always)]
pub const fn is_own(flow: &Flow, key: &FlowKey, clock: Clock, lifetimes: &Lifetimes) -> bool {
    flow.initiator == Direction::Egress as u32 && !is_over(flow, key, clock, lifetimes)
}

/// True for what no policy can take back: the node's own flows, and those of the pod to itself.
#[inline(always)]
const fn passes_for_good(flow: &Flow) -> bool {
    let is_own = flow.flags & Flow::FLAG_SELF != 0 && flow.initiator == Direction::Ingress as u32;
    is_own || flow.flags & Flow::FLAG_HOST != 0
}

/// Silent for longer than its lifetime. A clock that seems to run backwards (another CPU's view of
/// it) is not silence.
#[inline(always)]
pub const fn is_over(flow: &Flow, key: &FlowKey, clock: Clock, lifetimes: &Lifetimes) -> bool {
    let silent = clock.now.saturating_sub(flow.last_seen);
    silent > lifetime_seconds(key.protocol, flow.state, lifetimes) as u64 * clock.rate as u64
}

/// True for a packet that changes nothing about an established flow but the time it was seen.
#[inline(always)]
pub const fn is_steady(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Tcp { flags } => flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) == 0,
        Transport::Sctp { chunk } => chunk != sctp_chunk::INIT && !ends_association(chunk),
        Transport::Udp | Transport::EchoRequest | Transport::EchoReply => true,
        Transport::Unread
        | Transport::Error { .. }
        | Transport::Neighbour { .. }
        | Transport::OtherIcmp => false,
    }
}

#[inline(always)]
const fn ends_association(chunk: u8) -> bool {
    matches!(
        chunk,
        sctp_chunk::ABORT
            | sctp_chunk::SHUTDOWN
            | sctp_chunk::SHUTDOWN_ACK
            | sctp_chunk::SHUTDOWN_COMPLETE
    )
}

/// True for a packet that can only stand at the beginning of a connection.
#[inline(always)]
const fn opens(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Tcp { flags } => {
            flags & (tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST) == tcp_flag::SYN
        }
        Transport::Sctp { chunk } => chunk == sctp_chunk::INIT,
        _ => false,
    }
}

/// True for what an end says first, and is no answer as far as it tells.
#[inline(always)]
pub const fn begins(packet: &Packet) -> bool {
    opens(packet) || matches!(packet.transport, Transport::Udp | Transport::EchoRequest)
}

/// True for a SYN-ACK.
#[inline(always)]
const fn is_acceptance(packet: &Packet) -> bool {
    const LOOKED_AT: u8 = tcp_flag::SYN | tcp_flag::ACK | tcp_flag::RST;
    match packet.transport {
        Transport::Tcp { flags } => flags & LOOKED_AT == tcp_flag::SYN | tcp_flag::ACK,
        _ => false,
    }
}

/// A second SYN before the connection stands is a retransmission, or from the other side a simultaneous
/// open (RFC 9293 section 3.5): the same connection either way. Anywhere else a SYN begins a new
/// connection on the same ports, which has to be judged as one.
#[inline(always)]
const fn continues_opening(flow: &Flow) -> bool {
    flow.state == FlowState::Opening as u32 || flow.state == FlowState::Answered as u32
}

/// With the time noted, at most once a second.
#[inline(always)]
pub const fn seen(mut flow: Flow, clock: Clock) -> Flow {
    if clock.now.saturating_sub(flow.last_seen) >= clock.rate as u64 {
        flow.last_seen = clock.now;
    }
    flow
}

/// Bits of [`Flow::flags`]: both sides have sent a FIN.
pub const BOTH_CLOSED: u32 = Flow::FLAG_FIN_INGRESS | Flow::FLAG_FIN_EGRESS;
/// Bits of [`Flow::flags`]: one of the sides has reset it.
const RESET: u32 = Flow::FLAG_RESET_INGRESS | Flow::FLAG_RESET_EGRESS;

/// False for the repetition of a first packet.
#[inline(always)]
const fn answers(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Tcp { flags } => flags & tcp_flag::SYN == 0,
        Transport::Sctp { chunk } => chunk != sctp_chunk::INIT,
        _ => true,
    }
}

/// The flag for a reset in a direction.
#[inline(always)]
const fn reset_flag(direction: Direction) -> u32 {
    match direction {
        Direction::Ingress => Flow::FLAG_RESET_INGRESS,
        Direction::Egress => Flow::FLAG_RESET_EGRESS,
    }
}

/// What is over is wanted no more.
#[inline(always)]
const fn close(flow: &mut Flow) {
    flow.state = FlowState::Closing as u32;
    flow.flags &= !Flow::FLAG_WANTED;
}

/// What was reset, by a packet that was not the end's own as it turns out.
#[inline(always)]
const fn reopen(flow: &mut Flow) {
    flow.state = FlowState::Established as u32;
    flow.flags = flow.flags & !RESET | Flow::FLAG_WANTED;
}

/// A connection that stood and that its opener began anew was accepted, and nothing said before counts.
#[inline(always)]
const fn begin_anew(flow: &mut Flow) {
    flow.state = FlowState::Answered as u32;
    flow.flags &= !(BOTH_CLOSED | RESET | Flow::FLAG_WANTED);
}

/// True for what the end goes on with that is said to have reset the connection.
#[inline(always)]
const fn revives(flow: &Flow, packet: &Packet, direction: Direction) -> bool {
    flow.state == FlowState::Closing as u32
        && flow.flags & reset_flag(direction) != 0
        && flow.flags & BOTH_CLOSED != BOTH_CLOSED
        && is_steady(packet)
}

/// True for what was `before`, would become `next`, and `is` closing by now, which neither knows of.
#[inline(always)]
pub fn ended_meanwhile(before: &Flow, is: &Flow, next: &Flow) -> bool {
    const CLOSING: u32 = FlowState::Closing as u32;
    is.state == CLOSING && next.state != CLOSING && before != is
}

/// The flow after a packet of it.
#[inline(always)]
const fn advance(mut flow: Flow, packet: &Packet, direction: Direction) -> Flow {
    let is_initiator = direction as u32 == flow.initiator;
    let is_established = flow.state == FlowState::Established as u32;
    if revives(&flow, packet, direction) {
        reopen(&mut flow);
    } else if is_established && !is_initiator && is_acceptance(packet) {
        begin_anew(&mut flow);
    } else if is_established && !is_initiator {
        // It was open before it was first seen, and the other end goes on with it.
        flow.flags |= Flow::FLAG_WANTED;
    } else if flow.state == FlowState::Opening as u32 && !is_initiator {
        flow.state = FlowState::Answered as u32;
    } else if flow.state == FlowState::Answered as u32 && is_initiator && answers(packet) {
        flow.state = FlowState::Established as u32;
        flow.flags |= Flow::FLAG_WANTED;
    }
    match packet.transport {
        Transport::Tcp { flags } => {
            if flags & tcp_flag::FIN != 0 {
                flow.flags |= match direction {
                    Direction::Ingress => Flow::FLAG_FIN_INGRESS,
                    Direction::Egress => Flow::FLAG_FIN_EGRESS,
                };
            }
            if flags & tcp_flag::RST != 0 && is_established && flow.flags & Flow::FLAG_WANTED != 0 {
                flow.flags |= reset_flag(direction);
            }
            // A connection that one side has closed may live on for as long as the other likes (RFC
            // 9293 section 3.6).
            if flow.flags & BOTH_CLOSED == BOTH_CLOSED || flags & tcp_flag::RST != 0 {
                close(&mut flow);
            }
        }
        Transport::Sctp { chunk } if ends_association(chunk) => close(&mut flow),
        _ => {}
    }
    flow
}

#[cfg(test)]
mod tests;
