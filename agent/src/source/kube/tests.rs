//! What the hub makes of news, without a server.

mod own_node;
mod voices;

use serde_json::{Value, json};
use sluice_policy::model::{PodName, PolicyName};

use super::wire::Object;
use super::*;
use crate::convert::arrival;
use crate::source::{ObjectState, PodTroubles};

const NODE: &str = "node-1";

fn hub() -> (Hub, latest::Receiver<Vec<Report>>) {
    let (said, to_say) = latest::channel(Vec::new());
    (Hub::new(NODE.into(), said), to_say)
}

fn object(kind: Kind, value: &Value) -> Object {
    let name = arrival::name(kind, value).expect("a name");
    Object {
        name: name.into(),
        uid: "u".into(),
        runtime_uid: None,
        arrival: arrival::read(kind, value),
    }
}

fn pod(name: &str, address: &str, app: &str) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "x", "labels": {"app": app}},
        "spec": {"nodeName": NODE, "containers": []},
        "status": {"podIPs": [{"ip": address}], "phase": "Running"},
    });
    object(Kind::Pod, &value)
}

fn node(name: &str) -> Object {
    let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
    object(Kind::Node, &value)
}

fn policy(name: &str, cidr: &str) -> Object {
    let value = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "x"},
        "spec": {
            "podSelector": {"matchLabels": {"app": "web"}},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": cidr}}]}],
        },
    });
    object(Kind::NetworkPolicy, &value)
}

fn service(address: &str) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "x"},
        "spec": {"clusterIPs": [address], "ports": [{"name": "h", "port": 80, "targetPort": "http"}]},
    });
    object(Kind::Service, &value)
}

fn slice(name: &str, endpoints: Value, port: Value) -> Object {
    let value = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "x", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "ports": [port], "endpoints": endpoints,
    });
    object(Kind::EndpointSlice, &value)
}

/// Goes through the first lists: of each kind what is given.
fn synced(given: Vec<(Kind, Object)>) -> (Hub, latest::Receiver<Vec<Report>>) {
    let (mut hub, to_say) = hub();
    for kind in KINDS {
        hub.take(kind, News::Begin);
    }
    for (kind, object) in given {
        hub.take(kind, News::Listed(object));
    }
    hub.take(Kind::Node, News::Listed(node(NODE)));
    for kind in KINDS {
        hub.take(kind, News::Complete);
    }
    hub.due();
    (hub, to_say)
}

fn changes(events: &[Event]) -> Vec<Change> {
    let mut all = Vec::new();
    for event in events {
        if let Event::Changes(changes) = event {
            all.extend(changes.iter().cloned());
        }
    }
    all
}

fn faults(events: &[Event]) -> Vec<String> {
    let last = events.iter().rev().find_map(|event| match event {
        Event::Faults(faults) => Some(faults.clone()),
        _ => None,
    });
    last.unwrap_or_default()
}

fn pod_name(name: &str) -> PodName {
    PodName { namespace: "x".into(), name: name.into() }
}

#[test]
fn nothing_is_sent_before_the_last_first_list_and_then_everything_at_once() {
    let (mut hub, _to_say) = hub();
    for kind in KINDS {
        hub.take(kind, News::Begin);
    }
    hub.take(Kind::Pod, News::Listed(pod("a", "10.0.0.1", "web")));
    hub.take(Kind::Node, News::Listed(node(NODE)));
    for kind in KINDS.into_iter().filter(|kind| *kind != Kind::Service) {
        hub.take(kind, News::Complete);
        let events = hub.due();
        assert!(events.iter().all(|event| matches!(event, Event::Watch(_))), "{events:?}");
    }
    hub.take(Kind::Service, News::Complete);
    let events = hub.due();
    assert_eq!(changes(&events).len(), 1);
    assert_eq!(events.last(), Some(&Event::Synced));
    assert!(!hub.due().contains(&Event::Synced));
}

#[test]
fn what_a_new_list_does_not_name_goes_when_it_is_complete_and_not_before() {
    let first =
        vec![(Kind::Pod, pod("a", "10.0.0.1", "web")), (Kind::Pod, pod("b", "10.0.0.2", "web"))];
    let (mut hub, _to_say) = synced(first);
    hub.take(Kind::Pod, News::Begin);
    hub.take(Kind::Pod, News::Listed(pod("b", "10.0.0.3", "web")));
    // Names what is new at once, and breaks off.
    let events = hub.due();
    let [Change::Pod(changed, Some(pod_b))] = &changes(&events)[..] else { panic!("{events:?}") };
    assert_eq!((changed, &pod_b.addresses[0].to_string()[..]), (&pod_name("b"), "10.0.0.3"));
    hub.take(Kind::Pod, News::Begin);
    assert_eq!(changes(&hub.due()), []);
    hub.take(Kind::Pod, News::Listed(pod("b", "10.0.0.3", "web")));
    hub.take(Kind::Pod, News::Complete);
    assert_eq!(changes(&hub.due()), [Change::Pod(pod_name("a"), None)]);
    assert_eq!(hub.store.names(Kind::Pod), ["x/b".to_owned()].into());
}

#[test]
fn an_event_that_changes_nothing_for_policy_goes_no_further() {
    let (mut hub, _to_say) = synced(vec![(Kind::Pod, pod("a", "10.0.0.1", "web"))]);
    hub.take(Kind::Pod, News::Changed(pod("a", "10.0.0.1", "web")));
    assert_eq!(hub.due(), []);
    hub.take(Kind::Pod, News::Changed(pod("a", "10.0.0.1", "db")));
    assert_eq!(changes(&hub.due()).len(), 1);
    hub.take(Kind::Pod, News::Gone(pod("a", "10.0.0.1", "db")));
    hub.take(Kind::Pod, News::Changed(pod("a", "10.0.0.9", "db")));
    let recreated = changes(&hub.due());
    assert!(matches!(&recreated[..], [Change::Pod(_, None), Change::Pod(_, Some(_))]));
}

#[test]
fn a_policy_that_cannot_be_converted_is_closed_and_said_until_it_is_good() {
    let (mut hub, mut to_say) = synced(vec![(Kind::NetworkPolicy, policy("p", "10.0.0.0/8"))]);
    hub.take(Kind::NetworkPolicy, News::Changed(policy("p", "::ffff:10.0.0.0/104")));
    let events = hub.due();
    let [Change::Policy(name, Some(closed))] = &changes(&events)[..] else { panic!("{events:?}") };
    assert_eq!((name.to_string(), &closed.ingress), ("NetworkPolicy x/p".into(), &Some(vec![])));
    assert_eq!(closed.egress, None);
    let said = faults(&events);
    assert_eq!(said.len(), 1);
    for part in ["NetworkPolicy x/p", "spec.ingress[0].from[0].ipBlock.cidr", "isolated"] {
        assert!(said[0].contains(part), "{said:?}");
    }
    let outcome = events.iter().find_map(|event| match event {
        Event::Objects(outcome) => Some(&outcome.counts),
        _ => None,
    });
    let count = |state| outcome.and_then(|counts| counts.get(&("NetworkPolicy", state))).copied();
    assert_eq!(count(ObjectState::Closed), Some(1));
    assert_eq!(count(ObjectState::Converted), Some(0));
    let reports = to_say.borrow_and_update().clone();
    assert_eq!(reports.len(), 1);
    assert_eq!(reports[0].trouble.reason, Reason::PolicyClosed);
    hub.take(Kind::NetworkPolicy, News::Changed(policy("p", "10.0.0.0/8")));
    let events = hub.due();
    assert!(events.contains(&Event::Faults(Vec::new())));
    assert_eq!(changes(&events).len(), 1);
    assert_eq!(*to_say.borrow_and_update(), []);
}

#[test]
fn a_broken_policy_that_is_gone_is_no_fault_any_more() {
    let (mut hub, to_say) = synced(vec![(Kind::NetworkPolicy, policy("p", "nonsense"))]);
    assert_eq!(to_say.borrow().len(), 1);
    hub.take(Kind::NetworkPolicy, News::Gone(policy("p", "nonsense")));
    let events = hub.due();
    let gone: Vec<PolicyName> = changes(&events)
        .into_iter()
        .filter_map(|change| match change {
            Change::Policy(name, None) => Some(name),
            _ => None,
        })
        .collect();
    assert_eq!(gone.len(), 1);
    assert!(events.contains(&Event::Faults(Vec::new())));
}

fn backends(events: &[Event]) -> Option<Vec<String>> {
    let [Change::Service(_, Some(service))] = &changes(events)[..] else { return None };
    let backends = &service.ports[0].backends;
    Some(backends.iter().map(|b| format!("{}:{}", b.address, b.port)).collect())
}

#[test]
fn a_service_changes_with_its_slices_and_only_it() {
    let ready = json!([{"addresses": ["10.0.0.1"]}, {"addresses": ["10.0.0.2"]}]);
    let named = || json!({"name": "h", "port": 8080});
    let (mut hub, _to_say) = synced(vec![(Kind::Service, service("10.96.0.1"))]);
    hub.take(Kind::EndpointSlice, News::Changed(slice("web-1", ready, named())));
    let expected = ["10.0.0.1:8080".to_owned(), "10.0.0.2:8080".to_owned()];
    assert_eq!(backends(&hub.due()).expect("one service"), expected);
    // The first leaves: it is not ready, but still serves.
    let leaving = json!([
        {"addresses": ["10.0.0.1"], "conditions": {"ready": false, "serving": true, "terminating": true}},
        {"addresses": ["10.0.0.2"]},
    ]);
    hub.take(Kind::EndpointSlice, News::Changed(slice("web-1", leaving, named())));
    assert_eq!(backends(&hub.due()).expect("one service"), expected[1..]);
    let other = json!([{"addresses": ["10.0.0.3"]}]);
    hub.take(Kind::EndpointSlice, News::Changed(slice("web-2", other, named())));
    assert_eq!(backends(&hub.due()).expect("one service").len(), 2);
    let gone = slice("web-1", json!([]), named());
    hub.take(Kind::EndpointSlice, News::Gone(gone));
    assert_eq!(backends(&hub.due()).expect("one service"), ["10.0.0.3:8080"]);
}

#[test]
fn a_service_with_a_slice_that_cannot_be_read_leads_nowhere() {
    let ready = json!([{"addresses": ["10.0.0.1"]}]);
    let first = vec![
        (Kind::Service, service("10.96.0.1")),
        (Kind::EndpointSlice, slice("web-1", ready.clone(), json!({"name": "h", "port": 8080}))),
    ];
    let (mut hub, to_say) = synced(first);
    let broken = json!({"name": "other", "port": 1, "protocol": "QUIC"});
    hub.take(Kind::EndpointSlice, News::Changed(slice("web-2", ready, broken)));
    let events = hub.due();
    assert_eq!(backends(&events).expect("one service"), Vec::<String>::new());
    assert_eq!(to_say.borrow()[0].trouble.reason, Reason::ServiceClosed);
    assert!(faults(&events)[0].starts_with("EndpointSlice x/web-2: ports[0].protocol"));
}

#[test]
fn a_watch_that_fails_is_named_and_changes_nothing_else() {
    let (mut hub, _to_say) = synced(vec![(Kind::Pod, pod("a", "10.0.0.1", "web"))]);
    hub.take(Kind::Pod, News::Failed("watch: forbidden".into()));
    let events = hub.due();
    let watch = WatchStatus {
        kind: "Pod".into(),
        connected: false,
        synced: true,
        error: Some("watch: forbidden".into()),
    };
    let fault = "Pod cannot be watched: watch: forbidden; the last state stays in force";
    assert_eq!(events, [Event::Watch(watch.clone()), Event::Faults(vec![fault.into()])]);
    hub.take(Kind::Pod, News::Connected);
    let watch = WatchStatus { connected: true, error: None, ..watch };
    assert_eq!(hub.due(), [Event::Watch(watch), Event::Faults(Vec::new())]);
}

#[test]
fn pods_in_trouble_are_said_with_their_reason_as_long_as_they_are_there() {
    let mut more = pod("b", "10.0.0.2", "web");
    more.uid = "u-b".into();
    let first = vec![(Kind::Pod, pod("a", "10.0.0.1", "web")), (Kind::Pod, more)];
    let (mut hub, to_say) = synced(first);
    let because = || "because".to_owned();
    hub.found.pods = PodTroubles::from([
        (("x/a".into(), PodTrouble::Closed), because()),
        (("x/a".into(), PodTrouble::MixedBackends), because()),
        (("x/b".into(), PodTrouble::NotEnforced), because()),
        (("x/unknown".into(), PodTrouble::NotEnforced), because()),
    ]);
    hub.say();
    let said = |to_say: &latest::Receiver<Vec<Report>>| -> Vec<(String, Reason)> {
        let reports = to_say.borrow();
        let troubles = reports.iter().map(|r| &r.trouble);
        troubles.map(|t| (t.regarding.uid.to_string(), t.reason)).collect()
    };
    let expected = [
        ("u".into(), Reason::PodClosed),
        ("u".into(), Reason::MixedBackends),
        ("u-b".into(), Reason::NotEnforced),
    ];
    assert_eq!(said(&to_say), expected);
    assert_eq!(to_say.borrow()[0].trouble.note, "because");
    // The second is another pod from now on.
    let mut again = pod("b", "10.0.0.3", "web");
    again.uid = "u-c".into();
    hub.take(Kind::Pod, News::Changed(again));
    hub.due();
    assert_eq!(said(&to_say)[2], ("u-c".into(), Reason::NotEnforced));
}

#[test]
fn uids_of_own_pods_are_told_behind_their_changes_and_again_when_they_are_others() {
    let (mut hub, _to_say) = synced(vec![(Kind::Pod, pod("a", "10.0.0.1", "web"))]);
    let mut mirror = pod("b", "10.0.0.2", "web");
    mirror.runtime_uid = Some("of-the-file".into());
    hub.take(Kind::Pod, News::Changed(mirror.clone()));
    let uids = [(pod_name("a"), "u".to_owned()), (pod_name("b"), "of-the-file".to_owned())];
    let events = hub.due();
    assert_eq!(changes(&events).len(), 1);
    assert_eq!(events[1], Event::Uids(uids.into()));
    // Another pod that looks the same.
    let mut again = pod("a", "10.0.0.1", "web");
    again.uid = "u-2".into();
    hub.take(Kind::Pod, News::Changed(again));
    hub.take(Kind::Pod, News::Gone(mirror));
    let events = hub.due();
    assert_eq!(changes(&events).len(), 1);
    assert_eq!(events[1], Event::Uids([(pod_name("a"), "u-2".to_owned())].into()));
    assert_eq!(hub.due(), []);
}

/// A pod whose label is no text.
fn unreadable_pod(name: &str, node: &str) -> Object {
    let value = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "x", "labels": {"app": 7}},
        "spec": {"nodeName": node, "containers": []},
        "status": {"podIPs": [{"ip": "10.0.0.9"}]},
    });
    object(Kind::Pod, &value)
}

fn outcome(events: &[Event]) -> Objects {
    let last = events.iter().rev().find_map(|event| match event {
        Event::Objects(outcome) => Some(outcome.clone()),
        _ => None,
    });
    last.expect("what became of the objects")
}

#[test]
fn a_pod_that_cannot_be_read_is_listed_where_it_runs_and_one_that_could_be_stays() {
    let (mut hub, to_say) = synced(vec![(Kind::Pod, pod("known", "10.0.0.1", "web"))]);
    hub.take(Kind::Pod, News::Changed(unreadable_pod("known", NODE)));
    hub.take(Kind::Pod, News::Changed(unreadable_pod("new", NODE)));
    hub.take(Kind::Pod, News::Changed(unreadable_pod("elsewhere", "node-2")));
    let events = hub.due();
    assert_eq!(changes(&events), []);
    let found = outcome(&events);
    let count = |state| found.counts.get(&("Pod", state)).copied().unwrap_or_default();
    let states = [ObjectState::Converted, ObjectState::Kept, ObjectState::Rejected];
    assert_eq!(states.map(count), [0, 1, 2]);
    let invalid: Vec<&PodName> = found.invalid_pods.keys().collect();
    assert_eq!(invalid, [&pod_name("new")]);
    assert!(found.invalid_pods[&pod_name("new")].reason.contains("metadata.labels.app"));
    let reasons: Vec<Reason> = to_say.borrow().iter().map(|r| r.trouble.reason).collect();
    assert_eq!(reasons, [Reason::NotRead, Reason::LastVersionKept, Reason::NotRead]);
    // It stays kept, and is what it says as soon as that can be read again.
    hub.take(Kind::Pod, News::Changed(unreadable_pod("known", NODE)));
    hub.take(Kind::Pod, News::Gone(unreadable_pod("elsewhere", "node-2")));
    hub.take(Kind::Pod, News::Changed(pod("new", "10.0.0.9", "web")));
    let found = outcome(&hub.due());
    assert_eq!(found.counts[&("Pod", ObjectState::Kept)], 1);
    assert_eq!(found.invalid_pods.len(), 0);
    hub.take(Kind::Pod, News::Changed(pod("known", "10.0.0.1", "web")));
    let events = hub.due();
    assert_eq!(changes(&events), []);
    assert_eq!(outcome(&events).counts.get(&("Pod", ObjectState::Kept)), None);
}

#[test]
fn a_service_or_slice_that_cannot_be_read_any_more_closes_the_service_by_name() {
    let ready = json!([{"addresses": ["10.0.0.1"]}]);
    let named = || json!({"name": "h", "port": 8080});
    let first = vec![
        (Kind::Service, service("10.96.0.1")),
        (Kind::EndpointSlice, slice("web-1", ready.clone(), named())),
    ];
    let (mut hub, _to_say) = synced(first);
    let unreadable = |kind: Kind, name: &str| {
        let mut value = json!({"metadata": {"namespace": "x", "labels": 7}});
        value["metadata"]["name"] = json!(name);
        object(kind, &value)
    };
    for (kind, name, good) in [
        (Kind::Service, "web", service("10.96.0.1")),
        (Kind::EndpointSlice, "web-1", slice("web-1", ready, named())),
    ] {
        hub.take(kind, News::Changed(unreadable(kind, name)));
        let events = hub.due();
        assert_eq!(backends(&events).expect("one service"), Vec::<String>::new(), "{name}");
        let fault = &faults(&events)[0];
        assert!(fault.starts_with(&format!("{} x/{name}: ", kind.as_str())), "{fault}");
        assert_eq!(outcome(&events).counts[&(kind.as_str(), ObjectState::Closed)], 1);
        hub.take(kind, News::Changed(good));
        let events = hub.due();
        assert_eq!(backends(&events).expect("one service"), ["10.0.0.1:8080"], "{name}");
        assert_eq!(faults(&events), Vec::<String>::new());
    }
}

#[test]
fn a_service_with_a_port_or_an_address_that_cannot_be_read_leads_nowhere_on_all_ports() {
    let of = |field: &str, bad: Value| {
        let mut value = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "x"},
            "spec": {"clusterIPs": ["10.96.0.1"], "externalIPs": ["192.0.2.1"], "ports": [
                {"name": "h", "port": 80}, {"name": "i", "port": 81},
            ]},
        });
        *value.pointer_mut(field).expect("a field") = bad;
        object(Kind::Service, &value)
    };
    let ready =
        slice("web-1", json!([{"addresses": ["10.0.0.1"]}]), json!({"name": "h", "port": 8080}));
    for (field, bad, ports) in [
        ("/spec/ports/1", json!({"name": "i", "port": 81, "targetPort": "no name"}), 2),
        ("/spec/ports/1", json!({"name": "i", "port": 81, "protocol": "QUIC"}), 1),
        ("/spec/ports/1", json!({"name": "i", "port": "eighty"}), 1),
        ("/spec/externalIPs/0", json!("not an address"), 2),
        ("/spec/clusterIPs/0", json!(7), 2),
    ] {
        let (mut hub, to_say) = synced(vec![(Kind::EndpointSlice, ready.clone())]);
        hub.take(Kind::Service, News::Changed(of(field, bad.clone())));
        let events = hub.due();
        let [Change::Service(_, Some(service))] = &changes(&events)[..] else {
            panic!("{events:?}")
        };
        assert_eq!(service.ports.len(), ports, "{bad}");
        assert!(service.ports.iter().all(|port| port.backends.is_empty()), "{bad}");
        assert_eq!(to_say.borrow()[0].trouble.reason, Reason::ServiceClosed);
        assert!(faults(&events)[0].starts_with("Service x/web: spec."), "{events:?}");
    }
}

#[test]
fn a_pod_without_an_address_is_nothing_to_say_and_one_that_lost_it_neither() {
    let (mut hub, to_say) = synced(vec![(Kind::Pod, pod("a", "10.0.0.1", "web"))]);
    let trouble = (("x/a".into(), PodTrouble::NotEnforced), "why".to_owned());
    hub.found.pods = PodTroubles::from([trouble]);
    hub.say();
    assert_eq!(to_say.borrow().len(), 1);
    let mut value = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "x"},
        "spec": {"nodeName": NODE, "containers": []}, "status": {},
    });
    value["metadata"]["uid"] = json!("u");
    hub.take(Kind::Pod, News::Changed(object(Kind::Pod, &value)));
    hub.due();
    assert_eq!(*to_say.borrow(), []);
}

#[test]
fn a_policy_that_names_a_port_that_no_pod_has_is_said_on_the_policy_while_it_does() {
    let naming = |port: Value| {
        let value = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"name": "p", "namespace": "x"},
            "spec": {"podSelector": {}, "ingress": [{"ports": [{"port": port}]}]},
        });
        object(Kind::NetworkPolicy, &value)
    };
    let (mut hub, to_say) = synced(vec![(Kind::NetworkPolicy, naming(json!("web")))]);
    let name = PolicyName {
        kind: sluice_policy::model::PolicyKind::NetworkPolicy,
        namespace: Some("x".into()),
        name: "p".into(),
    };
    hub.found.unresolved_ports = [(name, "no pod has it".to_owned())].into();
    hub.say();
    let said: Vec<_> = (to_say.borrow().iter())
        .map(|r| (r.trouble.reason, r.trouble.regarding.kind, r.voices))
        .collect();
    assert_eq!(said, [(Reason::UnresolvedNamedPort, Kind::NetworkPolicy, 0)]);
    // The agent looks again only now and then; this says at once that it was changed.
    hub.take(Kind::NetworkPolicy, News::Changed(naming(json!(80))));
    hub.due();
    assert_eq!(*to_say.borrow(), []);
}
