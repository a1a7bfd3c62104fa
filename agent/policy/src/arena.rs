//! Values with small typed numbers, for the compiler's inside. These numbers never reach a table.

use std::marker::PhantomData;

/// A number that an [`Arena`] gives out.
pub(crate) trait Id: Copy {
    /// From a position.
    fn from_index(index: usize) -> Self;
    /// The position.
    fn index(self) -> usize;
}

/// Makes a newtype that is an [`Id`].
macro_rules! id {
    ($(#[doc = $doc:literal])+ $name:ident) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub(crate) struct $name(pub(crate) u32);

        impl $crate::arena::Id for $name {
            fn from_index(index: usize) -> Self {
                Self(u32::try_from(index).expect("fewer than 2^32 values are alive at once"))
            }
            fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}
pub(crate) use id;

/// Owns values; a removed value's number is given out again.
#[derive(Clone, Debug)]
pub(crate) struct Arena<I, T> {
    values: Vec<Option<T>>,
    free: Vec<usize>,
    id: PhantomData<I>,
}

impl<I, T> Default for Arena<I, T> {
    fn default() -> Self {
        Self { values: Vec::new(), free: Vec::new(), id: PhantomData }
    }
}

impl<I: Id, T> Arena<I, T> {
    pub(crate) fn insert(&mut self, value: T) -> I {
        let index = self.free.pop().unwrap_or_else(|| {
            self.values.push(None);
            self.values.len() - 1
        });
        self.values[index] = Some(value);
        I::from_index(index)
    }

    pub(crate) fn remove(&mut self, id: I) -> Option<T> {
        let value = self.values.get_mut(id.index())?.take()?;
        self.free.push(id.index());
        Some(value)
    }

    pub(crate) fn get(&self, id: I) -> Option<&T> {
        self.values.get(id.index())?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, id: I) -> Option<&mut T> {
        self.values.get_mut(id.index())?.as_mut()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        let values = self.values.iter().enumerate();
        values.filter_map(|(index, value)| Some((I::from_index(index), value.as_ref()?)))
    }
}

/// The compiler removes a value only after everything that names it is gone.
impl<I: Id, T> std::ops::Index<I> for Arena<I, T> {
    type Output = T;
    fn index(&self, id: I) -> &T {
        self.get(id).expect("a number in use has its value")
    }
}

impl<I: Id, T> std::ops::IndexMut<I> for Arena<I, T> {
    fn index_mut(&mut self, id: I) -> &mut T {
        self.get_mut(id).expect("a number in use has its value")
    }
}
