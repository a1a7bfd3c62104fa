//! Our entry in the text of somebody's network configuration.
//!
//! The text is edited, not written anew: every byte that is not our entry's stays as it is, whatever its
//! owner has put there and however it is laid out. Pure; [`super::install`] knows the files.

use std::borrow::Cow;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::NAME;
use super::spec::VERSIONS;

/// Why a text is not edited.
#[derive(Debug, thiserror::Error)]
pub enum ConflistError {
    /// It is not JSON, or has not the fields of a configuration.
    #[error("it is no network configuration: {0}")]
    Form(#[from] serde_json::Error),
    /// A list without plugins is none that a runtime takes.
    #[error("it is no network configuration: plugins: the list is empty")]
    NoPlugins,
    /// Nothing would be left.
    #[error("plugins: it holds no other plugin than {NAME}")]
    NothingElse,
    /// A runtime could ask our plugin in a version that it does not speak: no pod would start.
    #[error("{field}: {version}, where {NAME} speaks {}", VERSIONS.join(", "))]
    Version {
        /// Where it is.
        field: &'static str,
        /// What is there, or that nothing is.
        version: String,
    },
}

/// What is done with an entry of ours that is there already, and says something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// It stays: someone has set it so.
    Stays,
    /// It is replaced.
    IsReplaced,
}

/// Our entry, as text. `state_dir` is the agent's, as the node sees it.
pub fn entry(state_dir: &Path, timeout_seconds: u64) -> String {
    let directory = serde_json::Value::from(state_dir.to_string_lossy());
    format!(r#"{{"type":"{NAME}","stateDir":{directory},"timeoutSeconds":{timeout_seconds}}}"#)
}

/// A list of plugins, of which only these fields are looked at.
#[derive(Deserialize)]
struct List<'a> {
    #[serde(rename = "name")]
    _name: String,
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    #[serde(rename = "cniVersions", default)]
    versions: Vec<String>,
    #[serde(borrow)]
    plugins: Vec<&'a RawValue>,
}

/// A plugin's entry, or a configuration of one plugin.
#[derive(Deserialize)]
struct Plugin<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

/// A configuration of one plugin, of which a list takes over these fields.
#[derive(Deserialize)]
struct Single<'a> {
    #[serde(rename = "cniVersion")]
    version: Option<String>,
    #[serde(borrow)]
    name: &'a RawValue,
    #[serde(rename = "type")]
    _kind: String,
}

/// # Errors
/// A configuration of this `cniVersion` and these `cniVersions` may have a runtime speak a version that
/// our plugin does not. Which of `cniVersions` it takes depends on the runtime, and one that is older than
/// that field takes `cniVersion`.
fn check_versions(version: Option<&str>, versions: &[String]) -> Result<(), ConflistError> {
    // Runtimes take none for 0.1.0.
    let named = ("cniVersion", version.unwrap_or_default());
    let further = versions.iter().map(|version| ("cniVersions", version.as_str()));
    let mut all = std::iter::once(named).chain(further);
    match all.find(|(_, version)| !VERSIONS.contains(version)) {
        None => Ok(()),
        Some((field, "")) => Err(ConflistError::Version { field, version: "none".into() }),
        Some((field, version)) => {
            Err(ConflistError::Version { field, version: version.to_owned() })
        }
    }
}

/// The entries of a list, as places in its text.
struct Entries {
    all: Vec<Range<usize>>,
    /// Indexes of ours.
    ours: Vec<usize>,
    /// For [`check_versions`].
    version: Option<String>,
    /// Likewise.
    versions: Vec<String>,
}

impl Entries {
    fn of(text: &str) -> Result<Self, ConflistError> {
        let list: List<'_> = serde_json::from_str(text)?;
        if list.plugins.is_empty() {
            return Err(ConflistError::NoPlugins);
        }
        let (version, versions) = (list.version, list.versions);
        let mut entries = Self { all: Vec::new(), ours: Vec::new(), version, versions };
        for (index, plugin) in list.plugins.iter().enumerate() {
            let Plugin { kind } = serde_json::from_str(plugin.get())?;
            if kind == NAME {
                entries.ours.push(index);
            }
            // A raw value is a part of the text that it was read from.
            let begin = plugin.get().as_ptr().addr() - text.as_ptr().addr();
            entries.all.push(begin..begin + plugin.get().len());
        }
        Ok(entries)
    }
}

/// True where our entry is in the list.
///
/// # Errors
/// It is no list.
pub fn has_entry(text: &str) -> Result<bool, ConflistError> {
    Ok(!Entries::of(text)?.ours.is_empty())
}

/// The list with our entry: behind all others where it was not there. `None` where nothing is to be
/// changed.
///
/// # Errors
/// It is no list, or of a version that our plugin does not speak; it is left alone.
pub fn add(text: &str, entry: &str, present: Present) -> Result<Option<String>, ConflistError> {
    let entries = Entries::of(text)?;
    check_versions(entries.version.as_deref(), &entries.versions)?;
    match (entries.ours.as_slice(), present) {
        ([], _) => Ok(Some(append(text, entry, &entries))),
        ([_], Present::Stays) => Ok(None),
        ([only], Present::IsReplaced) => {
            let place = entries.all[*only].clone();
            let changed = &text[place.clone()] != entry;
            Ok(changed.then(|| spliced(text, place, entry)))
        }
        ([_, more @ ..], _) => {
            // Whoever has doubled it meant one.
            let last = more.last().copied().unwrap_or_default();
            let fewer = without(text, &entries, last)?;
            Ok(Some(add(&fewer, entry, present)?.unwrap_or(fewer)))
        }
    }
}

/// The list without our entry; `None` where it is not there.
///
/// # Errors
/// It is no list, or holds nothing else; it is left alone.
pub fn remove(text: &str) -> Result<Option<String>, ConflistError> {
    let entries = Entries::of(text)?;
    let Some(last) = entries.ours.last() else { return Ok(None) };
    let fewer = without(text, &entries, *last)?;
    Ok(Some(remove(&fewer)?.unwrap_or(fewer)))
}

/// A list of the plugin that `text` configures, whose bytes stay, and our entry.
///
/// # Errors
/// It is no configuration of one plugin, or of a version that our plugin does not speak.
pub fn wrap(text: &str, entry: &str) -> Result<String, ConflistError> {
    let Single { version, name, _kind } = serde_json::from_str(text)?;
    // Of one plugin, runtimes look at no other field for it.
    check_versions(version.as_deref(), &[])?;
    let version = serde_json::Value::from(version);
    let (name, plugin) = (name.get(), text.trim());
    Ok(format!(
        "{{\"cniVersion\":{version},\"name\":{name},\"plugins\":[\n{plugin},\n{entry}\n]}}\n"
    ))
}

/// Behind the last entry, set off from it as that is from the one before.
fn append(text: &str, entry: &str, entries: &Entries) -> String {
    let all = entries.all.as_slice();
    let (before, last) = match all {
        [.., before, last] => (before.end, last),
        [last] => (text[..last.start].trim_end().len(), last),
        [] => return text.to_owned(),
    };
    let between = &text[before..last.start];
    let space = &between[between.trim_end().len()..];
    spliced(text, last.end..last.end, &format!(",{space}{entry}"))
}

/// The text without an entry and the comma that set it off.
fn without(text: &str, entries: &Entries, index: usize) -> Result<String, ConflistError> {
    let place = &entries.all[index];
    let gone = match (index.checked_sub(1).map(|i| &entries.all[i]), entries.all.get(index + 1)) {
        (Some(before), _) => before.end..place.end,
        (None, Some(next)) => place.start..next.start,
        (None, None) => return Err(ConflistError::NothingElse),
    };
    Ok(spliced(text, gone, ""))
}

fn spliced(text: &str, place: Range<usize>, by: &str) -> String {
    [&text[..place.start], by, &text[place.end..]].concat()
}

#[cfg(test)]
mod tests;
