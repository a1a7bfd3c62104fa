//! Every case in `tests/cases` holds in the engines that need no root, and these give the same
//! answers, rule for rule.

use std::path::{Path, PathBuf};

use sluice::engine::EngineKind;
use sluice::manifest;
use sluice::policytest::{self, Progress};
use sluice::report::TestReport;

struct Silent;

impl Progress for Silent {
    fn test(&mut self, _: &str, _: usize, _: usize, _: &str) {}
}

fn inputs() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let entries = std::fs::read_dir(root.join("tests/cases")).expect("cases are in the repository");
    let mut inputs: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    inputs.sort();
    assert!(inputs.len() >= 40, "only {} cases found", inputs.len());
    inputs.push(root.join("deploy/examples"));
    inputs
}

#[test]
fn every_case_holds_in_the_model_and_in_the_tables() {
    let mut probes = 0;
    for input in inputs() {
        let name = input.display();
        let loaded = manifest::load(&[&input]);
        assert_eq!(loaded.errors, [], "{name}");
        let tests = policytest::plan(&loaded.objects).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        assert!(!tests.is_empty(), "{name}: no PolicyTest");
        let mut engines = EngineKind::Model.open().expect("needs nothing");
        engines.extend(EngineKind::Tables.open().expect("needs nothing"));
        let results = policytest::run(tests, &mut engines, &mut Silent).expect("both can answer");
        let report = TestReport::new("model, tables", &results, Vec::new());
        assert!(
            report.is_good(),
            "{name}:\n{}",
            sluice::report::table::render(&report, sluice::report::terminal::Look::PLAIN)
        );
        probes += report.summary.probes;
    }
    println!("{probes} probes in two engines");
}
