//! What a run has to say, for people and for machines.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use sluice::report::table;
use sluice::report::terminal::Look;

use super::cases::Cases;

/// How a part ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// As it is to be.
    Ok,
    /// Otherwise.
    Failed,
    /// It cannot be had on this cluster.
    LeftOut,
}

/// A part of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// Its name.
    pub part: &'static str,
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
    pub seconds: f64,
    /// What it saw, or what was wrong.
    pub note: String,
}

/// A whole run.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Its name, which the names of its namespaces begin with.
    pub run: String,
    /// Nodes of the cluster that take pods.
    pub nodes: Vec<String>,
    /// Its parts, in order.
    pub parts: Vec<Part>,
    /// The PolicyTests, where they were reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cases: Option<Cases>,
}

impl Report {
    /// Notes the end of a part, and says it.
    pub fn end(&mut self, part: &'static str, ending: Ending, took: Duration, note: String) {
        let word = match ending {
            Ending::Ok => "ok",
            Ending::Failed => "FAILED",
            Ending::LeftOut => "left out",
        };
        eprintln!("{part}: {word}, {:.1} s: {note}", took.as_secs_f64());
        self.parts.push(Part { part, ending, seconds: took.as_secs_f64(), note });
    }

    /// True where no part failed.
    pub fn is_good(&self) -> bool {
        self.parts.iter().all(|part| part.ending != Ending::Failed)
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some(cases) = &self.cases {
            text += &table::render(&cases.report, Look::of_stdout());
            for (why, count) in &cases.left_out {
                put(&mut text, format_args!("left out, {count} times: {why}\n"));
            }
            for why in &cases.cases_left_out {
                put(&mut text, format_args!("left out: {why}\n"));
            }
            for why in &cases.broken {
                put(&mut text, format_args!("broken off: {why}\n"));
            }
            text.push('\n');
        }
        let mut rows = Look::of_stdout().table();
        rows.set_header(["PART", "RESULT", "SECONDS", "NOTE"]);
        for Part { part, ending, seconds, note } in &self.parts {
            let result = match ending {
                Ending::Ok => "ok",
                Ending::Failed => "FAILED",
                Ending::LeftOut => "left out",
            };
            rows.add_row([*part, result, &format!("{seconds:.1}"), note]);
        }
        put(&mut text, format_args!("{}\n", rows.trim_fmt()));
        text
    }
}

fn put(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("writing to a string cannot fail");
}
