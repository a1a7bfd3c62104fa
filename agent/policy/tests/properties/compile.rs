//! What must hold of compiling, whatever the world.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use sluice_common::abi::{CidrKey, ClassId, DecisionKey, RULE_MAX, RULE_MIXED, VipKey};
use sluice_common::decide::{Asked, decide};
use sluice_policy::answer::answer;
use sluice_policy::capacity::{Capacity, Table};
use sluice_policy::compile::{Compiler, compile};
use sluice_policy::model::{Change, DecidedBy, Direction, LocalEndpoint, PodName};
use sluice_policy::names::Names;
use sluice_policy::oracle::judge;
use sluice_policy::tables::{Prefix, Tables, Touched};

use crate::worlds::{batches, questions, shuffled, world};

/// The compiler's tables with the numbers that a compilation from nothing would give. Fails where
/// names and tables do not fit each other.
fn renumbered(compiler: &Compiler) -> Tables {
    let names = compiler.names();
    let sets = ranks(&names.sets);
    let classes = ranks(&names.classes);
    let rules = ranks(&names.rules);
    let class = |class: &ClassId| if *class == 0 { 0 } else { classes[class] };
    // What is no rule has its own number everywhere.
    let rule = |rule: u32| if rule == 0 || rule >= RULE_MAX { rule } else { rules[&rule] };
    let tables = compiler.tables();
    let mut new = Tables::default();
    for (slot, endpoint) in &tables.endpoints {
        let mut endpoint = *endpoint;
        endpoint.sets = endpoint.sets.map(|set| if set == 0 { 0 } else { sets[&set] });
        new.endpoints.insert(*slot, endpoint);
    }
    new.vips = tables.vips.iter().map(|(vip, c)| (*vip, class(c))).collect();
    for (key, hairpin) in &tables.hairpins {
        let mut hairpin = *hairpin;
        hairpin.decision.rule = rule(hairpin.decision.rule);
        new.hairpins.insert(*key, hairpin);
    }
    new.peers = tables.peers.iter().map(|(address, c)| (*address, class(c))).collect();
    for (prefix, c) in &tables.cidrs {
        let key = CidrKey::new(sets[&prefix.key.set()], prefix.key.address);
        new.cidrs.insert(Prefix { key, bits: prefix.bits }, class(c));
    }
    for (prefix, decision) in &tables.decisions {
        let key = prefix.key;
        let key =
            DecisionKey::new(sets[&key.set()], class(&key.class()), key.protocol(), key.port());
        let mut decision = *decision;
        decision.rule = rule(decision.rule);
        new.decisions.insert(Prefix { key, bits: prefix.bits }, decision);
    }
    new
}

/// Each number's place in the order of the names.
fn ranks<N: Ord>(names: &BTreeMap<u32, N>) -> BTreeMap<u32, u32> {
    let mut sorted: Vec<(&N, u32)> = names.iter().map(|(number, name)| (name, *number)).collect();
    sorted.sort();
    (1..).zip(sorted).map(|(rank, (_, number))| (number, rank)).collect()
}

/// Small enough that the random worlds often do not fit.
const TIGHT: Capacity = Capacity {
    peers: 4,
    vips: 3,
    hairpins_each: 1,
    cidrs: 6,
    decisions: 24,
    rules: 8,
    endpoints: 8,
};

/// Changes in batches; after each, with `again`, what fits is decided anew.
fn is_incremental_like_from_scratch(
    batches: Vec<Vec<Change>>,
    capacity: Capacity,
    again: impl Fn(&mut Compiler) -> Touched,
) -> Result<(), TestCaseError> {
    let mut incremental = Compiler::new(capacity, Names::default());
    for batch in batches {
        let before = incremental.tables().clone();
        let mut touched = incremental.apply(batch);
        touched.merge(again(&mut incremental));
        is_like_from_scratch(&incremental, capacity)?;
        says_what_it_touched(&before, incremental.tables(), &touched)?;
    }
    Ok(())
}

fn is_like_from_scratch(incremental: &Compiler, capacity: Capacity) -> Result<(), TestCaseError> {
    let scratch = compile(incremental.world(), capacity);
    prop_assert_eq!(renumbered(incremental), renumbered(&scratch));
    prop_assert_eq!(incremental.overflows(), scratch.overflows());
    // Equal tables answer alike; the sample is for what stands beside the tables.
    for question in questions(incremental.world()).into_iter().step_by(23) {
        prop_assert_eq!(answer(incremental, &question), answer(&scratch, &question));
    }
    Ok(())
}

fn says_what_it_touched(
    before: &Tables,
    after: &Tables,
    touched: &Touched,
) -> Result<(), TestCaseError> {
    prop_assert!(
        changed(&before.endpoints, &after.endpoints).all(|k| touched.endpoints.contains(k))
    );
    prop_assert!(changed(&before.peers, &after.peers).all(|k| touched.peers.contains(k)));
    prop_assert!(changed(&before.vips, &after.vips).all(|k| touched.vips.contains(k)));
    prop_assert!(changed(&before.hairpins, &after.hairpins).all(|k| touched.hairpins.contains(k)));
    prop_assert!(changed(&before.cidrs, &after.cidrs).all(|k| touched.cidrs.contains(k)));
    prop_assert!(
        changed(&before.decisions, &after.decisions).all(|k| touched.decisions.contains(k))
    );
    Ok(())
}

/// The tables of [`TIGHT`] are not exceeded, who is closed is told, and all else is as with room.
fn closes_what_does_not_fit_and_nothing_else(tight: &Compiler) -> Result<(), TestCaseError> {
    let roomy = compile(tight.world(), Capacity::default());
    let tables = tight.tables();
    prop_assert!(tables.peers.len() <= TIGHT.peers);
    prop_assert!(tables.vips.len() <= TIGHT.vips);
    prop_assert!(tables.cidrs.len() <= TIGHT.cidrs);
    prop_assert!(tables.decisions.len() <= TIGHT.decisions);
    prop_assert!(tight.names().rules.keys().all(|rule| (*rule as usize) < TIGHT.rules));
    prop_assert!(tables.endpoints.keys().all(|slot| (*slot as usize) <= TIGHT.endpoints));
    let overflows = tight.overflows();
    for question in questions(tight.world()) {
        let direction = question.direction;
        let slot = tight.world().endpoints[&question.pod].slot as usize;
        let (usual, now) = (answer(&roomy, &question), answer(tight, &question));
        let (narrowed, closed): (Vec<_>, Vec<_>) = overflows
            .iter()
            .filter(|o| o.pod == question.pod)
            .partition(|o| o.shortage.table == Table::Hairpins);
        // To its own address, not through a service, which a closed set knows nothing of.
        let is_own = now.decided_by == DecidedBy::OwnAddress;
        if slot > TIGHT.endpoints {
            prop_assert!(!closed.is_empty());
        } else if closed.iter().any(|o| o.direction == direction) && !is_own {
            prop_assert!(!now.allowed);
        } else if !narrowed.is_empty() {
            prop_assert!(usual.allowed || !now.allowed);
        } else {
            prop_assert_eq!(usual, now);
        }
    }
    Ok(())
}

fn changed<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    after: &'a BTreeMap<K, V>,
) -> impl Iterator<Item = &'a K> {
    before.keys().chain(after.keys()).filter(|key| before.get(key) != after.get(key))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn incremental_is_from_scratch_up_to_numbers(batches in batches()) {
        is_incremental_like_from_scratch(batches, Capacity::default(), |_| Touched::default())?;
    }

    #[test]
    fn incremental_is_from_scratch_where_not_everything_fits(batches in batches()) {
        is_incremental_like_from_scratch(batches, TIGHT, Compiler::reconsider)?;
    }

    #[test]
    fn what_does_not_fit_closes_and_changes_nothing_else(batches in batches()) {
        let mut compiler = Compiler::new(TIGHT, Names::default());
        for batch in batches {
            let before = compiler.tables().clone();
            let touched = compiler.apply(batch);
            says_what_it_touched(&before, compiler.tables(), &touched)?;
            closes_what_does_not_fit_and_nothing_else(&compiler)?;
        }
        // Whatever was open or closed on the way.
        compiler.reconsider();
        is_like_from_scratch(&compiler, TIGHT)?;
        prop_assert!(compiler.reconsider().is_empty());
    }

    #[test]
    fn the_tables_answer_as_the_oracle(world in world()) {
        let compiler = compile(&world, Capacity::default());
        for question in questions(&world) {
            prop_assert_eq!(answer(&compiler, &question), judge(&world, &question), "{:?}", question);
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(world in world(), keys in prop::collection::vec(any::<u32>(), 1..60)) {
        let scratch = compile(&world, Capacity::default());
        let mut shuffled_input = Compiler::new(Capacity::default(), Names::default());
        shuffled_input.apply(shuffled(&world, &keys));
        prop_assert_eq!(shuffled_input.tables(), scratch.tables());
        prop_assert_eq!(shuffled_input.names(), scratch.names());
    }

    #[test]
    fn compiling_twice_is_equal_and_keeps_the_numbers(world in world(), others in batches()) {
        let first = compile(&world, Capacity::default());
        let second = compile(&world, Capacity::default());
        prop_assert_eq!(first.tables(), second.tables());
        prop_assert_eq!(first.names(), second.names());

        // Numbers that another history gave survive a restart.
        let mut before = Compiler::new(Capacity::default(), Names::default());
        others.into_iter().for_each(|batch| { before.apply(batch); });
        let mut after = Compiler::new(Capacity::default(), before.names().clone());
        let touched = after.apply(shuffled(before.world(), &[1]));
        prop_assert_eq!(after.tables(), before.tables());
        prop_assert_eq!(after.names(), before.names());
        prop_assert!(touched.rules.is_empty());
    }

    #[test]
    fn applying_the_same_again_touches_nothing(world in world()) {
        let mut compiler = compile(&world, Capacity::default());
        let touched = compiler.apply(shuffled(&world, &[7]));
        prop_assert!(touched.is_empty());
    }

    #[test]
    fn the_services_called_mixed_are_those_that_the_tables_close_as_such(world in world(), more in batches()) {
        let mut compiler = compile(&world, Capacity::default());
        more.into_iter().for_each(|batch| { compiler.apply(batch); });
        let tables = compiler.tables();
        let is_told = |local: &LocalEndpoint| {
            let Some(endpoint) = tables.endpoints.get(&local.slot) else { return false };
            let direction = Direction::Egress;
            let is_mixed = |vip: &VipKey| {
                let (protocol, port) = (vip.protocol(), vip.port());
                let asked =
                    Asked { slot: local.slot, direction, remote: vip.address, protocol, port };
                decide(tables, endpoint, &asked).is_some_and(|said| said.rule == RULE_MIXED)
            };
            let mut vips = tables.vips.keys().chain(tables.hairpins.keys().map(|key| &key.vip));
            endpoint.is_governed(direction) && vips.any(is_mixed)
        };
        let endpoints = compiler.world().endpoints.iter();
        let expected: BTreeSet<&PodName> =
            endpoints.filter(|(_, local)| is_told(local)).map(|(pod, _)| pod).collect();
        let mixed = compiler.mixed_services();
        prop_assert_eq!(mixed.keys().collect::<BTreeSet<_>>(), expected);
    }

    #[test]
    fn what_leaves_again_leaves_nothing_behind(world in world(), more in batches()) {
        let mut compiler = compile(&world, Capacity::default());
        let (tables, names) = (compiler.tables().clone(), compiler.names().clone());
        let hairpins = renumbered(&compiler).hairpins;
        let undo: Vec<_> = more.iter().flatten().map(|change| undo(&world, change)).collect();
        more.into_iter().for_each(|batch| { compiler.apply(batch); });
        compiler.apply(undo);
        prop_assert_eq!(compiler.world(), &world);
        prop_assert_eq!(compiler.names().sets.len(), names.sets.len());
        prop_assert_eq!(compiler.names().classes.len(), names.classes.len());
        prop_assert_eq!(compiler.names().rules.len(), names.rules.len());
        prop_assert_eq!(compiler.tables().decisions.len(), tables.decisions.len());
        prop_assert_eq!(compiler.tables().cidrs.len(), tables.cidrs.len());
        // A rule that comes back may get another number.
        prop_assert_eq!(renumbered(&compiler).hairpins, hairpins);
        prop_assert_eq!(compiler.tables().vips.len(), tables.vips.len());
    }
}

/// The change that gives an object the value that it has in `world`.
fn undo(world: &sluice_policy::model::World, change: &Change) -> Change {
    match change {
        Change::Namespace(n, _) => Change::Namespace(n.clone(), world.namespaces.get(n).cloned()),
        Change::Pod(n, _) => Change::Pod(n.clone(), world.pods.get(n).cloned()),
        Change::Policy(n, _) => Change::Policy(n.clone(), world.policies.get(n).cloned()),
        Change::Service(n, _) => Change::Service(n.clone(), world.services.get(n).cloned()),
        Change::OwnHost(_) => Change::OwnHost(world.own_host.clone()),
        Change::Endpoint(n, _) => Change::Endpoint(n.clone(), world.endpoints.get(n).copied()),
    }
}
