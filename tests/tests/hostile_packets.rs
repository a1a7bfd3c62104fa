//! Packets that a hostile pod or peer would send, by `BPF_PROG_TEST_RUN`: each is dropped for its own
//! reason, and nothing else is counted. `hostile_lab` sends the same ones. Needs root.

use sluice::datapath::run::{Action, ELSEWHERE};
use sluice_tests::hostile::{Carrier, Setup};

fn run(setup: Setup) {
    let mut scene = setup.scene();
    let (mut run, mut left) = (0, 0);
    for packet in setup.packets() {
        if let Carrier::Lab(_) = packet.carrier {
            left += 1;
            continue;
        }
        let action = scene.datapath.run(packet.direction, &packet.frame, ELSEWHERE);
        let action = action.unwrap_or_else(|error| panic!("{error}: {packet}"));
        assert!(matches!(action, Action::Pass | Action::Drop), "{action:?}: {packet}");
        packet.check(&mut scene, setup, action == Action::Pass, &[]);
        run += 1;
    }
    println!("{setup:?}: {run} packets; {left} that only interfaces carry");
    assert!(run > 0);
}

#[test]
fn an_isolated_pod() {
    run(Setup::Isolated);
}

/// What cannot be read passes there, but for addresses that are not the pod's.
#[test]
fn a_pod_whose_egress_is_not_isolated() {
    run(Setup::OpenEgress);
}

#[test]
fn a_pod_that_may_send_from_any_address() {
    run(Setup::AnySource);
}

#[test]
fn a_pod_in_shadow_mode() {
    run(Setup::Shadow);
}
