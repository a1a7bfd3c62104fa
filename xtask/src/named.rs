//! Commands that do all of something, or only what is named.

use anyhow::bail;
use lexopt::Arg;

/// What the command line names; nothing stands for all.
pub(crate) struct Named(Vec<String>);

impl Named {
    /// Reads the rest of the command line. `what` is what `known` are, in the singular.
    ///
    /// # Errors
    /// An option, or a name that is not known, with those that are.
    pub(crate) fn read(
        arguments: &mut lexopt::Parser,
        what: &str,
        known: &[&str],
    ) -> anyhow::Result<Self> {
        let mut named = Vec::new();
        while let Some(argument) = arguments.next()? {
            match argument {
                Arg::Value(name) => named.push(name.to_string_lossy().into_owned()),
                other => return Err(other.unexpected().into()),
            }
        }
        for name in &named {
            if !known.contains(&name.as_str()) {
                bail!("there is no {what} `{name}`; there are {}", known.join(", "));
            }
        }
        Ok(Self(named))
    }

    /// Whether one is to be done.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.is_empty() || self.0.iter().any(|named| named == name)
    }
}
