//! A set that takes no more memory than its values.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::ops::Deref;

/// Values in ascending order, each once.
///
/// Most selectors have one requirement, and that one value; a `BTreeSet` of one makes room for
/// eleven. What is made once and then read by every pod is better off as this.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sorted<T>(Box<[T]>);

impl<T: Ord> Sorted<T> {
    /// True if the value is one of these.
    pub fn contains<Q: Ord + ?Sized>(&self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.binary_search_by(|known| known.borrow().cmp(value)).is_ok()
    }
}

impl<T> Default for Sorted<T> {
    fn default() -> Self {
        Self(Box::default())
    }
}

impl<T> Deref for Sorted<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T: Ord> FromIterator<T> for Sorted<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut values: Vec<T> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        Self(values.into())
    }
}

impl<T: Ord, const N: usize> From<[T; N]> for Sorted<T> {
    fn from(values: [T; N]) -> Self {
        values.into_iter().collect()
    }
}

impl<T> From<BTreeSet<T>> for Sorted<T> {
    fn from(values: BTreeSet<T>) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_holds_what_a_set_holds(values: Vec<u8>, asked: u8) {
            let set: BTreeSet<u8> = values.iter().copied().collect();
            let sorted: Sorted<u8> = values.into_iter().collect();
            prop_assert!(sorted.iter().eq(&set));
            prop_assert_eq!(sorted.contains(&asked), set.contains(&asked));
            prop_assert_eq!(sorted, Sorted::from(set));
        }
    }
}
