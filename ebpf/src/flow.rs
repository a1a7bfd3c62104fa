//! The flow table.

use core::ptr;

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
        let before = &self.flow;
        if next.last_seen != before.last_seen {
            // SAFETY: as in `find`.
            unsafe { (&raw mut (*self.element).last_seen).write(next.last_seen) };
        }
        if next.flags != before.flags {
            // SAFETY: as in `find`.
            unsafe { (&raw mut (*self.element).flags).write(next.flags) };
        }
        if next.state != before.state || next.generation != before.generation {
            // SAFETY: as in `find`.
            unsafe { (&raw mut (*self.element).rule).write(next.rule) };
            let word = word(next.generation, next.state);
            // SAFETY: `generation` is at offset 8 with `state` right behind it (asserted beside the
            // type), so this is one aligned word of the element.
            unsafe {
                ptr::write_volatile((&raw mut (*self.element).generation).cast::<u64>(), word);
            }
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
