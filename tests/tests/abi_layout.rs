//! The table types as Rust lays them out, against the BTF of the compiled programs; and the layout
//! that is on record for this ABI version. Needs `bpftool`, but no root.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use sluice_common::abi::{
    ABI_VERSION, Address, CidrKey, ClassId, Control, Counter, Decision, DecisionKey, Endpoint,
    Event, EventBudget, Flow, FlowBucket, FlowEntry, FlowKey, Fragment, FragmentSet, Hairpin,
    HairpinKey, HairpinNote, HairpinNoteKey, HairpinWay, Lifetimes, PeerClass, Versioned, VipKey,
};

/// Size, and the fields with their offsets in bytes, in order.
type Layout = (usize, Vec<(String, usize)>);

/// A type whose fields can be named here; the compiler checks that none is left out.
macro_rules! layout {
    ($type:ident { $($field:ident),+ }) => {{
        let $type { $($field: _),+ } = $type::default();
        let fields = vec![$((stringify!($field).to_owned(), offset_of!($type, $field))),+];
        (stringify!($type).to_owned(), (size_of::<$type>(), fields))
    }};
}

/// A type with private fields: their places are given by hand.
macro_rules! private_layout {
    ($name:literal, $type:ty { $($field:literal at $offset:expr),+ }) => {{
        let fields = vec![$(($field.to_owned(), $offset)),+];
        ($name.to_owned(), (size_of::<$type>(), fields))
    }};
}

fn rust_layouts() -> BTreeMap<String, Layout> {
    BTreeMap::from([
        layout!(Control { abi_version, generation, event_rate, hash_seed, lifetimes }),
        layout!(Lifetimes { opening, established, closing, udp_opening, udp, echo }),
        layout!(Counter { packets, bytes }),
        layout!(Decision { verdict, rank, rule }),
        layout!(Endpoint { sets, epoch, flags, v4, v6 }),
        layout!(EventBudget { second, used }),
        layout!(Flow { last_seen, generation, state, rule, initiator, flags, reserved }),
        layout!(FragmentSet { places }),
        layout!(Fragment {
            begun,
            source,
            destination,
            id,
            epoch,
            source_port_be,
            destination_port_be,
            protocol,
            icmp,
            end
        }),
        layout!(FlowEntry { key, deadline, flow }),
        layout!(FlowKey { remote, epoch, local_port_be, remote_port_be, protocol }),
        layout!(Event {
            time_ns,
            slot,
            epoch,
            direction,
            reason,
            rule,
            generation,
            source,
            destination,
            source_port_be,
            destination_port_be,
            protocol,
            length,
            reserved
        }),
        layout!(Hairpin { decision, port }),
        layout!(HairpinKey { slot, vip }),
        layout!(HairpinNote { noted, port, reserved }),
        layout!(HairpinNoteKey { epoch, protocol, token }),
        private_layout!("VipKey", VipKey { "address" at 0, "port_be" at 16, "protocol" at 18 }),
        private_layout!("Versioned<Hairpin>", Versioned<Hairpin> { "since" at 0, "value" at 8 }),
        private_layout!("Address", Address { "words" at 0 }),
        private_layout!("CidrKey", CidrKey { "set_be" at 0, "address" at 4 }),
        private_layout!("DecisionKey", DecisionKey {
            "set_be" at 0, "class_be" at 4, "protocol_port_be" at 8
        }),
        private_layout!("HairpinWay", HairpinWay {
            "hairpin" at 0, "lock" at 40, "reserved" at 44
        }),
        private_layout!("FlowBucket", FlowBucket {
            "lock" at 0, "tags" at 4, "entries" at 64
        }),
        private_layout!("PeerClass", PeerClass { "class" at 0, "lock" at 16, "reserved" at 20 }),
        private_layout!("Versioned<ClassId>", Versioned<ClassId> { "since" at 0, "value" at 8 }),
        private_layout!("Versioned<Decision>", Versioned<Decision> { "since" at 0, "value" at 8 }),
        private_layout!("Versioned<Endpoint>", Versioned<Endpoint> { "since" at 0, "value" at 8 }),
    ])
}

#[test]
fn rust_and_btf_agree() {
    let btf = Btf::of_the_programs();
    for (name, expected) in rust_layouts() {
        let (size, fields) = btf.layout(&name);
        let fields = fields.into_iter().map(|(name, offset, _)| (name, offset)).collect();
        assert_eq!((size, fields), expected, "{name}");
    }
}

/// A layout that changes without a new ABI version would be taken for the old one's pins.
///
/// After raising [`ABI_VERSION`], `SLUICE_RECORD=1` writes the record anew; it refuses before.
#[test]
fn the_layout_is_the_one_on_record() {
    let btf = Btf::of_the_programs();
    let mut text = format!("ABI version {ABI_VERSION}\n");
    for name in rust_layouts().keys() {
        let (size, fields) = btf.layout(name);
        writeln!(text, "{name}: {size} bytes").unwrap();
        for (field, offset, kind) in fields {
            writeln!(text, "  {offset:3} {field}: {kind}").unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("records/abi.txt");
    let record = std::fs::read_to_string(&path).unwrap();
    let is_to_be_written = std::env::var_os("SLUICE_RECORD").is_some();
    match compare(&record, &text) {
        Record::Same => {}
        Record::OfAnotherVersion if is_to_be_written => std::fs::write(&path, &text).unwrap(),
        Record::OfAnotherVersion => {
            assert_eq!(text, record, "the record is of another version: SLUICE_RECORD=1 writes it");
        }
        Record::ChangedUnderItsVersion => {
            assert_eq!(text, record, "the table layout has changed: raise ABI_VERSION");
        }
    }
}

/// What the record is to the present layout.
#[derive(Debug, PartialEq, Eq)]
enum Record {
    Same,
    OfAnotherVersion,
    ChangedUnderItsVersion,
}

/// Both begin with a line that names their version.
fn compare(record: &str, present: &str) -> Record {
    let version = |text: &str| text.lines().next().map(str::to_owned);
    match (record == present, version(record) == version(present)) {
        (true, _) => Record::Same,
        (false, true) => Record::ChangedUnderItsVersion,
        (false, false) => Record::OfAnotherVersion,
    }
}

#[test]
fn a_changed_layout_is_recorded_under_a_new_version_only() {
    let record = "ABI version 1\nA: 4 bytes\n";
    assert_eq!(compare(record, record), Record::Same);
    assert_eq!(compare(record, "ABI version 1\nA: 8 bytes\n"), Record::ChangedUnderItsVersion);
    assert_eq!(compare(record, "ABI version 2\nA: 8 bytes\n"), Record::OfAnotherVersion);
    assert_eq!(compare(record, "ABI version 2\nA: 4 bytes\n"), Record::OfAnotherVersion);
}

/// The type information in the object file.
struct Btf {
    types: BTreeMap<u64, Value>,
}

impl Btf {
    fn of_the_programs() -> Self {
        let object = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(object.path(), sluice::PROGRAMS).unwrap();
        let output = Command::new("bpftool")
            .args(["--json", "btf", "dump", "file"])
            .arg(object.path())
            .output()
            .expect("bpftool runs; `cargo xtask setup` installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let dump: Value = serde_json::from_slice(&output.stdout).unwrap();
        let types = dump["types"].as_array().unwrap().iter();
        Self { types: types.map(|t| (t["id"].as_u64().unwrap(), t.clone())).collect() }
    }

    /// Size; and name, offset and type of each field.
    fn layout(&self, name: &str) -> (usize, Vec<(String, usize, String)>) {
        let is_it = |t: &&Value| t["kind"] == "STRUCT" && readable(&t["name"]) == name;
        let found = self.types.values().find(is_it);
        let found = found.unwrap_or_else(|| panic!("{name} is not in the object's BTF"));
        let fields = found["members"].as_array().unwrap().iter().map(|member| {
            let bits = member["bits_offset"].as_u64().unwrap();
            assert_eq!(bits % 8, 0, "{name} has no bit fields");
            let field = member["name"].as_str().unwrap().to_owned();
            (field, bits as usize / 8, self.type_name(&member["type_id"]))
        });
        (found["size"].as_u64().unwrap() as usize, fields.collect())
    }

    fn type_name(&self, id: &Value) -> String {
        let found = &self.types[&id.as_u64().unwrap()];
        match found["kind"].as_str() {
            Some("ARRAY") => {
                format!("[{}; {}]", self.type_name(&found["type_id"]), found["nr_elems"])
            }
            _ => readable(&found["name"]),
        }
    }
}

/// `Versioned<Endpoint>` of `Versioned_3C_sluice_common_3A__3A_…_3A__3A_Endpoint_3E_`: BTF names are C
/// identifiers.
fn readable(name: &Value) -> String {
    let name = name.as_str().unwrap_or_default();
    let plain = name.replace("_3C_", "<").replace("_3E_", ">").replace("_3A__3A_", "::");
    let Some((generic, argument)) = plain.split_once('<') else { return plain };
    let argument = argument.trim_end_matches('>');
    let last = argument.rsplit("::").next().unwrap_or(argument);
    format!("{generic}<{}>", if last == "u32" { "ClassId" } else { last })
}
