//! From a JSON value to a typed object, where every field must be known.
//!
//! The generated API types ignore fields that they do not know. So an object is read, written again,
//! and what the input had and the output lost is unknown; this gives the whole path for free and
//! needs no second schema.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

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
    if let Ok(typed) = T::deserialize(value) {
        return Ok(typed);
    }
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let field = if path == "." { String::new() } else { path };
        Fault { field, reason: error.into_inner().to_string() }
    })
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
