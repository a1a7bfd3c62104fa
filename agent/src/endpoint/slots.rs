//! Which place in the kernel tables a pod has, and which incarnation of it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sluice_common::abi::ENDPOINT_MAX;
use sluice_policy::model::PodName;

use super::discover::Interface;

/// What tells one incarnation of a pod from the next of the same name: flows must not outlive it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Creation time in seconds, as the source gives it.
    pub created: i64,
    /// Addresses, sorted.
    pub addresses: BTreeSet<IpAddr>,
    /// Host-side interfaces with the inode of their peer's namespace. Index or inode alone may be
    /// reused soon; both together with the address are not.
    pub interfaces: BTreeMap<u32, u64>,
}

impl Incarnation {
    /// Of a pod that was found on `interfaces`.
    pub fn new(created: i64, addresses: &[IpAddr], interfaces: &[Interface]) -> Self {
        Self {
            created,
            addresses: addresses.iter().copied().collect(),
            interfaces: interfaces.iter().map(|i| (i.ifindex, i.netns.inode)).collect(),
        }
    }
}

/// A pod's place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Index into `endpoints`, above 0.
    pub slot: u32,
    /// Number of the incarnation, never given to another.
    pub epoch: u32,
    /// The incarnation.
    pub incarnation: Incarnation,
}

/// An element of `endpoints` that a former agent left and no pod has claimed yet: what is known when
/// its notes are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unclaimed {
    /// Its epoch.
    pub epoch: u32,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The interfaces that lead to it.
    pub interfaces: BTreeSet<u32>,
}

/// All places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {max} places in the endpoints table are taken", max = ENDPOINT_MAX - 1)]
pub struct NoPlace;

/// The places of this node's pods. A place that is given up is given to nobody else before
/// [`Slots::recycle`]: until then the kernel may still lead packets to it.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    places: BTreeMap<PodName, Place>,
    leaving: BTreeSet<u32>,
    unclaimed: BTreeMap<u32, Unclaimed>,
    next_epoch: u32,
    reserved: Option<(PodName, u32)>,
}

impl Slots {
    /// From what a former agent noted and what the kernel holds. `next_epoch` must be above every
    /// epoch that was ever used with these tables.
    pub fn restore(
        places: BTreeMap<PodName, Place>,
        mut unclaimed: BTreeMap<u32, Unclaimed>,
        next_epoch: u32,
    ) -> Self {
        for place in places.values() {
            unclaimed.remove(&place.slot);
        }
        let next_epoch = next_epoch.max(1);
        Self { places, unclaimed, next_epoch, ..Self::default() }
    }

    /// Keeps `slot` for `pod`, whatever its incarnation.
    pub fn reserve(&mut self, pod: PodName, slot: u32) {
        self.reserved = Some((pod, slot));
    }

    /// The places, by pod.
    pub const fn places(&self) -> &BTreeMap<PodName, Place> {
        &self.places
    }

    /// The first epoch that was never used.
    pub const fn next_epoch(&self) -> u32 {
        self.next_epoch
    }

    /// The place of this incarnation of `pod`: the one it has, else the one that a former agent gave
    /// to the same addresses and interfaces, else a new one.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn assign(&mut self, pod: &PodName, incarnation: Incarnation) -> Result<Place, NoPlace> {
        let reserved = self.reserved_for(pod);
        if let Some(place) = self.places.get(pod)
            && place.incarnation == incarnation
            && reserved.is_none_or(|slot| slot == place.slot)
        {
            return Ok(place.clone());
        }
        // A pod that only moves to its reserved slot stays the same incarnation, with its flows.
        let kept = self.places.get(pod).filter(|place| place.incarnation == incarnation);
        let epoch = kept.map(|place| place.epoch);
        self.release(pod);
        let place = match self.claim(&incarnation) {
            Some((slot, epoch)) if reserved.is_none_or(|reserved| reserved == slot) => {
                Place { slot, epoch, incarnation }
            }
            _ => {
                let slot = reserved.or_else(|| self.free()).ok_or(NoPlace)?;
                Place { slot, epoch: epoch.unwrap_or_else(|| self.new_epoch()), incarnation }
            }
        };
        self.leaving.remove(&place.slot);
        self.places.insert(pod.clone(), place.clone());
        Ok(place)
    }

    /// Gives up the place of `pod`.
    pub fn release(&mut self, pod: &PodName) {
        if let Some(place) = self.places.remove(pod) {
            self.leaving.insert(place.slot);
        }
    }

    /// The kernel no longer leads any packet to places that were given up: they are free again.
    /// Unclaimed ones, too, once all pods are known.
    pub fn recycle(&mut self) {
        self.leaving.clear();
        self.unclaimed.clear();
    }

    fn reserved_for(&self, pod: &PodName) -> Option<u32> {
        self.reserved.as_ref().filter(|(name, _)| name == pod).map(|(_, slot)| *slot)
    }

    fn claim(&mut self, incarnation: &Incarnation) -> Option<(u32, u32)> {
        let slot = self.unclaimed.iter().find_map(|(slot, left)| {
            let same = left.addresses == incarnation.addresses
                && left.interfaces.iter().eq(incarnation.interfaces.keys());
            same.then_some(*slot)
        })?;
        self.unclaimed.remove(&slot).map(|left| (slot, left.epoch))
    }

    fn free(&self) -> Option<u32> {
        let taken: BTreeSet<u32> = self.places.values().map(|place| place.slot).collect();
        let reserved = self.reserved.as_ref().map(|(_, slot)| *slot);
        (1..ENDPOINT_MAX).find(|slot| {
            !taken.contains(slot)
                && !self.leaving.contains(slot)
                && !self.unclaimed.contains_key(slot)
                && reserved != Some(*slot)
        })
    }

    fn new_epoch(&mut self) -> u32 {
        let epoch = self.next_epoch;
        // 4 billion pods on one node: a wrap would only let a flow of the first meet the last.
        self.next_epoch = self.next_epoch.checked_add(1).unwrap_or(1);
        epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodName {
        PodName { namespace: "x".into(), name: name.into() }
    }

    fn incarnation(created: i64, address: &str, ifindex: u32) -> Incarnation {
        Incarnation {
            created,
            addresses: [address.parse().expect("an address")].into(),
            interfaces: [(ifindex, 77)].into(),
        }
    }

    #[test]
    fn the_same_incarnation_keeps_its_place_and_the_next_gets_another() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        let first = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        assert_eq!((first.slot, first.epoch), (1, 1));
        let again = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        assert_eq!(again, first);
        let next = slots.assign(&pod("a"), incarnation(2, "10.0.0.1", 6)).expect("a place");
        assert_eq!((next.slot, next.epoch), (2, 2), "the old slot may still be in use");
        slots.recycle();
        let other = slots.assign(&pod("b"), incarnation(2, "10.0.0.2", 7)).expect("a place");
        assert_eq!((other.slot, other.epoch), (1, 3));
    }

    #[test]
    fn places_survive_a_restart_with_notes_and_without() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        slots.assign(&pod("z"), incarnation(1, "10.0.0.9", 9)).expect("a place");
        let place = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");

        let mut noted = Slots::restore(slots.places().clone(), BTreeMap::new(), slots.next_epoch());
        assert_eq!(noted.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)), Ok(place.clone()));

        let left = Unclaimed {
            epoch: place.epoch,
            addresses: place.incarnation.addresses.clone(),
            interfaces: [5].into(),
        };
        let mut lost = Slots::restore(BTreeMap::new(), [(place.slot, left)].into(), 3);
        let found = lost.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        assert_eq!((found.slot, found.epoch), (place.slot, place.epoch));
        let new = lost.assign(&pod("b"), incarnation(1, "10.0.0.2", 6)).expect("a place");
        assert_eq!((new.slot, new.epoch), (1, 3));
    }

    #[test]
    fn when_all_places_are_taken_the_next_pod_gets_none() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        for i in 1..ENDPOINT_MAX {
            slots.assign(&pod(&i.to_string()), incarnation(1, "10.0.0.1", i)).expect("a place");
        }
        assert_eq!(slots.assign(&pod("late"), incarnation(1, "10.0.0.2", 5000)), Err(NoPlace));
        slots.release(&pod("7"));
        assert_eq!(slots.assign(&pod("late"), incarnation(1, "10.0.0.2", 5000)), Err(NoPlace));
        slots.recycle();
        let late = slots.assign(&pod("late"), incarnation(1, "10.0.0.2", 5000)).expect("a place");
        assert_eq!(late.slot, 7);
    }

    #[test]
    fn a_reserved_slot_is_its_pods_alone_and_moving_there_keeps_the_epoch() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        let before = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        slots.reserve(pod("a"), 2);
        let other = slots.assign(&pod("b"), incarnation(1, "10.0.0.2", 6)).expect("a place");
        assert_eq!(other.slot, 3);
        let after = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        assert_eq!((after.slot, after.epoch), (2, before.epoch));
    }
}
