//! Random worlds, questions and changes, the same for the same seed.
//!
//! Everything is drawn from small pools (three namespaces, three label keys of three values, a few
//! nested blocks, services of the same pods), so that rules match, overlap and hide each other all the time. What is drawn obeys
//! the model's contracts: a NetworkPolicy rule only allows, a range is not empty, of named ports with
//! the same name and protocol there is one, slots and epochs are unique.

mod addresses;
mod changes;
mod pods;
mod policies;
mod questions;
mod services;

use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use sluice_policy::model::World;

pub use changes::changes;
pub use questions::questions;

/// A small world with endpoints.
pub fn world(seed: u64) -> World {
    let mut dice = Dice::new(seed);
    let mut world = World::default();
    for _ in 0..dice.up_to(3) {
        pods::add_namespace(&mut dice, &mut world);
    }
    for _ in 0..3 + dice.up_to(9) {
        pods::add_pod(&mut dice, &mut world);
    }
    pods::add_endpoints(&mut dice, &mut world);
    for _ in 0..1 + dice.up_to(11) {
        policies::add_policy(&mut dice, &mut world);
    }
    for _ in 0..dice.up_to(4) {
        services::add_service(&mut dice, &mut world);
    }
    world.own_host = services::own_host(&mut dice);
    world
}

/// A seeded source of choices.
struct Dice(ChaCha8Rng);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// `0..=max`.
    fn up_to(&mut self, max: usize) -> usize {
        self.0.random_range(0..=max)
    }

    /// True in `percent` of 100 throws.
    fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// One of them, which must not be none.
    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.0.random_range(0..from.len())]
    }

    fn bits(&mut self) -> u128 {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use sluice_policy::model::DecidedBy;
    use sluice_policy::oracle::judge;

    use super::{changes, questions, world};

    #[test]
    fn the_same_seed_is_the_same_case() {
        for seed in 0..50 {
            let world = world(seed);
            assert_eq!(world, super::world(seed));
            assert_eq!(questions(&world, seed, 20), questions(&world, seed, 20));
            assert_eq!(changes(&world, seed), changes(&world, seed));
        }
    }

    /// A generator whose questions all end in the same answer would test nothing.
    #[test]
    fn questions_are_answered_in_every_way() {
        let mut answers = BTreeMap::new();
        for seed in 0..800 {
            let world = world(seed);
            for question in questions(&world, seed, 50) {
                let answer = judge(&world, &question);
                let kind = match answer.decided_by {
                    DecidedBy::Rule(rule) => format!("{:?}", world.policies[&rule.policy].tier),
                    other => other.to_string(),
                };
                *answers.entry((kind, answer.allowed)).or_insert(0) += 1;
            }
        }
        println!("{answers:#?}");
        let expected = [
            ("Admin", false),
            ("Admin", true),
            ("Baseline", false),
            ("Baseline", true),
            ("NetworkPolicy", true),
            ("default-allow", true),
            ("default-deny", false),
            ("host", true),
            ("mixed-backends", false),
            ("self", true),
        ];
        assert_eq!(answers.len(), expected.len());
        for (kind, allowed) in expected {
            let count = answers[&(kind.to_owned(), allowed)];
            assert!(count >= 200, "{kind} {allowed}: {count} of 40000");
        }
    }
}
