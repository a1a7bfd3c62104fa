//! Answers for people and for machines.
//!
//! The serialised field names are a contract; see the documentation of the command line.

pub mod explain;
pub mod json;
pub mod junit;
pub mod matrix;
pub mod table;
pub mod terminal;

use serde::Serialize;
use sluice_policy::model::{Answer, DecidedBy};

use crate::convert::policytest::ProbeLine;
use crate::engine::opinions::{Disagreement, Opinions};
use crate::engine::{Outcome, Probe, ProbeVerdict};
use crate::manifest::Warning;
use crate::policytest::Results;

/// What `sluice test` answers.
#[derive(Clone, Debug, Serialize)]
pub struct TestReport {
    /// The engine as asked for.
    pub engine: &'static str,
    /// By test.
    pub tests: Vec<TestRow>,
    /// What to know about the input.
    pub warnings: Vec<Warning>,
    /// Numbers.
    pub summary: Summary,
}

/// One test.
#[derive(Clone, Debug, Serialize)]
pub struct TestRow {
    /// Its name.
    pub name: String,
    /// The file that it stands in.
    pub file: String,
    /// Its steps.
    pub steps: Vec<StepRow>,
}

/// One step.
#[derive(Clone, Debug, Serialize)]
pub struct StepRow {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its probes.
    pub probes: Vec<ProbeRow>,
}

/// One probe.
#[derive(Clone, Debug, Serialize)]
pub struct ProbeRow {
    /// Who connects, as asked.
    pub from: String,
    /// To whom, as asked.
    pub to: String,
    /// `TCP`, `UDP`, `SCTP` or `ICMP`.
    pub protocol: &'static str,
    /// The port; ICMP has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `IPv4` or `IPv6`.
    pub family: &'static str,
    /// The connection was opened in the step before.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub established: bool,
    /// What should become of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expect: Option<&'static str>,
    /// What became of it: `allow`, `deny` or `unreachable`. Of several engines the first one's word.
    pub verdict: &'static str,
    /// Every engine's word, where several were asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verdicts: Option<serde_json::Map<String, serde_json::Value>>,
    /// What they do not agree about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub disagreements: Vec<DisagreementRow>,
    /// The check at the source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<SideRow>,
    /// The check at the destination.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<SideRow>,
}

/// One side's check.
#[derive(Clone, Debug, Serialize)]
pub struct SideRow {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// A policy selects the pod in this direction.
    pub isolated: bool,
    /// The rule or default that decided.
    pub decided_by: String,
}

/// Two engines that say different things.
#[derive(Clone, Debug, Serialize)]
pub struct DisagreementRow {
    /// `verdict`, `egress` or `ingress`.
    pub about: &'static str,
    /// Engine and answer.
    pub answers: [(&'static str, String); 2],
}

/// Numbers of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Tests.
    pub tests: usize,
    /// Probes, those without expectation included.
    pub probes: usize,
    /// Probes that did what was expected.
    pub as_expected: usize,
    /// Probes that did something else, or that engines disagree about.
    pub mismatched: usize,
    /// Probes that did not get through although no policy stopped them.
    pub unreachable: usize,
}

/// How a probe compares with what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// As expected.
    AsExpected,
    /// Nothing was expected.
    Reported,
    /// Not as expected, or engines disagree.
    Mismatched,
    /// No answer, and no policy accounts for it.
    Unreachable,
}

impl ProbeRow {
    /// One engine's answer to a probe.
    pub fn new(line: &ProbeLine, probe: &Probe, outcome: &Outcome) -> Self {
        Self {
            from: line.from.to_string(),
            to: line.to.to_string(),
            protocol: probe.protocol.as_str(),
            port: (probe.port != 0).then_some(probe.port),
            family: probe.family.as_str(),
            established: probe.established,
            expect: line.expect.map(ProbeVerdict::as_str),
            verdict: outcome.verdict.as_str(),
            verdicts: None,
            disagreements: Vec::new(),
            egress: outcome.egress.as_ref().map(SideRow::from),
            ingress: outcome.ingress.as_ref().map(SideRow::from),
        }
    }

    fn with_opinions(mut self, opinions: &Opinions) -> Self {
        let verdicts = opinions.verdicts();
        let all: serde_json::Map<_, _> =
            verdicts.map(|(engine, v)| (engine.to_owned(), v.as_str().into())).collect();
        if all.len() > 1 {
            self.verdicts = Some(all);
        }
        self.disagreements =
            opinions.disagreements().into_iter().map(DisagreementRow::from).collect();
        self
    }

    /// How it compares with what was expected.
    pub fn standing(&self) -> Standing {
        if !self.disagreements.is_empty() {
            return Standing::Mismatched;
        }
        match self.expect {
            _ if self.verdict == ProbeVerdict::Unreachable.as_str() => Standing::Unreachable,
            None => Standing::Reported,
            Some(expected) if expected == self.verdict => Standing::AsExpected,
            Some(_) => Standing::Mismatched,
        }
    }

    /// `x/a → y/b TCP 80 IPv4`.
    pub fn in_words(&self) -> String {
        let port = self.port.map(|p| format!(" {p}")).unwrap_or_default();
        let established = if self.established { ", established" } else { "" };
        let Self { from, to, protocol, family, .. } = self;
        format!("{from} → {to} {protocol}{port} {family}{established}")
    }
}

impl From<&Answer> for SideRow {
    fn from(answer: &Answer) -> Self {
        let Answer { allowed, isolated, decided_by } = answer;
        Self {
            verdict: if *allowed { "allow" } else { "deny" },
            isolated: *isolated,
            decided_by: DecidedBy::to_string(decided_by),
        }
    }
}

impl From<Disagreement> for DisagreementRow {
    fn from(disagreement: Disagreement) -> Self {
        let Disagreement { about, one, other } = disagreement;
        Self { about, answers: [one, other] }
    }
}

impl TestReport {
    /// Puts results into their form.
    pub fn new(engine: &'static str, results: &Results, warnings: Vec<Warning>) -> Self {
        let tests: Vec<TestRow> = results
            .iter()
            .map(|test| TestRow {
                name: test.name.clone(),
                file: test.file.clone(),
                steps: test
                    .steps
                    .iter()
                    .map(|step| StepRow {
                        name: step.name.clone(),
                        probes: step
                            .probes
                            .iter()
                            .map(|(planned, opinions)| {
                                let (line, probe) = (&planned.line, &planned.probe);
                                let row = ProbeRow::new(line, probe, opinions.first());
                                row.with_opinions(opinions)
                            })
                            .collect(),
                    })
                    .collect(),
            })
            .collect();
        let summary = summarise(&tests);
        Self { engine, tests, warnings, summary }
    }

    /// True if everything that was expected came true.
    pub const fn is_good(&self) -> bool {
        self.summary.mismatched == 0 && self.summary.unreachable == 0
    }
}

fn summarise(tests: &[TestRow]) -> Summary {
    let mut summary = Summary { tests: tests.len(), ..Summary::default() };
    for probe in tests.iter().flat_map(|t| &t.steps).flat_map(|s| &s.probes) {
        summary.probes += 1;
        match probe.standing() {
            Standing::AsExpected => summary.as_expected += 1,
            Standing::Reported => {}
            Standing::Mismatched => summary.mismatched += 1,
            Standing::Unreachable => summary.unreachable += 1,
        }
    }
    summary
}
