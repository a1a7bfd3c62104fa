//! YAML (and so JSON) documents as JSON values, with the line of every field.
//!
//! A text is cut into documents at the lines that begin with `---`, as kubectl does, so that a
//! mistake in one document leaves the others readable. Plain scalars mean what they mean to kubectl:
//! `yes`, `no`, `on` and `off` are booleans (a label value must be quoted), `010` is eight; except
//! that `y` and `n` are strings.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

/// Nodes of one document that are read at most: ten times a listing of 5,000 pods.
const NODE_LIMIT: usize = 20_000_000;
/// Nesting of one document: API objects stay below 32.
const DEPTH_LIMIT: usize = 96;

/// One document of a text.
#[derive(Debug)]
pub struct Document<'a> {
    text: &'a str,
    /// Lines before it, in its file.
    lines_before: u64,
    root: Spanned<Raw>,
}

/// Why a document is not YAML.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct SyntaxError {
    /// Line in the file, from 1.
    pub line: u64,
    /// What is wrong there.
    pub reason: String,
}

/// Stack of the thread that parses: the parser recurses, and [`DEPTH_LIMIT`] levels of it do not fit
/// the stack of every caller's thread in a debug build.
const STACK_BYTES: usize = 64 * 1024 * 1024;

/// The documents of a text that hold anything, in order.
pub fn documents(text: &str) -> Vec<Result<Document<'_>, SyntaxError>> {
    let parse_all = || {
        split(text)
            .into_iter()
            .filter(|(_, part)| has_content(part))
            .map(|(lines_before, part)| parse(lines_before, part))
            .collect()
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("parse".into()).stack_size(STACK_BYTES);
        match thread.spawn_scoped(scope, parse_all).map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(documents)) => documents,
            // The parser promises not to panic. If it does, its input was not understood.
            Ok(Err(_)) => vec![Err(SyntaxError { line: 1, reason: "cannot be parsed".into() })],
            Err(error) => vec![Err(SyntaxError {
                line: 1,
                reason: format!("no thread to parse it: {error}"),
            })],
        }
    })
}

/// Cuts at `---` lines, each of which belongs to the document that it begins.
fn split(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line) = (0, 0);
    let (mut offset, mut line_number) = (0, 0);
    for line in text.split_inclusive('\n') {
        if offset > start && is_separator(line) {
            parts.push((start_line, &text[start..offset]));
            (start, start_line) = (offset, line_number);
        }
        offset += line.len();
        line_number += 1;
    }
    parts.push((start_line, &text[start..]));
    parts
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// False where there are only comments, separators and space.
fn has_content(part: &str) -> bool {
    part.lines().any(|line| {
        let line = if is_separator(line) { &line[3..] } else { line };
        let line = line.trim_start_matches('\u{feff}').trim();
        !(line.is_empty() || line.starts_with('#') || line == "...")
    })
}

fn parse(lines_before: u64, text: &str) -> Result<Document<'_>, SyntaxError> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2 * NODE_LIMIT,
            max_nodes: NODE_LIMIT,
            max_depth: DEPTH_LIMIT,
            flow_nesting_limit: DEPTH_LIMIT,
        },
        // Manifests hardly use anchors; a bomb made of them ends here.
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
        strict_booleans: true,
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options::<Spanned<Raw>>(text, options)
        .map(|root| Document { text, lines_before, root })
        .map_err(|error| syntax_error(lines_before, &error))
}

fn syntax_error(lines_before: u64, error: &serde_saphyr::Error) -> SyntaxError {
    let location = error.location();
    let mut reason = limit_in_words(error).unwrap_or_else(|| error.to_string());
    if let Some(location) = location {
        // The parser's own words end in the line within the document; ours is the line in the file.
        let suffix = format!(" at line {}, column {}", location.line(), location.column());
        if let Some(cut) = reason.find(&suffix) {
            reason.replace_range(cut..cut + suffix.len(), "");
        }
        reason.push_str(&format!(" (column {})", location.column()));
    }
    SyntaxError { line: lines_before + location.map_or(1, |l| l.line()), reason }
}

/// Which limit a document is beyond. The parser would name its own counters.
fn limit_in_words(error: &serde_saphyr::Error) -> Option<String> {
    use serde_saphyr::Error;
    use serde_saphyr::budget::BudgetBreach;
    match error {
        Error::WithSnippet { error, .. } | Error::AliasError { error, .. } => limit_in_words(error),
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            Some(format!("nested more than {DEPTH_LIMIT} deep"))
        }
        Error::Budget { .. } => Some("has more parts than is read of one document".into()),
        Error::AliasReplayLimitExceeded { .. } | Error::AliasExpansionLimitExceeded { .. } => {
            Some("aliases repeat more than is read of one document".into())
        }
        _ => None,
    }
}

impl Document<'_> {
    /// The document as JSON.
    pub fn value(&self) -> Value {
        to_value(self.text, &self.root)
    }

    /// The line, from 1, of a field (`spec.ingress[0].ports`), or of the nearest thing around it
    /// that is there.
    pub fn line_of(&self, field: &str) -> u64 {
        let (mut node, mut rest) = (&self.root, field);
        let mut line = node.referenced.line();
        while let Some((next, remaining)) = step(node, rest) {
            (node, rest) = (next, remaining);
            line = node.referenced.line();
        }
        self.lines_before + line.max(1)
    }
}

/// One step down a field path; keys may contain dots themselves.
fn step<'n, 'p>(node: &'n Spanned<Raw>, path: &'p str) -> Option<(&'n Spanned<Raw>, &'p str)> {
    let path = path.strip_prefix('.').unwrap_or(path);
    match &node.value {
        Raw::Scalar(_) => None,
        Raw::Sequence(items) => {
            let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
            Some((items.get(index.parse::<usize>().ok()?)?, rest))
        }
        Raw::Mapping(entries) => entries
            .iter()
            .filter_map(|(key, node)| Some((key.len(), node, path.strip_prefix(key.as_str())?)))
            .filter(|(_, _, rest)| rest.is_empty() || rest.starts_with(['.', '[']))
            .max_by_key(|(length, _, _)| *length)
            .map(|(_, node, rest)| (node, rest)),
    }
}

fn to_value(text: &str, node: &Spanned<Raw>) -> Value {
    match &node.value {
        Raw::Scalar(Value::String(s)) => {
            plain_boolean(text, node, s).map_or_else(|| Value::String(s.clone()), Value::Bool)
        }
        Raw::Scalar(value) => value.clone(),
        Raw::Sequence(items) => items.iter().map(|item| to_value(text, item)).collect(),
        Raw::Mapping(entries) => Value::Object(
            entries.iter().map(|(k, v)| (k.clone(), to_value(text, v))).collect::<Map<_, _>>(),
        ),
    }
}

/// YAML 1.1 booleans, as kubectl reads them, where they stand without quotes.
fn plain_boolean(text: &str, node: &Spanned<Raw>, scalar: &str) -> Option<bool> {
    let value = match scalar {
        "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "True" | "TRUE" => true,
        "no" | "No" | "NO" | "off" | "Off" | "OFF" | "False" | "FALSE" => false,
        _ => return None,
    };
    let offset = usize::try_from(node.defined.span().byte_offset()?).ok()?;
    text.get(offset..)?.starts_with(scalar).then_some(value)
}

/// A node, untyped.
#[derive(Debug)]
enum Raw {
    Scalar(Value),
    Sequence(Vec<Spanned<Raw>>),
    Mapping(Vec<(String, Spanned<Raw>)>),
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Scalar(Value::Null))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Scalar(value.into()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Raw::Sequence(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Mapping(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values(text: &str) -> Vec<Value> {
        documents(text).into_iter().map(|d| d.expect("valid YAML").value()).collect()
    }

    fn value(text: &str) -> Value {
        let mut values = values(text);
        assert_eq!(values.len(), 1, "one document: {text}");
        values.remove(0)
    }

    #[test]
    fn documents_without_content_do_not_count() {
        assert_eq!(values("---\n# only a comment\n---\na: 1\n---\n\n---\nb: 2\n...\n").len(), 2);
        assert_eq!(values("").len(), 0);
        assert_eq!(values("--- {a: 1}\n--- # source\nb: 2\n"), [json!({"a": 1}), json!({"b": 2})]);
    }

    #[test]
    fn a_mistake_in_one_document_leaves_the_others_and_says_its_line() {
        let documents = documents("a: 1\n---\nb: [1,\n---\nc: 3\n");
        assert_eq!(documents.len(), 3);
        assert!(documents[0].is_ok() && documents[2].is_ok());
        let error = documents[1].as_ref().expect_err("the list has no end");
        assert!((3..=4).contains(&error.line), "{error:?}");
    }

    #[test]
    fn plain_scalars_mean_what_they_mean_to_kubectl() {
        let read = value("{a: yes, b: Off, c: 'yes', d: \"no\", e: y, f: n, g: true, h: 'true'}");
        let expected = json!({"a": true, "b": false, "c": "yes", "d": "no", "e": "y", "f": "n",
            "g": true, "h": "true"});
        assert_eq!(read, expected);
        let read = value("{a: 80, b: '80', c: 010, d: 0x10, e: 1.5, f: ~, g: null, h: 1e2, i: -1}");
        let expected = json!({"a": 80, "b": "80", "c": 8, "d": 16, "e": 1.5, "f": null, "g": null,
            "h": 100.0, "i": -1});
        assert_eq!(read, expected);
    }

    #[test]
    fn dates_versions_and_addresses_are_strings() {
        let read = value("{a: 2024-01-01, b: 1.2.3, c: 10.0.0.0/8, d: 2001:db8::/32, e: 12:30}");
        let expected = json!({"a": "2024-01-01", "b": "1.2.3", "c": "10.0.0.0/8",
            "d": "2001:db8::/32", "e": "12:30"});
        assert_eq!(read, expected);
    }

    #[test]
    fn anchors_and_merge_keys_are_expanded() {
        let read = value("base: &b {x: 1, y: yes}\nsame: *b\nmore:\n  <<: *b\n  z: 3\n");
        let base = json!({"x": 1, "y": true});
        assert_eq!(read["same"], base);
        assert_eq!(read["more"], json!({"x": 1, "y": true, "z": 3}));
    }

    #[test]
    fn a_key_that_stands_twice_is_an_error() {
        let documents = documents("a: 1\nb: 2\na: 3\n");
        let error = documents[0].as_ref().expect_err("two keys a");
        assert!(error.reason.contains("duplicate"), "{error:?}");
        assert_eq!(error.line, 3);
    }

    #[test]
    fn lines_of_fields_count_from_the_beginning_of_the_file() {
        let text = "# head\n---\na: 1\n---\nspec:\n  ports:\n  - port: 1\n  - port: 2\n  a.b/c:\n    d: 3\n";
        let documents = documents(text);
        let document = documents[1].as_ref().expect("valid YAML");
        assert_eq!(document.line_of("spec.ports[1].port"), 8);
        assert_eq!(document.line_of("spec.a.b/c.d"), 10);
        // What is not there: the nearest thing around it.
        assert_eq!(document.line_of("spec.ports[1].protocol"), 8);
        assert_eq!(document.line_of(""), 5);
    }

    #[test]
    fn an_alias_bomb_and_a_deep_nest_are_errors() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let previous = vec![format!("*a{}", i - 1); 10].join(",");
            bomb.push_str(&format!("a{i}: &a{i} [{previous}]\n"));
        }
        let refusal = |text: &str| documents(text)[0].as_ref().expect_err("a limit").to_string();
        let reason = refusal(&bomb);
        assert!(reason.starts_with("aliases repeat more than is read"), "{reason}");
        assert!(documents(&"[".repeat(100_000))[0].is_err());
        let deep: String = (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        let reason = refusal(&deep);
        assert!(reason.starts_with("nested more than 96 deep (column"), "{reason}");
    }

    #[test]
    fn json_is_yaml() {
        assert_eq!(
            value("{\"a\": [1, \"yes\", null, {\"b\":\"\\u00e9\"}]}"),
            json!({"a": [1, "yes", null, {"b": "é"}]})
        );
    }
}
