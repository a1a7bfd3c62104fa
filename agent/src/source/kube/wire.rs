//! Objects on the wire: converted while they are read, so that nothing but what compile needs is ever
//! kept of a list or an event. What no conversion looks at is passed over ([`needed`]).

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use ::kube::Resource;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::{Deserialize, DeserializeSeed as _, Deserializer, Error as _};
use serde_json::Value;

use super::needed;
use crate::convert::arrival::{self, Arrival};
use crate::manifest::kinds::Kind;

/// A kind of the API that is watched.
pub(super) trait Watched: Resource<DynamicType = ()> + Send + Sync + 'static {
    /// What sluice calls it.
    const KIND: Kind;
}

impl Watched for NetworkPolicy {
    const KIND: Kind = Kind::NetworkPolicy;
}
impl Watched for core::Namespace {
    const KIND: Kind = Kind::Namespace;
}
impl Watched for core::Pod {
    const KIND: Kind = Kind::Pod;
}
impl Watched for core::Service {
    const KIND: Kind = Kind::Service;
}
impl Watched for EndpointSlice {
    const KIND: Kind = Kind::EndpointSlice;
}
impl Watched for core::Node {
    const KIND: Kind = Kind::Node;
}

/// An object as it arrived.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Object {
    /// `namespace/name`, or the name alone.
    pub(super) name: Box<str>,
    /// Unique over time and cluster.
    pub(super) uid: Box<str>,
    /// The UID by which a container runtime knows a pod that the kubelet has from a file: the object in
    /// the API is only its mirror.
    pub(super) runtime_uid: Option<Box<str>>,
    /// What could be read of it.
    pub(super) arrival: Arrival,
}

/// Where [`Object::runtime_uid`] is; `/` is `~1` in a JSON pointer (RFC 6901).
const RUNTIME_UID: &str = "/metadata/annotations/kubernetes.io~1config.hash";

/// What only a mirror has: any pod may be given the other annotation, but a pod that is made with this one
/// is run by no kubelet, and the API server forbids to add it later.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// An [`Object`] of the API's kind `T`, as kube-rs wants it.
pub(super) struct Wire<T> {
    /// What the watch itself needs: the resource version.
    metadata: ObjectMeta,
    object: Object,
    kind: PhantomData<fn() -> T>,
}

impl<T> Wire<T> {
    /// What arrived.
    pub(super) fn into_object(self) -> Object {
        self.object
    }
}

impl<T> Clone for Wire<T> {
    fn clone(&self) -> Self {
        Self { metadata: self.metadata.clone(), object: self.object.clone(), kind: PhantomData }
    }
}

impl<T> fmt::Debug for Wire<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object.fmt(f)
    }
}

impl<'de, T: Watched> Deserialize<'de> for Wire<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = needed::of(T::KIND).deserialize(deserializer)?;
        let text = |field: &str| {
            let found = value.get("metadata").and_then(|metadata| metadata.get(field));
            found.and_then(Value::as_str).map(str::to_owned)
        };
        let name = arrival::name(T::KIND, &value)
            .ok_or_else(|| D::Error::custom(format!("a {} without a name", T::KIND.as_str())))?;
        let metadata =
            ObjectMeta { resource_version: text("resourceVersion"), ..ObjectMeta::default() };
        let object = Object {
            name: name.into(),
            uid: text("uid").unwrap_or_default().into(),
            runtime_uid: runtime_uid(&value).map(Into::into),
            arrival: arrival::read(T::KIND, &value),
        };
        Ok(Self { metadata, object, kind: PhantomData })
    }
}

fn runtime_uid(object: &Value) -> Option<&str> {
    object.pointer(MIRROR)?;
    object.pointer(RUNTIME_UID)?.as_str()
}

impl<T: Watched> Resource for Wire<T> {
    type DynamicType = ();
    type Scope = T::Scope;

    fn kind((): &()) -> Cow<'_, str> {
        T::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        T::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        T::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        T::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_runtime_knows_a_pod_by_another_uid_only_if_it_is_a_mirror() {
        let runtime_uid = |annotations: Value| {
            let metadata = json!({"namespace": "x", "name": "a", "annotations": annotations});
            let text = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}).to_string();
            let pod: Wire<core::Pod> = serde_json::from_str(&text).expect("a pod");
            pod.into_object().runtime_uid
        };
        let (hash, mirror) = ("kubernetes.io/config.hash", "kubernetes.io/config.mirror");
        assert_eq!(runtime_uid(json!({hash: "h"})), None);
        assert_eq!(runtime_uid(json!({mirror: "h"})), None);
        assert_eq!(runtime_uid(json!({hash: "h", mirror: "h"})).as_deref(), Some("h"));
    }
}
