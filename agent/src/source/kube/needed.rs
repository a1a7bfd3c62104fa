//! Reading of an object only what is looked at.
//!
//! Most of what an API server sends of a pod is of no use to an agent: half of it says who wrote which
//! field. It is passed over while the text is read, so that it costs neither memory nor much time. What
//! is left is converted as if the rest had never been there: [`of`] must name every field that
//! `convert` reads, and a test below compares.
//!
//! Of a NetworkPolicy everything is kept but the rest of `metadata`: what of it is not understood
//! closes it, so nothing of it may be passed over.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::manifest::kinds::Kind;

/// What is read of a value. Of a list, the same of each element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needed {
    /// Everything.
    All,
    /// Of an object these fields, and of each what is said of it.
    Only(Fields),
    /// Of an object every field, and of these what is said of them.
    AllButIn(Fields),
}

type Fields = &'static [(&'static str, Needed)];

use Needed::{All, AllButIn, Only};

const METADATA: Needed = Only(&[
    ("name", All),
    ("namespace", All),
    ("uid", All),
    ("resourceVersion", All),
    ("labels", All),
    (
        "annotations",
        Only(&[("kubernetes.io/config.hash", All), ("kubernetes.io/config.mirror", All)]),
    ),
    ("creationTimestamp", All),
    ("deletionTimestamp", All),
]);

const CONTAINERS: Needed = Only(&[("ports", All)]);

const POD: Needed = Only(&[
    ("apiVersion", All),
    ("kind", All),
    ("metadata", METADATA),
    (
        "spec",
        Only(&[
            ("nodeName", All),
            ("hostNetwork", All),
            ("containers", CONTAINERS),
            ("initContainers", CONTAINERS),
        ]),
    ),
    (
        "status",
        Only(&[
            ("phase", All),
            ("conditions", Only(&[("type", All), ("status", All)])),
            ("podIP", All),
            ("podIPs", All),
        ]),
    ),
]);

/// What is read of an object of a kind.
pub(super) const fn of(kind: Kind) -> Needed {
    match kind {
        Kind::Pod => POD,
        _ => AllButIn(&[("metadata", METADATA)]),
    }
}

impl Needed {
    /// What is read of a field; `None`: nothing.
    fn field(self, name: &str) -> Option<Self> {
        let find = |fields: Fields| fields.iter().find(|(field, _)| *field == name);
        match self {
            All => Some(All),
            Only(fields) => find(fields).map(|(_, needed)| *needed),
            AllButIn(fields) => Some(find(fields).map_or(All, |(_, needed)| *needed)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Needed {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Needed {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = elements.next_element_seed(self)? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut values = Map::new();
        while let Some(named) = fields.next_key_seed(FieldName(self))? {
            match named {
                Some((name, needed)) => {
                    values.insert(name, fields.next_value_seed(needed)?);
                }
                None => {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(values.into())
    }
}

/// Reads the name of a field, and says what is read of it. A name that is passed over is not copied.
struct FieldName(Needed);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Option<(String, Needed)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Option<(String, Needed)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.field(name).map(|needed| (name.to_owned(), needed)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::convert::{Item, arrival};

    fn read(kind: Kind, text: &str) -> Value {
        let mut deserializer = serde_json::Deserializer::from_str(text);
        of(kind).deserialize(&mut deserializer).expect("JSON")
    }

    fn metadata() -> Value {
        json!({
            "name": "p", "namespace": "x", "uid": "u", "resourceVersion": "7",
            "labels": {"app": "web", "a": "b"}, "annotations": {"c": "d"},
            "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-02T00:00:00Z",
            "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}],
        })
    }

    /// Every field that is looked at is in it, with another value than the default.
    fn pod() -> Value {
        let container = |number: u16, name: &str| {
            json!({
                "name": name, "image": "i", "env": [{"name": "e", "value": "v"}],
                "ports": [{"containerPort": number, "name": name, "protocol": "UDP"}],
            })
        };
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": metadata(),
            "spec": {
                "nodeName": "n", "hostNetwork": true, "volumes": [{"name": "v"}],
                "containers": [container(53, "dns"), container(80, "web")],
                "initContainers": [container(81, "init")],
            },
            "status": {
                "phase": "Failed", "podIP": "10.0.0.1", "hostIP": "192.0.2.1",
                "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
                "conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": null},
                    {"type": "PodScheduled", "status": "True"},
                ],
            },
        })
    }

    #[test]
    fn what_is_passed_over_is_in_no_arrival() {
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata(),
            "addressType": "IPv4", "ports": [{"name": "h", "port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}],
        });
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata()});
        let node = json!({
            "apiVersion": "v1", "kind": "Node", "metadata": metadata(),
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": metadata(),
            "spec": {"clusterIPs": ["10.96.0.1"], "ports": [{"port": 80, "targetPort": "http"}]},
        });
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(),
            "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}]}]},
        });
        for (kind, whole) in [
            (Kind::Pod, pod()),
            (Kind::EndpointSlice, slice),
            (Kind::Namespace, namespace),
            (Kind::Node, node),
            (Kind::Service, service),
            (Kind::NetworkPolicy, policy),
        ] {
            let needed = read(kind, &whole.to_string());
            let arrival = arrival::read(kind, &needed);
            assert_eq!(arrival, arrival::read(kind, &whole), "{needed}");
            assert_eq!(arrival.faults, [], "{kind:?}");
            assert!(needed.pointer("/metadata/managedFields").is_none(), "{needed}");
        }
    }

    #[test]
    fn of_a_pod_every_field_counts_that_is_looked_at() {
        let whole = pod();
        let Some(Item::Pod(pod)) =
            arrival::read(Kind::Pod, &read(Kind::Pod, &whole.to_string())).item
        else {
            panic!("it is read")
        };
        assert_eq!((pod.labels.get("app"), pod.node.as_str()), (Some("web"), "n"));
        assert!(pod.finished && !pod.ready && pod.spec.host_network && pod.created > 0);
        assert_eq!((pod.addresses.len(), pod.spec.named.len()), (2, 3));
    }

    #[test]
    fn of_a_policy_an_unknown_field_is_not_passed_over() {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata(),
            "spec": {"podSelector": {}, "ingress": [{"unless": []}]}, "more": 1,
        });
        let arrival =
            arrival::read(Kind::NetworkPolicy, &read(Kind::NetworkPolicy, &policy.to_string()));
        let fields: Vec<&str> = arrival.faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(fields, ["more", "spec.ingress[0].unless"]);
    }

    #[test]
    fn what_has_another_type_than_it_should_stays_as_it_is() {
        for text in [
            r#"{"metadata":{"labels":"web","name":"p"},"status":[1,-1,1.5,null,true,"\n"]}"#,
            r#"{"metadata":[{"name":7}],"spec":{"containers":{"ports":1}}}"#,
        ] {
            assert_eq!(read(Kind::Pod, text).to_string(), text);
        }
    }
}
