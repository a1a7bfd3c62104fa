//! What a pod that runs on without its object goes on as.

use sluice_policy::model::{Operator, Requirement};

use super::*;

#[test]
fn a_pod_that_is_relabelled_and_goes_in_one_breath_goes_on_with_its_last_labels() {
    let mut setup = Setup::new(Recorder::default());
    let operator = Operator::In(["yes".to_owned()].into());
    let requirement = Requirement { key: "quarantine".into(), operator };
    let Change::Policy(policy_name, Some(mut policy)) = policy() else { panic!("it is a policy") };
    policy.subject.pods = Selector { requirements: [requirement].into() };
    setup.reconciler.change(vec![pod("a", 1), Change::Policy(policy_name, Some(policy))]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    assert_eq!(setup.reconciler.kernel.slots, [].into(), "it is not isolated");
    let Change::Pod(name, Some(relabelled)) = pod("a", 1) else { panic!("it is a pod") };
    let relabelled = Pod { labels: [("quarantine", "yes")].into(), ..relabelled };
    let changes = vec![Change::Pod(name.clone(), Some(relabelled)), Change::Pod(name, None)];
    setup.reconciler.change(changes);
    setup.reconcile();
    let cause = Some("object-gone".to_owned());
    assert_eq!(listed(&setup), [("x/a (gone 0)".to_owned(), EnforcementState::Enforced, cause)]);
    assert_eq!(setup.reconciler.kernel.slots, [(5, 1)].into());
}

/// What the next agent makes of what this one has noted and left in the kernel.
fn restart(before: Setup) -> Setup {
    let Setup { _state_dir, reconciler } = before;
    let notes = State::load(&reconciler.state_dir).expect("readable").expect("there are notes");
    let slots = Slots::restore(notes.places.clone(), BTreeMap::new(), notes.next_epoch);
    let Recorder { state, slots: led, .. } = reconciler.kernel;
    let kernel = Recorder { state, slots: led, ..Recorder::default() };
    let path = reconciler.state_dir;
    let reconciler = Reconciler::new(kernel, "n".into(), path, Some(notes), slots);
    Setup { _state_dir, reconciler }
}

#[test]
fn a_pod_whose_object_is_gone_is_judged_the_same_by_the_next_agent() {
    let (Change::Pod(name, Some(object)), b) = (pod("a", 1), pod("b", 2)) else {
        panic!("it is a pod")
    };
    let ports = vec![NamedPort { name: "web".into(), protocol: Protocol::Tcp, port: 80 }];
    let object = Pod { labels: [("app", "a")].into(), ports, ..object };
    let Change::Policy(policy_name, Some(mut policy)) = policy() else { panic!("it is a policy") };
    let web = PortMatch::Named { protocol: Protocol::Tcp, name: "web".into() };
    let (action, ports) = (Action::Allow, Ports::Of(vec![web]));
    policy.ingress = Some(vec![Rule { action, peers: Peers::Any, ports }]);
    let policy = Change::Policy(policy_name, Some(policy));
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![
        Change::Pod(name.clone(), Some(object)),
        b.clone(),
        policy.clone(),
    ]);
    setup.reconciler.found(scan(&[(5, 1), (6, 2)]));
    setup.reconcile();
    setup.reconciler.change(vec![Change::Pod(name, None)]);
    setup.reconcile();
    let (tables, before) = (setup.reconciler.compiler.tables().clone(), listed(&setup));
    assert_eq!(before[0].0, "x/a (gone 0)");

    let mut next = restart(setup);
    next.reconciler.change(vec![b, policy]);
    next.reconciler.found(scan(&[(5, 1), (6, 2)]));
    let done = next.reconcile();
    assert_eq!(next.reconciler.compiler.tables(), &tables);
    assert_eq!(listed(&next), before);
    let again =
        [Done::Lead(5, 1), Done::Attach(5), Done::Lead(6, 2), Done::Attach(6), Done::Settle];
    assert_eq!(done, again, "no table is written");
    assert_eq!(next.reconciler.heal().expect("healed"), 0);
    // When its interface is gone, so is it, for the agent after that too.
    next.reconciler.found(scan(&[(6, 2)]));
    next.reconcile();
    assert_eq!(listed(&next), [enforced("x/b")]);
    let last = restart(next);
    assert_eq!(last.reconciler.compiler.world().pods, BTreeMap::new());
}

/// Not ready is an agent with a pod whose address is another's, but not because of one that is leaving.
#[test]
fn a_pod_that_has_lost_its_address_is_missing_unless_it_is_being_deleted() {
    let mut setup = Setup::new(Recorder::default());
    let aged = |of: &str, created, deleting| {
        let Change::Pod(name, Some(pod)) = pod(of, 1) else { panic!("it is a pod") };
        Change::Pod(name, Some(Pod { created, deleting, ..pod }))
    };
    setup.reconciler.change(vec![aged("old", 1, false), aged("young", 2, false), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    assert_eq!(setup.reconciler.missing()[&name("old")], "its address now belongs to pod x/young");
    assert!(setup.reconciler.is_something_missing());
    setup.reconciler.change(vec![aged("old", 1, true)]);
    setup.reconcile();
    assert!(setup.reconciler.missing().is_empty() && !setup.reconciler.is_something_missing());
    // The old one has inherited the address of the young one, which is leaving.
    setup.reconciler.change(vec![aged("old", 1, false), aged("young", 2, true)]);
    setup.reconcile();
    assert_eq!(listed(&setup)[0], enforced("x/old"));
    assert!(setup.reconciler.missing().is_empty());
}
