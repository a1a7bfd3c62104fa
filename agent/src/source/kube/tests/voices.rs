//! How many agents may say the same, as the hub reckons.

use super::*;

fn pod_of(namespace: &str, name: &str, node: &str) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": node, "containers": []}, "status": {},
    });
    object(Kind::Pod, &value)
}

/// A policy that nobody can read.
fn broken(namespace: &str) -> Object {
    let mut policy = policy("broken", "nonsense");
    policy.name = format!("{namespace}/broken").into();
    policy
}

fn voices(to_say: &latest::Receiver<Vec<Report>>) -> Vec<(String, u32)> {
    let reports = to_say.borrow();
    reports.iter().map(|r| (r.trouble.regarding.name.to_string(), r.voices)).collect()
}

#[test]
fn where_a_pod_runs_here_its_namespace_has_reason_to_speak_and_elsewhere_everybody() {
    let mut first: Vec<_> =
        (0..7).map(|i| (Kind::Pod, pod_of("there", &format!("p{i}"), "node-2"))).collect();
    first.push((Kind::Pod, pod_of("here", "own", NODE)));
    first.push((Kind::Pod, pod_of("here", "other", "node-2")));
    first.extend([(Kind::NetworkPolicy, broken("here")), (Kind::NetworkPolicy, broken("there"))]);
    let (mut hub, to_say) = synced(first);
    assert_eq!(voices(&to_say), [("here/broken".into(), 2), ("there/broken".into(), 9)]);
    // One that comes brings the reason with it, and one that goes takes it away.
    hub.take(Kind::Pod, News::Changed(pod_of("there", "new", NODE)));
    hub.due();
    assert_eq!(voices(&to_say), [("here/broken".into(), 2), ("there/broken".into(), 8)]);
    hub.take(Kind::Pod, News::Gone(pod_of("here", "own", NODE)));
    hub.due();
    assert_eq!(voices(&to_say), [("here/broken".into(), 9), ("there/broken".into(), 8)]);
}

#[test]
fn of_a_pod_its_own_node_speaks_and_of_the_others_as_many_as_there_may_be() {
    let spoilt = |name: &str, node: &str| {
        let mut pod = pod_of("x", name, node);
        let reason = "is wrong".into();
        pod.arrival.faults.push(crate::convert::Fault { field: "spec.x".into(), reason });
        (Kind::Pod, pod)
    };
    let other = (Kind::Pod, pod_of("y", "p", "node-2"));
    let (_hub, to_say) = synced(vec![spoilt("own", NODE), spoilt("remote", "node-2"), other]);
    assert_eq!(voices(&to_say), [("x/own".into(), 1), ("x/remote".into(), 3)]);
}

#[test]
fn before_all_pods_are_known_there_may_be_as_many_as_can_be() {
    let (mut hub, to_say) = hub();
    hub.take(Kind::NetworkPolicy, News::Listed(broken("x")));
    hub.due();
    assert_eq!(voices(&to_say), [("x/broken".into(), EVERYBODY)]);
    for kind in KINDS {
        hub.take(kind, News::Complete);
    }
    hub.due();
    assert_eq!(voices(&to_say), [("x/broken".into(), 0)], "no pod, no agent");
}
