//! The flow tables.
//!
//! Two LRU hashes: what one end alone has shown to want lies apart from what both do. A SYN flood, also
//! one that the pod answers, turns over the first and takes nobody's place in the second. Tried for the
//! first, and of no help: a list per CPU (`BPF_F_NO_COMMON_LRU`; 879 and 1,119 ns for a new flow beside
//! 914 and 907 with a common one, on a machine under load), whose size would also depend on the number
//! of CPUs.

use core::mem::offset_of;

use aya_ebpf::Global;
use aya_ebpf::helpers::bpf_jiffies64;
use sluice_common::abi::{Direction, Flow, FlowKey};
use sluice_common::flow::{self as track, Clock};

use crate::{maps, recent};

/// Jiffies per second (the kernel's HZ), set at load.
#[unsafe(no_mangle)]
static TICK_RATE: Global<u32> = Global::new(250);

/// The time now.
#[inline(always)]
pub(crate) fn clock() -> Clock {
    // SAFETY: the helper has no preconditions.
    Clock { now: unsafe { bpf_jiffies64() }, rate: TICK_RATE.load() }
}

/// A flow in one of the tables.
///
/// Its element is written in place. It cannot become another flow's meanwhile unless the table has
/// evicted it, and that takes the elements which were looked at least recently.
pub(crate) struct Place {
    element: *mut Flow,
    /// It is in `openings`.
    is_opening: bool,
    /// As it was found.
    pub(crate) flow: Flow,
}

/// Looks a flow up.
#[inline(always)]
pub(crate) fn find(key: &FlowKey) -> Option<Place> {
    let (element, is_opening) = match maps::FLOWS.get_ptr_mut(key) {
        Some(element) => (element, false),
        None => (maps::OPENINGS.get_ptr_mut(key)?, true),
    };
    // SAFETY: the element is a whole `Flow`, and the kernel keeps its memory until this program ends.
    // Another CPU may be writing it: each field is written at once, and generation and state, which
    // must fit together, as one word (see `Place::set`).
    Some(Place { element, is_opening, flow: unsafe { element.read() } })
}

impl Place {
    /// Writes what a packet in `direction` has changed; nothing where nothing has, as for most packets.
    #[inline(always)]
    pub(crate) fn set(&self, key: &FlowKey, next: &Flow, direction: Direction) {
        if self.is_opening
            && track::is_wanted(&self.flow, next, direction)
            && maps::FLOWS.insert(key, next, 0).is_ok()
        {
            // It is found in the other table from now on; what stays here is never looked at.
            let _ = maps::OPENINGS.remove(key);
            return;
        }
        self.update(next);
    }

    #[inline(always)]
    fn update(&self, next: &Flow) {
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

/// Adds a flow, or replaces the one that has its key, which `place` is. False if the table did not take
/// it.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow, place: Option<&Place>) -> bool {
    if maps::OPENINGS.insert(key, flow, 0).is_err() {
        return false;
    }
    if place.is_some_and(|place| !place.is_opening) {
        // Until it is gone it is found first: the former connection, which was allowed as well.
        let _ = maps::FLOWS.remove(key);
        recent::forget(key);
    }
    true
}
