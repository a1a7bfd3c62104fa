//! The applier of ordered operations.
//!
//! Entries are written many by one syscall. Of 300,000 entries of `decisions` and 100,000 of `peers`, one
//! by one takes 650 and 185 ms of a CPU, a batch 355 and 89: what is left is the kernel's own work with
//! its trie and hash.

use aya::maps::MapError;
use sluice_common::abi::{HairpinWay, PeerClass};
use sluice_policy::diff::Op;

use super::batch::{LOCKED, TableWriter};
use super::maps::{KernelMaps, MapFault, access, removed, trie_key};

/// Operations that one syscall does at most: their keys and values are gathered before.
const TOGETHER: usize = 4096;

impl KernelMaps {
    /// Does the operations in their order. Stops at the first that fails: what was staged stays
    /// invisible, and a new diff goes on from [`Self::state`].
    ///
    /// # Errors
    /// [`MapFault`]; [`MapFault::Full`] where a table took no further entry. [`MapFault::Exhausted`]
    /// before anything is written.
    pub fn apply(&mut self, ops: &[Op]) -> Result<(), MapFault> {
        let changes_nothing_visible = ops.iter().all(|op| matches!(op, Op::ResetRule(_)));
        if !changes_nothing_visible && self.control.generation() == u32::MAX {
            return Err(MapFault::Exhausted);
        }
        let mut rest = ops;
        while let Some(first) = rest.first() {
            rest = &rest[self.apply_first(first, rest)?..];
        }
        self.readers.begin_to_wait(self.control.generation());
        Ok(())
    }

    /// Does the first operation, and those like it behind it that one syscall can do with it. How many.
    fn apply_first(&mut self, first: &Op, ops: &[Op]) -> Result<usize, MapFault> {
        let generation = self.control.generation();
        self.readers.look(generation);
        if self.readers.are_disturbed_by(first, generation) {
            self.wait()?;
        }
        let undisturbing = |op: &&Op| !self.readers.are_disturbed_by(op, generation);
        let ops = ops.iter().take_while(undisturbing).take(TOGETHER);
        match first {
            Op::Peer(..) => {
                return insert_alike(&self.many_peers, LOCKED, ops, |op| match op {
                    Op::Peer(address, class) => Some((*address, PeerClass::new(*class))),
                    _ => None,
                });
            }
            Op::Vip(..) => {
                return insert_alike(&self.many_vips, LOCKED, ops, |op| match op {
                    Op::Vip(vip, class) => Some((*vip, PeerClass::new(*class))),
                    _ => None,
                });
            }
            Op::Cidr(..) => {
                return insert_alike(&self.many_cidrs, 0, ops, |op| match op {
                    Op::Cidr(prefix, value) => Some((trie_key(prefix), *value)),
                    _ => None,
                });
            }
            Op::Decision(..) => {
                return insert_alike(&self.many_decisions, 0, ops, |op| match op {
                    Op::Decision(prefix, value) => Some((trie_key(prefix), *value)),
                    _ => None,
                });
            }
            Op::Endpoint(slot, value) => {
                self.endpoints.set(*slot, value, 0).map_err(access("endpoints"))
            }
            Op::Hairpin(key, hairpin) => {
                let value = HairpinWay::new(*hairpin);
                self.hairpins.insert(key, &value, LOCKED).map_err(access("hairpins"))
            }
            Op::ResetRule(rule) => self.reset_rule(*rule),
            Op::Flip(generation) => {
                self.control.flip(*generation);
                self.readers.left_generation();
                Ok(())
            }
            Op::RemovePeer(address) => self.forget(|maps| ("peers", maps.peers.remove(address))),
            Op::RemoveVip(vip) => self.forget(|maps| ("vips", maps.vips.remove(vip))),
            Op::RemoveHairpin(key) => self.forget(|maps| ("hairpins", maps.hairpins.remove(key))),
            Op::RemoveCidr(prefix) => removed("cidrs", self.cidrs.remove(&trie_key(prefix))),
            Op::RemoveDecision(prefix) => {
                removed("decisions", self.decisions.remove(&trie_key(prefix)))
            }
        }?;
        Ok(1)
    }

    /// Removes an element of a hash, whose memory the next one that is added will have.
    fn forget(
        &mut self,
        remove: impl FnOnce(&mut Self) -> (&'static str, Result<(), MapError>),
    ) -> Result<(), MapFault> {
        self.readers.left_memory();
        let (table, result) = remove(self);
        removed(table, result)
    }

    /// Waits until every packet that has begun has ended.
    pub(super) fn wait(&mut self) -> Result<(), MapFault> {
        self.readers.wait(self.control.generation()).map_err(MapFault::GracePeriod)
    }
}

/// Writes the entries of the operations in front that have one for this table. How many.
fn insert_alike<'a, K: aya::Pod, V: aya::Pod>(
    table: &TableWriter<K, V>,
    flags: u64,
    ops: impl Iterator<Item = &'a Op>,
    entry: impl Fn(&Op) -> Option<(K, V)>,
) -> Result<usize, MapFault> {
    let (keys, values): (Vec<K>, Vec<V>) = ops.map_while(entry).unzip();
    table.insert(&keys, &values, flags)?;
    Ok(keys.len())
}
