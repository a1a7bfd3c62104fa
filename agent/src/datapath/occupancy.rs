//! How full the tables are that packets fill. Nobody keeps count of them: they are walked.

use sluice_common::abi::{ENDPOINT_MAX, FRAGMENT_SETS, FRAGMENT_WAYS, capacity};

use super::maps::{KernelMaps, MapFault};
use crate::status::TableStatus;

/// Elements of `fragments`.
const SETS: u32 = ENDPOINT_MAX * 2 * FRAGMENT_SETS;

impl KernelMaps {
    /// Entries of each table that packets fill. What has expired counts until something takes its
    /// place.
    ///
    /// # Errors
    /// [`MapFault::Access`].
    pub fn occupancy(&self) -> Result<Vec<TableStatus>, MapFault> {
        let sets = self.all_fragments.read(0, SETS)?;
        let fragments = sets.iter().flat_map(|set| &set.places);
        let fragments = fragments.filter(|fragment| fragment.epoch != 0).count();
        let tables = [
            ("flows", self.flows.count()?, capacity::FLOWS),
            ("fragments", fragments, SETS * FRAGMENT_WAYS as u32),
            ("hairpin_notes", self.all_hairpin_notes.count()?, capacity::HAIRPIN_NOTES),
        ];
        let status = |(table, used, capacity): (&str, usize, u32)| TableStatus {
            table: table.into(),
            used: used as u64,
            capacity: capacity.into(),
            age_seconds: Some(0),
        };
        Ok(tables.map(status).into())
    }
}
