//! What several engines say to one probe, and whether they agree.

use sluice_policy::model::Direction;
use sluice_policy::model::{Answer, direction_label};

use super::{Outcome, ProbeVerdict};

/// The answers to one probe, in the order of the engines. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opinions {
    first: (&'static str, Outcome),
    others: Vec<(&'static str, Outcome)>,
}

/// Two engines that say different things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// What they disagree about: `verdict`, or `ingress` or `egress`.
    pub about: &'static str,
    /// Engine and answer.
    pub one: (&'static str, String),
    /// Engine and answer.
    pub other: (&'static str, String),
}

impl Opinions {
    /// One engine's answer.
    pub const fn new(engine: &'static str, outcome: Outcome) -> Self {
        Self { first: (engine, outcome), others: Vec::new() }
    }

    /// Adds another engine's answer.
    pub fn add(&mut self, engine: &'static str, outcome: Outcome) {
        self.others.push((engine, outcome));
    }

    /// The first engine's answer.
    pub const fn first(&self) -> &Outcome {
        &self.first.1
    }

    /// Every engine's verdict.
    pub fn verdicts(&self) -> impl Iterator<Item = (&'static str, ProbeVerdict)> {
        self.all().map(|(engine, outcome)| (*engine, outcome.verdict))
    }

    fn all(&self) -> impl Iterator<Item = &(&'static str, Outcome)> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Every engine that says something else than the first. An engine that cannot tell about a side
    /// does not disagree about it.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        let (one, first) = &self.first;
        let mut found = Vec::new();
        for (other, outcome) in &self.others {
            let mut note = |about, a: String, b: String| {
                found.push(Disagreement { about, one: (one, a), other: (other, b) });
            };
            if outcome.verdict != first.verdict {
                note("verdict", first.verdict.as_str().into(), outcome.verdict.as_str().into());
            }
            for (direction, a, b) in [
                (Direction::Egress, &first.egress, &outcome.egress),
                (Direction::Ingress, &first.ingress, &outcome.ingress),
            ] {
                if let (Some(a), Some(b)) = (a, b)
                    && a != b
                {
                    note(direction_label(direction), in_words(a), in_words(b));
                }
            }
        }
        found
    }
}

/// `allow, isolated, NetworkPolicy y/web ingress[0]`.
fn in_words(answer: &Answer) -> String {
    let verdict = if answer.allowed { "allow" } else { "deny" };
    let isolated = if answer.isolated { "isolated" } else { "not isolated" };
    format!("{verdict}, {isolated}, {}", answer.decided_by)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_policy::model::DecidedBy;

    fn outcome(allowed: bool, ingress: Option<DecidedBy>) -> Outcome {
        Outcome {
            verdict: if allowed { ProbeVerdict::Allow } else { ProbeVerdict::Deny },
            egress: None,
            ingress: ingress.map(|decided_by| Answer { allowed, isolated: true, decided_by }),
        }
    }

    #[test]
    fn equal_answers_and_silence_are_no_disagreement() {
        let mut opinions = Opinions::new("model", outcome(false, Some(DecidedBy::DefaultDeny)));
        opinions.add("tables", outcome(false, Some(DecidedBy::DefaultDeny)));
        opinions.add("lab", outcome(false, None));
        assert_eq!(opinions.disagreements(), []);
    }

    #[test]
    fn another_verdict_or_another_reason_is_one() {
        let mut opinions = Opinions::new("model", outcome(false, Some(DecidedBy::DefaultDeny)));
        opinions.add("tables", outcome(false, Some(DecidedBy::Host)));
        opinions.add("lab", outcome(true, None));
        let found = opinions.disagreements();
        let about: Vec<_> = found.iter().map(|d| (d.about, d.other.0)).collect();
        assert_eq!(about, [("ingress", "tables"), ("verdict", "lab")]);
        assert_eq!(found[0].one.1, "deny, isolated, default-deny");
    }
}
