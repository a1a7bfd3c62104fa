//! From API objects to what policy looks at: one file per kind.
//!
//! Nothing is skipped: what cannot be converted is a [`Fault`] that says which field and why, and a
//! policy that cannot be converted has a closed form ([`networkpolicy::closed`]) that isolates what
//! it selects.

pub mod address;
pub mod arrival;
pub mod endpointslice;
pub mod labels;
pub mod meta;
pub mod namespace;
pub mod networkpolicy;
pub mod node;
pub mod pod;
pub mod policytest;
pub mod port;
pub mod selector;
pub mod service;
pub mod workload;

use std::fmt;

use serde_json::Value;

use crate::cluster::ObjectKey;
use crate::manifest::kinds::Kind;
use crate::manifest::strict;

/// A problem with one field of an object, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Path of the field (`spec.ingress[0].ports[0].port`); empty for the object as a whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => f.write_str(&self.reason),
            field => write!(f, "{field}: {}", self.reason),
        }
    }
}

/// A problem with one field of an object, as a value. Each kind has its own `E`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At<E> {
    /// Path of the field.
    pub field: String,
    /// What is wrong with it.
    pub error: E,
}

impl<E> At<E> {
    fn new(field: impl Into<String>, error: impl Into<E>) -> Self {
        Self { field: field.into(), error: error.into() }
    }

    /// The same problem among the problems of a larger kind.
    fn widen<F: From<E>>(self) -> At<F> {
        At { field: self.field, error: self.error.into() }
    }
}

impl<E: fmt::Display> From<At<E>> for Fault {
    fn from(at: At<E>) -> Self {
        Self { field: at.field, reason: at.error.to_string() }
    }
}

/// Collects the problems of one object, so that all of them are reported and not only the first.
#[derive(Debug)]
struct Problems<E>(Vec<At<E>>);

impl<E> Default for Problems<E> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<E> Problems<E> {
    fn add(&mut self, field: impl Into<String>, error: impl Into<E>) {
        self.0.push(At::new(field, error));
    }

    /// The value, or a note of the problem.
    fn keep<T, F: Into<E>>(&mut self, field: &str, result: Result<T, F>) -> Option<T> {
        result.map_err(|error| self.add(field, error)).ok()
    }

    /// The value, or a note of all its problems.
    fn keep_all<T, F>(&mut self, result: Result<T, Vec<At<F>>>) -> Option<T>
    where
        E: From<F>,
    {
        result.map_err(|faults| self.0.extend(faults.into_iter().map(At::widen))).ok()
    }

    /// The value, with a note of all its problems.
    fn keep_value<T, F>(&mut self, (value, faults): (T, Vec<At<F>>)) -> T
    where
        E: From<F>,
    {
        self.0.extend(faults.into_iter().map(At::widen));
        value
    }

    fn into_result<T>(self, value: T) -> Result<T, Vec<At<E>>> {
        if self.0.is_empty() { Ok(value) } else { Err(self.0) }
    }
}

/// A converted object.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A namespace.
    Namespace(namespace::Namespace),
    /// A node.
    Node(node::Node),
    /// A pod.
    Pod(Box<pod::Pod>),
    /// Something that becomes pods.
    Workload(Box<workload::Workload>),
    /// A service.
    Service(service::Service),
    /// Endpoints of a service.
    EndpointSlice(endpointslice::EndpointSlice),
    /// A policy.
    NetworkPolicy(Box<networkpolicy::NetworkPolicy>),
    /// A test.
    PolicyTest(Box<policytest::PolicyTest>),
}

/// Converts an object of a known kind.
///
/// # Errors
/// Everything that is wrong with it.
pub fn item(kind: Kind, value: &Value) -> Result<Item, Vec<Fault>> {
    Ok(match kind {
        Kind::Namespace => Item::Namespace(typed(value, namespace::convert)?),
        Kind::Node => Item::Node(typed(value, node::convert)?),
        Kind::Pod => Item::Pod(Box::new(typed(value, pod::convert)?)),
        Kind::Service => Item::Service(typed(value, service::convert)?),
        Kind::EndpointSlice => Item::EndpointSlice(typed(value, endpointslice::convert)?),
        Kind::NetworkPolicy => Item::NetworkPolicy(Box::new(typed(value, networkpolicy::convert)?)),
        Kind::Deployment => workload_item(typed(value, workload::deployment)?),
        Kind::StatefulSet => workload_item(typed(value, workload::stateful_set)?),
        Kind::DaemonSet => workload_item(typed(value, workload::daemon_set)?),
        Kind::ReplicaSet => workload_item(typed(value, workload::replica_set)?),
        Kind::Job => workload_item(typed(value, workload::job)?),
        Kind::CronJob => workload_item(typed(value, workload::cron_job)?),
        Kind::PolicyTest => Item::PolicyTest(Box::new(policytest::convert(value)?)),
    })
}

/// Converts an object that is only looked at (a Pod or a Namespace), whatever else it holds. `None`
/// for other kinds, and where what is known of it is wrong too.
///
/// A pod that a newer API has written must not slip out of the policies that select it.
pub fn item_without_unknown_fields(kind: Kind, value: &Value) -> Option<Item> {
    match kind {
        Kind::Namespace => {
            let namespace = strict::decode_loosely(value).ok()?;
            namespace::convert(namespace).ok().map(Item::Namespace)
        }
        Kind::Pod => {
            let pod = strict::decode_loosely(value).ok()?;
            pod::convert(pod).ok().map(|pod| Item::Pod(Box::new(pod)))
        }
        _ => None,
    }
}

fn workload_item(workload: workload::Workload) -> Item {
    Item::Workload(Box::new(workload))
}

/// Reads the API type strictly, then converts it.
fn typed<K, T, E>(
    value: &Value,
    convert: impl FnOnce(K) -> Result<T, Vec<At<E>>>,
) -> Result<T, Vec<Fault>>
where
    K: serde::de::DeserializeOwned + serde::Serialize,
    E: fmt::Display,
{
    convert(strict::decode(value)?).map_err(|faults| faults.into_iter().map(Fault::from).collect())
}

/// Which object a value is, as far as it says so. A namespaced object without namespace is in
/// `default`, as with kubectl.
pub fn key(kind: Kind, value: &Value) -> Option<ObjectKey> {
    let metadata = value.get("metadata")?;
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).filter(|s| !s.is_empty());
    let namespace = match kind.is_namespaced() {
        true => text("namespace").unwrap_or(meta::DEFAULT_NAMESPACE),
        false => "",
    };
    Some(ObjectKey {
        kind: kind.as_str().into(),
        namespace: namespace.into(),
        name: text("name")?.into(),
    })
}
