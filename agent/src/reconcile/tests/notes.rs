//! Notes that cannot be written.

use super::*;

#[test]
fn what_cannot_be_noted_is_enforced_all_the_same_and_noted_as_soon_as_that_can_be() {
    let mut setup = Setup::new(Recorder::default());
    let state_dir = setup.reconciler.state_dir.clone();
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    assert!(State::load(&state_dir).expect("readable").is_some());
    // Nothing can be written over a directory, as nothing can on a full disk.
    let draft = crate::draft::of(&state_dir.join("state.json"));
    std::fs::create_dir(&draft).expect("made");
    setup.reconciler.change(vec![pod("b", 2)]);
    setup.reconciler.found(scan(&[(5, 1), (6, 2)]));
    assert!(setup.reconcile().contains(&Done::Attach(6)));
    let failure = setup.reconciler.notes_failure().expect("it is said").to_owned();
    assert!(failure.contains("state.json"), "{failure}");
    assert_eq!(State::load(&state_dir).expect("readable"), None, "old ones are worse than none");
    std::fs::remove_dir(&draft).expect("removed");
    setup.reconcile();
    assert_eq!(setup.reconciler.notes_failure(), None);
    let notes = State::load(&state_dir).expect("readable").expect("there are notes");
    assert_eq!(notes.places.len(), 2);
}
