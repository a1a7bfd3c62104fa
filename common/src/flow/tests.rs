use super::*;
use crate::abi::Lifetimes;

const RATE: u32 = 250;
const LIFETIMES: Lifetimes = Lifetimes::STANDARD;
const KEY: FlowKey = FlowKey {
    remote: crate::abi::Address::UNSPECIFIED,
    epoch: 1,
    local_port_be: 80_u16.to_be(),
    remote_port_be: 40_000_u16.to_be(),
    protocol: protocol::TCP as u32,
};

/// A time, in seconds of the test.
fn at(second: u64) -> Clock {
    Clock { now: (1_000_000 + second) * u64::from(RATE), rate: RATE }
}

fn tcp(flags: u8) -> Packet {
    let transport = Transport::Tcp { flags };
    Packet { protocol: protocol::TCP, transport, ..Packet::default() }
}

/// A flow that the other end opened, and that both ends want.
fn established() -> Flow {
    Flow {
        last_seen: at(0).now,
        generation: 1,
        state: FlowState::Established as u32,
        initiator: Direction::Ingress as u32,
        flags: Flow::FLAG_WANTED,
        ..Flow::default()
    }
}

fn meets(flow: &Flow, packet: &Packet, direction: Direction, second: u64) -> Known {
    known(flow, &KEY, packet, direction, 1, at(second), &LIFETIMES)
}

/// The end that does not know that policy cut the connection retransmits, at intervals up to two minutes,
/// and probes after hours: none of that is a first packet.
#[test]
fn what_policy_took_back_stays_so_as_long_as_its_end_may_go_on() {
    let answer = tcp(tcp_flag::ACK);
    let judged = judged_again(&established(), &answer, Direction::Egress, 1, at(0), None);
    let Known::Revoked(mut flow) = judged else { panic!("{judged:?}") };
    assert!(flow.flags & Flow::FLAG_WANTED != 0, "no flood ends it");
    let mut second = 0;
    for gap in [1, 61, 102, 120, 7_200, 75, 400_000] {
        second += gap;
        let met = meets(&flow, &answer, Direction::Egress, second);
        let Known::Revoked(next) = met else { panic!("after {gap} s: {met:?}") };
        flow = next;
    }
    assert_eq!(meets(&flow, &answer, Direction::Egress, second + 432_001), Known::First);
    let syn = tcp(tcp_flag::SYN);
    assert_eq!(meets(&flow, &syn, Direction::Ingress, second), Known::First, "another connection");
}

#[test]
fn a_conversation_that_policy_took_back_stays_so_for_a_conversations_lifetime() {
    let key = FlowKey { protocol: protocol::UDP.into(), ..KEY };
    let packet = Packet { protocol: protocol::UDP, transport: Transport::Udp, ..tcp(0) };
    let flow = Flow { state: FlowState::Revoked as u32, ..established() };
    let met = |second| known(&flow, &key, &packet, Direction::Egress, 1, at(second), &LIFETIMES);
    assert!(matches!(met(180), Known::Revoked(_)));
    assert_eq!(met(181), Known::First);
}

#[test]
fn what_answers_an_unknown_opening_opens_nothing() {
    let opened = |flags| open(&tcp(flags), Direction::Egress, 1, at(0), RULE_DEFAULT, 0);
    assert_eq!(opened(tcp_flag::SYN | tcp_flag::ACK), None);
    assert_eq!(opened(tcp_flag::RST | tcp_flag::ACK), None);
    let state = |flags| opened(flags).map(|flow| flow.state);
    assert_eq!(state(tcp_flag::SYN), Some(FlowState::Opening as u32));
    assert_eq!(state(tcp_flag::ACK), Some(FlowState::Established as u32));
}
