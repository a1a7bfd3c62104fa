//! The flow table: buckets that the programs write, each under its lock.
//!
//! One that is changed from here is read, changed and written back as a whole. What a program writes
//! into the same bucket in between, within a microsecond or two, is undone: a flow that opened is
//! unknown, or one that ended is known again, and its next packet is judged by policy. No verdict comes
//! of that which the tables did not give, since a flow says at which generation it was judged.

use aya::maps::{Array, Map, MapData, MapError};
use sluice_common::abi::capacity::FLOW_BUCKETS;
use sluice_common::abi::{FLOW_WAYS, Flow, FlowBucket, FlowEntry, FlowKey, FlowState, Lifetimes};
use sluice_common::bucket::{self, Plain, Spot};
use sluice_common::flow;
use sluice_common::hash::Seed;

use super::batch::{ArrayReader, LOCKED};
use super::maps::MapFault;

/// Buckets that are read at once: 1 MiB.
const CHUNK: u32 = 1024;

/// What the programs find and judge flows by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// [`sluice_common::abi::Control::hash_seed`].
    pub(super) seed: Seed,
    /// How long flows are remembered.
    pub(super) lifetimes: Lifetimes,
    /// Jiffies per second.
    pub(super) rate: u32,
}

/// The table `flows`.
pub(super) struct FlowTable {
    buckets: Array<MapData, FlowBucket>,
    all: ArrayReader<FlowBucket>,
}

impl FlowTable {
    pub(super) fn new(map: Map) -> Result<Self, MapFault> {
        let all = ArrayReader::locked("flows", &map)?;
        Ok(Self { all, buckets: map.try_into().map_err(fault)? })
    }

    /// The flow with a key; `None` where there is none.
    pub(super) fn get(&self, key: &FlowKey, terms: &Terms) -> Result<Option<Flow>, MapFault> {
        let (_, bucket) = self.bucket(key, terms)?;
        Ok(place_of(&bucket, key, terms).map(|way| bucket.entries[way].flow))
    }

    /// Adds a flow, or replaces the one with its key, as the programs would. Both ends want one that is
    /// established: it was learned from them.
    pub(super) fn set(
        &mut self,
        key: &FlowKey,
        flow: &Flow,
        terms: &Terms,
    ) -> Result<(), MapFault> {
        let (index, mut bucket) = self.bucket(key, terms)?;
        let tag = Spot::new(key, &terms.seed).tag();
        let second = flow::second(flow.last_seen, terms.rate);
        let way = bucket::place_for(&bucket, key, tag, second, Plain);
        if way >= FLOW_WAYS {
            // It has no place. Its next packet is judged by policy.
            return Ok(());
        }
        let deadline = flow::deadline(flow, key, terms.rate, &terms.lifetimes);
        let mut flow = *flow;
        if flow.state == FlowState::Established as u32 {
            flow.flags |= Flow::FLAG_WANTED;
        }
        bucket.tags[way] = tag;
        bucket.entries[way] = FlowEntry { key: *key, deadline, flow };
        self.buckets.set(index, &bucket, LOCKED).map_err(fault)
    }

    /// Forgets a flow.
    pub(super) fn remove(&mut self, key: &FlowKey, terms: &Terms) -> Result<(), MapFault> {
        let (index, mut bucket) = self.bucket(key, terms)?;
        let Some(way) = place_of(&bucket, key, terms) else { return Ok(()) };
        bucket::remove(&mut bucket, way);
        self.buckets.set(index, &bucket, LOCKED).map_err(fault)
    }

    /// All flows, also those whose time is over and whose place nobody has needed yet.
    pub(super) fn all(&self) -> Result<Vec<(FlowKey, Flow)>, MapFault> {
        let mut flows = Vec::new();
        self.walk(|entry| flows.push((entry.key, entry.flow)))?;
        Ok(flows)
    }

    /// How many [`Self::all`] are.
    pub(super) fn count(&self) -> Result<usize, MapFault> {
        let mut count = 0;
        self.walk(|_| count += 1)?;
        Ok(count)
    }

    fn walk(&self, mut visit: impl FnMut(&FlowEntry)) -> Result<(), MapFault> {
        for first in (0..FLOW_BUCKETS).step_by(CHUNK as usize) {
            for bucket in self.all.read(first, CHUNK)? {
                let places = bucket.tags.iter().zip(&bucket.entries);
                places.filter(|(tag, _)| **tag != 0).for_each(|(_, entry)| visit(entry));
            }
        }
        Ok(())
    }

    fn bucket(&self, key: &FlowKey, terms: &Terms) -> Result<(u32, FlowBucket), MapFault> {
        let index = Spot::new(key, &terms.seed).bucket(FLOW_BUCKETS);
        Ok((index, self.buckets.get(&index, LOCKED).map_err(fault)?))
    }
}

const _: () = assert!(FLOW_BUCKETS.is_multiple_of(CHUNK));

fn place_of(bucket: &FlowBucket, key: &FlowKey, terms: &Terms) -> Option<usize> {
    let tag = Spot::new(key, &terms.seed).tag();
    let way = bucket::find(&bucket.tags, tag);
    (bucket.entries.get(way)?.key == *key).then_some(way)
}

const fn fault(source: MapError) -> MapFault {
    MapFault::Access { table: "flows", source }
}
