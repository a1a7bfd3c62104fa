//! A policy set as a program: its rules in evaluation order, and what they say to a class.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_common::abi::{
    Decision, RULE_DEFAULT, RULE_HOST, RULE_MIXED, RULE_SELF, RuleId, Verdict,
};

use crate::asked::PortName;
use crate::classes::Class;
use crate::hash::HashMap;
use crate::model::{Action, Direction, Protocol, Tier};
use crate::ports::{Outcome, PortEntry, Segment, Span, Spans, protocol_entries, root_entry};
use crate::predicates::PredicateId;
use crate::rules::{CompiledRule, ListId, Lists};

/// A place in the evaluation order; its index is the rank of what it decides.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A rule of a list.
    Rule { list: ListId, index: usize, tier: Tier },
    /// A NetworkPolicy isolates: what its tier did not allow ends here.
    Isolate,
}

impl Step {
    const fn tier(self) -> Tier {
        match self {
            Self::Rule { tier, .. } => tier,
            Self::Isolate => Tier::NetworkPolicy,
        }
    }
}

/// What a program has said to classes, which it says to all that the same rules concern and whose pods
/// give the same numbers to port names.
pub(crate) type Answers = HashMap<(Vec<u32>, BTreeMap<PortName, u16>), Arc<[PortEntry]>>;

/// The rules of a set. The rank after the last step is that of default-allow.
#[derive(Debug, Default)]
pub(crate) struct Program {
    steps: Vec<Step>,
    /// Ranks of the steps that concern every class, ascending.
    always: Vec<u32>,
    /// Ranks of the rules whose peers contain a predicate.
    by_predicate: BTreeMap<PredicateId, Vec<u32>>,
    direction: Option<Direction>,
    /// What the endpoint calls its ports, as far as ingress rules ask.
    ports: BTreeMap<PortName, u16>,
}

impl Program {
    /// `lists` in evaluation order: by tier, priority, name.
    pub(crate) fn new(
        direction: Direction,
        ports: &BTreeMap<PortName, u16>,
        lists: &[ListId],
        all: &Lists,
    ) -> Self {
        let mut program =
            Self { direction: Some(direction), ports: ports.clone(), ..Self::default() };
        let tiers = [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline];
        for tier in tiers {
            let mut isolates = false;
            for id in lists.iter().filter(|id| all.get(**id).tier == tier) {
                isolates = tier == Tier::NetworkPolicy;
                for (index, rule) in all.get(*id).rules.iter().enumerate() {
                    program.push(Step::Rule { list: *id, index, tier }, rule.peers.as_deref());
                }
            }
            if isolates {
                program.push(Step::Isolate, None);
            }
        }
        program
    }

    fn push(&mut self, step: Step, peers: Option<&[PredicateId]>) {
        let rank = rank(self.steps.len());
        self.steps.push(step);
        match peers {
            None => self.always.push(rank),
            Some(peers) => {
                for predicate in peers {
                    self.by_predicate.entry(*predicate).or_default().push(rank);
                }
            }
        }
    }

    /// The predicates that other rules ask for than in `before`, a program of the same shapes.
    pub(crate) fn changed_predicates(&self, before: &Self) -> BTreeSet<PredicateId> {
        let all = self.by_predicate.keys().chain(before.by_predicate.keys());
        let differs = |id: &&PredicateId| self.by_predicate.get(id) != before.by_predicate.get(id);
        all.filter(differs).copied().collect()
    }

    /// Number of rules, and of steps that are none.
    pub(crate) fn len(&self) -> usize {
        self.steps.len()
    }

    /// An outcome as it stands in the tables.
    pub(crate) fn decision(&self, outcome: Outcome, lists: &Lists) -> Decision {
        let Outcome { verdict, rank } = outcome;
        let (rank, rule) = match outcome {
            Outcome::HOST => (0, RULE_HOST),
            Outcome::SELF => (0, RULE_SELF),
            Outcome::MIXED => (self::rank(self.steps.len()), RULE_MIXED),
            _ => (rank, self.rule_number(rank, lists)),
        };
        Decision { verdict: verdict as u32, rank, rule }
    }

    /// The number in the tables of the rule with a rank.
    fn rule_number(&self, rank: u32, lists: &Lists) -> RuleId {
        match self.steps.get(rank as usize) {
            Some(Step::Rule { list, index, .. }) => lists.get(*list).numbers[*index],
            Some(Step::Isolate) | None => RULE_DEFAULT,
        }
    }

    /// What is denied because nothing is there to be allowed.
    pub(crate) fn default_deny(&self) -> Outcome {
        let isolate = self.steps.iter().position(|step| matches!(step, Step::Isolate));
        let rank = rank(isolate.unwrap_or(self.steps.len()));
        Outcome { verdict: Verdict::Deny, rank }
    }

    /// Ranks of the steps that concern a class, ascending.
    fn ranks(&self, class: &Class) -> Vec<u32> {
        let mut ranks = self.always.clone();
        for predicate in &*class.predicates {
            ranks.extend(self.by_predicate.get(predicate).into_iter().flatten());
        }
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// What the set says to a class on one port.
    pub(crate) fn outcome(
        &self,
        class: &Class,
        (protocol, port): (Protocol, u16),
        lists: &Lists,
    ) -> Outcome {
        let mut passed = None;
        for rank in self.ranks(class) {
            let step = self.steps[rank as usize];
            if passed == Some(step.tier()) {
                continue;
            }
            let Step::Rule { list, index, tier } = step else {
                return Outcome { verdict: Verdict::Deny, rank };
            };
            let rule = &lists.get(list).rules[index];
            if !rule.covers(protocol, port, |name| self.port_number(name, class)) {
                continue;
            }
            match (rule.action, tier) {
                (Action::Allow, _) => return Outcome { verdict: Verdict::Allow, rank },
                // As on the canvas of `segments`.
                (Action::Deny | Action::Pass, Tier::NetworkPolicy) => {}
                (Action::Deny, _) => return Outcome { verdict: Verdict::Deny, rank },
                (Action::Pass, _) => passed = Some(tier),
            }
        }
        Outcome { verdict: Verdict::Allow, rank: rank(self.steps.len()) }
    }

    /// The entries of `decisions` that say what the set says to a class, the root first. `answers` are
    /// this program's.
    pub(crate) fn entries(
        &self,
        class: &Class,
        lists: &Lists,
        answers: &mut Answers,
    ) -> Arc<[PortEntry]> {
        let ports = match self.direction {
            Some(Direction::Egress) => class.ports.clone(),
            Some(Direction::Ingress) | None => BTreeMap::new(),
        };
        match answers.entry((self.ranks(class), ports)) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(new) => {
                let entries = self.entries_of(&new.key().0, class, lists).into();
                Arc::clone(new.insert(entries))
            }
        }
    }

    /// The same, where these steps concern the class.
    fn entries_of(&self, ranks: &[u32], class: &Class, lists: &Lists) -> Vec<PortEntry> {
        // A protocol without ports meets no spans but whole ones: its one segment is the root.
        let root = self.segments(ranks, class, None, lists)[0].outcome;
        let mut entries = vec![root_entry(root)];
        for protocol in Protocol::ALL {
            let segments = self.segments(ranks, class, Some(protocol), lists);
            protocol_entries(root, protocol.number(), segments, &mut entries);
        }
        entries
    }

    /// Who decides about which ports: the tiers in turn, each over what those before left undecided.
    fn segments(
        &self,
        ranks: &[u32],
        class: &Class,
        protocol: Option<Protocol>,
        lists: &Lists,
    ) -> Vec<Segment> {
        let mut canvas = Canvas { undecided: Spans::all(), ..Canvas::default() };
        let mut tier = Tier::Admin;
        for rank in ranks {
            let step = self.steps[*rank as usize];
            if step.tier() != tier {
                canvas.next_tier();
                tier = step.tier();
            }
            match step {
                Step::Isolate => canvas.decide(Verdict::Deny, *rank, [Span::ALL]),
                Step::Rule { list, index, tier } => {
                    let rule = &lists.get(list).rules[index];
                    let spans = rule.spans(protocol, |name| self.port_number(name, class));
                    canvas.rule(tier, rule, *rank, &spans);
                }
            }
        }
        canvas.next_tier();
        canvas.decide(Verdict::Allow, rank(self.steps.len()), [Span::ALL]);
        canvas.segments
    }

    /// Port names stand for what the destination pod calls so: the endpoint itself for ingress, the
    /// peer for egress.
    fn port_number(&self, name: &PortName, class: &Class) -> Option<u16> {
        match self.direction? {
            Direction::Ingress => self.ports.get(name).copied(),
            Direction::Egress => class.ports.get(name).copied(),
        }
    }
}

fn rank(steps: usize) -> u32 {
    u32::try_from(steps).expect("a set has fewer than 2^32 rules")
}

/// The port space while rules are painted on it.
#[derive(Default)]
struct Canvas {
    undecided: Spans,
    /// Taken by a `pass`: undecided again from the next tier on.
    passed: Vec<Span>,
    segments: Vec<Segment>,
}

impl Canvas {
    fn decide(&mut self, verdict: Verdict, rank: u32, spans: impl IntoIterator<Item = Span>) {
        let outcome = Outcome { verdict, rank };
        for span in spans {
            let taken = self.undecided.take(span);
            self.segments.extend(taken.into_iter().map(|span| Segment { span, outcome }));
        }
    }

    fn rule(&mut self, tier: Tier, rule: &CompiledRule, rank: u32, spans: &Spans) {
        match (rule.action, tier) {
            (Action::Allow, _) => self.decide(Verdict::Allow, rank, spans.iter()),
            // There are no others in this tier; were there, an allow would win over them.
            (Action::Deny | Action::Pass, Tier::NetworkPolicy) => {}
            (Action::Deny, _) => self.decide(Verdict::Deny, rank, spans.iter()),
            (Action::Pass, _) => {
                for span in spans.iter() {
                    let taken = self.undecided.take(span);
                    self.passed.extend(taken);
                }
            }
        }
    }

    fn next_tier(&mut self) {
        self.undecided.add(std::mem::take(&mut self.passed));
    }
}
