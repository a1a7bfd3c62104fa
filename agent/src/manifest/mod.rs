//! Manifests: files, directories and standard input, as objects.
//!
//! ```text
//! paths ── read ──► texts ── yaml ──► documents ── interpret (kinds, strict, convert) ──► objects
//! ```
//!
//! Everything that is wrong is reported, with its place; what is right is there nevertheless. The
//! command line refuses to go on when there is any error. The agent goes on: each NetworkPolicy with
//! an error has its closed form in [`Loaded::broken`].

pub mod interpret;
pub mod kinds;
pub mod read;
pub mod strict;
pub mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sluice_policy::model::{Direction, direction_label};

pub use self::interpret::Object;
use self::interpret::{Broken, Reading, interpret};
use self::read::Text;
use crate::cluster::ObjectKey;
use crate::convert::policytest::Step;
use crate::convert::{Fault, Item};

/// Where something stands in the input.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The file, or `<stdin>`.
    pub file: String,
    /// Line, from 1.
    pub line: u64,
    /// Document in the file, from 1; those that hold nothing do not count.
    pub document: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: document {}", self.file, self.line, self.document)
    }
}

/// Something wrong with the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; absent where a whole path cannot be read.
    pub place: Option<Place>,
    /// The object; empty where it is not known.
    pub object: String,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}: ")?;
        }
        if !self.object.is_empty() {
            write!(f, "{}: ", self.object)?;
        }
        self.fault.fmt(f)
    }
}

/// Something to know about the input that is not wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// The object or the kind.
    pub object: String,
    /// Path of the field; empty where there is none.
    pub field: String,
    /// What to know.
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field.as_str() {
            "" => write!(f, "{}: {}", self.object, self.message),
            field => write!(f, "{}: {field}: {}", self.object, self.message),
        }
    }
}

/// An object and where it came from.
#[derive(Clone, Debug)]
pub struct Placed {
    /// The object.
    pub object: Object,
    /// Its beginning.
    pub place: Place,
    /// Directory that file names inside it start from.
    pub directory: PathBuf,
    /// Lines of the fields of a PolicyTest that are looked at again when it is planned.
    lines: BTreeMap<String, u64>,
}

impl Placed {
    /// Where a field of it stands, as far as that is known.
    pub fn place_of(&self, field: &str) -> Place {
        let known = |(name, _): &(&String, &u64)| field.starts_with(name.as_str());
        let nearest = self.lines.iter().filter(known).max_by_key(|(name, _)| name.len());
        Place { line: nearest.map_or(self.place.line, |(_, line)| *line), ..self.place.clone() }
    }
}

/// The fields of an object that are looked at again after it was read.
fn fields_to_locate(object: &Object) -> Vec<String> {
    let Item::PolicyTest(test) = &object.item else { return Vec::new() };
    let step_fields = |(i, step): (usize, &Step)| {
        let list = |name: &'static str, length: usize| {
            (0..length).map(move |j| format!("steps[{i}].{name}[{j}]"))
        };
        let lists = list("probes", step.probes.len())
            .chain(list("delete", step.delete.len()))
            .chain(list("applyFiles", step.apply_files.len()));
        lists.chain([format!("steps[{i}]")]).collect::<Vec<_>>()
    };
    test.steps.iter().enumerate().flat_map(step_fields).collect()
}

/// Rules that do nothing, although they look as if they did.
fn inert_rules(object: &Object) -> Vec<Warning> {
    let Item::NetworkPolicy(policy) = &object.item else { return Vec::new() };
    let warning = |direction: &Direction| {
        let label = direction_label(*direction);
        Warning {
            object: object.key.to_string(),
            field: format!("spec.{label}"),
            message: format!("policyTypes leaves {label} out, so these rules do nothing"),
        }
    };
    policy.inert.iter().map(warning).collect()
}

/// What the given paths hold.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The objects that were understood, in the order of the input. Of equal ones the first.
    pub objects: Vec<Placed>,
    /// The objects that were not, with the closed forms of NetworkPolicies.
    pub broken: Vec<Broken>,
    /// Everything that is wrong.
    pub errors: Vec<Problem>,
    /// Everything else to know, one line per kind.
    pub warnings: Vec<Warning>,
}

/// Reads everything below the paths (`-` is standard input).
pub fn load<P: AsRef<Path>>(paths: &[P]) -> Loaded {
    let mut loader = Loader::default();
    for text in read::read_all(paths) {
        match text {
            Ok(text) => loader.add(&text),
            Err(error) => loader.loaded.errors.push(Problem {
                place: None,
                object: String::new(),
                fault: Fault { field: String::new(), reason: error.to_string() },
            }),
        }
    }
    loader.finish()
}

/// Reads one text that is at hand.
pub fn load_text(text: &Text) -> Loaded {
    let mut loader = Loader::default();
    loader.add(text);
    loader.finish()
}

/// Reads anything: what the fuzzer calls. Never panics.
pub fn load_bytes(bytes: &[u8]) -> Loaded {
    let text = String::from_utf8_lossy(bytes).into_owned();
    load_text(&Text { file: "<bytes>".into(), directory: ".".into(), text })
}

#[derive(Default)]
struct Loader {
    loaded: Loaded,
    first_places: BTreeMap<ObjectKey, Place>,
    irrelevant: BTreeMap<(String, String), usize>,
}

impl Loader {
    fn add(&mut self, text: &Text) {
        for (i, document) in yaml::documents(&text.text).into_iter().enumerate() {
            let place = |line| Place { file: text.file.clone(), line, document: i + 1 };
            match document {
                Err(error) => self.loaded.errors.push(Problem {
                    place: Some(place(error.line)),
                    object: String::new(),
                    fault: Fault { field: String::new(), reason: error.reason },
                }),
                Ok(document) => {
                    for (path, reading) in interpret(document.value()) {
                        let locate =
                            |field: &str| place(document.line_of(&strict::join(&path, field)));
                        self.add_reading(reading, locate, &text.directory);
                    }
                }
            }
        }
    }

    fn add_reading(&mut self, reading: Reading, locate: impl Fn(&str) -> Place, directory: &Path) {
        match reading {
            Reading::Object(object) => {
                let fields = fields_to_locate(&object).into_iter();
                let lines = fields.map(|field| (field.clone(), locate(&field).line)).collect();
                self.add_object(*object, locate(""), lines, directory);
            }
            Reading::Broken(broken) => {
                for fault in &broken.faults {
                    self.loaded.errors.push(Problem {
                        place: Some(locate(&fault.field)),
                        object: broken.object.clone(),
                        fault: fault.clone(),
                    });
                }
                self.loaded.broken.push(*broken);
            }
            Reading::Irrelevant { api_version, kind } => {
                *self.irrelevant.entry((kind, api_version)).or_default() += 1;
            }
        }
    }

    fn add_object(
        &mut self,
        object: Object,
        place: Place,
        lines: BTreeMap<String, u64>,
        directory: &Path,
    ) {
        if let Some(first) = self.first_places.get(&object.key) {
            let reason = format!("is in the input twice: first at {first}");
            self.loaded.errors.push(Problem {
                place: Some(place),
                object: object.key.to_string(),
                fault: Fault { field: String::new(), reason },
            });
            return;
        }
        self.first_places.insert(object.key.clone(), place.clone());
        self.loaded.warnings.extend(inert_rules(&object));
        self.loaded.objects.push(Placed { object, place, directory: directory.to_owned(), lines });
    }

    fn finish(mut self) -> Loaded {
        for ((kind, api_version), count) in self.irrelevant {
            let objects = if count == 1 { "object" } else { "objects" };
            let message =
                format!("{count} {objects} of {api_version} ignored: policy does not depend on it");
            self.loaded.warnings.push(Warning { object: kind, field: String::new(), message });
        }
        self.loaded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: y}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{ports: [{port: 80}], from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]
  egress: [{}]
";

    fn load_str(text: &str) -> Loaded {
        load_bytes(text.as_bytes())
    }

    #[test]
    fn what_is_right_is_there_beside_what_is_wrong() {
        let wrong =
            POLICY.replace("name: web,", "name: wrong,").replace("10.1.0.0/16", "11.0.0.0/8");
        let loaded = load_str(&format!("{POLICY}---\n{wrong}---\na: [\n"));
        assert_eq!(loaded.objects.len(), 1);
        assert_eq!(loaded.errors.len(), 2);
        let closed = loaded.broken[0].closed.as_ref().expect("a NetworkPolicy has a closed form");
        assert_eq!(closed.name.to_string(), "NetworkPolicy y/wrong");
        assert_eq!(
            (closed.policy.ingress.as_deref(), &closed.policy.egress),
            (Some(&[][..]), &None)
        );
    }

    #[test]
    fn items_of_lists_are_named_by_their_path() {
        let item = "{metadata: {name: a}, spec: {container: []}}";
        let loaded = load_str(&format!("apiVersion: v1\nkind: PodList\nitems:\n- {item}\n"));
        let errors: Vec<String> = loaded.errors.iter().map(ToString::to_string).collect();
        assert_eq!(errors, ["<bytes>:4: document 1: Pod default/a: spec.container: unknown field"]);
        let list = format!(
            "kind: List\napiVersion: v1\nitems: [{{kind: List, apiVersion: v1, items: [{}]}}]",
            "{kind: Pod, apiVersion: v1, metadata: {name: b}}"
        );
        assert_eq!(load_str(&list).objects[0].object.key.to_string(), "Pod default/b");
    }

    #[test]
    fn kinds_that_do_not_matter_are_one_warning_each() {
        let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n";
        let loaded =
            load_str(&format!("{map}---\n{map}---\n{}", map.replace("ConfigMap", "Secret")));
        assert_eq!((loaded.objects.len(), loaded.errors.len()), (0, 0));
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        let expected = [
            "ConfigMap: 2 objects of v1 ignored: policy does not depend on it",
            "Secret: 1 object of v1 ignored: policy does not depend on it",
        ];
        assert_eq!(warnings, expected);
    }

    #[test]
    fn rules_that_do_nothing_are_warned_of() {
        let warnings: Vec<String> =
            load_str(POLICY).warnings.iter().map(ToString::to_string).collect();
        let expected = [
            "NetworkPolicy y/web: spec.egress: policyTypes leaves egress out, so these rules do nothing",
        ];
        assert_eq!(warnings, expected);
    }

    #[test]
    fn a_manifest_that_ends_anywhere_is_read_or_refused() {
        for end in 0..POLICY.len() {
            let loaded = load_str(&POLICY[..end]);
            let said = loaded.objects.len() + loaded.errors.len() + loaded.warnings.len();
            assert!(said > 0 || end == 0, "nothing said of the first {end} bytes");
        }
    }
}
