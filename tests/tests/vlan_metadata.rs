//! A VLAN tag that stands beside the packet and not in it (SEMANTICS 75): there the kernel puts the
//! outer tag of whatever it receives, and there it stays while a bridge forwards it. Needs root.

use sluice::engine::packet::{self, tcp};
use sluice_common::abi::Direction::{self, Egress, Ingress};
use sluice_common::parse::{protocol, tcp_flag};
use sluice_common::reason::Reason;
use sluice_tests::packet::{IPV4, VLAN, ethernet};
use sluice_tests::scene::{PEER, POD, Scene};
use sluice_tests::wire::Wire;

/// A SYN between the pod and its peer.
fn syn(direction: Direction, port: u16) -> Vec<u8> {
    let segment = tcp(40_000, port, tcp_flag::SYN);
    match direction {
        Ingress => packet::frame(PEER.into(), POD.into(), protocol::TCP, &segment),
        Egress => packet::frame(POD.into(), PEER.into(), protocol::TCP, &segment),
    }
}

#[test]
fn a_tag_beside_the_packet_changes_no_verdict() {
    let mut wire = Wire::new();
    let mut scene = Scene::new();
    for direction in [Ingress, Egress] {
        scene.allow(direction, protocol::TCP, 80);
    }
    wire.attach(&mut scene);
    for direction in [Egress, Ingress] {
        for (port, reason) in [(80, Reason::Allowed), (81, Reason::DefaultDeny)] {
            let frame = syn(direction, port);
            let tagged = ethernet(&[VLAN], IPV4, &frame[14..]);
            assert_eq!(wire.carry(direction, &tagged, None), reason == Reason::Allowed);
            // With the tag in the data it would be four bytes longer.
            let counted = scene.counted().remove(&(direction, reason));
            assert_eq!(counted, Some((1, frame.len() as u64)), "{direction:?}, port {port}");
        }
    }
}
