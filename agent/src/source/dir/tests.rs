use std::fs;
use std::time::SystemTime;

use super::*;
use sluice_policy::model::{Change, PolicyKind, PolicyName};

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: p}
spec: {podSelector: {}, policyTypes: [Ingress]}
";

const BAD_POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: p}
spec: {podSelector: {}, policyTypes: [Ingress], ingress: [{ports: [{port: 70000}]}]}
";

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: a}
spec: {nodeName: n, containers: [{name: c, image: i}]}
status: {podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}]}
";

fn policy() -> PolicyName {
    PolicyName { kind: PolicyKind::NetworkPolicy, namespace: Some("x".into()), name: "p".into() }
}

/// Looks again, and returns what is sent of the cluster's state: not what became of objects, nor how
/// the directory is watched.
fn changes_seen(directory: &mut Directory) -> Vec<Event> {
    let mut events = directory.look();
    events.retain(|event| !matches!(event, Event::Objects(_) | Event::Watch(_)));
    events
}

/// A directory of manifests and its watcher.
struct Setup {
    place: tempfile::TempDir,
    directory: Directory,
}

impl Setup {
    fn new(files: &[(&str, &str)]) -> (Self, Vec<Event>) {
        let place = tempfile::tempdir().expect("a temporary directory");
        let path = place.path().join("manifests");
        fs::create_dir(&path).expect("a directory");
        let mut setup = Self { place, directory: Directory::new(path) };
        for (name, text) in files {
            setup.write(name, text);
        }
        let events = changes_seen(&mut setup.directory);
        (setup, events)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.place.path().join("manifests").join(name)
    }

    fn write(&mut self, name: &str, text: &str) {
        fs::write(self.file(name), text).expect("written");
    }

    fn faults(&self) -> String {
        self.directory.faults.join("\n")
    }
}

#[test]
fn the_first_look_sends_everything_then_synced() {
    let (mut setup, events) = Setup::new(&[("a.yaml", POD), ("p.yaml", POLICY)]);
    let [Event::Changes(changes), Event::Synced] = events.as_slice() else {
        panic!("{events:?}");
    };
    let name = PodName { namespace: "x".into(), name: "a".into() };
    assert!(changes.iter().any(|c| matches!(c, Change::Pod(n, Some(pod))
        if *n == name && pod.node == "n" && pod.addresses == ["10.0.0.1".parse::<std::net::IpAddr>().expect("v4")])));
    assert!(changes.iter().any(|c| matches!(c, Change::Policy(n, Some(_)) if *n == policy())));
    assert_eq!(changes_seen(&mut setup.directory), []);
}

/// A volume that is not mounted yet looks like that.
#[test]
fn a_directory_that_is_missing_or_empty_at_the_start_syncs_nothing_until_it_holds_a_manifest() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("later");
    let mut directory = Directory::new(path.clone());
    let events = changes_seen(&mut directory);
    assert!(matches!(events.as_slice(), [Event::Faults(_)]), "{events:?}");
    fs::create_dir(&path).expect("a directory");
    let events = changes_seen(&mut directory);
    let [Event::Faults(faults)] = events.as_slice() else { panic!("{events:?}") };
    assert!(faults[0].contains("nothing is applied before"), "{faults:?}");
    fs::write(path.join("nothing.yaml"), "").expect("written");
    assert_eq!(changes_seen(&mut directory), [Event::Faults(Vec::new()), Event::Synced]);
}

#[test]
fn a_directory_whose_manifests_are_removed_is_an_empty_cluster() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    fs::remove_file(setup.file("p.yaml")).expect("removed");
    let events = changes_seen(&mut setup.directory);
    assert!(matches!(events.as_slice(), [Event::Changes(_)]), "{events:?}");
    assert_eq!(setup.directory.world, World::default());
    assert_eq!(setup.faults(), "");
}

/// What is under a mount point appears when it is unmounted.
#[test]
fn another_directory_without_manifests_in_its_place_takes_nothing() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    let (here, away) = (setup.place.path().join("manifests"), setup.place.path().join("away"));
    fs::rename(&here, &away).expect("renamed");
    fs::create_dir(&here).expect("a directory");
    let events = setup.directory.look();
    let [Event::Watch(watch), Event::Faults(_)] = events.as_slice() else { panic!("{events:?}") };
    assert!(!watch.connected && watch.synced, "{watch:?}");
    assert!(setup.faults().contains("the state read last stays in force"), "{}", setup.faults());
    assert!(setup.directory.world.policies.contains_key(&policy()));
    fs::remove_dir(&here).expect("removed");
    fs::rename(&away, &here).expect("renamed back");
    let events = setup.directory.look();
    let [Event::Watch(watch), Event::Faults(faults)] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert!(watch.connected && faults.is_empty(), "{events:?}");
}

#[test]
fn every_object_is_counted_by_what_became_of_it() {
    let foreign = "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {namespace: x, name: c}
";
    let bad_pod = POD.replace("name: a", "name: b").replace("10.0.0.1", "10.0.0.300");
    let partial = POD.replace("name: a", "name: c").replace("nodeName", "newField: 1, nodeName");
    let (mut setup, _) = Setup::new(&[
        ("a.yaml", POD),
        ("b.yaml", &bad_pod),
        ("c.yaml", foreign),
        ("d.yaml", &partial),
        ("p.yaml", BAD_POLICY),
    ]);
    let counts = |setup: &Setup| -> Vec<(&'static str, &'static str, u64)> {
        let counts = setup.directory.objects.counts.iter();
        counts.map(|((kind, state), count)| (*kind, state.label(), *count)).collect()
    };
    let mut expected = vec![
        ("CiliumNetworkPolicy", "rejected", 1),
        ("NetworkPolicy", "closed", 1),
        ("Pod", "converted", 1),
        ("Pod", "partial", 1),
        ("Pod", "rejected", 1),
    ];
    assert_eq!(counts(&setup), expected);
    let invalid: Vec<_> = setup.directory.objects.invalid_pods.iter().collect();
    let [(name, pod)] = invalid.as_slice() else { panic!("{invalid:?}") };
    assert_eq!((name.to_string(), pod.node.as_deref()), ("x/b".into(), Some("n")));
    assert!(pod.reason.contains("`10.0.0.300` is no IP address"), "{}", pod.reason);

    // A good version that becomes invalid stays; a second object of a name does not count.
    setup.write("a.yaml", &POD.replace("10.0.0.1", "10.0.0.300"));
    setup.write("e.yaml", &partial);
    setup.directory.look();
    expected[2] = ("Pod", "partial", 2);
    expected[3] = ("Pod", "kept", 1);
    expected[4] = ("Pod", "rejected", 2);
    assert_eq!(counts(&setup), expected);
}

#[test]
fn a_pod_that_is_invalid_in_one_file_and_good_in_another_is_known() {
    let bad = POD.replace("10.0.0.1", "10.0.0.300");
    let (setup, _) = Setup::new(&[("1.yaml", &bad), ("2.yaml", POD)]);
    assert_eq!(setup.directory.objects.invalid_pods.len(), 0);
    assert_eq!(setup.directory.world.pods.len(), 1);
}

#[test]
fn what_is_hardly_meant_is_warned_of() {
    let named = POLICY.replace("[Ingress]", "[Ingress], ingress: [{ports: [{port: nowhere}]}]");
    let (setup, _) = Setup::new(&[("a.yaml", POD), ("p.yaml", &named)]);
    let warnings = &setup.directory.objects.warnings;
    assert!(
        matches!(warnings.as_slice(), [w] if w.contains("NetworkPolicy x/p") && w.contains("nowhere")),
        "{warnings:?}"
    );
}

#[test]
fn a_file_that_is_gone_takes_its_objects_with_it() {
    let (mut setup, _) = Setup::new(&[("a.yaml", POD), ("p.yaml", POLICY)]);
    fs::remove_file(setup.file("p.yaml")).expect("removed");
    assert_eq!(
        changes_seen(&mut setup.directory),
        [Event::Changes(vec![Change::Policy(policy(), None)])]
    );
}

#[test]
fn a_directory_that_vanishes_takes_nothing_and_is_reported() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    fs::rename(setup.place.path().join("manifests"), setup.place.path().join("away"))
        .expect("renamed");
    let events = changes_seen(&mut setup.directory);
    assert!(matches!(events.as_slice(), [Event::Faults(_)]), "{events:?}");
    assert!(setup.faults().contains("the state read last stays in force"), "{}", setup.faults());
    assert_eq!(changes_seen(&mut setup.directory), [], "reported once");
    fs::rename(setup.place.path().join("away"), setup.place.path().join("manifests"))
        .expect("renamed");
    setup.write("p.yaml", POLICY);
    assert_eq!(changes_seen(&mut setup.directory), [Event::Faults(Vec::new())]);
}

#[test]
fn a_policy_that_becomes_invalid_keeps_its_last_good_version() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    let good = setup.directory.world.policies.clone();
    setup.write("p.yaml", BAD_POLICY);
    let events = changes_seen(&mut setup.directory);
    assert!(matches!(events.as_slice(), [Event::Faults(_)]), "{events:?}");
    assert!(setup.faults().contains("NetworkPolicy x/p"), "{}", setup.faults());
    assert!(setup.faults().contains("last good version stays"), "{}", setup.faults());
    assert_eq!(setup.directory.world.policies, good);
    // Still so when it is invalid in another way.
    setup.write("p.yaml", &BAD_POLICY.replace("70000", "80000"));
    changes_seen(&mut setup.directory);
    assert_eq!(setup.directory.world.policies, good);
    // And it ends with the object.
    setup.write("p.yaml", POD);
    changes_seen(&mut setup.directory);
    assert!(setup.directory.world.policies.is_empty());
    assert_eq!(setup.faults(), "");
}

#[test]
fn a_policy_that_never_was_good_is_closed_until_it_is() {
    let (mut setup, _) = Setup::new(&[("p.yaml", BAD_POLICY)]);
    // policyTypes can be read, so they count.
    let closed = &setup.directory.world.policies[&policy()];
    assert_eq!((closed.ingress.as_deref(), closed.egress.as_deref()), (Some(&[][..]), None));
    assert!(setup.faults().contains("closed"), "{}", setup.faults());
    setup.write("p.yaml", POLICY);
    changes_seen(&mut setup.directory);
    assert_eq!(setup.directory.world.policies[&policy()].egress, None);
    assert_eq!(setup.faults(), "");
}

#[test]
fn a_policy_of_another_version_or_spelling_is_closed() {
    for (right, wrong) in
        [("networking.k8s.io/v1", "extensions/v1beta1"), ("NetworkPolicy", "networkpolicy")]
    {
        let (setup, events) = Setup::new(&[("p.yaml", &POLICY.replace(right, wrong))]);
        let closed = |event: &Event| {
            matches!(event, Event::Changes(changes)
            if changes.iter().any(|c| matches!(c, Change::Policy(n, Some(_)) if *n == policy())))
        };
        assert!(events.iter().any(closed), "{events:?}");
        assert!(setup.faults().contains("closed: the pods"), "{}", setup.faults());
    }
}

#[test]
fn a_policy_whose_kind_becomes_misspelled_keeps_its_last_good_version() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    setup.write("p.yaml", &POLICY.replace("NetworkPolicy", "networkPolicy"));
    let events = changes_seen(&mut setup.directory);
    assert!(matches!(events.as_slice(), [Event::Faults(_)]), "{events:?}");
    assert!(setup.faults().contains("its last good version stays"), "{}", setup.faults());
}

#[test]
fn a_pod_with_an_unknown_field_counts_without_it() {
    let (setup, events) =
        Setup::new(&[("a.yaml", &POD.replace("nodeName", "newField: 1, nodeName"))]);
    let name = PodName { namespace: "x".into(), name: "a".into() };
    let counts = |event: &Event| {
        matches!(event, Event::Changes(changes)
        if changes.iter().any(|c| matches!(c, Change::Pod(n, Some(pod)) if *n == name && pod.node == "n")))
    };
    assert!(events.iter().any(counts), "{events:?}");
    let faults = setup.faults();
    assert!(faults.ends_with("spec.newField: unknown field; the rest of it counts"), "{faults}");
}

#[test]
fn text_that_is_no_yaml_keeps_what_the_file_held() {
    let (mut setup, _) = Setup::new(&[("p.yaml", &format!("{POLICY}---{POD}"))]);
    let world = setup.directory.world.clone();
    setup.write("p.yaml", &format!("{POD}---\n{{{{ not yaml"));
    changes_seen(&mut setup.directory);
    assert_eq!(setup.directory.world, world);
    assert!(!setup.faults().is_empty());
    setup.write("p.yaml", POD);
    changes_seen(&mut setup.directory);
    assert!(setup.directory.world.policies.is_empty());
}

#[test]
fn of_an_object_in_two_files_the_first_counts() {
    let other = POLICY.replace("[Ingress]", "[Egress]");
    let (setup, _) = Setup::new(&[("1.yaml", POLICY), ("2.yaml", &other)]);
    assert_eq!(setup.directory.world.policies[&policy()].egress, None);
    assert!(setup.faults().contains("twice"), "{}", setup.faults());
}

#[test]
fn a_file_rewritten_within_a_time_stamp_is_read_again() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    let modified = fs::metadata(setup.file("p.yaml")).and_then(|m| m.modified()).expect("a time");
    setup.write("p.yaml", &POLICY.replace("name: p}", "name: q}"));
    let file = fs::File::options().write(true).open(setup.file("p.yaml")).expect("opened");
    file.set_modified(modified).expect("set");
    let events = changes_seen(&mut setup.directory);
    assert!(matches!(events.as_slice(), [Event::Changes(c)] if c.len() == 2), "{events:?}");
}

#[test]
fn a_path_that_is_back_is_no_fault_any_more() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    // So old that nothing but its absence can change.
    let file = fs::File::options().append(true).open(setup.file("p.yaml")).expect("opened");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).expect("an old file");
    changes_seen(&mut setup.directory);
    let (here, away) = (setup.place.path().join("manifests"), setup.place.path().join("away"));
    fs::rename(&here, &away).expect("renamed");
    assert!(matches!(changes_seen(&mut setup.directory).as_slice(), [Event::Faults(_)]));
    fs::rename(&away, &here).expect("renamed back");
    assert_eq!(changes_seen(&mut setup.directory), [Event::Faults(Vec::new())]);
}

#[test]
fn a_pipe_or_a_dead_link_among_manifests_is_named_and_holds_nothing_up() {
    let (mut setup, _) = Setup::new(&[("a.yaml", POD), ("p.yaml", POLICY)]);
    nix::unistd::mkfifo(&setup.file("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    std::os::unix::fs::symlink("/nowhere", setup.file("link.yaml")).expect("linked");
    fs::remove_file(setup.file("p.yaml")).expect("removed");
    let events = changes_seen(&mut setup.directory);
    assert!(events.contains(&Event::Changes(vec![Change::Policy(policy(), None)])), "{events:?}");
    assert!(setup.faults().contains("pipe.yaml: not a file"), "{}", setup.faults());
    assert!(setup.faults().contains("link.yaml: No such file"), "{}", setup.faults());
}

#[tokio::test]
async fn changes_come_with_the_time_of_the_look_that_found_them() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::write(directory.path().join("n.yaml"), NAMESPACE).expect("written");
    let begun = Instant::now();
    let mut source = start(directory.path().to_path_buf());
    let mut arrived = None;
    while let Some(event) = source.events.recv().await {
        match event {
            Event::Arrived(at) => arrived = Some(at),
            Event::Changes(_) => break,
            _ => {}
        }
    }
    assert!(arrived.is_some_and(|at| at >= begun && at <= Instant::now()), "{arrived:?}");
}

const NAMESPACE: &str = "{apiVersion: v1, kind: Namespace, metadata: {name: x}}";
