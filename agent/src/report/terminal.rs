//! What the place that output goes to can show.

use std::io::IsTerminal as _;

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, Color, ContentArrangement, Table};

/// What standard output can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Colours.
    pub colour: bool,
    /// Columns of a terminal; `None` where the output goes elsewhere and may be as wide as it likes.
    pub width: Option<u16>,
}

impl Look {
    /// Plain and wide: for files and pipes.
    pub const PLAIN: Self = Self { colour: false, width: None };

    /// Of standard output: colours only on a terminal, and never where `NO_COLOR` is set to anything.
    pub fn of_stdout() -> Self {
        if !std::io::stdout().is_terminal() {
            return Self::PLAIN;
        }
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colour: !no_colour, width: Table::new().width() }
    }

    /// An empty table that looks right there.
    pub fn table(self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        if let Some(width) = self.width {
            table.set_width(width).set_content_arrangement(ContentArrangement::Dynamic);
        }
        table
    }
}

/// A verdict in its colour.
pub fn verdict_cell(verdict: &str) -> Cell {
    let colour = match verdict {
        "allow" => Color::Green,
        "deny" => Color::Red,
        _ => Color::Yellow,
    };
    Cell::new(verdict).fg(colour)
}
