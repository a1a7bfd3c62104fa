//! What the verifier has to do for each program: recorded, and bounded well below the kernel's limit
//! of a million instructions. Needs root.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::Path;

use sluice::datapath::load::program_name;
use sluice::datapath::{Datapath, LoadOptions};
use sluice_common::abi::Direction;
use sluice_tests::needs_root;

/// More than this is a reason to look, long before a kernel refuses.
const VERIFIED_INSTRUCTIONS_MAX: u32 = 200_000;

/// How far a program may move from the record before it must be recorded anew, in parts of it. Other
/// kernels look at somewhat more or fewer instructions.
const TOLERANCE: u32 = 4;

#[test]
fn programs_are_verified_within_bounds() {
    needs_root();
    let datapath = Datapath::load(&LoadOptions::default()).expect("the programs load");
    let mut text = String::new();
    let mut measured = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        let name = program_name(direction);
        let verification = datapath.verification(direction).expect("the kernel tells");
        let count = verification.verified_instructions;
        println!("{name}: {verification:?}");
        assert!(count > 0, "this kernel does not tell");
        assert!(count <= VERIFIED_INSTRUCTIONS_MAX, "{name}: {count}");
        writeln!(text, "{name} {count}").unwrap();
        measured.push((name, count));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("records/verified-instructions.txt");
    if std::env::var_os("SLUICE_RECORD").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let record = std::fs::read_to_string(&path).unwrap();
    for (line, (name, count)) in record.lines().zip(measured) {
        let (recorded_name, recorded) = line.split_once(' ').expect("a name and a number");
        assert_eq!(recorded_name, name);
        let recorded: u32 = recorded.parse().expect("a number");
        assert!(
            count.abs_diff(recorded) <= recorded / TOLERANCE,
            "{name}: {count} verified instructions, {recorded} on record: look why, then run with \
             SLUICE_RECORD=1"
        );
    }
}

/// The trace is in the program and off by default; on, it must load as well.
#[test]
fn programs_load_with_the_trace() {
    needs_root();
    let options = LoadOptions { trace_slot: NonZeroU32::new(1), ..LoadOptions::default() };
    let traced = Datapath::load(&options).expect("the programs load");
    let plain = Datapath::load(&LoadOptions::default()).expect("the programs load");
    for direction in [Direction::Ingress, Direction::Egress] {
        let traced = traced.verification(direction).unwrap();
        let plain = plain.verification(direction).unwrap();
        println!("{direction:?}: {traced:?}, without trace {plain:?}");
        assert!(plain.translated_bytes < traced.translated_bytes, "off, it is dead code");
    }
}
