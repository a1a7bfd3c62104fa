//! What became of packets: per slot, direction and reason.

use std::collections::BTreeMap;

use sluice_common::abi::{Counter, Direction};
use sluice_common::reason::Reason;

use super::maps::{KernelMaps, MapFault};

/// What a slot's packets came to, zeros left out, summed over all CPUs.
pub type Snapshot = BTreeMap<(Direction, Reason), Counter>;

impl KernelMaps {
    /// Everything that is counted for a slot. Packets go on being counted meanwhile: the elements are
    /// read one after the other.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn snapshot(&self, slot: u32) -> Result<Snapshot, MapFault> {
        let mut snapshot = Snapshot::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for &reason in Reason::ALL {
                let counter = self.counter(slot, direction, reason as u32)?;
                if counter != Counter::default() {
                    snapshot.insert((direction, reason), counter);
                }
            }
        }
        Ok(snapshot)
    }
}
