//! Which pods a selector selects, and an index that finds the selectors of a pod.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Labels, Namespaces, Operator, PodSelector, Requirement, Selector, World};

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
/// namespace or namespace label, and below that under one pod label, that it cannot do without.
#[derive(Clone, Debug)]
pub(crate) struct SelectorIndex<T> {
    named: BTreeMap<String, Bucket<T>>,
    labelled: ByLabel<Bucket<T>>,
    everywhere: Bucket<T>,
}

type ByLabel<T> = BTreeMap<String, BTreeMap<String, T>>;

#[derive(Clone, Debug)]
struct Bucket<T> {
    labelled: ByLabel<BTreeSet<T>>,
    rest: BTreeSet<T>,
}

impl<T> Default for SelectorIndex<T> {
    fn default() -> Self {
        let (named, labelled) = (BTreeMap::new(), BTreeMap::new());
        Self { named, labelled, everywhere: Bucket::default() }
    }
}

impl<T> Default for Bucket<T> {
    fn default() -> Self {
        Self { labelled: BTreeMap::new(), rest: BTreeSet::new() }
    }
}

impl<T: Ord + Clone> SelectorIndex<T> {
    pub(crate) fn insert(&mut self, selector: &PodSelector, value: &T) {
        match &selector.namespaces {
            Namespaces::Named(name) => {
                self.named.entry(name.clone()).or_default().insert(&selector.pods, value);
            }
            Namespaces::Matching(namespaces) => match anchor(namespaces) {
                Some((key, choices)) => {
                    let by_value = self.labelled.entry(key.to_owned()).or_default();
                    for choice in choices {
                        let bucket = by_value.entry(choice.clone()).or_default();
                        bucket.insert(&selector.pods, value);
                    }
                }
                None => self.everywhere.insert(&selector.pods, value),
            },
        }
    }

    pub(crate) fn remove(&mut self, selector: &PodSelector, value: &T) {
        match &selector.namespaces {
            Namespaces::Named(name) => {
                prune(&mut self.named, name, |bucket| bucket.remove(&selector.pods, value));
            }
            Namespaces::Matching(namespaces) => match anchor(namespaces) {
                Some((key, choices)) => prune(&mut self.labelled, key, |by_value| {
                    for choice in choices {
                        prune(by_value, choice, |bucket| bucket.remove(&selector.pods, value));
                    }
                    by_value.is_empty()
                }),
                None => {
                    self.everywhere.remove(&selector.pods, value);
                }
            },
        }
    }

    /// False if no selector can select a pod of the subject's namespace, whatever its labels.
    pub(crate) fn looks_into(&self, pod: &Subject<'_>) -> bool {
        let has_value = |(key, value): (&str, &str)| {
            self.labelled.get(key).is_some_and(|by_value| by_value.contains_key(value))
        };
        self.named.contains_key(pod.namespace)
            || pod.namespace_labels.iter().any(has_value)
            || !self.everywhere.labelled.is_empty()
            || !self.everywhere.rest.is_empty()
    }

    /// Visits, each once, a superset of the values whose selector selects the pod.
    pub(crate) fn candidates(&self, pod: &Subject<'_>, mut visit: impl FnMut(&T)) {
        if let Some(bucket) = self.named.get(pod.namespace) {
            bucket.candidates(pod.labels, &mut visit);
        }
        for (key, value) in pod.namespace_labels.iter() {
            if let Some(bucket) = self.labelled.get(key).and_then(|by_value| by_value.get(value)) {
                bucket.candidates(pod.labels, &mut visit);
            }
        }
        self.everywhere.candidates(pod.labels, &mut visit);
    }
}

impl<T: Ord + Clone> Bucket<T> {
    fn insert(&mut self, pods: &Selector, value: &T) {
        match anchor(pods) {
            Some((key, choices)) => {
                let by_value = self.labelled.entry(key.to_owned()).or_default();
                for choice in choices {
                    by_value.entry(choice.clone()).or_default().insert(value.clone());
                }
            }
            None => {
                self.rest.insert(value.clone());
            }
        }
    }

    /// True if the bucket is empty afterwards.
    fn remove(&mut self, pods: &Selector, value: &T) -> bool {
        match anchor(pods) {
            Some((key, choices)) => prune(&mut self.labelled, key, |by_value| {
                for choice in choices {
                    prune(by_value, choice, |values| {
                        values.remove(value);
                        values.is_empty()
                    });
                }
                by_value.is_empty()
            }),
            None => {
                self.rest.remove(value);
            }
        }
        self.labelled.is_empty() && self.rest.is_empty()
    }

    fn candidates(&self, labels: &Labels, visit: &mut impl FnMut(&T)) {
        self.rest.iter().for_each(&mut *visit);
        if self.labelled.is_empty() {
            return;
        }
        for (key, value) in labels.iter() {
            if let Some(values) = self.labelled.get(key).and_then(|by_value| by_value.get(value)) {
                values.iter().for_each(&mut *visit);
            }
        }
    }
}

/// The label that an object must have one of the values of: the `In` with the fewest.
fn anchor(selector: &Selector) -> Option<(&str, &BTreeSet<String>)> {
    let choices = selector.requirements.iter().filter_map(|r| match &r.operator {
        Operator::In(values) => Some((r.key.as_str(), values)),
        Operator::NotIn(_) | Operator::Exists | Operator::DoesNotExist => None,
    });
    choices.min_by_key(|(_, values)| values.len())
}

/// Changes the value of a key, and removes the key if `change` says that nothing is left.
fn prune<V>(map: &mut BTreeMap<String, V>, key: &str, change: impl FnOnce(&mut V) -> bool) {
    if map.get_mut(key).is_some_and(change) {
        map.remove(key);
    }
}
