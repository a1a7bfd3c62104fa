//! From a JSON value to a typed object, where every field must be known.
//!
//! The generated API types ignore fields that they do not know. So an object is read, written again,
//! and what the input had and the output lost is unknown; this gives the whole path for free and
//! needs no second schema.

use std::borrow::Cow;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use crate::convert::Fault;

/// Fields that servers write and no policy depends on: a newer server may write more of them than
/// these types know.
const SERVER_OWNED: [&str; 2] = ["status", "metadata.managedFields"];

/// Reads `value` as a `T`.
///
/// # Errors
/// The first field whose type is wrong, or every field that `T` does not have.
pub fn decode<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, Vec<Fault>> {
    let typed: T = decode_loosely(value).map_err(|fault| vec![fault])?;
    let written = serde_json::to_value(&typed)
        .map_err(|error| vec![Fault { field: String::new(), reason: error.to_string() }])?;
    let mut faults = Vec::new();
    find_lost(value, &written, "", &mut faults);
    if faults.is_empty() { Ok(typed) } else { Err(faults) }
}

/// Like [`decode`], but unknown fields are ignored.
///
/// # Errors
/// The first field whose type is wrong.
pub fn decode_loosely<T: DeserializeOwned>(value: &Value) -> Result<T, Fault> {
    // To know the path of a fault costs as much again as to read: most objects have none.
    T::deserialize(value).or_else(|_| serde_path_to_error::deserialize(value)).map_err(fault)
}

/// Like [`decode_loosely`], but a field whose type is wrong counts as absent, and each is a fault;
/// `None` where nothing is left, or dozens are wrong.
pub fn decode_what_can_be<T: DeserializeOwned>(value: &Value) -> (Option<T>, Vec<Fault>) {
    if let Ok(typed) = T::deserialize(value) {
        return (Some(typed), Vec::new());
    }
    let mut rest = Cow::Borrowed(value);
    let mut faults = Vec::new();
    loop {
        let error = match serde_path_to_error::deserialize(&*rest) {
            Ok(typed) => return (Some(typed), faults),
            Err(error) => error,
        };
        let goes_on = faults.len() < WRONG_FIELDS && remove(rest.to_mut(), error.path());
        faults.push(fault(error));
        if !goes_on {
            return (None, faults);
        }
    }
}

/// Fields of a wrong type in an object that is read all the same; each costs another reading of it.
const WRONG_FIELDS: usize = 32;

fn fault(error: serde_path_to_error::Error<serde_json::Error>) -> Fault {
    let path = error.path().to_string();
    let field = if path == "." { String::new() } else { path };
    Fault { field, reason: error.into_inner().to_string() }
}

/// Removes what stands at a path; false where that is nothing, or everything.
fn remove(value: &mut Value, path: &Path) -> bool {
    let segments: Vec<&Segment> = path.iter().collect();
    let Some((last, parents)) = segments.split_last() else { return false };
    let parent = parents.iter().try_fold(value, |value, segment| match segment {
        Segment::Map { key } => value.get_mut(key),
        Segment::Seq { index } => value.get_mut(index),
        Segment::Enum { .. } | Segment::Unknown => None,
    });
    match (parent, last) {
        (Some(Value::Object(fields)), Segment::Map { key }) => fields.remove(key).is_some(),
        (Some(Value::Array(list)), Segment::Seq { index }) if *index < list.len() => {
            list.remove(*index);
            true
        }
        _ => false,
    }
}

fn find_lost(input: &Value, output: &Value, path: &str, faults: &mut Vec<Fault>) {
    match (input, output) {
        (Value::Object(input), Value::Object(output)) => {
            for (key, value) in input {
                let path = join(path, key);
                if SERVER_OWNED.contains(&path.as_str()) {
                    continue;
                }
                match output.get(key) {
                    Some(written) => find_lost(value, written, &path, faults),
                    // An explicit null is the same as an absent field.
                    None if value.is_null() => {}
                    None => faults.push(Fault { field: path, reason: "unknown field".into() }),
                }
            }
        }
        (Value::Array(input), Value::Array(output)) => {
            for (i, (input, output)) in input.iter().zip(output).enumerate() {
                find_lost(input, output, &format!("{path}[{i}]"), faults);
            }
        }
        _ => {}
    }
}

/// `path.key`, or `key` at the top.
pub fn join(path: &str, key: &str) -> String {
    match path {
        "" => key.to_owned(),
        _ if key.starts_with('[') || key.is_empty() => format!("{path}{key}"),
        _ => format!("{path}.{key}"),
    }
}
