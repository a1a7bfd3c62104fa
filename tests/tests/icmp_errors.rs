//! ICMP errors are judged by the flow of the packet that they quote (SEMANTICS 45), in both families and
//! both directions. Needs root.

use std::net::IpAddr;

use sluice::engine::packet::{self, echo, sctp, tcp, udp};
use sluice_common::abi::Direction::{Egress, Ingress};
use sluice_common::parse::{protocol, sctp_chunk, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::scene::{PEER, PEER6, POD, POD6, Scene};

const CLIENT: u16 = 40_000;
const SERVER: u16 = 80;
/// Of an Ethernet header.
const ETHERNET: usize = 14;

/// Who talks in a family, and what its errors are.
struct Family {
    pod: IpAddr,
    peer: IpAddr,
    router: IpAddr,
    icmp: u8,
    /// Type and code of errors: too big, and unreachable.
    errors: [[u8; 2]; 2],
    echo_request: u8,
}

fn families() -> [Family; 2] {
    let address = |text: &str| text.parse().expect("an address");
    [
        Family {
            pod: POD.into(),
            peer: PEER.into(),
            router: address("192.0.2.1"),
            icmp: protocol::ICMP,
            errors: [[3, 4], [3, 3]],
            echo_request: 8,
        },
        Family {
            pod: POD6.into(),
            peer: PEER6.into(),
            router: address("2001:db8::1"),
            icmp: protocol::ICMPV6,
            errors: [[2, 0], [1, 4]],
            echo_request: 128,
        },
    ]
}

impl Family {
    /// A packet from the pod.
    fn out(&self, number: u8, payload: &[u8]) -> Vec<u8> {
        packet::frame(self.pod, self.peer, number, payload)
    }

    /// A packet to the pod.
    fn back(&self, number: u8, payload: &[u8]) -> Vec<u8> {
        packet::frame(self.peer, self.pod, number, payload)
    }

    /// An error that quotes the first 48 bytes of a packet, from somewhere to somewhere.
    fn error(&self, kind: [u8; 2], source: IpAddr, destination: IpAddr, about: &[u8]) -> Vec<u8> {
        let quoted = &about[ETHERNET..];
        let message = [&[kind[0], kind[1], 0, 0, 0, 0, 5, 0], &quoted[..quoted.len().min(48)]];
        packet::frame(source, destination, self.icmp, &message.concat())
    }
}

/// A pod that may talk to port 80, and ping, and is closed to everything else.
fn client() -> Scene {
    let mut scene = Scene::new();
    for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        scene.allow(Egress, number, SERVER);
    }
    scene.allow(Egress, protocol::ICMP, 8 << 8);
    scene.allow(Egress, protocol::ICMPV6, 128 << 8);
    scene
}

/// From a router to the pod, about what the pod has sent.
#[test]
fn a_pod_is_told_about_its_own_flows_only() {
    for family in families() {
        let transports = [
            (protocol::TCP, tcp(CLIENT, SERVER, tcp_flag::SYN), tcp(CLIENT, 81, tcp_flag::SYN)),
            (protocol::UDP, udp(CLIENT, SERVER, &[]), udp(CLIENT + 1, SERVER, &[])),
            (
                protocol::SCTP,
                sctp(CLIENT, SERVER, sctp_chunk::INIT),
                sctp(CLIENT, 81, sctp_chunk::INIT),
            ),
            (family.icmp, echo(family.echo_request, 5), echo(family.echo_request, 6)),
        ];
        for kind in family.errors {
            let mut scene = client();
            for (number, payload, other) in &transports {
                let sent = family.out(*number, payload);
                let about = |packet: &[u8]| family.error(kind, family.router, family.pod, packet);
                scene.drops(Ingress, &about(&sent), Reason::DefaultDeny);
                scene.passes(Egress, &sent, Reason::Allowed);
                scene.passes(Ingress, &about(&sent), Reason::RelatedError);
                // About a packet that the pod did not send, by its ports or its direction.
                scene.drops(Ingress, &about(&family.out(*number, other)), Reason::DefaultDeny);
                scene.drops(Ingress, &about(&family.back(*number, payload)), Reason::DefaultDeny);
                // The pod cannot send on what it was told, or tell the router about itself.
                let own = family.error(kind, family.pod, family.router, &sent);
                scene.drops(Egress, &own, Reason::DefaultDeny);
            }
        }
    }
}

/// From the pod, about what it was sent.
#[test]
fn a_pod_tells_who_talks_to_it_and_nobody_else() {
    for family in families() {
        let mut scene = client();
        let number = protocol::UDP;
        let query = family.out(number, &udp(CLIENT, SERVER, &[]));
        let answer = family.back(number, &udp(SERVER, CLIENT, &[]));
        let unknown = family.back(number, &udp(SERVER, CLIENT + 1, &[]));
        let own = |kind, to, about: &[u8]| family.error(kind, family.pod, to, about);
        for kind in family.errors {
            scene.drops(Egress, &own(kind, family.peer, &answer), Reason::DefaultDeny);
        }
        scene.passes(Egress, &query, Reason::Allowed);
        for kind in family.errors {
            scene.passes(Egress, &own(kind, family.peer, &answer), Reason::RelatedError);
            scene.drops(Egress, &own(kind, family.peer, &unknown), Reason::DefaultDeny);
            // To somebody else than the one whose packet it quotes, it is no error about anything.
            scene.drops(Egress, &own(kind, family.router, &answer), Reason::DefaultDeny);
            // In another's name.
            let forged = family.error(kind, family.router, family.peer, &answer);
            scene.drops(Egress, &forged, Reason::SpoofedSource);
        }
    }
}

/// An error opens nothing, and is gone with the flow.
#[test]
fn errors_go_with_their_flow() {
    for family in families() {
        let mut scene = client();
        let syn = family.out(protocol::TCP, &tcp(CLIENT, SERVER, tcp_flag::SYN));
        let answer = family.back(protocol::TCP, &tcp(SERVER, CLIENT, tcp_flag::ACK));
        let to_pod = family.error(family.errors[0], family.router, family.pod, &syn);
        let from_pod = family.error(family.errors[1], family.pod, family.peer, &answer);
        scene.allow(Egress, family.icmp, u16::from_be_bytes(family.errors[1]));
        scene.passes(Egress, &from_pod, Reason::Allowed);
        scene.drops(Ingress, &answer, Reason::DefaultDeny);
        scene.deny(Egress, family.icmp, u16::from_be_bytes(family.errors[1]));
        scene.passes(Egress, &syn, Reason::Allowed);
        for taken_back in [false, true] {
            if taken_back {
                scene.deny(Egress, protocol::TCP, SERVER);
                scene.drops(Ingress, &to_pod, Reason::Revoked);
                scene.drops(Egress, &from_pod, Reason::Revoked);
                scene.allow(Egress, protocol::TCP, SERVER);
            }
            scene.passes(Ingress, &to_pod, Reason::RelatedError);
            scene.passes(Egress, &from_pod, Reason::RelatedError);
        }
    }
}
