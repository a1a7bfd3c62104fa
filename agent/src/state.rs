//! What an agent notes for the next one: the meaning of the numbers in the kernel tables, and which
//! pod has which place there.
//!
//! Written before the tables change, with an atomic rename. The notes may therefore be ahead of the
//! kernel, never behind. They only save writes, counters and flows over a restart: the kernel is read
//! back and compared whatever they say, so notes that are lost or old cost one rewrite, no safety. A pod
//! whose object is gone ([`GonePod`]) is closed without them.

mod gone;

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufWriter};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sluice_common::abi::{ClassId, Direction, RuleId, SetId};
use sluice_policy::model::{PodName, PolicyKind, PolicyName, RuleName};
use sluice_policy::names::Names;

pub use self::gone::GonePod;
use crate::draft;
use crate::endpoint::slots::{Place, Slots};

/// Name of the file in the state directory.
const FILE: &str = "state.json";

/// Version of the file's form.
const VERSION: u32 = 1;

/// The notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Meaning of sets, classes and rules.
    pub names: Names,
    /// Places of pods.
    pub places: BTreeMap<PodName, Place>,
    /// The first epoch that was never used.
    pub next_epoch: u32,
    /// Of the pods that have places, those whose objects are gone, by name.
    pub gone: Vec<GonePod>,
}

/// Why notes could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file or directory.
    #[error("{path}: {error}")]
    Io {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// The file does not hold notes of this version.
    #[error("{path} cannot be read as notes of an agent: {reason}")]
    Form {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl State {
    /// The notes in force: names, places and what has no object, as they are now.
    pub fn of(names: &Names, slots: &Slots, gone: Vec<GonePod>) -> Self {
        Self {
            names: names.clone(),
            places: slots.places().clone(),
            next_epoch: slots.next_epoch(),
            gone,
        }
    }

    /// True if [`Self::of`] these would be the same.
    pub fn is_of(&self, names: &Names, slots: &Slots, gone: &[GonePod]) -> bool {
        let Self { names: noted, places, next_epoch, gone: parted } = self;
        noted == names
            && places == slots.places()
            && *next_epoch == slots.next_epoch()
            && parted == gone
    }

    /// Reads the notes; `None` where there are none.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn load(state_dir: &Path) -> Result<Option<Self>, StateError> {
        let path = state_dir.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StateError::Io { path: path.display().to_string(), error }),
        };
        let form = |reason: String| StateError::Form { path: path.display().to_string(), reason };
        let file: File = serde_json::from_slice(&text).map_err(|error| form(error.to_string()))?;
        if file.version != VERSION {
            return Err(form(format!("version {} instead of {VERSION}", file.version)));
        }
        Ok(Some(file.into()))
    }

    /// Writes the notes.
    ///
    /// # Errors
    /// [`StateError::Io`]: the former notes are still there.
    pub fn store(&self, state_dir: &Path) -> Result<(), StateError> {
        let path = state_dir.join(FILE);
        let written = draft::replace(&path, |file| {
            let mut text = BufWriter::new(&mut *file);
            serde_json::to_writer(&mut text, &File::from(self))?;
            text.into_inner()?.sync_data()
        });
        written.map_err(|error| StateError::Io { path: path.display().to_string(), error })
    }

    /// Removes the notes, and what [`Self::store`] may have begun. Nothing to remove is fine.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn remove(state_dir: &Path) -> Result<(), StateError> {
        draft::remove_both(&state_dir.join(FILE))
            .map_err(|(path, error)| StateError::Io { path: path.display().to_string(), error })
    }
}

/// The file's form. JSON has no keys but strings, and the policy crate knows no serde.
#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    next_epoch: u32,
    sets: BTreeMap<SetId, String>,
    classes: BTreeMap<ClassId, String>,
    rules: BTreeMap<RuleId, RuleForm>,
    endpoints: Vec<EndpointForm>,
    /// Agents of before have not noted them.
    #[serde(default)]
    gone: Vec<GonePod>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RuleForm {
    kind: KindForm,
    namespace: Option<String>,
    name: String,
    direction: DirectionForm,
    index: usize,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum KindForm {
    NetworkPolicy,
    ClusterNetworkPolicy,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DirectionForm {
    Ingress,
    Egress,
}

#[derive(Debug, Serialize, Deserialize)]
struct EndpointForm {
    namespace: String,
    name: String,
    place: Place,
}

impl From<&State> for File {
    fn from(state: &State) -> Self {
        let State { names: Names { sets, classes, rules, .. }, places, next_epoch, gone } = state;
        Self {
            version: VERSION,
            next_epoch: *next_epoch,
            sets: sets.clone(),
            classes: classes.clone(),
            rules: rules.iter().map(|(id, rule)| (*id, rule.into())).collect(),
            endpoints: places
                .iter()
                .map(|(pod, place)| EndpointForm {
                    namespace: pod.namespace.clone(),
                    name: pod.name.clone(),
                    place: place.clone(),
                })
                .collect(),
            gone: gone.clone(),
        }
    }
}

impl From<File> for State {
    fn from(file: File) -> Self {
        let File { version: _, next_epoch, sets, classes, rules, endpoints, gone } = file;
        let rules = rules.into_iter().map(|(id, rule)| (id, rule.into())).collect();
        let places = endpoints
            .into_iter()
            .map(|EndpointForm { namespace, name, place }| (PodName { namespace, name }, place))
            .collect();
        Self { names: Names { sets, classes, rules }, places, next_epoch, gone }
    }
}

impl From<&RuleName> for RuleForm {
    fn from(rule: &RuleName) -> Self {
        let RuleName { policy: PolicyName { kind, namespace, name }, direction, index } = rule;
        Self {
            kind: match kind {
                PolicyKind::NetworkPolicy => KindForm::NetworkPolicy,
                PolicyKind::ClusterNetworkPolicy => KindForm::ClusterNetworkPolicy,
            },
            namespace: namespace.clone(),
            name: name.clone(),
            direction: match direction {
                Direction::Ingress => DirectionForm::Ingress,
                Direction::Egress => DirectionForm::Egress,
            },
            index: *index,
        }
    }
}

impl From<RuleForm> for RuleName {
    fn from(form: RuleForm) -> Self {
        let kind = match form.kind {
            KindForm::NetworkPolicy => PolicyKind::NetworkPolicy,
            KindForm::ClusterNetworkPolicy => PolicyKind::ClusterNetworkPolicy,
        };
        let direction = match form.direction {
            DirectionForm::Ingress => Direction::Ingress,
            DirectionForm::Egress => Direction::Egress,
        };
        let policy = PolicyName { kind, namespace: form.namespace, name: form.name };
        Self { policy, direction, index: form.index }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::slots::Incarnation;

    fn state() -> State {
        let policy = PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: Some("y".into()),
            name: "web".into(),
        };
        let place = Place {
            slot: 3,
            epoch: 9,
            incarnation: Incarnation {
                created: 17,
                addresses: ["10.0.0.1".parse().expect("v4"), "fd00::1".parse().expect("v6")].into(),
                interfaces: [(12, 4_026_532_000)].into(),
            },
        };
        State {
            names: Names {
                sets: [(1, "ingress y/web".into())].into(),
                classes: [(2, "app=a".into())].into(),
                rules: [(4, RuleName { policy, direction: Direction::Egress, index: 2 })].into(),
            },
            places: [(PodName { namespace: "x".into(), name: "a".into() }, place)].into(),
            next_epoch: 10,
            gone: Vec::new(),
        }
    }

    #[test]
    fn notes_are_read_as_they_were_written() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(State::load(directory.path()).expect("readable"), None);
        state().store(directory.path()).expect("stored");
        assert_eq!(State::load(directory.path()).expect("readable"), Some(state()));
        State::remove(directory.path()).expect("removed");
        State::remove(directory.path()).expect("removing nothing is fine");
        assert_eq!(State::load(directory.path()).expect("readable"), None);
    }

    #[test]
    fn torn_or_foreign_notes_are_an_error() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join(FILE), "{\"version\":1,").expect("written");
        assert!(matches!(State::load(directory.path()), Err(StateError::Form { .. })));
        state().store(directory.path()).expect("stored");
        let text = fs::read_to_string(directory.path().join(FILE)).expect("read");
        let other = text.replace("\"version\":1", "\"version\":99");
        fs::write(directory.path().join(FILE), other).expect("written");
        assert!(matches!(State::load(directory.path()), Err(StateError::Form { .. })));
    }
}
