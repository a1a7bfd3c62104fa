//! Writing whole values to table memory, word by word: the compiler would call functions of its own
//! that move single bytes, at a nanosecond each.

/// Words of a value, which must consist of such.
const fn words<T>() -> usize {
    assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= align_of::<u32>());
    size_of::<T>() / size_of::<u32>()
}

/// Copies a value.
///
/// # Safety
/// There must be room for it, that nobody else uses, and it must have no padding.
#[inline(always)]
pub(crate) unsafe fn copy<T: Copy>(from: &T, to: *mut T) {
    let (from, to) = ((&raw const *from).cast::<u32>(), to.cast::<u32>());
    for index in 0..const { words::<T>() } {
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
    let to = to.cast::<u32>();
    for index in 0..const { words::<T>() } {
        // SAFETY: within the room for such a value, whose alignment is at least a word's.
        unsafe { to.wrapping_add(index).write_volatile(0) };
    }
}
