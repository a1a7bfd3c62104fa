//! A pod's own address: what it sends to itself passes, and nobody else's claim to be the pod does
//! (SEMANTICS 39). Needs root.

use std::net::IpAddr;

use sluice::engine::packet::{self, echo, sctp, tcp, udp};
use sluice_common::abi::Direction::{Egress, Ingress};
use sluice_common::abi::FlowKey;
use sluice_common::parse::tcp_flag::{ACK, RST, SYN};
use sluice_common::parse::{protocol, sctp_chunk};
use sluice_common::reason::Reason;
use sluice_tests::scene::{EPOCH, PEER, POD, POD6, Scene};

const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;

/// Packets of a pod to itself, as they leave it and as the node sends them back.
fn to_itself() -> [Vec<u8>; 7] {
    let v4 = |number, payload: &[u8]| packet::frame(POD.into(), POD.into(), number, payload);
    let v6 = |number, payload: &[u8]| packet::frame(POD6.into(), POD6.into(), number, payload);
    [
        v4(protocol::TCP, &tcp(CLIENT, SERVER, SYN)),
        v6(protocol::TCP, &tcp(CLIENT, SERVER, SYN)),
        v4(protocol::TCP, &tcp(CLIENT + 1, SERVER, RST)),
        v4(protocol::UDP, &udp(CLIENT, SERVER, &[])),
        v6(protocol::SCTP, &sctp(CLIENT, SERVER, sctp_chunk::INIT)),
        v4(protocol::ICMP, &echo(8, 5)),
        v6(protocol::ICMPV6, &echo(128, 5)),
    ]
}

/// 39: what the pod sends to itself comes back to it.
#[test]
fn a_pod_reaches_itself() {
    let mut scene = Scene::new();
    for packet in to_itself() {
        for direction in [Egress, Ingress, Egress, Ingress] {
            scene.passes(direction, &packet, Reason::OwnAddress);
        }
    }
    // The answer is noted by itself, and goes the same way.
    let answer =
        packet::frame(POD.into(), POD.into(), protocol::TCP, &tcp(SERVER, CLIENT, SYN | ACK));
    scene.passes(Egress, &answer, Reason::OwnAddress);
    scene.passes(Ingress, &answer, Reason::OwnAddress);
    // A change of policy is none of its business.
    scene.deny_all(Egress);
    scene.passes(Ingress, &answer, Reason::OwnAddress);
}

/// Anyone without our programs can write the pod's address as source.
#[test]
fn a_forged_own_address_is_judged_by_policy() {
    let mut scene = Scene::new();
    for packet in to_itself() {
        scene.drops(Ingress, &packet, Reason::DefaultDeny);
    }
    // What the pod did send to itself is no leave for anything else.
    let from = |port, to, flags| {
        packet::frame(POD.into(), POD.into(), protocol::TCP, &tcp(port, to, flags))
    };
    scene.passes(Egress, &from(CLIENT, SERVER, SYN), Reason::OwnAddress);
    scene.drops(Ingress, &from(SERVER, CLIENT, SYN | ACK), Reason::DefaultDeny);
    scene.drops(Ingress, &from(CLIENT, SERVER + 1, SYN), Reason::DefaultDeny);
    // Nor is what policy lets through: it opens nothing, in this direction or back.
    scene.allow(Ingress, protocol::TCP, SERVER);
    scene.passes(Ingress, &from(CLIENT + 1, SERVER, SYN), Reason::Allowed);
    scene.drops(Ingress, &from(SERVER, CLIENT + 1, SYN | ACK), Reason::DefaultDeny);
    scene.drops(Ingress, &from(CLIENT + 1, SERVER + 1, SYN), Reason::DefaultDeny);
    scene.deny(Ingress, protocol::TCP, SERVER);
    // Nor is a flow to somebody else, whose address the forger writes as destination.
    scene.allow_all(Egress);
    let out = packet::frame(POD.into(), PEER.into(), protocol::TCP, &tcp(CLIENT, SERVER, SYN));
    scene.passes(Egress, &out, Reason::Allowed);
    scene.drops(Ingress, &out, Reason::DefaultDeny);
    // And it does not last.
    scene.passes(Ingress, &from(CLIENT, SERVER, SYN), Reason::OwnAddress);
    let key = FlowKey {
        remote: IpAddr::from(POD).into(),
        epoch: EPOCH,
        local_port_be: CLIENT.to_be(),
        remote_port_be: SERVER.to_be(),
        protocol: u32::from(protocol::TCP),
    };
    scene.age(&key, 61);
    scene.drops(Ingress, &from(CLIENT, SERVER, SYN), Reason::DefaultDeny);
}
