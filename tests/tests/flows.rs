//! Flows in the kernel: what belongs to a connection passes, what policy took back does not
//! (SEMANTICS 1, 40, 49–55). Needs root.

use std::net::IpAddr;

use sluice::engine::packet::{self, echo, sctp, tcp, udp};
use sluice_common::abi::{Direction, FlowKey, FlowState, Lifetimes};
use sluice_common::parse::{protocol, sctp_chunk, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::packet::{V4, V6, fragment, options};
use sluice_tests::scene::{EPOCH, PEER, PEER6, POD, POD6, Scene};

use Direction::{Egress, Ingress};
use tcp_flag::{ACK, FIN, RST, SYN};

const HOST: u32 = 0;
const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;
/// The rule of [`Scene`] that lets the pod open connections.
const EGRESS_RULE: u32 = 2;

/// A packet of the connection between the pod and its peer, in a direction.
fn frame(direction: Direction, number: u8, payload: &[u8]) -> Vec<u8> {
    let (pod, peer): (IpAddr, IpAddr) = if number == protocol::ICMPV6 {
        (POD6.into(), PEER6.into())
    } else {
        (POD.into(), PEER.into())
    };
    match direction {
        Ingress => packet::frame(peer, pod, number, payload),
        Egress => packet::frame(pod, peer, number, payload),
    }
}

/// TCP of a connection that the pod opened.
fn out(flags: u8) -> Vec<u8> {
    frame(Egress, protocol::TCP, &tcp(CLIENT, SERVER, flags))
}

/// The way back.
fn back(flags: u8) -> Vec<u8> {
    frame(Ingress, protocol::TCP, &tcp(SERVER, CLIENT, flags))
}

fn tcp_key() -> FlowKey {
    FlowKey {
        remote: IpAddr::from(PEER).into(),
        epoch: EPOCH,
        local_port_be: CLIENT.to_be(),
        remote_port_be: SERVER.to_be(),
        protocol: u32::from(protocol::TCP),
    }
}

/// A pod that may open connections to port 80 and is closed to everything else.
fn client() -> Scene {
    let mut scene = Scene::new();
    for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        scene.allow(Egress, number, SERVER);
    }
    scene
}

fn open(scene: &mut Scene) {
    scene.passes(Egress, &out(SYN), Reason::Allowed);
    scene.passes(Ingress, &back(SYN | ACK), Reason::Established);
    scene.passes(Egress, &out(ACK), Reason::Established);
}

fn state(scene: &mut Scene) -> FlowState {
    use FlowState::{Answered, Closing, Established, Opening, Revoked};
    let flow = scene.datapath.maps().flow(&tcp_key()).unwrap().expect("the flow is there");
    let states = [Opening, Answered, Established, Closing, Revoked];
    *states.iter().find(|state| **state as u32 == flow.state).expect("a state")
}

#[test]
fn replies_pass_and_unsolicited_packets_do_not() {
    let mut scene = client();
    scene.drops(Ingress, &back(SYN | ACK), Reason::DefaultDeny);
    scene.drops(Ingress, &back(ACK), Reason::DefaultDeny);
    open(&mut scene);
    assert_eq!(state(&mut scene), FlowState::Established);
    // Another port of the same peer is another connection.
    let other = frame(Ingress, protocol::TCP, &tcp(SERVER + 1, CLIENT, ACK));
    scene.drops(Ingress, &other, Reason::DefaultDeny);
}

/// Ingress is isolated, egress is not: replies to what the pod opens pass all the same.
#[test]
fn replies_pass_where_only_one_direction_is_isolated() {
    let mut scene = Scene::isolated_in(Ingress);
    scene.passes(Egress, &out(SYN), Reason::NotIsolated);
    scene.passes(Ingress, &back(SYN | ACK), Reason::Established);
    scene.passes(Egress, &out(ACK), Reason::Established);
    let mut scene = Scene::isolated_in(Egress);
    let syn = frame(Ingress, protocol::TCP, &tcp(CLIENT, SERVER, SYN));
    let answer = frame(Egress, protocol::TCP, &tcp(SERVER, CLIENT, SYN | ACK));
    scene.drops(Egress, &answer, Reason::DefaultDeny);
    scene.passes(Ingress, &syn, Reason::NotIsolated);
    scene.passes(Egress, &answer, Reason::Established);
}

/// 51: taken back → cut at the next packet, from either side; given again → passes at once.
#[test]
fn revoked_flows_are_cut_from_either_side() {
    for first in [Ingress, Egress] {
        let mut scene = client();
        open(&mut scene);
        scene.deny(Egress, protocol::TCP, SERVER);
        // The peer itself may open connections to the pod: it must not revive this one by sending.
        scene.allow_all(Ingress);
        let packets = match first {
            Ingress => [(Ingress, back(ACK)), (Egress, out(ACK))],
            Egress => [(Egress, out(ACK)), (Ingress, back(ACK))],
        };
        for (direction, packet) in &packets {
            scene.drops(*direction, packet, Reason::Revoked);
        }
        assert_eq!(state(&mut scene), FlowState::Revoked);
        scene.allow(Egress, protocol::TCP, SERVER);
        for (direction, packet) in &packets {
            scene.passes(*direction, packet, Reason::Established);
        }
    }
}

/// 51, where the pod's own direction is governed by nothing: what it goes on to send, after minutes of
/// silence, does not make the connection its own.
#[test]
fn a_revoked_connection_stays_cut_where_one_direction_is_open() {
    for (governed, open) in [(Ingress, Egress), (Egress, Ingress)] {
        let mut scene = Scene::isolated_in(governed);
        let port = if governed == Ingress { CLIENT } else { SERVER };
        scene.allow(governed, protocol::TCP, port);
        let packet = |direction, flags| if direction == Ingress { back(flags) } else { out(flags) };
        scene.passes(governed, &packet(governed, SYN), Reason::Allowed);
        scene.passes(open, &packet(open, SYN | ACK), Reason::Established);
        scene.passes(governed, &packet(governed, ACK), Reason::Established);
        scene.deny(governed, protocol::TCP, port);
        scene.drops(open, &packet(open, ACK), Reason::Revoked);
        scene.age_at_most(&tcp_key(), 1_000);
        scene.drops(open, &packet(open, ACK), Reason::Revoked);
        scene.drops(governed, &packet(governed, ACK), Reason::Revoked);
        // It is its own where it opens one.
        scene.passes(open, &packet(open, SYN), Reason::NotIsolated);
    }
}

#[test]
fn revoked_udp_is_cut_and_given_again() {
    let mut scene = client();
    let query = frame(Egress, protocol::UDP, &udp(CLIENT, SERVER, &[]));
    let answer = frame(Ingress, protocol::UDP, &udp(SERVER, CLIENT, &[]));
    scene.passes(Egress, &query, Reason::Allowed);
    scene.passes(Ingress, &answer, Reason::Established);
    scene.deny(Egress, protocol::UDP, SERVER);
    scene.drops(Ingress, &answer, Reason::Revoked);
    scene.drops(Egress, &query, Reason::Revoked);
    scene.allow(Egress, protocol::UDP, SERVER);
    scene.passes(Egress, &query, Reason::Established);
}

/// A change that does not concern a flow leaves it alone.
#[test]
fn flows_that_policy_still_allows_go_on() {
    let mut scene = client();
    open(&mut scene);
    scene.allow(Egress, protocol::TCP, 443);
    scene.passes(Ingress, &back(ACK), Reason::Established);
    scene.passes(Egress, &out(ACK), Reason::Established);
    // Isolation is taken off and put back.
    scene.govern([1, 0]);
    scene.passes(Egress, &out(ACK), Reason::Established);
    scene.govern([1, 2]);
    scene.passes(Ingress, &back(ACK), Reason::Established);
}

/// A tombstone gives way to a new connection that its own side's policy allows, and to no other.
#[test]
fn a_new_connection_may_replace_a_revoked_one() {
    let mut scene = client();
    open(&mut scene);
    scene.deny(Egress, protocol::TCP, SERVER);
    scene.drops(Egress, &out(ACK), Reason::Revoked);
    scene.drops(Egress, &out(SYN), Reason::DefaultDeny);
    scene.drops(Ingress, &back(SYN), Reason::DefaultDeny);
    scene.allow(Ingress, protocol::TCP, CLIENT);
    scene.passes(Ingress, &back(SYN), Reason::Allowed);
    scene.passes(Egress, &out(SYN | ACK), Reason::Established);
}

/// 53: another pod in the slot, with the same address, inherits nothing.
#[test]
fn another_pod_inherits_no_flow() {
    let mut scene = client();
    open(&mut scene);
    scene.replace_pod(EPOCH + 1);
    scene.drops(Ingress, &back(ACK), Reason::DefaultDeny);
}

/// 54: simultaneous open, close, reset, and ports that are used again.
#[test]
fn connections_open_close_and_open_again_as_tcp_does() {
    let mut scene = client();
    scene.passes(Egress, &out(SYN), Reason::Allowed);
    scene.passes(Egress, &out(SYN), Reason::Established);
    scene.passes(Ingress, &back(SYN), Reason::Established);
    scene.passes(Ingress, &back(SYN | ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Answered);
    scene.passes(Egress, &out(ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Established);
    // Later, a SYN from the other side would be a connection of its own.
    scene.drops(Ingress, &back(SYN), Reason::DefaultDeny);
    scene.passes(Egress, &out(FIN | ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Established, "half closed");
    scene.passes(Ingress, &back(ACK), Reason::Established);
    scene.passes(Ingress, &back(FIN | ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Closing);
    scene.passes(Egress, &out(ACK), Reason::Established);
    // The same ports again, at once.
    scene.passes(Egress, &out(SYN), Reason::Allowed);
    assert_eq!(state(&mut scene), FlowState::Opening);
    scene.passes(Ingress, &back(RST | ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Closing);
    scene.passes(Egress, &out(SYN), Reason::Allowed);
    scene.passes(Ingress, &back(SYN | ACK), Reason::Established);
    scene.passes(Egress, &out(ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Established);
}

/// What anybody can forge who knows the ports ends no connection.
#[test]
fn one_forged_packet_changes_nothing_that_lasts() {
    let mut scene = client();
    open(&mut scene);
    scene.passes(Ingress, &back(RST), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Closing);
    scene.forget_recent();
    scene.passes(Ingress, &back(ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Established);
    scene.passes(Egress, &out(SYN), Reason::Allowed);
    assert_eq!(state(&mut scene), FlowState::Established);
    scene.passes(Ingress, &back(SYN | ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Answered, "it is another connection");
    scene.passes(Egress, &out(ACK), Reason::Established);
    assert_eq!(state(&mut scene), FlowState::Established);
}

#[test]
fn a_reset_opens_nothing() {
    let mut scene = client();
    scene.passes(Egress, &out(RST | ACK), Reason::Allowed);
    assert_eq!(scene.datapath.maps().flow(&tcp_key()).unwrap(), None);
    scene.drops(Ingress, &back(ACK), Reason::DefaultDeny);
}

/// A connection that was there before the tables: judged by policy in its packet's direction.
#[test]
fn the_middle_of_a_connection_is_judged_and_remembered() {
    let mut scene = client();
    scene.passes(Egress, &out(ACK), Reason::Allowed);
    assert_eq!(state(&mut scene), FlowState::Established);
    scene.passes(Ingress, &back(ACK), Reason::Established);
}

/// 54, 55: no flow outlives its lifetime.
#[test]
fn silent_flows_are_forgotten() {
    let mut scene = client();
    let query = frame(Egress, protocol::UDP, &udp(CLIENT, SERVER, &[]));
    let answer = frame(Ingress, protocol::UDP, &udp(SERVER, CLIENT, &[]));
    let udp_key = FlowKey { protocol: u32::from(protocol::UDP), ..tcp_key() };
    scene.passes(Egress, &query, Reason::Allowed);
    scene.age(&udp_key, 31);
    scene.drops(Ingress, &answer, Reason::DefaultDeny);
    scene.passes(Egress, &query, Reason::Allowed);
    scene.passes(Ingress, &answer, Reason::Established);
    scene.passes(Ingress, &answer, Reason::Established);
    scene.age(&udp_key, 181);
    scene.drops(Ingress, &answer, Reason::DefaultDeny);

    scene.passes(Egress, &out(SYN), Reason::Allowed);
    scene.age(&tcp_key(), 61);
    scene.drops(Ingress, &back(SYN | ACK), Reason::DefaultDeny);
}

/// A connection may be silent for days.
#[test]
fn an_idle_connection_lives_on() {
    let mut scene = client();
    open(&mut scene);
    scene.age_at_most(&tcp_key(), u64::from(Lifetimes::STANDARD.established) - 10);
    scene.passes(Ingress, &back(ACK), Reason::Established);
    scene.passes(Egress, &out(ACK), Reason::Established);
    scene.age(&tcp_key(), u64::from(Lifetimes::STANDARD.established) + 1);
    scene.drops(Ingress, &back(ACK), Reason::DefaultDeny);
}

/// The agent's flags say how long that is.
#[test]
fn lifetimes_are_those_that_were_asked_for() {
    let lifetimes = Lifetimes { udp: 7200, opening: 5, ..Lifetimes::STANDARD };
    let mut scene = Scene::with_lifetimes(lifetimes);
    for number in [protocol::TCP, protocol::UDP] {
        scene.allow(Egress, number, SERVER);
    }
    let query = frame(Egress, protocol::UDP, &udp(CLIENT, SERVER, &[]));
    let answer = frame(Ingress, protocol::UDP, &udp(SERVER, CLIENT, &[]));
    scene.passes(Egress, &query, Reason::Allowed);
    scene.passes(Ingress, &answer, Reason::Established);
    scene.age_at_most(&FlowKey { protocol: u32::from(protocol::UDP), ..tcp_key() }, 7000);
    scene.passes(Ingress, &answer, Reason::Established);
    scene.passes(Egress, &out(SYN), Reason::Allowed);
    scene.age(&tcp_key(), 6);
    scene.drops(Ingress, &back(SYN | ACK), Reason::DefaultDeny);
}

#[test]
fn sctp_associations() {
    let mut scene = client();
    let out = |chunk| frame(Egress, protocol::SCTP, &sctp(CLIENT, SERVER, chunk));
    let back = |chunk| frame(Ingress, protocol::SCTP, &sctp(SERVER, CLIENT, chunk));
    scene.drops(Ingress, &back(sctp_chunk::INIT), Reason::DefaultDeny);
    scene.passes(Egress, &out(sctp_chunk::INIT), Reason::Allowed);
    scene.passes(Ingress, &back(2), Reason::Established);
    scene.passes(Egress, &out(0), Reason::Established);
    scene.drops(Ingress, &back(sctp_chunk::INIT), Reason::DefaultDeny);
    scene.passes(Ingress, &back(sctp_chunk::ABORT), Reason::Established);
    scene.passes(Egress, &out(sctp_chunk::INIT), Reason::Allowed);
}

/// 49: a reply passes after its request, and is judged by policy without one.
#[test]
fn echo_replies_need_their_request() {
    for (number, request, reply) in [(protocol::ICMP, 8, 0), (protocol::ICMPV6, 128, 129)] {
        let mut scene = Scene::new();
        let ask = |identifier| frame(Egress, number, &echo(request, identifier));
        let answer = |identifier| frame(Ingress, number, &echo(reply, identifier));
        scene.drops(Egress, &ask(5), Reason::DefaultDeny);
        scene.allow_all(Egress);
        scene.drops(Ingress, &answer(5), Reason::DefaultDeny);
        scene.passes(Egress, &ask(5), Reason::Allowed);
        scene.passes(Ingress, &answer(5), Reason::Established);
        scene.drops(Ingress, &answer(6), Reason::DefaultDeny);
        // The other end's own request with the same identifier is another exchange.
        scene.drops(Ingress, &frame(Ingress, number, &echo(request, 5)), Reason::DefaultDeny);
    }
}

/// 40: the node's own host stack reaches the pod, and gets its answers.
#[test]
fn own_host_passes_and_is_answered() {
    let mut scene = Scene::new();
    let probe = frame(Ingress, protocol::TCP, &tcp(CLIENT, SERVER, SYN));
    let answer = frame(Egress, protocol::TCP, &tcp(SERVER, CLIENT, SYN | ACK));
    scene.drops(Ingress, &probe, Reason::DefaultDeny);
    scene.drops(Egress, &answer, Reason::DefaultDeny);
    scene.passes_from(Ingress, &probe, Reason::Host, HOST);
    scene.passes(Egress, &answer, Reason::Established);
    // It is not judged again when policies change.
    scene.allow(Ingress, protocol::TCP, 443);
    scene.passes(Egress, &answer, Reason::Established);
    // What it says in the middle of something may be about the pod's own: it takes nothing out of policy.
    for flags in [SYN | ACK, ACK, FIN | ACK] {
        let middle = frame(Ingress, protocol::TCP, &tcp(CLIENT + 1, SERVER, flags));
        let answer = frame(Egress, protocol::TCP, &tcp(SERVER, CLIENT + 1, ACK));
        scene.passes_from(Ingress, &middle, Reason::Host, HOST);
        scene.drops(Egress, &answer, Reason::DefaultDeny);
    }
    // What the host sends is not read.
    let later = V4 { fragment: 100, ..V4::new(PEER, POD, protocol::TCP, vec![0; 64]) };
    scene.passes_from(Ingress, &later.frame(), Reason::Host, HOST);
    // Pieces of IPv6 packets may be anyone's: the node has cut them. Even if it is one piece.
    // With four bytes of data, since a first piece has a multiple of eight.
    let data = |port| [tcp(port, SERVER, SYN), vec![0; 4]].concat();
    let syn6 = |port| V6::new(PEER6, POD6, protocol::TCP, data(port));
    scene.passes_from(Ingress, &syn6(CLIENT).frame(), Reason::Host, HOST);
    let syn6 = syn6(CLIENT + 1);
    let piece = |offset, more| syn6.clone().with(fragment(offset, more)).frame();
    for (frame, reason) in [
        (piece(0, false), Reason::DefaultDeny),
        (piece(0, true), Reason::DefaultDeny),
        (piece(1024, false), Reason::Fragment),
        ((0..9).fold(syn6.clone(), |v6, _| v6.with(options(60, 0))).frame(), Reason::HeaderChain),
    ] {
        let (action, counted) = scene.run_from(Ingress, &frame, HOST);
        assert_eq!(action, sluice::datapath::run::Action::Drop);
        assert_eq!(counted.keys().collect::<Vec<_>>(), [&(Ingress, reason)]);
        assert_eq!(scene.event().map(|event| event.reason), Some(reason as u32));
    }
    // A packet out of the pod has no such right, whatever interface it claims.
    let syn = frame(Egress, protocol::TCP, &tcp(1, 2, SYN));
    let (action, _) = scene.run_from(Egress, &syn, HOST);
    assert_eq!(action, sluice::datapath::run::Action::Drop);
}

/// 51: a change that does not touch the flow's verdict has it judged once more, and no packet after.
#[test]
fn a_change_costs_a_flow_one_judgement() {
    for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        let mut scene = client();
        let payload = |from, to, opens: bool| match number {
            protocol::TCP => tcp(from, to, if opens { SYN } else { ACK }),
            protocol::SCTP => sctp(from, to, if opens { sctp_chunk::INIT } else { 3 }),
            _ => udp(from, to, &[]),
        };
        let first = frame(Egress, number, &payload(CLIENT, SERVER, true));
        let there = frame(Egress, number, &payload(CLIENT, SERVER, false));
        let back = frame(Ingress, number, &payload(SERVER, CLIENT, false));
        scene.passes(Egress, &first, Reason::Allowed);
        // Judgements by the rule that lets it through.
        let judged = |scene: &mut Scene| {
            let hits = scene.datapath.maps().rule_hits(EGRESS_RULE).expect("readable");
            hits[EGRESS_RULE as usize].packets
        };
        let exchange = |scene: &mut Scene| {
            for _ in 0..5 {
                scene.passes(Ingress, &back, Reason::Established);
                scene.passes(Egress, &there, Reason::Established);
                // By the cache of those seen lately, and by the table.
                scene.passes(Egress, &there, Reason::Established);
                scene.forget_recent();
            }
        };
        exchange(&mut scene);
        assert_eq!(judged(&mut scene), 1, "protocol {number}, its first packet");
        scene.allow(Egress, number, 443);
        exchange(&mut scene);
        assert_eq!(judged(&mut scene), 2, "protocol {number}, after a change");
        scene.allow(Ingress, number, 443);
        scene.deny(Egress, number, 443);
        exchange(&mut scene);
        assert_eq!(judged(&mut scene), 3, "protocol {number}, after two changes at once");
        exchange(&mut scene);
        assert_eq!(judged(&mut scene), 3, "protocol {number}, after none");
    }
}

/// A set that has no entries at all, because it did not fit.
#[test]
fn a_set_without_entries_is_closed() {
    let mut scene = Scene::new();
    scene.govern([9, 9]);
    let syn = frame(Ingress, protocol::TCP, &tcp(1, SERVER, SYN));
    scene.drops(Ingress, &syn, Reason::Closed);
}
