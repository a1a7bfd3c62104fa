//! Packets that a hostile pod or peer would send, through real interfaces between network namespaces: each
//! arrives or not as its reason says, and nothing else is counted. `hostile_packets` runs the same ones.
//! Needs root.

use sluice_tests::hostile::{Carrier, Setup};
use sluice_tests::wire::Wire;

fn send(setup: Setup) {
    let mut wire = Wire::new();
    let mut scene = setup.scene();
    wire.attach(&mut scene);
    let (mut sent, mut left) = (0, 0);
    for packet in setup.packets() {
        if let Carrier::Kernel(_) = packet.carrier {
            left += 1;
            continue;
        }
        let has_arrived = wire.carry(packet.direction, &packet.frame, packet.merged);
        packet.check(&mut scene, setup, has_arrived, &[Wire::companion(packet.direction)]);
        sent += 1;
    }
    println!("{setup:?}: {sent} packets; {left} that only a test run carries");
    assert!(sent > 0);
}

#[test]
fn an_isolated_pod() {
    send(Setup::Isolated);
}

/// What cannot be read passes there, but for addresses that are not the pod's.
#[test]
fn a_pod_whose_egress_is_not_isolated() {
    send(Setup::OpenEgress);
}

#[test]
fn a_pod_that_may_send_from_any_address() {
    send(Setup::AnySource);
}

#[test]
fn a_pod_in_shadow_mode() {
    send(Setup::Shadow);
}
