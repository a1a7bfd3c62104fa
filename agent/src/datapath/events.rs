//! Records of drops, as the programs write them.

use aya::maps::{MapData, RingBuf};
use sluice_common::abi::Event;

/// The reader of the ring `events`. There must be one only: readers share one position. Nothing wakes it: it
/// has to ask every so often, and the ring holds 3,000 records meanwhile. In the agent nobody does yet; the
/// ring is full there after as many drops, and those that follow are counted as `event-lost`.
pub struct Events {
    ring: RingBuf<MapData>,
}

impl Events {
    pub(super) const fn new(ring: RingBuf<MapData>) -> Self {
        Self { ring }
    }

    /// The next record, if there is one.
    pub fn next_event(&mut self) -> Option<Event> {
        loop {
            let item = self.ring.next()?;
            // A record of another size cannot come from our programs; it is passed over.
            if item.len() == size_of::<Event>() {
                // SAFETY: the ring's record has the length of an `Event` (just checked), which is
                // plain old data: every bit pattern is one. Records are aligned to 8 bytes, but
                // nothing here depends on it.
                return Some(unsafe { item.as_ptr().cast::<Event>().read_unaligned() });
            }
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
