//! The agent keeping our entry in the network configuration, whoever writes it anew.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use super::NAME;
use super::conflist::Present;
use super::install::{self, Outcome};

/// How often the directory is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// The longest pause between two writes.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// Where container runtimes look.
#[derive(Clone, Debug)]
pub struct Directories {
    /// For network configurations.
    pub configurations: PathBuf,
    /// For plugins.
    pub plugins: PathBuf,
}

/// Adds `entry` to the first configuration whenever it is not there, until the runtime ends. An entry
/// that says something else stays as it is. Without the plugin's file nothing is added: no pod would
/// start by such a configuration. What is returned says why the entry is not there.
pub fn start(directories: Directories, entry: String) -> Trouble {
    let (said, trouble) = watch::channel(None);
    tokio::spawn(keep(directories, entry, look, said));
    trouble
}

/// Why our entry is not in the network configuration, and what to do; `None` while it is.
pub type Trouble = watch::Receiver<Option<String>>;

/// Looks at the directory for the entry.
type Look = fn(&Directories, &str) -> Result<Outcome, String>;

async fn keep(
    directories: Directories,
    entry: String,
    look: Look,
    said: watch::Sender<Option<String>>,
) {
    let mut keeper = Keeper { pace: Pace::default(), said };
    loop {
        tokio::time::sleep(keeper.pace.next()).await;
        let (of, entry) = (directories.clone(), entry.clone());
        let outcome = match tokio::task::spawn_blocking(move || look(&of, &entry)).await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => Err(format!("the agent has a fault: {error}")),
            // The runtime is shutting down.
            Err(_) => return,
        };
        keeper.note(&directories.configurations, outcome);
    }
}

/// Looks once.
fn look(directories: &Directories, entry: &str) -> Result<Outcome, String> {
    let plugin = directories.plugins.join(NAME);
    if !plugin.exists() {
        let plugin = plugin.display();
        return Err(format!("{plugin} is not there; `sluice cni install` puts it there"));
    }
    let outcome = install::add(&directories.configurations, entry, Present::Stays);
    outcome.map_err(|error| error.to_string())
}

#[derive(Debug)]
struct Keeper {
    pace: Pace,
    /// What was said last of a state that lasts.
    said: watch::Sender<Option<String>>,
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
        self.said.send_if_modified(|before| {
            let is_new = *before != lasting;
            if let Some(text) = lasting.as_ref().filter(|_| is_new) {
                tracing::warn!("{text}");
            }
            *before = lasting;
            is_new
        });
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
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn nothing_names_a_plugin_that_is_not_there() {
        const LIST: &str = r#"{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"ptp"}]}"#;
        const ENTRY: &str = r#"{"type":"sluice-cni"}"#;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("10-n.conflist");
        let both = directory.path().to_path_buf();
        let directories = Directories { configurations: both.clone(), plugins: both };
        std::fs::write(&path, LIST).expect("written");
        let error = look(&directories, ENTRY).expect_err("no plugin");
        assert!(error.contains("sluice cni install"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), LIST);
        std::fs::write(directory.path().join(NAME), "").expect("written");
        assert_eq!(look(&directories, ENTRY), Ok(Outcome::Written(path)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_breaks_down_is_told_and_not_the_last() {
        static LOOKS: AtomicU32 = AtomicU32::new(0);
        let look: Look = |_, _| match LOOKS.fetch_add(1, Ordering::Relaxed) {
            0 => panic!("on purpose"),
            1 => Err("malformed".into()),
            _ => Ok(Outcome::Unchanged(PathBuf::new())),
        };
        let nowhere = PathBuf::from("/nonexistent");
        let directories = Directories { configurations: nowhere.clone(), plugins: nowhere };
        let (said, mut trouble) = watch::channel(None);
        let keeping = tokio::spawn(keep(directories, String::new(), look, said));
        for expected in [Some("on purpose"), Some("network configuration: malformed"), None] {
            trouble.changed().await.expect("it goes on");
            let text = trouble.borrow_and_update().clone();
            assert_eq!(text.is_some(), expected.is_some(), "{text:?}");
            let is_said =
                text.as_deref().unwrap_or_default().contains(expected.unwrap_or_default());
            assert!(is_said, "{text:?}");
        }
        keeping.abort();
    }

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
