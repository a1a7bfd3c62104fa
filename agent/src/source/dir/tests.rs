use std::fs;

use super::*;
use sluice_policy::model::{Change, PodName, PolicyKind, PolicyName};

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
        let events = setup.directory.look();
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
    assert_eq!(setup.directory.look(), []);
}

#[test]
fn an_empty_directory_is_an_empty_cluster() {
    let (_, events) = Setup::new(&[]);
    assert_eq!(events, [Event::Synced]);
}

#[test]
fn a_path_that_is_missing_at_the_start_syncs_nothing_until_it_is_there() {
    let place = tempfile::tempdir().expect("a temporary directory");
    let path = place.path().join("later");
    let mut directory = Directory::new(path.clone());
    let events = directory.look();
    assert!(matches!(events.as_slice(), [Event::Faults(_)]), "{events:?}");
    fs::create_dir(&path).expect("a directory");
    assert_eq!(directory.look(), [Event::Faults(Vec::new()), Event::Synced]);
}

#[test]
fn a_file_that_is_gone_takes_its_objects_with_it() {
    let (mut setup, _) = Setup::new(&[("a.yaml", POD), ("p.yaml", POLICY)]);
    fs::remove_file(setup.file("p.yaml")).expect("removed");
    assert_eq!(setup.directory.look(), [Event::Changes(vec![Change::Policy(policy(), None)])]);
}

#[test]
fn a_directory_that_vanishes_takes_nothing_and_is_reported() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    fs::rename(setup.place.path().join("manifests"), setup.place.path().join("away"))
        .expect("renamed");
    let events = setup.directory.look();
    assert!(matches!(events.as_slice(), [Event::Faults(_)]), "{events:?}");
    assert!(setup.faults().contains("the state read last stays in force"), "{}", setup.faults());
    assert_eq!(setup.directory.look(), [], "reported once");
    fs::rename(setup.place.path().join("away"), setup.place.path().join("manifests"))
        .expect("renamed");
    setup.write("p.yaml", POLICY);
    assert_eq!(setup.directory.look(), [Event::Faults(Vec::new())]);
}

#[test]
fn a_policy_that_becomes_invalid_keeps_its_last_good_version() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    let good = setup.directory.world.policies.clone();
    setup.write("p.yaml", BAD_POLICY);
    let events = setup.directory.look();
    assert!(matches!(events.as_slice(), [Event::Faults(_)]), "{events:?}");
    assert!(setup.faults().contains("NetworkPolicy x/p"), "{}", setup.faults());
    assert!(setup.faults().contains("last good version stays"), "{}", setup.faults());
    assert_eq!(setup.directory.world.policies, good);
    // Still so when it is invalid in another way.
    setup.write("p.yaml", &BAD_POLICY.replace("70000", "80000"));
    setup.directory.look();
    assert_eq!(setup.directory.world.policies, good);
    // And it ends with the object.
    setup.write("p.yaml", POD);
    setup.directory.look();
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
    setup.directory.look();
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
    let events = setup.directory.look();
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
    setup.directory.look();
    assert_eq!(setup.directory.world, world);
    assert!(!setup.faults().is_empty());
    setup.write("p.yaml", POD);
    setup.directory.look();
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
    let events = setup.directory.look();
    assert!(matches!(events.as_slice(), [Event::Changes(c)] if c.len() == 2), "{events:?}");
}

#[test]
fn a_path_that_is_back_is_no_fault_any_more() {
    let (mut setup, _) = Setup::new(&[("p.yaml", POLICY)]);
    // So old that nothing but its absence can change.
    let file = fs::File::options().append(true).open(setup.file("p.yaml")).expect("opened");
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).expect("an old file");
    setup.directory.look();
    let (here, away) = (setup.place.path().join("manifests"), setup.place.path().join("away"));
    fs::rename(&here, &away).expect("renamed");
    assert!(matches!(setup.directory.look().as_slice(), [Event::Faults(_)]));
    fs::rename(&away, &here).expect("renamed back");
    assert_eq!(setup.directory.look(), [Event::Faults(Vec::new())]);
}

#[test]
fn a_pipe_or_a_dead_link_among_manifests_is_named_and_holds_nothing_up() {
    let (mut setup, _) = Setup::new(&[("a.yaml", POD), ("p.yaml", POLICY)]);
    nix::unistd::mkfifo(&setup.file("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).expect("made");
    std::os::unix::fs::symlink("/nowhere", setup.file("link.yaml")).expect("linked");
    fs::remove_file(setup.file("p.yaml")).expect("removed");
    let events = setup.directory.look();
    assert!(events.contains(&Event::Changes(vec![Change::Policy(policy(), None)])), "{events:?}");
    assert!(setup.faults().contains("pipe.yaml: not a file"), "{}", setup.faults());
    assert!(setup.faults().contains("link.yaml: No such file"), "{}", setup.faults());
}
