//! What became of packets: per slot, direction and reason; and per rule.

use std::collections::BTreeMap;

use sluice_common::abi::{Counter, Direction, RULE_MAX, RuleId, counter_index};
use sluice_common::reason::{REASON_MAX, Reason};

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
        let first = counter_index(slot, Direction::Ingress, 0);
        let values = self.all_counters.read(first, 2 * REASON_MAX)?;
        let sums: Vec<Counter> = values.chunks(self.all_counters.per_element()).map(sum).collect();
        let mut snapshot = Snapshot::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            for &reason in Reason::ALL {
                let index = counter_index(slot, direction, reason as u32) - first;
                let counter = sums[index as usize];
                if counter != Counter::default() {
                    snapshot.insert((direction, reason), counter);
                }
            }
        }
        Ok(snapshot)
    }

    /// The hits of all rules up to and with `last`, by number, zeros included. Numbers beyond the
    /// table have none and are left out.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn rule_hits(&self, last: RuleId) -> Result<Vec<Counter>, MapFault> {
        let count = last.saturating_add(1).min(RULE_MAX);
        let values = self.all_rule_hits.read(0, count)?;
        Ok(values.chunks(self.all_rule_hits.per_element()).map(sum).collect())
    }
}

/// The sum over all CPUs.
fn sum(values: &[Counter]) -> Counter {
    values.iter().fold(Counter::default(), |total, one| Counter {
        packets: total.packets.wrapping_add(one.packets),
        bytes: total.bytes.wrapping_add(one.bytes),
    })
}
