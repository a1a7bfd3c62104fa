//! What must hold of every prefix of every diff, from whatever the kernel holds.

use std::net::IpAddr;

use proptest::prelude::*;
use sluice_common::abi::{Address, CidrKey, Decision, Endpoint, Versioned};
use sluice_common::decide::{Asked, decide};
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::diff::{KernelState, Op, diff};
use sluice_policy::model::{Change, LocalEndpoint, Pod, PodName, Question, World};
use sluice_policy::names::Names;
use sluice_policy::tables::{Prefix, Tables};

use crate::worlds::{batches, questions, world};

/// What a packet of a slot would meet: the endpoint, and the decision if it is governed.
type Met = Option<(Endpoint, Option<Decision>)>;

fn verdict(tables: &Tables, slot: u32, question: &Question) -> Met {
    let endpoint = *tables.endpoints.get(&slot)?;
    let Question { direction, protocol, port, .. } = *question;
    let asked = Asked { slot, direction, remote: Address::from(question.remote), protocol, port };
    let decide = || decide(tables, &endpoint, &asked);
    Some((endpoint, endpoint.is_governed(direction).then(decide).flatten()))
}

fn verdicts(tables: &Tables, asked: &[(u32, Question)]) -> Vec<Met> {
    asked.iter().map(|(slot, question)| verdict(tables, *slot, question)).collect()
}

/// Every eleventh question of either world: all of them after each op would take minutes.
fn sample(worlds: [&World; 2]) -> Vec<(u32, Question)> {
    let ask = |world: &World| {
        let slots = world.endpoints.clone();
        questions(world).into_iter().step_by(11).map(move |q| (slots[&q.pod].slot, q))
    };
    worlds.into_iter().flat_map(ask).collect()
}

/// What packets meet that began at each generation from `oldest` to the present one.
fn seen_from(oldest: u32, kernel: &KernelState, asked: &[(u32, Question)]) -> Vec<Vec<Met>> {
    let mut past = kernel.clone();
    let generations = oldest..=kernel.generation;
    let views = generations.map(|generation| {
        past.generation = generation;
        past.view()
    });
    views.map(|tables| verdicts(&tables, asked)).collect()
}

fn apply_all(kernel: &mut KernelState, ops: &[Op]) {
    ops.iter().for_each(|op| kernel.apply(op));
}

/// Applies the ops one by one; after each the verdicts are the old ones or, from the flip on, the new.
fn every_prefix_is_old_or_new(
    kernel: &mut KernelState,
    ops: &[Op],
    desired: &Tables,
    asked: &[(u32, Question)],
) -> Result<(), TestCaseError> {
    let old = verdicts(&kernel.view(), asked);
    let new = verdicts(desired, asked);
    let mut has_flipped = !ops.iter().any(|op| matches!(op, Op::Flip(_)));
    for op in ops {
        kernel.apply(op);
        has_flipped |= matches!(op, Op::Flip(_));
        let seen = verdicts(&kernel.view(), asked);
        prop_assert_eq!(&seen, if has_flipped { &new } else { &old }, "after {:?}", op);
    }
    prop_assert_eq!(&kernel.view(), desired);
    Ok(())
}

fn flips(ops: &[Op]) -> usize {
    ops.iter().filter(|op| matches!(op, Op::Flip(_))).count()
}

#[test]
fn a_new_prefix_below_one_that_changed_in_the_last_flip_disturbs() {
    let prefix = |address: [u8; 4], bits: u32| Prefix {
        key: CidrKey::new(1, Address::from(IpAddr::from(address))),
        bits: 128 + bits,
    };
    let mut kernel = KernelState { generation: 1, ..KernelState::default() };
    let mut tables = Tables::default();
    for class in [5, 6] {
        tables.cidrs.insert(prefix([10, 0, 0, 0], 8), class);
        let ops = diff(&kernel, &tables, None);
        apply_all(&mut kernel, &ops);
    }
    assert_eq!(kernel.generation, 3);
    tables.cidrs.insert(prefix([10, 1, 0, 0], 16), 7);
    let ops = diff(&kernel, &tables, None);
    // Until the next flip it says 6, which a packet that began at 2 must not see.
    assert_eq!(ops.iter().map(|op| op.disturbs(2)).collect::<Vec<_>>(), [true, false]);
    assert!(!ops.iter().any(|op| op.disturbs(3)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn each_prefix_of_an_incremental_diff_is_old_or_new(batches in batches()) {
        let mut compiler = Compiler::new(Capacity::default(), Names::default());
        let mut kernel = KernelState { generation: 1, ..KernelState::default() };
        for batch in batches {
            let before = compiler.world().clone();
            let touched = compiler.apply(batch);
            let ops = diff(&kernel, compiler.tables(), Some(&touched));
            prop_assert!(flips(&ops) <= 1);
            let asked = sample([&before, compiler.world()]);
            every_prefix_is_old_or_new(&mut kernel, &ops, compiler.tables(), &asked)?;
            // Nothing that differs was left untouched.
            prop_assert_eq!(diff(&kernel, compiler.tables(), None), []);
        }
    }

    #[test]
    fn packets_on_their_way_see_their_generation_until_they_are_waited_for(batches in batches()) {
        let mut compiler = Compiler::new(Capacity::default(), Names::default());
        let mut kernel = KernelState { generation: 1, ..KernelState::default() };
        let mut oldest = kernel.generation;
        for batch in batches {
            let before = compiler.world().clone();
            let touched = compiler.apply(batch);
            let ops = diff(&kernel, compiler.tables(), Some(&touched));
            let asked = sample([&before, compiler.world()]);
            for op in ops {
                if op.disturbs(oldest) {
                    oldest = kernel.generation;
                }
                let seen = seen_from(oldest, &kernel, &asked);
                kernel.apply(&op);
                let seen_after = seen_from(oldest, &kernel, &asked);
                prop_assert_eq!(&seen, &seen_after[..seen.len()], "after {:?}", op);
            }
        }
    }

    #[test]
    fn each_prefix_after_a_crash_is_old_or_new(
        worlds in [world(), world(), world()],
        crash in any::<prop::sample::Index>(),
    ) {
        let [first, second, third] = worlds;
        let mut kernel = KernelState { generation: 1, ..KernelState::default() };
        let tables = compile(&first, Capacity::default());
        let ops = diff(&kernel, tables.tables(), None);
        apply_all(&mut kernel, &ops);

        // The agent dies somewhere on the way to the second world; its successor wants the third.
        let ops = diff(&kernel, compile(&second, Capacity::default()).tables(), None);
        apply_all(&mut kernel, &ops[..crash.index(ops.len() + 1)]);
        let desired = compile(&third, Capacity::default());
        let ops = diff(&kernel, desired.tables(), None);
        prop_assert!(flips(&ops) <= 1);
        let asked = sample([&first, &third]);
        every_prefix_is_old_or_new(&mut kernel, &ops, desired.tables(), &asked)?;
    }

    #[test]
    fn a_diff_applied_leaves_nothing_to_do(worlds in [world(), world()]) {
        let mut kernel = KernelState::default();
        for world in &worlds {
            let desired = compile(world, Capacity::default());
            let ops = diff(&kernel, desired.tables(), None);
            apply_all(&mut kernel, &ops);
            prop_assert_eq!(diff(&kernel, desired.tables(), None), []);
        }
    }

    #[test]
    fn garbage_for_any_later_generation_never_shows(world in world(), later in 1_u32..6) {
        let mut compiler = compile(&world, Capacity::default());
        let mut kernel = KernelState { generation: 1, ..KernelState::default() };
        let ops = diff(&kernel, compiler.tables(), None);
        apply_all(&mut kernel, &ops);
        let (generation, garbage) = (kernel.generation, Decision { verdict: 1, rank: 77, rule: 77 });
        for value in kernel.peers.values_mut().chain(kernel.cidrs.values_mut()) {
            *value = Versioned::staged(*value.at(generation), generation + later, 77);
        }
        for value in kernel.decisions.values_mut() {
            *value = Versioned::staged(*value.at(generation), generation + later, garbage);
        }
        let ops = diff(&kernel, compiler.tables(), None);
        apply_all(&mut kernel, &ops);
        prop_assert_eq!(&kernel.view(), compiler.tables());

        // As many flips as it takes to reach the garbage's generation, each by another epoch.
        let name = PodName { namespace: "x".to_owned(), name: "pod-0".to_owned() };
        compiler.apply([Change::Pod(name.clone(), Some(Pod::default()))]);
        for epoch in 1000..1000 + later {
            let endpoint = LocalEndpoint { slot: 1, epoch, flags: 0 };
            compiler.apply([Change::Endpoint(name.clone(), Some(endpoint))]);
            let ops = diff(&kernel, compiler.tables(), None);
            prop_assert_eq!(flips(&ops), 1);
            // As if only the endpoint had been looked at: what heals must not depend on luck.
            let ops = ops.into_iter().filter(|op| matches!(op, Op::Endpoint(..) | Op::Flip(_)));
            let ops: Vec<Op> = ops.collect();
            apply_all(&mut kernel, &ops);
        }
        let seen = kernel.view();
        prop_assert!(seen.peers.values().chain(seen.cidrs.values()).all(|class| *class != 77));
        prop_assert!(seen.decisions.values().all(|decision| *decision != garbage));
    }
}
