//! Objects as an API server sends them.
//!
//! Other than a manifest, such an object is a fact: it is in force in the cluster whether we like it
//! or not, and it may have been written by a newer version of the API, or stored before a check
//! existed. So it is never left out. What becomes of one that cannot be converted in full:
//!
//! * A **NetworkPolicy** is closed by name ([`networkpolicy::closed`]): it says what its author wants
//!   let through, and what cannot be understood of that is not let through. A field of its `spec` that
//!   is not known here counts as not understood; anything else that a server adds does not.
//! * A **Pod, Namespace or Node** counts with what can be read of it, labels as they are; where labels
//!   cannot be read, nothing of it can: without one of its labels it might be what it is not.
//! * A **Service or EndpointSlice** counts with what can be read of it, and whoever resolves the
//!   service closes it: what it leads to is not known in full.

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{At, Fault, Item, endpointslice, key, namespace, networkpolicy, node, pod, service};
use crate::manifest::kinds::Kind;
use crate::manifest::strict;

/// What could be read of an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// The object; none where nothing of it can be read.
    pub item: Option<Item>,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
    /// The node of a pod of which nothing else can be read.
    pub node: Option<String>,
}

impl Arrival {
    /// What could be read in the ordinary way.
    const fn of(item: Option<Item>, faults: Vec<Fault>) -> Self {
        Self { item, faults, node: None }
    }
}

/// Converts an object of one of the kinds that an API server is watched for.
///
/// Kinds that are not, as workloads, give nothing and a fault that says so.
pub fn read(kind: Kind, value: &Value) -> Arrival {
    match kind {
        Kind::NetworkPolicy => policy(value),
        Kind::Namespace => fact(value, namespace::readable, Item::Namespace),
        Kind::Node => fact(value, node::readable, Item::Node),
        Kind::Pod => fact(value, pod::readable, |pod| Item::Pod(Box::new(pod))),
        Kind::Service => fact(value, service::readable, Item::Service),
        Kind::EndpointSlice => fact(value, endpointslice::readable, Item::EndpointSlice),
        Kind::Deployment
        | Kind::StatefulSet
        | Kind::DaemonSet
        | Kind::ReplicaSet
        | Kind::Job
        | Kind::CronJob
        | Kind::PolicyTest => {
            let reason = format!("{} is no kind that is watched", kind.as_str());
            Arrival::of(None, vec![Fault { field: String::new(), reason }])
        }
    }
}

fn policy(value: &Value) -> Arrival {
    match super::item(Kind::NetworkPolicy, &without_server_fields(value)) {
        Ok(item) => Arrival::of(Some(item), Vec::new()),
        Err(faults) => {
            let closed = networkpolicy::closed(value);
            Arrival::of(closed.map(|policy| Item::NetworkPolicy(Box::new(policy))), faults)
        }
    }
}

/// Only name and namespace of `metadata` matter to a policy: a newer server may add to the rest.
fn without_server_fields(value: &Value) -> Value {
    let mut value = value.clone();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| field == "name" || field == "namespace");
    }
    value
}

fn fact<K: DeserializeOwned, T, E: std::fmt::Display>(
    value: &Value,
    readable: impl FnOnce(K) -> (T, Vec<At<E>>),
    item: impl FnOnce(T) -> Item,
) -> Arrival {
    let (typed, mut faults) = strict::decode_what_can_be(value);
    let is_readable = !faults.iter().any(|fault| fault.field.starts_with(LABELS));
    let Some(typed) = typed.filter(|_| is_readable) else {
        let node = value.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned);
        return Arrival { item: None, faults, node };
    };
    let (typed, wrong) = readable(typed);
    faults.extend(wrong.into_iter().map(Fault::from));
    Arrival::of(Some(item(typed)), faults)
}

/// Path of what selectors look at.
const LABELS: &str = "metadata.labels";

/// `namespace/name` of an object, or its name where it has no namespace.
pub fn name(kind: Kind, value: &Value) -> Option<String> {
    let key = key(kind, value)?;
    Some(match key.namespace.as_str() {
        "" => key.name,
        namespace => format!("{namespace}/{}", key.name),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_policy_of_a_newer_server_is_closed_only_for_what_its_spec_says() {
        let policy = |metadata: Value, spec: Value| {
            json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": metadata, "spec": spec,
            })
        };
        let metadata = json!({"name": "p", "namespace": "x", "newField": 1, "uid": "u"});
        let spec = json!({"podSelector": {}, "ingress": [{}]});
        let read_it = |spec: Value| read(Kind::NetworkPolicy, &policy(metadata.clone(), spec));
        assert_eq!(read_it(spec).faults, []);
        let unknown = read_it(json!({"podSelector": {}, "ingress": [{"unless": []}]}));
        assert_eq!(unknown.faults.len(), 1);
        let Some(Item::NetworkPolicy(closed)) = unknown.item else { panic!("it is closed") };
        assert_eq!(closed.policy.ingress.as_deref(), Some(&[][..]));
        assert_eq!(closed.policy.egress.as_deref(), Some(&[][..]));
    }

    #[test]
    fn a_pod_counts_with_what_can_be_read_of_it() {
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "x", "labels": {"app": "not valid"}},
            "spec": {"nodeName": "n", "containers": [{"name": "c", "ports": [
                {"containerPort": 80, "name": "http", "protocol": "QUIC"},
                {"containerPort": 81, "name": "other"},
            ]}]},
            "status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "no address"}]},
        });
        let arrival = read(Kind::Pod, &pod);
        let fields: Vec<&str> = arrival.faults.iter().map(|fault| fault.field.as_str()).collect();
        let expected =
            ["metadata.labels.app", "spec.containers[0].ports[0].protocol", "status.podIPs[1].ip"];
        assert_eq!(fields, expected);
        let Some(Item::Pod(pod)) = arrival.item else { panic!("it is read") };
        assert_eq!(pod.labels.get("app"), Some("not valid"));
        assert_eq!(pod.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().expect("a literal")]);
        let names: Vec<&str> = pod.spec.named.iter().map(|port| port.name.as_str()).collect();
        assert_eq!(names, ["other"]);
        assert_eq!(pod.node, "n");
    }

    #[test]
    fn a_field_of_a_wrong_type_counts_as_absent_and_labels_make_all_unreadable() {
        let pod = |label: Value, port: Value| {
            let pod = json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {"name": "p", "namespace": "x", "labels": {"k8s.io/app": label}},
                "spec": {"nodeName": "n", "schedulerName": 7, "containers": [
                    {"name": "c", "ports": [{"containerPort": port, "name": "http"}]},
                ]},
                "status": {"podIPs": [{"ip": "10.0.0.1"}, 5]},
            });
            read(Kind::Pod, &pod)
        };
        let arrival = pod(json!("a"), json!(80));
        let fields: Vec<&str> = arrival.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["spec.schedulerName", "status.podIPs[1]"], "{:?}", arrival.faults);
        let Some(Item::Pod(read)) = arrival.item else { panic!("it is read") };
        assert_eq!((read.addresses.len(), read.spec.named.len()), (1, 1));
        let Some(Item::Pod(read)) = pod(json!("a"), json!("80")).item else { panic!("it is read") };
        assert_eq!((read.addresses.len(), read.spec.named.len()), (1, 0));
        let unreadable = pod(json!(7), json!(80));
        assert_eq!((unreadable.item, unreadable.node.as_deref()), (None, Some("n")));
        assert!(unreadable.faults.iter().any(|fault| fault.field.starts_with(LABELS)));
    }

    #[test]
    fn a_port_of_a_service_is_there_whatever_its_target() {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "x"},
            "spec": {"clusterIPs": ["10.96.0.1"], "ports": [
                {"port": 80, "targetPort": "not a name"}, {"port": 81, "targetPort": 70000},
            ]},
        });
        let arrival = read(Kind::Service, &service);
        assert_eq!(arrival.faults.len(), 2, "{:?}", arrival.faults);
        let Some(Item::Service(service)) = arrival.item else { panic!("it is read") };
        let ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
        assert_eq!(ports, [80, 81]);
    }
}
