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

#[track_caller]
fn passes(flow: &Flow, packet: &Packet, direction: Direction, second: u64) -> Flow {
    match meets(flow, packet, direction, second) {
        Known::Passes(next) => next,
        other => panic!("{other:?}"),
    }
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

/// Nobody here knows whether the ends believe a reset; the one that is said to have sent it does.
#[test]
fn a_connection_stands_again_where_the_end_that_reset_it_goes_on() {
    let (data, reset) = (tcp(tcp_flag::ACK), tcp(tcp_flag::RST));
    let flow = passes(&established(), &reset, Direction::Ingress, 1);
    assert_eq!(flow.state, FlowState::Closing as u32);
    // The other end may send on what it had sent before it heard.
    let flow = passes(&flow, &data, Direction::Egress, 2);
    assert_eq!(flow.state, FlowState::Closing as u32);
    let again = passes(&flow, &reset, Direction::Ingress, 3);
    assert_eq!(again.state, FlowState::Closing as u32, "reset twice");
    let flow = passes(&flow, &data, Direction::Ingress, 3);
    assert_eq!((flow.state, flow.flags), (FlowState::Established as u32, Flow::FLAG_WANTED));
    // What both ends have closed is over.
    let closed = Flow { flags: established().flags | BOTH_CLOSED, ..established() };
    let flow = passes(&closed, &reset, Direction::Ingress, 1);
    assert_eq!(passes(&flow, &data, Direction::Ingress, 2).state, FlowState::Closing as u32);
    // And so is what did not stand yet.
    let opening = Flow { state: FlowState::Opening as u32, flags: 0, ..established() };
    let flow = passes(&opening, &reset, Direction::Egress, 1);
    assert_eq!(passes(&flow, &data, Direction::Egress, 2).state, FlowState::Closing as u32);
}

#[test]
fn a_connection_stands_until_a_new_syn_is_answered() {
    let half_closed = Flow { flags: Flow::FLAG_WANTED | Flow::FLAG_FIN_INGRESS, ..established() };
    let syn = tcp(tcp_flag::SYN);
    assert_eq!(meets(&half_closed, &syn, Direction::Ingress, 1), Known::Again);
    assert_eq!(meets(&half_closed, &syn, Direction::Egress, 1), Known::First, "another's");
    let answer = tcp(tcp_flag::SYN | tcp_flag::ACK);
    let flow = passes(&half_closed, &answer, Direction::Egress, 1);
    assert_eq!((flow.state, flow.flags), (FlowState::Answered as u32, 0), "a new connection");
    let flow = passes(&flow, &tcp(tcp_flag::ACK), Direction::Ingress, 1);
    assert_eq!((flow.state, flow.flags), (FlowState::Established as u32, Flow::FLAG_WANTED));
    // A SYN-ACK of the end that opened it, as after a simultaneous open, is of no new one.
    assert_eq!(passes(&flow, &answer, Direction::Ingress, 1), flow);
}

#[test]
fn what_ended_on_another_cpu_is_not_begun_again() {
    let closing = Flow { state: FlowState::Closing as u32, flags: 0, ..established() };
    let seen = Flow { last_seen: at(1).now, ..established() };
    assert!(ended_meanwhile(&established(), &closing, &seen));
    assert!(!ended_meanwhile(&closing, &closing, &seen), "it was known");
    assert!(!ended_meanwhile(&established(), &established(), &closing));
}
