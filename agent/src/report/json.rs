//! JSON: one line feed at the end, and otherwise what the serialised types say.

use serde::Serialize;

/// A report as JSON, indented.
pub fn render(report: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(report)
        .expect("reports have string keys only, so they are JSON");
    text.push('\n');
    text
}
