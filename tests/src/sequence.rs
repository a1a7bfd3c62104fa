//! Random packets over a handful of flows, and changes of policy between them.

use std::net::IpAddr;

use rand::RngExt as _;
use rand::rngs::ChaCha8Rng;
use sluice::engine::packet::{self, echo, sctp, tcp, udp};
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::abi::SetId;
use sluice_common::parse::{protocol, sctp_chunk, tcp_flag};

use crate::packet::{V4, V6, fragment};
use crate::scene::{PEER, PEER6, POD, POD6};

use tcp_flag::{ACK, FIN, RST, SYN};

/// Length of an Ethernet header.
const ETHERNET: usize = 14;
/// IPv4's "more fragments".
const MORE: u16 = 0x2000;
/// Flows of a sequence.
const TALKS: usize = 4;

/// What happens next.
#[derive(Clone, Debug)]
pub enum Step {
    /// A packet.
    Packet {
        /// Which way it goes.
        direction: Direction,
        /// It, with its Ethernet header.
        frame: Vec<u8>,
        /// It is of the node's own host stack.
        from_host: bool,
        /// What the other end may say to it, if that is to be seen: it passes where the packet does.
        reply: Option<Vec<u8>>,
    },
    /// Policy allows a port of a protocol, or denies it from now on.
    Decide {
        /// In this direction.
        direction: Direction,
        /// Protocol number.
        protocol: u8,
        /// Port, or type and code.
        port: u16,
        /// It is allowed.
        allow: bool,
    },
    /// The pod is isolated in other directions.
    Govern([SetId; 2]),
    /// Every CPU forgets which flows it has seen.
    Forget,
}

/// Who talks to the pod, or is talked to, and how.
#[derive(Clone, Copy)]
struct Talk {
    pod: IpAddr,
    peer: IpAddr,
    protocol: u8,
    /// Ports, the pod's and the other's. Echo: the identifiers.
    ports: [u16; 2],
}

/// A sequence.
pub struct Sequence<'a> {
    dice: &'a mut ChaCha8Rng,
    talks: [Talk; TALKS],
    /// Packets so far that were whole and as they should be.
    sent: Vec<(Direction, Vec<u8>)>,
}

fn pick<T: Copy>(dice: &mut ChaCha8Rng, of: &[T]) -> T {
    of[dice.random_range(0..of.len())]
}

fn direction(dice: &mut ChaCha8Rng) -> Direction {
    pick(dice, &[Ingress, Egress])
}

impl Talk {
    fn random(dice: &mut ChaCha8Rng) -> Self {
        let (v4, v6) = ([10, 0, 0, 3], "fd00::3".parse::<IpAddr>().expect("an address"));
        let is_v4 = dice.random();
        let (pod, peers): (IpAddr, [IpAddr; 2]) = if is_v4 {
            (POD.into(), [PEER.into(), v4.into()])
        } else {
            (POD6.into(), [PEER6.into(), v6])
        };
        // Once in a while it talks to itself.
        let peer = if dice.random_range(0..12) == 0 { pod } else { pick(dice, &peers) };
        let icmp = if is_v4 { protocol::ICMP } else { protocol::ICMPV6 };
        let tcp = protocol::TCP;
        let protocol = pick(dice, &[tcp, tcp, tcp, protocol::UDP, protocol::SCTP, icmp]);
        let ports = [[40_000, 80], [40_000, 81], [80, 40_000], [80, 80]];
        Self { pod, peer, protocol, ports: pick(dice, &ports) }
    }

    fn ends(&self, direction: Direction) -> (IpAddr, IpAddr) {
        match direction {
            Ingress => (self.peer, self.pod),
            Egress => (self.pod, self.peer),
        }
    }

    /// A transport header that may be one of this talk's.
    fn payload(&self, direction: Direction, dice: &mut ChaCha8Rng) -> Vec<u8> {
        let [pod, peer] = self.ports;
        let (from, to) = if direction == Egress { (pod, peer) } else { (peer, pod) };
        match self.protocol {
            protocol::UDP => udp(from, to, b"data"),
            protocol::TCP => {
                let usual =
                    [SYN, SYN | ACK, ACK, ACK, ACK, FIN | ACK, RST, RST | ACK, dice.random()];
                tcp(from, to, pick(dice, &usual))
            }
            protocol::SCTP => {
                const INIT_ACK: u8 = 2;
                const DATA: u8 = 0;
                let chunks = [
                    sctp_chunk::INIT,
                    INIT_ACK,
                    DATA,
                    DATA,
                    sctp_chunk::ABORT,
                    sctp_chunk::SHUTDOWN,
                    sctp_chunk::SHUTDOWN_ACK,
                    sctp_chunk::SHUTDOWN_COMPLETE,
                ];
                sctp(from, to, pick(dice, &chunks))
            }
            protocol::ICMP => echo(pick(dice, &[8, 0]), pod),
            _ => echo(pick(dice, &[128, 129]), pod),
        }
    }

    fn frame(&self, direction: Direction, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = self.ends(direction);
        packet::frame(source, destination, self.protocol, payload)
    }

    /// What the other end may say to a packet, whatever was said before: `None` where that depends, and to
    /// itself.
    fn reply(&self, direction: Direction, payload: &[u8]) -> Option<Vec<u8>> {
        /// Of the flags in a TCP header.
        const FLAGS: usize = 13;
        let ports = self.ports;
        let [to, from] = if direction == Egress { ports } else { [ports[1], ports[0]] };
        let reply = match (self.protocol, payload.get(FLAGS)) {
            _ if self.pod == self.peer => return None,
            (protocol::UDP, _) => udp(from, to, b"reply"),
            (protocol::TCP, Some(&SYN)) => tcp(from, to, SYN | ACK),
            (protocol::TCP, Some(&ACK)) => tcp(from, to, ACK),
            _ => return None,
        };
        Some(self.frame(direction.reverse(), &reply))
    }

    /// A fragment of a packet of this talk.
    fn piece(&self, direction: Direction, dice: &mut ChaCha8Rng) -> Vec<u8> {
        let is_first = dice.random();
        let offset = if is_first { 0 } else { 8 * dice.random_range(1..12) };
        let mut data = self.payload(direction, dice);
        data.resize(data.len().next_multiple_of(8), 0);
        let more = is_first || dice.random();
        let id: u16 = dice.random_range(1..3);
        match self.ends(direction) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let packet = V4::new(source, destination, self.protocol, data);
                let more = if more { MORE } else { 0 };
                let mut frame = V4 { fragment: more | (offset / 8), ..packet }.frame();
                frame[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&id.to_be_bytes());
                frame
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let (extension, mut body) = fragment(offset, more);
                body[5..7].copy_from_slice(&id.to_be_bytes());
                let packet = V6::new(source, destination, self.protocol, data);
                packet.with((extension, body)).frame()
            }
            ends => unreachable!("two families: {ends:?}"),
        }
    }
}

impl<'a> Sequence<'a> {
    /// Over some flows that the dice choose.
    pub fn new(dice: &'a mut ChaCha8Rng) -> Self {
        let talks = std::array::from_fn(|_| Talk::random(dice));
        Self { dice, talks, sent: Vec::new() }
    }

    /// The next step, about one in thirty of them another than a packet.
    pub fn step(&mut self) -> Step {
        let direction = direction(self.dice);
        let talk = pick(self.dice, &self.talks);
        let (frame, from_host) = match self.dice.random_range(0..120) {
            0..2 => return self.decide(),
            2 => {
                return Step::Govern(pick(
                    self.dice,
                    &[[1, 2], [1, 2], [1, 2], [1, 0], [0, 2], [0, 0]],
                ));
            }
            3 => return Step::Forget,
            4..14 if !self.sent.is_empty() => return self.error(),
            14..28 => (talk.piece(direction, self.dice), false),
            28..34 => (self.damaged(talk, direction), false),
            kind => {
                let payload = talk.payload(direction, self.dice);
                let frame = talk.frame(direction, &payload);
                self.sent.push((direction, frame.clone()));
                let from_host = kind < 40 && direction == Ingress;
                let is_asked = !from_host && kind < 64;
                let reply = talk.reply(direction, &payload).filter(|_| is_asked);
                return Step::Packet { direction, frame, from_host, reply };
            }
        };
        Step::Packet { direction, frame, from_host, reply: None }
    }

    fn decide(&mut self) -> Step {
        let dice = &mut self.dice;
        let talk = pick(dice, &self.talks);
        // Of the talk, or an error.
        let errors = [[(3, 3), (3, 4)], [(1, 4), (2, 0)]];
        let (kind, code) = pick(dice, &errors[usize::from(talk.pod.is_ipv6())]);
        let port = match talk.protocol {
            protocol::ICMP => pick(dice, &[8 << 8, 0, kind << 8 | code]),
            protocol::ICMPV6 => pick(dice, &[128 << 8, 129 << 8, kind << 8 | code]),
            _ => pick(dice, &talk.ports),
        };
        let direction = direction(dice);
        Step::Decide {
            direction,
            protocol: talk.protocol,
            port,
            allow: dice.random_range(0..3) > 0,
        }
    }

    /// A packet with some bytes that are not as they should be.
    fn damaged(&mut self, talk: Talk, direction: Direction) -> Vec<u8> {
        let mut frame = talk.frame(direction, &talk.payload(direction, self.dice));
        for _ in 0..self.dice.random_range(1..3) {
            let at = self.dice.random_range(12..frame.len());
            frame[at] = self.dice.random();
        }
        frame
    }

    /// An ICMP error about one of the packets so far, or one that it could be taken for.
    fn error(&mut self) -> Step {
        let dice = &mut self.dice;
        let (sent, frame) = &self.sent[dice.random_range(0..self.sent.len())];
        let mut quote = frame[ETHERNET..].to_vec();
        let is_v4 = quote[0] >> 4 == 4;
        let (pod, peer): (IpAddr, IpAddr) =
            if is_v4 { (POD.into(), PEER.into()) } else { (POD6.into(), PEER6.into()) };
        let router: IpAddr =
            if is_v4 { [192, 0, 2, 1].into() } else { "2001:db8::1".parse().expect("an address") };
        let (number, kind) = if is_v4 {
            (protocol::ICMP, pick(dice, &[[3, 3], [3, 4], [11, 0]]))
        } else {
            (protocol::ICMPV6, pick(dice, &[[1, 4], [2, 0], [3, 0]]))
        };
        // It goes against what it quotes, most often.
        let direction = if dice.random_range(0..8) == 0 { *sent } else { sent.reverse() };
        if dice.random_range(0..4) == 0 {
            let at = dice.random_range(0..quote.len());
            quote[at] = dice.random();
        }
        if dice.random_range(0..8) == 0 {
            quote.truncate(dice.random_range(0..quote.len()));
        }
        let (source, destination) = match direction {
            Ingress => (pick(dice, &[router, peer]), pod),
            Egress => (pod, pick(dice, &[peer, peer, router])),
        };
        let message = [&[kind[0], kind[1], 0, 0, 0, 0, 5, 0], &quote[..]].concat();
        let frame = packet::frame(source, destination, number, &message);
        Step::Packet { direction, frame, from_host: false, reply: None }
    }
}
