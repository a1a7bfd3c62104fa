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
