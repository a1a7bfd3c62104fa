//! The kernel takes the programs.

use sluice::datapath::{Datapath, LoadOptions};

#[test]
fn programs_load() {
    Datapath::load(&LoadOptions::default()).expect("the kernel takes the programs");
}
