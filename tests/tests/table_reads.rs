//! Tables read as a whole, many elements by one syscall. Needs root.

use std::collections::{BTreeMap, BTreeSet};

use sluice::datapath::{Datapath, LoadOptions};
use sluice_common::abi::{Flow, FlowKey, RULE_MAX, SLOTS_BY_INDEX};

fn datapath() -> Datapath {
    sluice_tests::needs_root();
    Datapath::load(&LoadOptions::default()).expect("loaded")
}

#[test]
fn the_slots_of_the_first_the_last_and_the_highest_interfaces_are_read() {
    let mut datapath = datapath();
    let maps = datapath.maps();
    assert_eq!(maps.slots().expect("readable"), BTreeMap::new());
    let led: BTreeMap<u32, u32> = [0, 1, 4095, 4096, SLOTS_BY_INDEX - 1, SLOTS_BY_INDEX, u32::MAX]
        .into_iter()
        .zip(1..)
        .collect();
    for (&ifindex, &slot) in &led {
        maps.set_slot(ifindex, slot).expect("set");
    }
    assert_eq!(maps.slots().expect("readable"), led);
}

/// More than one call brings.
#[test]
fn every_flow_is_read_once() {
    let mut datapath = datapath();
    let maps = datapath.maps();
    assert_eq!(maps.flows().expect("readable"), []);
    let epochs: BTreeSet<u32> = (1..=10_000).collect();
    for &epoch in &epochs {
        let key = FlowKey { epoch, ..FlowKey::default() };
        maps.set_flow(&key, &Flow::default()).expect("set");
    }
    let flows = maps.flows().expect("readable");
    assert_eq!(flows.len(), epochs.len());
    assert_eq!(flows.iter().map(|(key, _)| key.epoch).collect::<BTreeSet<_>>(), epochs);
}

#[test]
fn hits_are_read_up_to_the_rule_asked_for_and_never_beyond_the_table() {
    let mut datapath = datapath();
    let maps = datapath.maps();
    assert_eq!(maps.rule_hits(0).expect("readable").len(), 1);
    assert_eq!(maps.rule_hits(5000).expect("readable").len(), 5001);
    assert_eq!(maps.rule_hits(u32::MAX).expect("readable").len(), RULE_MAX as usize);
}
