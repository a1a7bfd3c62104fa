//! The dashboard and the alerts of deploy/ ask for metrics that the agent has, and for all of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sluice::metrics::Report;
use sluice::metrics::encode::{Format, encode};
use sluice::source::ObjectState;
use sluice::status::EnforcementState;
use sluice_common::reason::Reason;

const DASHBOARD: &str = "dashboards/sluice.json";
const ALERTS: &str = "helm/sluice/files/alerts.yaml";
const FILES: [&str; 2] = [DASHBOARD, ALERTS];

/// The metrics of the agent, under the names that a query has for them.
fn metrics() -> BTreeSet<String> {
    let text = encode(Report::default(), Format::Text);
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let named = described.flat_map(|(name, kind)| match kind {
        "histogram" => vec![format!("{name}_bucket")],
        _ => vec![name.to_owned()],
    });
    named.collect()
}

/// A file of deploy/, with queries as they are written in YAML.
fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"));
    // In JSON, quotes inside of strings have a backslash before them.
    text.replace('\\', "")
}

/// What a file asks for: every word that begins as our metrics do.
fn asked(file: &str) -> BTreeSet<String> {
    let text = read(file);
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_word(c)).filter(|word| word.starts_with("sluice_"));
    words.map(str::to_owned).collect()
}

/// The values that queries want a label to have, or not to have.
fn values<'a>(text: &'a str, label: &str) -> Vec<&'a str> {
    let asked = ["=", "=~", "!=", "!~"].map(|operator| format!("{label}{operator}\""));
    let found = asked.iter().flat_map(|asked| text.split(asked).skip(1));
    found.flat_map(|after| after.split('"').next().unwrap_or_default().split('|')).collect()
}

fn missing(asked: &BTreeSet<String>, metrics: &BTreeSet<String>) -> Vec<String> {
    asked.difference(metrics).cloned().collect()
}

#[test]
fn the_dashboard_asks_for_every_metric_and_for_no_other() {
    let (asked, metrics) = (asked(DASHBOARD), metrics());
    assert_eq!(missing(&asked, &metrics), Vec::<String>::new(), "the agent has no such metric");
    assert_eq!(missing(&metrics, &asked), Vec::<String>::new(), "no panel shows these");
}

#[test]
fn the_alerts_ask_for_metrics_that_there_are() {
    let asked = asked(ALERTS);
    assert!(!asked.is_empty());
    assert_eq!(missing(&asked, &metrics()), Vec::<String>::new(), "the agent has no such metric");
}

/// A query for a label's value that no agent ever gives would always be empty.
#[test]
fn the_queries_ask_for_states_and_reasons_that_there_are() {
    let states = EnforcementState::ALL.iter().map(|state| state.metric_label());
    let states: BTreeSet<_> =
        states.chain(ObjectState::ALL.iter().map(|state| state.label())).collect();
    let reasons: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.label()).collect();
    for file in FILES {
        let text = read(file);
        for (label, known) in [("state", &states), ("reason", &reasons)] {
            let unknown: Vec<_> =
                values(&text, label).into_iter().filter(|value| !known.contains(value)).collect();
            assert_eq!(unknown, Vec::<&str>::new(), "{file}: there is no such {label}");
        }
    }
    assert!(FILES.iter().all(|file| !values(&read(file), "state").is_empty()));
}
