//! The flow table.

use core::mem::offset_of;

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_jiffies64;
use sluice_common::abi::{Flow, FlowKey};
use sluice_common::flow::Clock;

use crate::maps;

/// Jiffies per second (the kernel's HZ), set at load.
#[unsafe(no_mangle)]
static TICK_RATE: Global<u32> = Global::new(250);

/// The time now.
#[inline(always)]
pub(crate) fn clock() -> Clock {
    // SAFETY: the helper has no preconditions.
    Clock { now: unsafe { bpf_jiffies64() }, rate: TICK_RATE.load() }
}

/// A flow in the table.
///
/// Its element is written in place. It cannot become another flow's meanwhile unless the table has
/// evicted it, and that takes the elements which were looked at least recently.
pub(crate) struct Place {
    element: *mut Flow,
    /// As it was found.
    pub(crate) flow: Flow,
}

/// Looks a flow up.
#[inline(always)]
pub(crate) fn find(key: &FlowKey) -> Option<Place> {
    let element = maps::FLOWS.get_ptr_mut(key)?;
    // SAFETY: the element is a whole `Flow`, and the kernel keeps its memory until this program ends.
    // Another CPU may be writing it: each field is written at once, and generation and state, which
    // must fit together, as one word (see `Place::set`).
    Some(Place { element, flow: unsafe { element.read() } })
}

impl Place {
    /// Writes what has changed; nothing where nothing has, as for most packets.
    #[inline(always)]
    pub(crate) fn set(&self, next: &Flow) {
        /// Of `generation` and the `state` right behind it, in words of 8 bytes.
        const WORD: usize = offset_of!(Flow, generation) / 8;
        let before = &self.flow;
        // SAFETY: as in `find`.
        let element = unsafe { &mut *self.element };
        if next.last_seen != before.last_seen {
            element.last_seen = next.last_seen;
        }
        if next.flags != before.flags {
            element.flags = next.flags;
        }
        if next.state != before.state || next.generation != before.generation {
            element.rule = next.rule;
            let place = self.element.cast::<u64>().wrapping_add(WORD);
            // SAFETY: an aligned word of the element: the two fields are neighbours at offset 8
            // (asserted beside the type).
            unsafe { place.write_volatile(word(next.generation, next.state)) };
        }
    }
}

/// Two fields that are neighbours in memory, as the word that they make.
#[inline(always)]
const fn word(first: u32, second: u32) -> u64 {
    if cfg!(target_endian = "little") {
        first as u64 | (second as u64) << 32
    } else {
        second as u64 | (first as u64) << 32
    }
}

/// Adds a flow, or replaces the one that has its key. False if the table did not take it.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow) -> bool {
    maps::FLOWS.insert(key, flow, 0).is_ok()
}
