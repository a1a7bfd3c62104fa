//! How far a long run has come, on standard error.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use crate::policytest::Progress;

/// Runs shorter than this show nothing.
const SILENCE: Duration = Duration::from_millis(700);

/// One line that overwrites itself; nothing where standard error is no terminal.
#[derive(Debug)]
pub struct ProgressLine {
    begin: Instant,
    is_terminal: bool,
    shown: bool,
}

impl ProgressLine {
    /// Begins now.
    pub fn begin() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        Self { begin: Instant::now(), is_terminal, shown: false }
    }
}

impl Progress for ProgressLine {
    fn test(&mut self, engine: &str, index: usize, count: usize, name: &str) {
        if self.is_terminal && self.begin.elapsed() >= SILENCE {
            self.shown = true;
            let mut err = std::io::stderr().lock();
            // A progress line that cannot be written is no reason to stop.
            let _ = write!(err, "\r\x1b[K{engine}: test {} of {count}, {name}", index + 1);
            let _ = err.flush();
        }
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
