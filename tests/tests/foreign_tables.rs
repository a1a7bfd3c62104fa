//! Tables of another shape under the names of ours: an agent does not take them for its own, and says so
//! before it changes anything. Needs root.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::MapData;
use sluice::datapath::{Datapath, LoadError, LoadOptions};

/// A directory of pins that goes with the test.
struct Pins(PathBuf);

impl Pins {
    fn new() -> Self {
        sluice_tests::needs_root();
        let path = format!("/sys/fs/bpf/sluice-foreign-{}", std::process::id());
        fs::create_dir(&path).expect("a directory for pins");
        Self(path.into())
    }

    fn load(&self) -> Result<Datapath, LoadError> {
        Datapath::load(&LoadOptions { pins: Some(self.0.clone()), ..LoadOptions::default() })
    }

    /// The names of all tables.
    fn tables(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("readable");
        entries.map(|entry| entry.expect("an entry").file_name().display().to_string()).collect()
    }

    fn open(&self, table: &str) -> MapData {
        MapData::from_pin(self.0.join(table)).expect("it is pinned")
    }

    /// Numbers of the tables under their names.
    fn ids(&self) -> Vec<(String, u32)> {
        let id = |table: &str| self.open(table).info().expect("readable").id();
        self.tables().into_iter().map(|table| (table.clone(), id(&table))).collect()
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        // Best effort: what is left is named after this test.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pin_as(table: &MapData, pin: &Path) {
    fs::remove_file(pin).expect("unpinned");
    table.pin(pin).expect("pinned");
}

#[test]
fn a_table_of_another_shape_is_named_and_left_alone() {
    let pins = Pins::new();
    drop(pins.load().expect("new tables"));
    let tables = pins.tables();
    assert!(tables.len() > 10, "{tables:?}");
    for table in &tables {
        // Of another size, and mostly of another kind.
        let other = pins.open(if table == "control" { "endpoints" } else { "control" });
        let (own, pin) = (pins.open(table), pins.0.join(table));
        pin_as(&other, &pin);
        let before = pins.ids();
        let error = pins.load().err().expect("it is not taken");
        let is_named = matches!(&error, LoadError::ForeignTable { pins: at, .. } if *at == pins.0);
        assert!(is_named, "{table}: {error}");
        assert_eq!(pins.ids(), before, "{table}");
        pin_as(&own, &pin);
    }
    pins.load().expect("the tables that were made at first");
}
