//! Interfaces that refuse the programs.

use super::*;

/// Pods `a` and `b`, isolated; the interface of `a` refuses.
fn refusing() -> Setup {
    let kernel = Recorder { refuses: [5].into(), ..Recorder::default() };
    let mut setup = Setup::new(kernel);
    setup.reconciler.change(vec![pod("a", 1), pod("b", 2), policy()]);
    setup.reconciler.found(scan(&[(5, 1), (6, 2)]));
    setup
}

#[test]
fn an_interface_that_refuses_is_reported_and_tried_again_and_others_go_on() {
    let mut setup = refusing();
    let done = setup.reconcile();
    assert!(done.contains(&Done::Attach(6)), "{done:?}");
    assert_eq!(done.last(), Some(&Done::Settle), "all that can be attached is");
    assert_eq!(setup.reconciler.missing()[&name("a")], "no such device");
    setup.reconciler.kernel.refuses.clear();
    let done = setup.reconcile();
    assert_eq!(done, [Done::Lead(5, 1), Done::Attach(5)]);
    assert!(setup.reconciler.missing().is_empty());
}

#[test]
fn healing_leaves_an_interface_that_refuses_where_it_is_led() {
    let mut setup = refusing();
    setup.reconcile();
    setup.reconciler.kernel.slots.insert(9, 4);
    assert_eq!(setup.reconciler.heal().expect("healed"), 1, "what is nobody's is led nowhere");
    assert_eq!(setup.reconciler.kernel.slots, [(5, 1), (6, 2)].into());
    let done = std::mem::take(&mut setup.reconciler.kernel.done);
    assert!(!done.contains(&Done::Lead(5, SLOT_NONE)), "{done:?}");
    assert_eq!(setup.reconciler.heal().expect("healed"), 0);
    assert_eq!(setup.reconciler.corrections(), 1);
}

#[test]
fn an_interface_that_begins_to_refuse_is_reported_and_the_others_are_healed() {
    let mut setup = refusing();
    setup.reconciler.kernel.refuses.clear();
    setup.reconcile();
    setup.reconciler.kernel.refuses.insert(5);
    setup.reconciler.kernel.slots.remove(&6);
    assert_eq!(setup.reconciler.heal().expect("healed"), 1);
    assert_eq!(setup.reconciler.kernel.slots, [(5, 1), (6, 2)].into());
    assert_eq!(setup.reconciler.missing()[&name("a")], "no such device");
    setup.reconciler.kernel.refuses.clear();
    setup.reconcile();
    assert!(setup.reconciler.missing().is_empty());
}

#[test]
fn connections_of_a_pod_that_cannot_be_attached_are_learned_once_and_again_when_it_is() {
    let mut setup = refusing();
    setup.reconcile();
    let learned = |setup: &mut Setup| {
        let learned = std::mem::take(&mut setup.reconciler.kernel.learned);
        learned.into_iter().map(|(pods, _)| pods.join(" ")).collect::<Vec<String>>()
    };
    assert_eq!(learned(&mut setup), ["x/a x/b", "x/b"]);
    setup.reconcile();
    setup.reconciler.heal().expect("healed");
    assert_eq!(learned(&mut setup), [""; 0]);
    setup.reconciler.kernel.refuses.clear();
    setup.reconcile();
    assert_eq!(learned(&mut setup), ["x/a"]);
    setup.reconcile();
    assert_eq!(learned(&mut setup), [""; 0]);
}
