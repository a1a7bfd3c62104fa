//! JUnit XML: a suite per test, a case per probe.

use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

use super::{ProbeRow, Standing, StepRow, TestReport};

/// Renders a report.
///
/// # Errors
/// What the XML writer says.
pub fn render(report: &TestReport) -> Result<String, quick_junit::SerializeError> {
    let mut junit = Report::new("sluice test");
    for test in &report.tests {
        let mut suite = TestSuite::new(format!("{} ({})", test.name, test.file));
        for (i, step) in test.steps.iter().enumerate() {
            for probe in &step.probes {
                let mut case = TestCase::new(case_name(i, step, probe), status(probe));
                case.set_classname(test.name.clone());
                suite.add_test_case(case);
            }
        }
        junit.add_test_suite(suite);
    }
    let mut text = junit.to_string()?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Ok(text)
}

fn case_name(index: usize, step: &StepRow, probe: &ProbeRow) -> String {
    let label = step.name.as_deref().map(|name| format!(" ({name})")).unwrap_or_default();
    format!("step {}{label}: {}", index + 1, probe.in_words())
}

fn status(probe: &ProbeRow) -> TestCaseStatus {
    let failed = match probe.standing() {
        Standing::AsExpected | Standing::Reported => return TestCaseStatus::success(),
        Standing::Mismatched => NonSuccessKind::Failure,
        Standing::Unreachable => NonSuccessKind::Error,
    };
    let mut status = TestCaseStatus::non_success(failed);
    status.set_message(format!("expected {}, got {}", probe.expect.unwrap_or("-"), probe.verdict));
    status.set_description(description(probe));
    status
}

fn description(probe: &ProbeRow) -> String {
    let sides = [("egress", &probe.egress), ("ingress", &probe.ingress)];
    let mut lines: Vec<String> = sides
        .into_iter()
        .filter_map(|(name, side)| Some((name, side.as_ref()?)))
        .map(|(name, side)| format!("{name}: {} by {}", side.verdict, side.decided_by))
        .collect();
    lines.extend(probe.disagreements.iter().map(|row| {
        let [(one, a), (other, b)] = &row.answers;
        format!("{}: {one} says {a}; {other} says {b}", row.about)
    }));
    lines.join("\n")
}
