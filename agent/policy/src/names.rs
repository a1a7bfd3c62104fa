//! The numbers of policy sets, classes and rules, and what they stand for.
//!
//! Numbers are small and dense (rule numbers index a kernel array). They carry no meaning beyond the
//! tables: because every change is atomic ([`sluice_common::abi::Versioned`]), a number may come to
//! mean something else from one generation to the next. Keeping them stable, also over a restart (the
//! agent stores this value), only saves writes and keeps rule counters.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{
    ClassId, Decision, RULE_DEFAULT, RULE_HOST, RULE_MIXED, RULE_SELF, RuleId, SetId, Verdict,
};

use crate::model::{DecidedBy, RuleName};

/// What every number in the tables stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Policy sets: a description of the policies in it, in order. Equal descriptions are equal sets.
    pub sets: BTreeMap<SetId, String>,
    /// Peer classes: a description of the predicates that hold; of a service's, its backends'. Equal
    /// descriptions are equal classes.
    pub classes: BTreeMap<ClassId, String>,
    /// Rules.
    pub rules: BTreeMap<RuleId, RuleName>,
}

impl Names {
    /// What a decision of the tables goes back to. No decision (a closed set) and a rule number that
    /// nobody knows are a default deny or allow.
    pub fn decided_by(&self, decision: Option<&Decision>) -> DecidedBy {
        let Some(decision) = decision else { return DecidedBy::DefaultDeny };
        self.decided_by_rule(decision.rule, decision.verdict == Verdict::Allow as u32)
    }

    /// What a rule number goes back to, where it allowed or denied.
    pub fn decided_by_rule(&self, rule: RuleId, allowed: bool) -> DecidedBy {
        match (rule, self.rules.get(&rule)) {
            (RULE_HOST, _) => DecidedBy::Host,
            (RULE_SELF, _) => DecidedBy::OwnAddress,
            (RULE_MIXED, _) => DecidedBy::MixedBackends,
            (rule, Some(name)) if rule != RULE_DEFAULT => DecidedBy::Rule(name.clone()),
            _ if allowed => DecidedBy::DefaultAllow,
            _ => DecidedBy::DefaultDeny,
        }
    }
}

/// Gives out the numbers of one kind, the lowest free one first.
#[derive(Debug)]
pub(crate) struct Numbers<N> {
    /// Names of the last run that have not come back yet: they keep their numbers if they do.
    previous: BTreeMap<N, u32>,
    /// Below `next`.
    free: BTreeSet<u32>,
    next: u32,
}

/// A number that was given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) number: u32,
    /// It did not mean the same in the last run.
    pub(crate) is_new: bool,
}

impl<N: Ord + Clone> Numbers<N> {
    /// With the names of the last run. Number 0 is never given out.
    pub(crate) fn new(names: &BTreeMap<u32, N>) -> Self {
        let next = names.keys().next_back().map_or(1, |last| last.saturating_add(1).max(1));
        let free = (1..next).filter(|number| !names.contains_key(number)).collect();
        let known = names.iter().filter(|(number, _)| **number != 0);
        let previous = known.map(|(number, name)| (name.clone(), *number)).collect();
        Self { previous, free, next }
    }

    /// Takes a number back.
    pub(crate) fn free(&mut self, number: u32) {
        self.free.insert(number);
    }

    /// Gives every name a number. Names that were numbered in the last run keep theirs if they come
    /// with the first batch; after it, the other numbers of the last run are free. Numbers do not
    /// depend on the order of `names`.
    pub(crate) fn give<T: Ord>(&mut self, mut names: Vec<(N, T)>, mut to: impl FnMut(N, T, Given)) {
        names.sort_unstable();
        let mut new = Vec::new();
        for (name, what) in names {
            match self.previous.remove(&name) {
                Some(number) => to(name, what, Given { number, is_new: false }),
                None => new.push((name, what)),
            }
        }
        self.free.extend(std::mem::take(&mut self.previous).into_values());
        for (name, what) in new {
            let number = self.free.pop_first().unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            to(name, what, Given { number, is_new: true });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(numbers: &mut Numbers<String>, names: &[&str]) -> BTreeMap<String, u32> {
        let mut given = BTreeMap::new();
        let names = names.iter().map(|name| ((*name).to_owned(), ())).collect();
        numbers.give(names, |name, (), number| {
            given.insert(name, number.number);
        });
        given
    }

    #[test]
    fn numbers_follow_the_names_order_and_close_gaps() {
        let mut numbers = Numbers::new(&BTreeMap::new());
        let given = give(&mut numbers, &["c", "a", "b"]);
        assert_eq!(given.values().copied().collect::<Vec<_>>(), [1, 2, 3]);
        numbers.free(2);
        assert_eq!(give(&mut numbers, &["d", "e"])["d"], 2);
    }

    #[test]
    fn names_of_the_last_run_keep_their_numbers_in_the_first_batch_only() {
        let last = BTreeMap::from([(2, "b".to_owned()), (5, "e".to_owned())]);
        let mut numbers = Numbers::new(&last);
        let given = give(&mut numbers, &["e", "a"]);
        assert_eq!((given["e"], given["a"]), (5, 1));
        // 2 was `b`'s, which did not come back.
        assert_eq!(give(&mut numbers, &["x"])["x"], 2);
    }
}
