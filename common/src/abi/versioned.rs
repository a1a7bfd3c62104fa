//! Two versions of a table value, so that a whole change becomes visible in one write.

/// A value in two versions, of which a reader at generation `g` sees the newest with `since <= g`.
///
/// This is how a change of any size is atomic on a node: user space first *stages* every new value
/// with `since = g + 1` (no reader looks at it), then *flips* the one generation in
/// [`Control`](super::Control), then removes what has become absent. A packet reads the generation
/// once and therefore sees either the old tables or the new ones, never a mixture.
///
/// A writer overwrites only the version that readers at the current generation do not use. That also
/// makes in-place writes of array elements safe, which the kernel copies without a lock: a reader
/// never looks at the bytes that are being written, because either their `since` is in its future
/// or the other version is newer.
///
/// "Absent" is a value of `T` (`T::default()`, all zero) and not a missing version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Versioned<T> {
    since: [u32; 2],
    value: [T; 2],
}

impl<T: Copy + Default + PartialEq> Versioned<T> {
    /// A value that every generation sees.
    pub fn settled(value: T) -> Self {
        Self { since: [0; 2], value: [value, T::default()] }
    }

    /// A value that becomes visible at `generation`; before it readers see `before`.
    pub fn staged(before: T, generation: u32, value: T) -> Self {
        Self { since: [0, generation], value: [before, value] }
    }

    /// What a reader at `generation` sees.
    #[inline(always)]
    pub fn at(&self, generation: u32) -> &T {
        &self.value[self.index_at(generation)]
    }

    /// This entry with `value` staged for `generation + 1`, as seen from the current `generation`.
    /// The version that is visible now keeps its bytes.
    #[must_use]
    pub fn stage(mut self, generation: u32, value: T) -> Self {
        let free = 1 - self.index_at(generation);
        self.value[free] = value;
        self.since[free] = generation.saturating_add(1);
        self
    }

    /// The first generation that sees the older version. Of an entry that was staged, that is the one
    /// which readers at the current generation use: it has been visible since then.
    pub fn kept_since(&self) -> u32 {
        self.since[0].min(self.since[1])
    }

    /// Index of the newest version not later than `generation`. With equal `since` the first wins
    /// ([`Self::settled`]). Two versions in the future cannot be produced by the writer; a reader
    /// that meets them takes the older one.
    #[inline(always)]
    fn index_at(&self, generation: u32) -> usize {
        let newer = (self.since[1] > self.since[0]) as usize;
        if self.since[newer] <= generation { newer } else { 1 - newer }
    }
}

// SAFETY: two `u32` and two `T` without padding between (checked for every `T` in use by the const
// asserts of the tables' modules); `T: Pod` makes every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl<T: aya::Pod> aya::Pod for Versioned<T> {}
