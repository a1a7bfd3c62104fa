//! The agent keeping our entry in the network configuration, whoever writes it anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conflist::Present;
use super::install::{self, Outcome};

/// How often the directory is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// The longest pause between two writes.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Adds `entry` to the first configuration of `directory` whenever it is not there, until the runtime
/// ends. An entry that says something else stays as it is.
pub fn start(directory: PathBuf, entry: String) {
    tokio::spawn(async move {
        let mut keeper = Keeper { pace: Pace::default(), said: None };
        loop {
            tokio::time::sleep(keeper.pace.next()).await;
            let (directory, entry) = (directory.clone(), entry.clone());
            let look = move || {
                let outcome = install::add(&directory, &entry, Present::Stays);
                (directory, outcome.map_err(|error| error.to_string()))
            };
            // It fails only if the runtime is shutting down or the look has panicked.
            let Ok((directory, outcome)) = tokio::task::spawn_blocking(look).await else { return };
            keeper.note(&directory, outcome);
        }
    });
}

#[derive(Debug)]
struct Keeper {
    pace: Pace,
    /// What was logged last of a state that lasts.
    said: Option<String>,
}

impl Keeper {
    fn note(&mut self, directory: &Path, outcome: Result<Outcome, String>) {
        let lasting = match outcome {
            Ok(Outcome::Unchanged(_)) => {
                self.pace.keep();
                None
            }
            Ok(Outcome::Written(path)) => {
                self.pace.slow_down();
                tracing::info!(path = %path.display(), "added the plugin to the network configuration");
                None
            }
            Ok(Outcome::Missing) => Some(format!(
                "no network configuration in {} yet: the plugin is added when there is one",
                directory.display()
            )),
            Err(error) => {
                Some(format!("cannot add the plugin to the network configuration: {error}"))
            }
        };
        if let Some(text) = lasting.as_ref().filter(|_| lasting != self.said) {
            tracing::warn!("{text}");
        }
        self.said = lasting;
    }
}

/// How long to wait. Each write doubles the pause after it: where someone else takes the entry out as
/// often as we put it in, neither wears out the disk or the log. A pause in which nobody has, and as many
/// looks again, make it short.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// Writes of the fight that goes on.
    writes: u32,
    /// Looks since the last of them that found the entry.
    kept: u32,
}

impl Pace {
    /// Looks in a row that end a fight.
    const PEACE: u32 = 5;

    fn slow_down(&mut self) {
        *self = Self { writes: self.writes + 1, kept: 0 };
    }

    fn keep(&mut self) {
        self.kept += 1;
        if self.kept >= Self::PEACE {
            *self = Self::default();
        }
    }

    fn next(&self) -> Duration {
        let factor = 2_u32.saturating_pow(self.writes.saturating_sub(1));
        INTERVAL.saturating_mul(factor).min(PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_the_entry_out_again_and_again_is_answered_later_and_later() {
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pace.slow_down();
            pauses.push(pace.next().as_secs());
            // Found there once, gone at the next look.
            pace.keep();
        }
        assert_eq!(pauses, [2, 4, 8, 16, 32, 64, 128, 256, 300]);
    }

    #[test]
    fn an_entry_that_stays_is_looked_at_often_again() {
        let mut pace = Pace::default();
        (0..4).for_each(|_| pace.slow_down());
        (0..Pace::PEACE).for_each(|_| pace.keep());
        assert_eq!(pace.next(), INTERVAL);
    }
}
