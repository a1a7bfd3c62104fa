//! The PolicyTests of `tests/cases/`, several at a time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use sluice::manifest;
use sluice::policytest::{self, PlannedTest, Progress, Results};
use sluice::report::TestReport;

use super::engine::{ClusterEngine, Notes};
use super::shared::Shared;
use super::stage::Stage;

/// Cases at a time: each has some pods, and starting a pod is what takes the time.
const AT_ONCE: usize = 4;

/// What came of the cases.
#[derive(Debug, Serialize)]
pub struct Cases {
    /// As `sluice test -o json` has it, without the probes that were left out.
    pub report: TestReport,
    /// Probes that were not tried, by why.
    pub left_out: BTreeMap<String, usize>,
    /// Cases that were not tried as a whole, and why.
    pub cases_left_out: Vec<String>,
    /// Cases that broke off, and why.
    pub broken: Vec<String>,
    /// Steps that answered otherwise at first.
    pub settled: usize,
}

impl Cases {
    /// True if everything that was tried did what was expected.
    pub fn is_good(&self) -> bool {
        self.broken.is_empty() && self.report.is_good() && self.report.summary.probes > 0
    }
}

/// Every file of a folder with PolicyTests, in order.
///
/// # Errors
/// The folder cannot be read.
pub fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads the tests of files, each a cluster of its own.
///
/// # Errors
/// Everything that is wrong with one of them.
pub fn plan(files: &[PathBuf]) -> anyhow::Result<Vec<PlannedTest>> {
    let mut tests = Vec::new();
    for file in files {
        let loaded = manifest::load(&[file]);
        let words = |problems: &[manifest::Problem]| {
            problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        };
        ensure!(loaded.errors.is_empty(), "{}", words(&loaded.errors));
        match policytest::plan(&loaded.objects) {
            Ok(planned) => tests.extend(planned),
            Err(problems) => bail!("{}", words(&problems)),
        }
    }
    Ok(tests)
}

/// What came of one case.
enum Ending {
    Played(Box<Played>),
    LeftOut(String),
    Broken(String),
}

struct Played {
    results: Results,
    left_out: Vec<&'static str>,
    settled: usize,
}

/// Plays all of them.
pub fn run(shared: &Shared, tests: Vec<PlannedTest>) -> Cases {
    let count = tests.len();
    let tests: Vec<_> = tests.into_iter().map(|test| Mutex::new(Some(test))).collect();
    let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let endings: Vec<Mutex<Option<Ending>>> = (0..count).map(|_| Mutex::new(None)).collect();
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(test) = tests.get(number) else { return };
            let Some(test) = test.lock().expect("nobody panics with it").take() else { continue };
            let (name, begun) = (test.name.clone(), Instant::now());
            let ending = play(shared, number, test);
            let done = done.fetch_add(1, Ordering::Relaxed) + 1;
            eprintln!("  [{done}/{count}] {name}: {}", in_words(&ending, begun.elapsed()));
            *endings[number].lock().expect("nobody panics with it") = Some(ending);
        }
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    let endings = endings.into_iter().filter_map(|ending| ending.into_inner().ok().flatten());
    collect(endings.collect())
}

fn play(shared: &Shared, number: usize, test: PlannedTest) -> Ending {
    let clusters: Vec<_> = test.steps.iter().map(|step| &step.cluster).collect();
    let real: Vec<String> = shared.nodes.keys().cloned().collect();
    let stage = Stage::new(&shared.run, number, shared.image.clone(), &clusters, &real);
    let Some(stage) = stage else {
        return Ending::LeftOut(format!("{}: it has more nodes than the cluster", test.name));
    };
    let deleted = test.steps.iter().map(|step| step.deleted.clone()).collect();
    let engine = ClusterEngine::new(shared.clone(), stage, deleted);
    let notes = engine.notes();
    let name = test.name.clone();
    let played = policytest::run(vec![test], &mut [Box::new(engine)], &mut Silent);
    let notes = std::mem::take(&mut *notes.lock().unwrap_or_else(PoisonError::into_inner));
    match played {
        Err(error) => Ending::Broken(format!("{name}: {error:#}")),
        Ok(mut results) => {
            let Notes { left_out, settled } = notes;
            for test in &mut results {
                for (i, step) in test.steps.iter_mut().enumerate() {
                    step.probes
                        .retain(|(planned, _)| !left_out.contains_key(&(i, planned.probe.clone())));
                }
            }
            let left_out = left_out.into_values().collect();
            Ending::Played(Box::new(Played { results, left_out, settled }))
        }
    }
}

struct Silent;

impl Progress for Silent {
    fn test(&mut self, _: &str, _: usize, _: usize, _: &str) {}
}

fn in_words(ending: &Ending, took: Duration) -> String {
    let seconds = took.as_secs();
    match ending {
        Ending::Broken(why) => format!("broke off after {seconds} s: {why}"),
        Ending::LeftOut(why) => format!("left out: {why}"),
        Ending::Played(played) => {
            let report = TestReport::new("cluster", &played.results, Vec::new());
            let summary = report.summary;
            let left_out = match played.left_out.len() {
                0 => String::new(),
                some => format!(", {some} left out"),
            };
            let (good, all) = (summary.as_expected, summary.probes);
            format!("{good} of {all} as expected{left_out}, {seconds} s")
        }
    }
}

fn collect(endings: Vec<Ending>) -> Cases {
    let mut results = Results::new();
    let mut cases = Cases {
        report: TestReport::new("cluster", &results, Vec::new()),
        left_out: BTreeMap::new(),
        cases_left_out: Vec::new(),
        broken: Vec::new(),
        settled: 0,
    };
    for ending in endings {
        match ending {
            Ending::LeftOut(why) => cases.cases_left_out.push(why),
            Ending::Broken(why) => cases.broken.push(why),
            Ending::Played(played) => {
                let Played { results: own, left_out, settled } = *played;
                results.extend(own);
                cases.settled += settled;
                for why in left_out {
                    *cases.left_out.entry(why.into()).or_default() += 1;
                }
            }
        }
    }
    cases.report = TestReport::new("cluster", &results, Vec::new());
    cases
}
