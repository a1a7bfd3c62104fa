//! The answer of `sluice test` for people: what differs, then the summary.

use std::fmt::Write as _;

use super::terminal::{Look, verdict_cell};
use super::{ProbeRow, SideRow, Standing, StepRow, TestReport, TestRow};

/// Renders a report. Warnings are not part of it: they go to standard error.
pub fn render(report: &TestReport, look: Look) -> String {
    let mut text = String::new();
    for test in &report.tests {
        for (i, step) in test.steps.iter().enumerate() {
            let worth_showing: Vec<_> =
                step.probes.iter().filter(|p| p.standing() != Standing::AsExpected).collect();
            if !worth_showing.is_empty() {
                step_block(&mut text, test, i, step, &worth_showing, look);
            }
        }
    }
    text.push_str(&summary_line(report));
    text.push('\n');
    text
}

fn step_block(
    text: &mut String,
    test: &TestRow,
    index: usize,
    step: &StepRow,
    probes: &[&ProbeRow],
    look: Look,
) {
    let label = step.name.as_deref().map(|name| format!(": {name}")).unwrap_or_default();
    put(text, format_args!("{} ({}), step {}{label}\n", test.name, test.file, index + 1));
    let mut table = look.table();
    table.set_header(["PROBE", "EXPECTED", "GOT", "EGRESS", "INGRESS"]);
    for probe in probes {
        table.add_row([
            probe.in_words().into(),
            probe.expect.map_or_else(|| "-".into(), verdict_cell),
            verdict_cell(probe.verdict),
            side(probe.egress.as_ref()).into(),
            side(probe.ingress.as_ref()).into(),
        ]);
    }
    put(text, format_args!("{}\n", table.trim_fmt()));
    for probe in probes {
        for row in &probe.disagreements {
            let [(one, a), (other, b)] = &row.answers;
            let (about, probe) = (row.about, probe.in_words());
            put(
                text,
                format_args!(
                    "engines disagree about {probe}, {about}: {one} says {a}; {other} says {b}\n"
                ),
            );
        }
    }
    text.push('\n');
}

/// `deny (default-deny)`; `-` where there is no check or the engine cannot tell.
fn side(side: Option<&SideRow>) -> String {
    side.map_or_else(|| "-".into(), |side| format!("{} ({})", side.verdict, side.decided_by))
}

/// Numbers in words, the interesting ones only.
fn summary_line(report: &TestReport) -> String {
    let summary = report.summary;
    let mut line = format!(
        "{}, {} in engine `{}`: {} as expected",
        count(summary.tests, "test"),
        count(summary.probes, "probe"),
        report.engine,
        summary.as_expected
    );
    let reported = summary.probes - summary.as_expected - summary.mismatched - summary.unreachable;
    for (number, what) in [
        (reported, "without expectation"),
        (summary.mismatched, "mismatched"),
        (summary.unreachable, "unreachable"),
    ] {
        if number > 0 {
            put(&mut line, format_args!(", {number} {what}"));
        }
    }
    line
}

fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}
