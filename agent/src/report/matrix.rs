//! The answer of `sluice matrix`: who reaches whom.

use std::collections::BTreeMap;

use comfy_table::{Cell, CellAlignment, Color};
use serde::Serialize;

use super::terminal::Look;
use crate::engine::ProbeVerdict;

/// Who reaches whom.
#[derive(Clone, Debug, Serialize)]
pub struct MatrixReport {
    /// The ports that were asked about, ascending; none for ICMP.
    pub ports: Vec<u16>,
    /// The pods, by name.
    pub pods: Vec<String>,
    /// One for each pair of pods, protocol and port.
    pub verdicts: Vec<MatrixRow>,
}

/// One pair on one port.
#[derive(Clone, Debug, Serialize)]
pub struct MatrixRow {
    /// Who connects.
    pub from: String,
    /// To whom.
    pub to: String,
    /// `TCP`, `UDP`, `SCTP` or `ICMP`.
    pub protocol: &'static str,
    /// The port; ICMP has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `allow`, `deny` or `unreachable`.
    pub verdict: &'static str,
}

/// Beyond this many columns the pods of the columns are numbered instead of named.
const WIDTH_OF_FILES: usize = 160;

/// Signs in one cell that can still be told apart; with more ports there is a table for each.
const SIGNS_PER_CELL: usize = 6;

/// Renders tables: a row for each source, a column for each destination, a sign for each port.
pub fn render(report: &MatrixReport, look: Look) -> String {
    let mut by_port: Vec<(String, Vec<&MatrixRow>)> = Vec::new();
    for row in &report.verdicts {
        let port = row.port.map(|port| format!(" {port}")).unwrap_or_default();
        let label = format!("{}{port}", row.protocol);
        match by_port.iter_mut().find(|(l, _)| *l == label) {
            Some((_, rows)) => rows.push(row),
            None => by_port.push((label, vec![row])),
        }
    }
    let mut text = String::new();
    for group in by_port.chunks(if by_port.len() > SIGNS_PER_CELL { 1 } else { SIGNS_PER_CELL }) {
        let labels: Vec<&str> = group.iter().map(|(label, _)| label.as_str()).collect();
        let rows = group.iter().flat_map(|(_, rows)| rows.iter().copied());
        text.push_str(&table(&report.pods, rows, look));
        let each = if labels.len() > 1 { "in each cell: " } else { "" };
        text.push_str(&format!("\n\nfrom row to column, {each}{}\n\n", labels.join(", ")));
    }
    text.push_str(". allowed   X denied   ? no answer\n");
    text
}

fn table<'r>(pods: &[String], rows: impl Iterator<Item = &'r MatrixRow>, look: Look) -> String {
    let mut cells: BTreeMap<(&str, &str), String> = BTreeMap::new();
    for row in rows {
        cells.entry((&row.from, &row.to)).or_default().push(sign(row.verdict));
    }
    let named_width: usize = pods.iter().map(|pod| pod.len() + 2).sum();
    let row_label = pods.iter().map(String::len).max().unwrap_or(0) + 6;
    let numbered = named_width + row_label > look.width.map_or(WIDTH_OF_FILES, usize::from);
    let mut table = Look { width: None, ..look }.table();
    table.set_header(header(pods, numbered));
    for (i, from) in pods.iter().enumerate() {
        let label = if numbered { format!("{} {from}", i + 1) } else { from.clone() };
        let mut row = vec![Cell::new(label)];
        row.extend(pods.iter().map(|to| {
            let signs = cells.get(&(from.as_str(), to.as_str())).map_or("", String::as_str);
            let cell = Cell::new(signs).set_alignment(CellAlignment::Center);
            match signs.chars().all(|c| c == '.') {
                true => cell.fg(Color::Green),
                false => cell.fg(Color::Red),
            }
        }));
        table.add_row(row);
    }
    table.trim_fmt()
}

fn header(pods: &[String], numbered: bool) -> Vec<Cell> {
    let name = |(i, pod): (usize, &String)| {
        Cell::new(if numbered { (i + 1).to_string() } else { pod.clone() })
            .set_alignment(CellAlignment::Center)
    };
    std::iter::once(Cell::new("")).chain(pods.iter().enumerate().map(name)).collect()
}

fn sign(verdict: &str) -> char {
    if verdict == ProbeVerdict::Allow.as_str() {
        '.'
    } else if verdict == ProbeVerdict::Deny.as_str() {
        'X'
    } else {
        '?'
    }
}
