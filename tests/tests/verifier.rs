//! The kernel takes the programs.

use sluice::datapath::{Datapath, LoadOptions};
use sluice_common::abi::Direction;

#[test]
fn programs_load() {
    let datapath = Datapath::load(&LoadOptions::default()).expect("the kernel takes the programs");
    for direction in [Direction::Ingress, Direction::Egress] {
        println!("{direction:?}: {:?}", datapath.verification(direction).unwrap());
    }
}
