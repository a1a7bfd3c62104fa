//! Labels of an object: immutable, and shared between all that have the same.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::hash::HashSet;

/// The labels of an object, by key. A clone shares them.
///
/// A cluster of 100,000 pods has a few thousand different ones, so the text of all keys and values is
/// one string: a map of strings costs ten times as much.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Labels(Option<Arc<Packed>>);

/// At least one label: key, value, key, value …, ascending by key.
#[derive(PartialEq, Eq)]
struct Packed {
    text: Box<str>,
    /// Where each key and its value end in `text`, in bytes.
    ends: Box<[[usize; 2]]>,
}

impl Labels {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find_map(|(k, value)| (k == key).then_some(value))
    }

    /// Keys and values, ascending by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let (text, ends) = match &self.0 {
            Some(packed) => (&*packed.text, &*packed.ends),
            None => ("", &[][..]),
        };
        let mut from = 0;
        ends.iter().map(move |&[key_end, value_end]| {
            let (key, value) = (&text[from..key_end], &text[key_end..value_end]);
            from = value_end;
            (key, value)
        })
    }

    /// These labels, where `key` has this value.
    #[must_use]
    pub fn with(&self, key: &str, value: &str) -> Self {
        self.iter().chain([(key, value)]).collect()
    }

    /// These labels without `key`.
    #[must_use]
    pub fn without(&self, key: &str) -> Self {
        self.iter().filter(|(k, _)| *k != key).collect()
    }
}

/// Of equal keys the last counts.
impl<K: AsRef<str> + Ord, V: AsRef<str>> FromIterator<(K, V)> for Labels {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(labels: T) -> Self {
        let labels: BTreeMap<K, V> = labels.into_iter().collect();
        if labels.is_empty() {
            return Self::default();
        }
        let pairs = || labels.iter().map(|(key, value)| [key.as_ref(), value.as_ref()]);
        let mut text = String::with_capacity(pairs().flatten().map(str::len).sum());
        let mut end_of = |part| {
            text.push_str(part);
            text.len()
        };
        let ends = pairs().map(|pair| pair.map(&mut end_of)).collect();
        Self(Some(Arc::new(Packed { text: text.into(), ends })))
    }
}

impl<K: AsRef<str> + Ord, V: AsRef<str>, const N: usize> From<[(K, V); N]> for Labels {
    fn from(labels: [(K, V); N]) -> Self {
        labels.into_iter().collect()
    }
}

impl PartialOrd for Labels {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Labels {
    fn cmp(&self, other: &Self) -> Ordering {
        self.iter().cmp(other.iter())
    }
}

impl Hash for Labels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        if let Some(packed) = &self.0 {
            packed.text.hash(state);
            packed.ends.hash(state);
        }
    }
}

impl fmt::Debug for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// The different labels of many objects.
#[derive(Debug, Default)]
pub(crate) struct LabelPool {
    known: HashSet<Labels>,
    /// Number of `known` at which those that nothing uses any more are dropped.
    full: usize,
}

/// Below this many, unused labels are not worth looking for.
const SMALLEST_POOL: usize = 1024;

impl LabelPool {
    /// Equal labels, which all that are equal share from then on.
    pub(crate) fn share(&mut self, labels: Labels) -> Labels {
        if let Some(known) = self.known.get(&labels) {
            return known.clone();
        }
        if self.known.len() >= self.full {
            self.known.retain(|labels| labels.0.as_ref().is_some_and(|l| Arc::strong_count(l) > 1));
            // Twice what is left: looking through them costs each newcomer a constant amount.
            self.full = (2 * self.known.len()).max(SMALLEST_POOL);
        }
        self.known.insert(labels.clone());
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text() -> impl Strategy<Value = String> {
        "[ab/]{0,3}"
    }

    proptest! {
        #[test]
        fn labels_say_what_a_map_says(map in prop::collection::btree_map(text(), text(), 0..5), key in text(), value in text()) {
            let labels: Labels = map.clone().into_iter().collect();
            prop_assert_eq!(labels.get(&key), map.get(&key).map(String::as_str));
            prop_assert!(labels.iter().eq(map.iter().map(|(k, v)| (k.as_str(), v.as_str()))));
            let mut more = map.clone();
            more.insert(key.clone(), value.clone());
            prop_assert_eq!(labels.with(&key, &value), more.iter().collect());
            more.remove(&key);
            prop_assert_eq!(labels.without(&key), more.iter().collect());
        }

        #[test]
        fn labels_compare_as_maps_do(
            a in prop::collection::btree_map(text(), text(), 0..4),
            b in prop::collection::btree_map(text(), text(), 0..4),
        ) {
            let (packed_a, packed_b): (Labels, Labels) = (a.iter().collect(), b.iter().collect());
            prop_assert_eq!(packed_a.cmp(&packed_b), a.cmp(&b));
            prop_assert_eq!(packed_a == packed_b, a == b);
        }
    }

    #[test]
    fn of_equal_keys_the_last_counts() {
        assert_eq!(Labels::from([("a", "1"), ("b", "2"), ("a", "3")]).get("a"), Some("3"));
    }

    #[test]
    fn a_pool_shares_equal_labels_and_drops_those_that_nothing_uses() {
        let mut pool = LabelPool::default();
        let labels = |n: usize| Labels::from([("n", n.to_string())]);
        let (first, again) = (pool.share(labels(0)), pool.share(labels(0)));
        assert!(Arc::ptr_eq(
            first.0.as_ref().expect("a label"),
            again.0.as_ref().expect("a label")
        ));
        for n in 1..10 * SMALLEST_POOL {
            assert_eq!(pool.share(labels(n)), labels(n));
        }
        assert!(pool.known.len() <= SMALLEST_POOL);
        assert!(pool.known.contains(&first));
    }
}
