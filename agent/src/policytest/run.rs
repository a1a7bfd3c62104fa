//! Runs planned tests.

use anyhow::Context as _;

use super::plan::{PlannedProbe, PlannedStep, PlannedTest, same_connection};
use crate::engine::opinions::Opinions;
use crate::engine::{Engine, Outcome, Probe, ProbeVerdict};

/// What came of all tests, in their order.
pub type Results = Vec<TestResults>;

/// What came of one test.
#[derive(Clone, Debug)]
pub struct TestResults {
    /// Its name.
    pub name: String,
    /// The file that it stands in.
    pub file: String,
    /// What came of its steps.
    pub steps: Vec<StepResults>,
}

/// What came of one step.
#[derive(Clone, Debug)]
pub struct StepResults {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// Its probes and their answers.
    pub probes: Vec<(PlannedProbe, Opinions)>,
}

/// Hears how far a run has come.
pub trait Progress {
    /// Engine `engine` is about to run test `index` of `count`.
    fn test(&mut self, engine: &str, index: usize, count: usize, name: &str);
}

/// Runs every test in every engine.
///
/// # Errors
/// An engine that fails, with its words.
pub fn run(
    tests: Vec<PlannedTest>,
    engines: &mut [Box<dyn Engine>],
    progress: &mut dyn Progress,
) -> anyhow::Result<Results> {
    let count = tests.len();
    let mut results = Vec::with_capacity(count);
    for (i, test) in tests.into_iter().enumerate() {
        let mut answers: Vec<Vec<Vec<Outcome>>> = Vec::new();
        for engine in &mut *engines {
            progress.test(engine.name(), i, count, &test.name);
            let name = engine.name();
            answers.push(run_test(&test, engine.as_mut()).with_context(|| {
                format!("engine `{name}`, test `{}` of {}", test.name, test.file)
            })?);
        }
        let names: Vec<_> = engines.iter().map(|engine| engine.name()).collect();
        results.push(collect(test, &names, answers));
    }
    for engine in engines {
        // What a test has set up does not outlive the run.
        engine.reset().with_context(|| format!("engine `{}`: cleaning up", engine.name()))?;
    }
    Ok(results)
}

/// The answers of one engine: by step, by probe.
fn run_test(test: &PlannedTest, engine: &mut dyn Engine) -> anyhow::Result<Vec<Vec<Outcome>>> {
    engine.reset()?;
    let mut answers = Vec::with_capacity(test.steps.len());
    // Connections of the step before, with what became of them.
    let mut opened: Vec<(Probe, ProbeVerdict)> = Vec::new();
    for (i, step) in test.steps.iter().enumerate() {
        let probes: Vec<Probe> =
            step.probes.iter().map(|p| p.probe.clone()).chain(step.openings.clone()).collect();
        let mut outcomes =
            engine.step(&step.cluster, &probes).with_context(|| step_label(i, step))?;
        anyhow::ensure!(
            outcomes.len() == probes.len(),
            "{}: {} answers to {} probes",
            step_label(i, step),
            outcomes.len(),
            probes.len()
        );
        for (probe, outcome) in probes.iter().zip(&mut outcomes).filter(|(p, _)| p.established) {
            let was_open =
                opened.iter().any(|(p, v)| same_connection(p, probe) && *v == ProbeVerdict::Allow);
            if !was_open {
                // There never was such a connection, so no policy can have cut it.
                *outcome =
                    Outcome { verdict: ProbeVerdict::Unreachable, egress: None, ingress: None };
            }
        }
        let verdicts = outcomes.iter().map(|outcome| outcome.verdict);
        opened = probes.into_iter().zip(verdicts).collect();
        outcomes.truncate(step.probes.len());
        answers.push(outcomes);
    }
    Ok(answers)
}

fn step_label(index: usize, step: &PlannedStep) -> String {
    match &step.name {
        Some(name) => format!("step {} ({name})", index + 1),
        None => format!("step {}", index + 1),
    }
}

/// Turns answers by engine, step and probe into opinions by step and probe.
fn collect(
    test: PlannedTest,
    engines: &[&'static str],
    answers: Vec<Vec<Vec<Outcome>>>,
) -> TestResults {
    let mut by_engine: Vec<_> = engines
        .iter()
        .zip(answers)
        .map(|(&name, steps)| (name, steps.into_iter().flatten()))
        .collect();
    let steps = test
        .steps
        .into_iter()
        .map(|step| {
            let probes = step.probes.into_iter().filter_map(|planned| {
                let mut answers = by_engine
                    .iter_mut()
                    .filter_map(|(name, outcomes)| Some((*name, outcomes.next()?)));
                let (first, outcome) = answers.next()?;
                let mut opinions = Opinions::new(first, outcome);
                answers.for_each(|(name, outcome)| opinions.add(name, outcome));
                Some((planned, opinions))
            });
            StepResults { name: step.name, probes: probes.collect() }
        })
        .collect();
    TestResults { name: test.name, file: test.file, steps }
}
