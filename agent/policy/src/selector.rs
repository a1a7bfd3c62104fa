//! Which pods a selector selects, and an index that finds the selectors of a pod.

use std::borrow::Cow;
use std::collections::hash_map::Entry;
use std::hash::BuildHasher as _;

use crate::hash::{HashMap, RandomState};
use crate::model::{
    Labels, Namespaces, Operator, PodSelector, Requirement, Selector, Sorted, World,
};

impl Selector {
    /// True if all requirements hold for the labels.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|requirement| holds(requirement, labels))
    }
}

fn holds(requirement: &Requirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    match &requirement.operator {
        Operator::In(values) => value.is_some_and(|v| values.contains(v)),
        Operator::NotIn(values) => value.is_none_or(|v| !values.contains(v)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

/// What selectors look at: a pod's namespace and labels.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) namespace_labels: Cow<'a, Labels>,
    pub(crate) labels: &'a Labels,
}

impl<'a> Subject<'a> {
    pub(crate) fn new(world: &'a World, namespace: &'a str, labels: &'a Labels) -> Self {
        let namespace_labels = match world.namespaces.get(namespace) {
            Some(labels) => Cow::Borrowed(labels),
            None => Cow::Owned(Labels::from([("kubernetes.io/metadata.name", namespace)])),
        };
        Self { namespace, namespace_labels, labels }
    }

    /// True if the pod selector selects this pod (the caller sees to host network).
    pub(crate) fn is_selected_by(&self, selector: &PodSelector) -> bool {
        let namespace = match &selector.namespaces {
            Namespaces::Named(name) => name == self.namespace,
            Namespaces::Matching(namespaces) => namespaces.selects(&self.namespace_labels),
        };
        namespace && selector.pods.selects(self.labels)
    }
}

/// Finds, among many pod selectors, the few that can select a given pod: each is filed under one
/// namespace or namespace label, together with one pod label, that it cannot do without.
///
/// Only hashes of these are kept: what is found by mistake is not selected and falls away. 10,000
/// policies take two megabytes here, where trees of their labels took fifteen.
#[derive(Clone, Debug)]
pub(crate) struct SelectorIndex<T> {
    /// Ascending values, by place and label.
    filed: HashMap<u64, Vec<T>>,
    /// Number of selectors by place, which passes over places without any.
    places: HashMap<u64, usize>,
    /// Keys of its own: nobody can have many selectors found by mistake.
    hasher: RandomState,
}

/// Where the namespaces are that a selector looks into.
#[derive(Clone, Copy, Debug, Hash)]
enum Place<'a> {
    Named(&'a str),
    Labelled(&'a str, &'a str),
    Everywhere,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        Self {
            filed: HashMap::default(),
            places: HashMap::default(),
            hasher: RandomState::default(),
        }
    }
}

impl<T: Ord + Clone> SelectorIndex<T> {
    pub(crate) fn insert(&mut self, selector: &PodSelector, value: &T) {
        for place in places_of(selector) {
            *self.places.entry(self.hasher.hash_one(place)).or_default() += 1;
            for label in labels_of(&selector.pods) {
                let values = self.filed.entry(self.key(place, label)).or_default();
                if let Err(at) = values.binary_search(value) {
                    // Most have one value for ever.
                    if values.is_empty() {
                        values.reserve_exact(1);
                    }
                    values.insert(at, value.clone());
                }
            }
        }
    }

    /// Takes out what was inserted.
    pub(crate) fn remove(&mut self, selector: &PodSelector, value: &T) {
        for place in places_of(selector) {
            if let Entry::Occupied(mut count) = self.places.entry(self.hasher.hash_one(place)) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
            for label in labels_of(&selector.pods) {
                let Entry::Occupied(mut values) = self.filed.entry(self.key(place, label)) else {
                    continue;
                };
                if let Ok(at) = values.get().binary_search(value) {
                    values.get_mut().remove(at);
                }
                if values.get().is_empty() {
                    values.remove();
                }
            }
        }
    }

    /// False if no selector can select a pod of the subject's namespace, whatever its labels.
    pub(crate) fn looks_into(&self, pod: &Subject<'_>) -> bool {
        self.places_around(pod).next().is_some()
    }

    /// Visits a superset of the values whose selector selects the pod; perhaps one of them twice.
    pub(crate) fn candidates(&self, pod: &Subject<'_>, mut visit: impl FnMut(&T)) {
        for place in self.places_around(pod) {
            for label in std::iter::once(None).chain(pod.labels.iter().map(Some)) {
                self.filed.get(&self.key(place, label)).into_iter().flatten().for_each(&mut visit);
            }
        }
    }

    /// The places that the pod's namespace is in and some selector looks into.
    fn places_around<'p>(&'p self, pod: &'p Subject<'_>) -> impl Iterator<Item = Place<'p>> {
        let labelled = pod.namespace_labels.iter().map(|(key, value)| Place::Labelled(key, value));
        let all = [Place::Named(pod.namespace), Place::Everywhere].into_iter().chain(labelled);
        all.filter(|place| self.places.contains_key(&self.hasher.hash_one(place)))
    }

    fn key(&self, place: Place<'_>, label: Option<(&str, &str)>) -> u64 {
        self.hasher.hash_one((place, label))
    }
}

/// Where a selector is filed: a namespace must be in one of these.
fn places_of(selector: &PodSelector) -> impl Iterator<Item = Place<'_>> {
    let (only, labelled) = match &selector.namespaces {
        Namespaces::Named(name) => (Some(Place::Named(name)), None),
        Namespaces::Matching(namespaces) => match anchor(namespaces) {
            None => (Some(Place::Everywhere), None),
            anchor => (None, anchor),
        },
    };
    only.into_iter().chain(choices(labelled).map(|(key, value)| Place::Labelled(key, value)))
}

/// The labels of which a pod must have one; `None`: it need not have any.
fn labels_of(selector: &Selector) -> impl Iterator<Item = Option<(&str, &str)>> {
    let anchor = anchor(selector);
    anchor.is_none().then_some(None).into_iter().chain(choices(anchor).map(Some))
}

/// Each label of an anchor.
fn choices<'a>(
    anchor: Option<(&'a str, &'a Sorted<String>)>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    anchor.into_iter().flat_map(|(key, values)| values.iter().map(move |v| (key, v.as_str())))
}

/// The label that an object must have one of the values of: the `In` with the fewest.
fn anchor(selector: &Selector) -> Option<(&str, &Sorted<String>)> {
    let choices = selector.requirements.iter().filter_map(|r| match &r.operator {
        Operator::In(values) => Some((r.key.as_str(), values)),
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    });
    choices.min_by_key(|(_, values)| values.len())
}
