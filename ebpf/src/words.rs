//! Writing whole values to table memory, word by word: the compiler would call functions of its own
//! that move single bytes, at a nanosecond each.

/// Words of `W` in a value, which must consist of such.
const fn words<T, W>() -> usize {
    assert!(size_of::<T>().is_multiple_of(size_of::<W>()) && align_of::<T>() >= align_of::<W>());
    size_of::<T>() / size_of::<W>()
}

/// Copies a value in words of `W`.
///
/// # Safety
/// There must be room for it, that nobody else uses, and it must have no padding.
#[inline(always)]
pub(crate) unsafe fn copy<T: Copy, W: Copy>(from: &T, to: *mut T) {
    let (from, to) = ((&raw const *from).cast::<W>(), to.cast::<W>());
    for index in 0..const { words::<T, W>() } {
        // SAFETY: within the value, whose alignment is at least a word's; no padding, says the caller.
        let word = unsafe { from.wrapping_add(index).read() };
        // SAFETY: within the room for such a value.
        unsafe { to.wrapping_add(index).write_volatile(word) };
    }
}

/// Fills a value with zeros.
///
/// # Safety
/// There must be room for it, that nobody else uses, and zeros must be a valid value.
#[inline(always)]
pub(crate) unsafe fn clear<T>(to: *mut T) {
    let to = to.cast::<u64>();
    for index in 0..const { words::<T, u64>() } {
        // SAFETY: within the room for such a value, whose alignment is at least a word's.
        unsafe { to.wrapping_add(index).write_volatile(0) };
    }
}
