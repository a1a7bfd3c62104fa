//! From a JSON value to objects: what kind it is, whether it is a list, and what is wrong with it.

use serde_json::Value;

use super::kinds::{Kind, Meaning, meaning};
use super::strict::join;
use crate::cluster::ObjectKey;
use crate::convert::networkpolicy::{self, NetworkPolicy};
use crate::convert::{self, Fault, Item};

/// An object that was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// Which one.
    pub key: ObjectKey,
    /// As it was read.
    pub value: Value,
    /// Converted.
    pub item: Item,
}

/// What became of one object of a document.
#[derive(Debug)]
pub enum Reading {
    /// It was understood.
    Object(Box<Object>),
    /// It was not.
    Broken(Box<Broken>),
    /// It is of a kind that policy does not depend on.
    Irrelevant {
        /// `apiVersion`
        api_version: String,
        /// `kind`
        kind: String,
    },
}

/// An object that was not understood.
#[derive(Clone, Debug)]
pub struct Broken {
    /// How messages name it: `NetworkPolicy y/web`, or less where it does not say.
    pub object: String,
    /// Which one, where it says so and the kind is known.
    pub key: Option<ObjectKey>,
    /// What is wrong.
    pub faults: Vec<Fault>,
    /// For a NetworkPolicy: what isolates the pods that it selects.
    pub closed: Option<NetworkPolicy>,
    /// For a Pod or Namespace with unknown fields: the object without them.
    pub readable: Option<Object>,
    /// `spec.nodeName`, where it says one.
    pub node: Option<String>,
}

/// Reads the objects of one document: itself, or the items of a list, each with its path in the
/// document (empty, or `items[3]`).
pub fn interpret(value: Value) -> Vec<(String, Reading)> {
    let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return vec![(String::new(), without_kind(&value))];
    };
    match meaning(&api_version, &kind) {
        Meaning::List(item_kind) => list(value, item_kind),
        meaning => vec![(String::new(), one(value, meaning, api_version, kind))],
    }
}

fn without_kind(value: &Value) -> Reading {
    let reason = match value {
        Value::Object(map) => {
            let missing = ["apiVersion", "kind"].into_iter().find(|f| !map.contains_key(*f));
            match missing {
                Some(field) => Fault { field: field.into(), reason: "must be set".into() },
                None => Fault { field: "kind".into(), reason: "must be a string".into() },
            }
        }
        _ => Fault {
            field: String::new(),
            reason: "must be an object with apiVersion and kind".into(),
        },
    };
    broken("", None, vec![reason])
}

fn broken(object: &str, key: Option<ObjectKey>, faults: Vec<Fault>) -> Reading {
    let object = object.into();
    Reading::Broken(Box::new(Broken {
        object,
        key,
        faults,
        closed: None,
        readable: None,
        node: None,
    }))
}

fn list(mut value: Value, item_kind: Option<Kind>) -> Vec<(String, Reading)> {
    let items = match value.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        None | Some(Value::Null) => Vec::new(),
        Some(_) => {
            let fault = Fault { field: "items".into(), reason: "must be a list".into() };
            return vec![(String::new(), broken("List", None, vec![fault]))];
        }
    };
    let mut readings = Vec::new();
    for (i, mut item) in items.into_iter().enumerate() {
        name_kind(&mut item, item_kind);
        let prefix = format!("items[{i}]");
        let read = interpret(item);
        readings.extend(read.into_iter().map(|(path, r)| (join(&prefix, &path), r)));
    }
    readings
}

/// The items of a typed list (`PodList`) need not repeat their kind.
fn name_kind(item: &mut Value, kind: Option<Kind>) {
    let (Some(kind), Value::Object(item)) = (kind, item) else { return };
    item.entry("kind").or_insert_with(|| kind.as_str().into());
    item.entry("apiVersion").or_insert_with(|| kind.api_version().into());
}

fn one(value: Value, meaning: Meaning, api_version: String, kind: String) -> Reading {
    let fault = |field: &str, reason: String| vec![Fault { field: field.into(), reason }];
    match meaning {
        Meaning::Known(kind) => known(kind, value),
        Meaning::OtherVersion(known) => {
            let reason =
                format!("{kind} of {api_version} is not read, only {}", known.api_version());
            unread(&kind, known, &value, fault("apiVersion", reason))
        }
        Meaning::Misspelled(known) => {
            let reason = format!("unknown kind `{kind}`: did you mean {}?", known.as_str());
            unread(&kind, known, &value, fault("kind", reason))
        }
        Meaning::UnsupportedPolicy => {
            let reason = format!("{kind} of {api_version} is not enforced by sluice yet");
            broken(&untyped_name(&kind, &value), None, fault("kind", reason))
        }
        // A list inside a list is read by `interpret`.
        Meaning::List(_) | Meaning::Irrelevant => Reading::Irrelevant { api_version, kind },
    }
}

/// An object that is not read although it is meant to be of a known kind. A NetworkPolicy has its
/// closed form all the same: this part of its schema never changed.
fn unread(kind: &str, meant: Kind, value: &Value, faults: Vec<Fault>) -> Reading {
    let object = untyped_name(kind, value);
    let closed = (meant == Kind::NetworkPolicy).then(|| networkpolicy::closed(value)).flatten();
    let key = convert::key(meant, value);
    let node = node_name(value);
    Reading::Broken(Box::new(Broken { object, key, faults, closed, readable: None, node }))
}

/// `Kind namespace/name`, of an object of any kind.
fn untyped_name(kind: &str, value: &Value) -> String {
    let field = |name: &str| value.pointer(&format!("/metadata/{name}")).and_then(Value::as_str);
    match (field("namespace"), field("name")) {
        (Some(namespace), Some(name)) => format!("{kind} {namespace}/{name}"),
        (None, Some(name)) => format!("{kind} {name}"),
        (_, None) => kind.to_owned(),
    }
}

/// The node that a pod says it is on, however wrong the rest of it is.
fn node_name(value: &Value) -> Option<String> {
    value.pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned)
}

fn known(kind: Kind, value: Value) -> Reading {
    let key = convert::key(kind, &value);
    let name = key.as_ref().map_or_else(|| kind.as_str().to_owned(), ToString::to_string);
    match (convert::item(kind, &value), key) {
        (Ok(item), Some(key)) => Reading::Object(Box::new(Object { key, value, item })),
        (Ok(_), None) => {
            let fault = Fault { field: "metadata.name".into(), reason: "must be set".into() };
            broken(&name, None, vec![fault])
        }
        (Err(faults), key) => {
            let closed =
                (kind == Kind::NetworkPolicy).then(|| networkpolicy::closed(&value)).flatten();
            let item = convert::item_without_unknown_fields(kind, &value);
            let node = node_name(&value);
            let readable = item.zip(key.clone()).map(|(item, key)| Object { key, value, item });
            Reading::Broken(Box::new(Broken { object: name, key, faults, closed, readable, node }))
        }
    }
}
