//! Records of drops: how many an endpoint writes, and what becomes of the rest (issue 6, point 5). Needs
//! root.

use std::net::IpAddr;
use std::time::Instant;

use sluice::datapath::run::Action;
use sluice::engine::packet::{frame, tcp};
use sluice_common::abi::Direction::{Egress, Ingress};
use sluice_common::abi::{Event, capacity};
use sluice_common::parse::protocol;
use sluice_common::parse::tcp_flag::SYN;
use sluice_common::reason::Reason;
use sluice_tests::scene::{PEER, POD, Scene};

/// A packet to the pod, which nothing allows.
fn denied() -> Vec<u8> {
    frame(IpAddr::from(PEER), IpAddr::from(POD), protocol::TCP, &tcp(40_000, 80, SYN))
}

/// A packet out of the pod, whose source is another's.
fn spoofed() -> Vec<u8> {
    frame(IpAddr::from(PEER), IpAddr::from(PEER), protocol::TCP, &tcp(40_000, 80, SYN))
}

/// Sends denied packets, and says how many of their records were counted as lost.
fn lost_of(scene: &mut Scene, packets: u32) -> u64 {
    let frame = denied();
    let mut lost = 0;
    for _ in 0..packets {
        let (action, counted) = scene.run(Ingress, &frame);
        assert_eq!(action, Action::Drop);
        assert_eq!(counted[&(Ingress, Reason::DefaultDeny)], (1, frame.len() as u64));
        if let Some(&(packets, bytes)) = counted.get(&(Ingress, Reason::EventLost)) {
            assert_eq!((packets, bytes), (1, frame.len() as u64), "one record each");
            lost += 1;
        }
    }
    lost
}

fn recorded(scene: &mut Scene) -> u64 {
    std::iter::from_fn(|| scene.event()).count() as u64
}

#[test]
fn drops_beyond_the_rate_are_counted_and_not_recorded() {
    const RATE: u64 = 3;
    const PACKETS: u32 = 400;
    let mut scene = Scene::with_event_rate(RATE as u32);
    let begun = Instant::now();
    let lost = lost_of(&mut scene, PACKETS);
    // So many of the kernel's seconds the packets fell into, at most.
    let seconds = begun.elapsed().as_secs() + 2;
    let recorded = recorded(&mut scene);
    assert_eq!(recorded + lost, u64::from(PACKETS));
    assert!((RATE..=RATE * seconds).contains(&recorded), "{recorded} in {seconds} s");
}

/// Drops of one kind, however many, hide none of another.
#[test]
fn each_reason_has_a_rate_of_its_own() {
    let mut scene = Scene::with_event_rate(1);
    lost_of(&mut scene, 20);
    recorded(&mut scene);
    let (_, counted) = scene.run(Egress, &spoofed());
    assert_eq!(counted.keys().collect::<Vec<_>>(), [&(Egress, Reason::SpoofedSource)]);
    assert_eq!(scene.event().map(|event| event.reason), Some(Reason::SpoofedSource as u32));
}

#[test]
fn a_rate_of_zero_records_nothing() {
    let mut scene = Scene::with_event_rate(0);
    assert_eq!(lost_of(&mut scene, 3), 3);
    assert_eq!(recorded(&mut scene), 0);
}

/// What a full ring does not take is lost, counted, and in nobody's way afterwards.
#[test]
fn records_that_the_full_ring_does_not_take_are_counted() {
    /// The kernel's own bytes before each record.
    const HEADER: usize = 8;
    const FIT: u32 = capacity::EVENT_BYTES / (size_of::<Event>() + HEADER) as u32;
    let mut scene = Scene::new();
    let lost = lost_of(&mut scene, FIT + 100);
    assert!((100..=101).contains(&lost), "{lost} lost, {FIT} fit");
    assert_eq!(recorded(&mut scene) + lost, u64::from(FIT) + 100);
    assert_eq!(lost_of(&mut scene, 1), 0, "there is room again");
    assert_eq!(recorded(&mut scene), 1);
}
