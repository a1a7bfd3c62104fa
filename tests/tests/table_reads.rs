//! Tables read as a whole and written in bulk, many elements by one syscall. Needs root.

use std::collections::{BTreeMap, BTreeSet};

use sluice::datapath::{Datapath, LoadOptions, MapFault};
use sluice_common::abi::{
    Address, CIDR_KEY_BITS, CidrKey, Flow, FlowKey, RULE_MAX, SLOTS_BY_INDEX, Versioned, capacity,
};
use sluice_policy::diff::Op;
use sluice_policy::tables::Prefix;

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

/// Written to its end, by many calls, and no further.
#[test]
fn a_table_that_takes_no_more_is_named_and_holds_all_before() {
    let mut datapath = datapath();
    let maps = datapath.maps();
    let cidr = |word: u32| {
        let key = CidrKey::new(1, Address::from_v4_word(word.to_be()));
        Op::Cidr(Prefix { key, bits: CIDR_KEY_BITS }, Versioned::settled(word + 1))
    };
    let ops: Vec<Op> = (0..=capacity::CIDRS).map(cidr).collect();
    let result = maps.apply(&ops);
    assert!(matches!(result, Err(MapFault::Full("cidrs"))), "{result:?}");
    let held: Vec<Op> = maps
        .state()
        .expect("readable")
        .cidrs
        .into_iter()
        .map(|(prefix, class)| Op::Cidr(prefix, class))
        .collect();
    assert_eq!(held.len(), capacity::CIDRS as usize);
    assert!(held == ops[..held.len()], "other entries than those that were written");
}
