//! The compiled tables answer as the oracle does: on random worlds, compiled from nothing, and on the
//! same worlds after random changes that the compiler took in as one batch.
//!
//! `SLUICE_PAIRS` is the number of (world, question) pairs, 100,000 where unset; `SLUICE_SEED` the
//! first world's seed, 0 where unset. A failure prints the smallest case that still fails.

use std::time::Instant;

use sluice_policy::answer::answer;
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::model::{Answer, Change, World};
use sluice_policy::oracle::judge;
use sluice_tests::case::{Case, shrink};
use sluice_tests::{number, random};

/// Questions that are asked of one world, before and again after its changes.
const QUESTIONS: usize = 50;

#[test]
fn the_tables_answer_as_the_oracle_does() {
    let pairs = number("SLUICE_PAIRS", 100_000);
    let first = number("SLUICE_SEED", 0);
    let begun = Instant::now();
    let (mut asked, mut seed) = (0, first);
    while asked < pairs {
        asked += check(seed);
        seed += 1;
    }
    let seconds = begun.elapsed().as_secs_f64();
    let rate = asked as f64 / seconds;
    println!(
        "{asked} pairs agree: seeds {first} to {}, {seconds:.1} s, {rate:.0} pairs/s",
        seed - 1
    );
}

/// Asks one world's questions; how many there were.
fn check(seed: u64) -> u64 {
    let mut world = random::world(seed);
    let mut compiler = compile(&world, Capacity::default());
    let mut asked = ask_all(seed, &world, &compiler, || (world.clone(), Vec::new()));

    let before = world.clone();
    let changes = random::changes(&world, seed);
    for change in &changes {
        world.apply(change.clone());
    }
    compiler.apply(changes.clone());
    asked += ask_all(!seed, &world, &compiler, || (before.clone(), changes.clone()));
    asked
}

fn ask_all(
    seed: u64,
    world: &World,
    compiler: &Compiler,
    origin: impl Fn() -> (World, Vec<Change>),
) -> u64 {
    let questions = random::questions(world, seed, QUESTIONS);
    for question in &questions {
        if judge(world, question) != answer(compiler, question) {
            let (world, changes) = origin();
            report(seed, Case { world, changes, question: question.clone() });
        }
    }
    questions.len() as u64
}

fn report(seed: u64, case: Case) -> ! {
    let small = shrink(case, disagrees);
    let (oracle, tables) = answers(&small);
    panic!(
        "the tables disagree with the oracle (seed {seed})\n{small}\noracle: {oracle:?}\ntables: {tables:?}"
    );
}

fn disagrees(case: &Case) -> bool {
    // An endpoint that is gone is asked nothing.
    case.result().endpoints.contains_key(&case.question.pod) && {
        let (oracle, tables) = answers(case);
        oracle != tables
    }
}

fn answers(case: &Case) -> (Answer, Answer) {
    let mut compiler = compile(&case.world, Capacity::default());
    compiler.apply(case.changes.clone());
    (judge(&case.result(), &case.question), answer(&compiler, &case.question))
}
