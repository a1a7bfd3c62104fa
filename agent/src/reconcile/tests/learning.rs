//! When connections are learned.

use super::*;

#[test]
fn connections_are_learned_before_the_flip_and_again_when_the_programs_are_there() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), pod("b", 2)]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    setup.reconciler.change(vec![policy()]);
    let done = setup.reconcile();
    assert!(done.contains(&Done::Attach(5)), "{done:?}");
    let pods = vec!["x/a".to_owned()];
    assert_eq!(setup.reconciler.kernel.learned, [(pods.clone(), Vec::new()), (pods, done)]);
    assert_eq!(setup.reconciler.learned(), 2);
}

#[test]
fn connections_are_learned_once_for_as_long_as_a_pod_is_isolated() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    setup.reconciler.kernel.learned.clear();
    setup.reconciler.change(vec![pod("b", 2)]);
    setup.reconcile();
    assert_eq!(setup.reconciler.kernel.learned, []);
    setup.reconciler.change(vec![Change::Policy(policy_name(), None)]);
    setup.reconcile();
    setup.reconciler.change(vec![policy()]);
    setup.reconcile();
    assert_eq!(setup.reconciler.kernel.learned.len(), 2, "nobody followed it in between");
}

#[test]
fn an_agent_that_takes_over_learns_only_of_pods_that_nobody_followed() {
    let mut first = Setup::new(Recorder::default());
    first.reconciler.change(vec![pod("a", 1), policy()]);
    first.reconciler.found(scan(&[(5, 1)]));
    first.reconcile();
    let Recorder { state, slots, .. } = std::mem::take(&mut first.reconciler.kernel);
    let places = first.reconciler.slots.places().clone();
    let kernel = Recorder { state, slots, left_behind: [5].into(), ..Recorder::default() };
    let mut second = Setup::new(kernel);
    let next_epoch = first.reconciler.slots.next_epoch();
    second.reconciler.slots = Slots::restore(places, BTreeMap::new(), next_epoch);
    second.reconciler.change(vec![pod("a", 1), pod("b", 2), policy()]);
    second.reconciler.found(scan(&[(5, 1), (6, 2)]));
    second.reconcile();
    let learned: Vec<_> = second.reconciler.kernel.learned.iter().map(|(pods, _)| pods).collect();
    assert_eq!(learned, [&["x/b"], &["x/b"]]);
}
