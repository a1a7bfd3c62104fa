//! Which place in the kernel tables a pod has, and which incarnation of it is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sluice_common::abi::ENDPOINT_MAX;
use sluice_policy::model::PodName;

use super::discover::{Interface, Scan};

/// What tells one incarnation of a pod from the next of the same name: flows must not outlive it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incarnation {
    /// Creation time in seconds, as the source gives it.
    pub created: i64,
    /// Addresses, sorted.
    pub addresses: BTreeSet<IpAddr>,
    /// Host-side interfaces with the inode of their peer's namespace. Index or inode alone may be
    /// reused soon; both together with the address are not. The inode is 0 where no file leads to
    /// the namespace and no notes say.
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

    /// True if a pod created then and with these addresses is this one, perhaps with more of them.
    pub fn goes_on_in(&self, created: i64, addresses: &[IpAddr]) -> bool {
        self.created == created && self.addresses.iter().all(|own| addresses.contains(own))
    }

    /// Its interfaces that `scan` still sees, whatever addresses are on them now.
    pub fn still_there(&self, scan: &Scan) -> Vec<Interface> {
        let there = |(ifindex, inode): (&u32, &u64)| {
            Interface::still_there(*ifindex, *inode, &self.addresses, scan)
        };
        self.interfaces.iter().filter_map(there).collect()
    }

    /// True if `later` is the same incarnation, perhaps with more addresses: its flows go on. An inode
    /// of 0 was not known.
    fn goes_on_as(&self, later: &Self) -> bool {
        let same = |((a, inode), (b, later)): ((&u32, &u64), (&u32, &u64))| {
            a == b && (inode == later || *inode == 0 || *later == 0)
        };
        self.created == later.created
            && self.interfaces.len() == later.interfaces.len()
            && self.interfaces.iter().zip(&later.interfaces).all(same)
            && self.addresses.is_subset(&later.addresses)
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

/// A place that is nobody's, but that interfaces may still be led to: given up and not recycled yet,
/// or left in the kernel by an agent whose notes are lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lingering {
    /// Its epoch.
    pub epoch: u32,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The interfaces that lead to it.
    pub interfaces: BTreeSet<u32>,
}

/// The slot that no pod has for itself: those that find no place are closed in it together.
pub const CROWD_SLOT: u32 = ENDPOINT_MAX - 1;

/// All places are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("all {max} places in the endpoints table are taken", max = CROWD_SLOT - 1)]
pub struct NoPlace;

/// The places of this node's pods.
///
/// * An incarnation keeps slot and epoch. It is still the same when it gets a further address.
/// * Whoever else is found on the same interface takes over its slot, with an epoch of his own: the
///   interface need not be led elsewhere, so it is enforced without a gap.
/// * Otherwise a place that is given up is given to nobody before [`Slots::recycle`]: until then
///   the kernel may lead packets of an old interface to it.
#[derive(Clone, Debug, Default)]
pub struct Slots {
    places: BTreeMap<PodName, Place>,
    lingering: BTreeMap<u32, Lingering>,
    next_epoch: u32,
    reserved: Option<(PodName, u32)>,
}

impl Slots {
    /// From what a former agent noted and what the kernel holds. `next_epoch` must be above every
    /// epoch that was ever used with these tables.
    pub fn restore(
        places: BTreeMap<PodName, Place>,
        mut lingering: BTreeMap<u32, Lingering>,
        next_epoch: u32,
    ) -> Self {
        for place in places.values() {
            lingering.remove(&place.slot);
        }
        Self { places, lingering, next_epoch: next_epoch.max(1), reserved: None }
    }

    /// Keeps a slot for `pod`, whatever its incarnation, and says which.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn reserve(&mut self, pod: PodName) -> Result<u32, NoPlace> {
        let own = self.places.get(&pod).map(|place| place.slot);
        let slot = own.or_else(|| self.free()).ok_or(NoPlace)?;
        self.reserved = Some((pod, slot));
        Ok(slot)
    }

    /// The places, by pod.
    pub const fn places(&self) -> &BTreeMap<PodName, Place> {
        &self.places
    }

    /// The first epoch that was never used.
    pub const fn next_epoch(&self) -> u32 {
        self.next_epoch
    }

    /// The place of this incarnation of `pod`. To be called after [`Self::release`] of those who are
    /// gone, so that their interfaces' slots can be taken over.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn assign(&mut self, pod: &PodName, incarnation: Incarnation) -> Result<Place, NoPlace> {
        if let Some(place) = self.places.get_mut(pod)
            && place.incarnation.goes_on_as(&incarnation)
        {
            place.incarnation = incarnation;
            return Ok(place.clone());
        }
        self.release(pod);
        let (slot, epoch) = match self.take_over(&incarnation) {
            Some((slot, Some(epoch))) => (slot, epoch),
            Some((slot, None)) => (slot, self.new_epoch()),
            None => {
                let reserved = self.reserved.as_ref().filter(|(name, _)| name == pod);
                let slot = reserved.map(|(_, slot)| *slot);
                let slot = slot.filter(|slot| !self.is_taken(*slot)).or_else(|| self.free());
                (slot.ok_or(NoPlace)?, self.new_epoch())
            }
        };
        self.lingering.remove(&slot);
        let place = Place { slot, epoch, incarnation };
        self.places.insert(pod.clone(), place.clone());
        Ok(place)
    }

    /// The interfaces that the kernel leads to the place of exactly these addresses, which is nobody's
    /// by name; none where there is no such place.
    pub fn left_for(&self, addresses: &BTreeSet<IpAddr>) -> BTreeSet<u32> {
        let mut left = self.lingering.values().filter(|left| left.addresses == *addresses);
        left.next().map(|left| left.interfaces.clone()).unwrap_or_default()
    }

    /// Gives up the place of `pod`.
    pub fn release(&mut self, pod: &PodName) {
        if let Some(place) = self.places.remove(pod) {
            let interfaces = place.incarnation.interfaces.into_keys().collect();
            let left = Lingering { epoch: place.epoch, addresses: BTreeSet::new(), interfaces };
            self.lingering.insert(place.slot, left);
        }
    }

    /// The place of those who find none; it is the same one for as long as it is not released. `None`
    /// where a pod has it, which an agent of before gave it.
    pub fn crowd(&mut self, name: &PodName) -> Option<Place> {
        if let Some(place) = self.places.get(name) {
            return Some(place.clone());
        }
        if self.is_taken(CROWD_SLOT) {
            return None;
        }
        self.lingering.remove(&CROWD_SLOT);
        let (epoch, incarnation) = (self.new_epoch(), Incarnation::new(0, &[], &[]));
        let place = Place { slot: CROWD_SLOT, epoch, incarnation };
        self.places.insert(name.clone(), place.clone());
        Some(place)
    }

    /// Has the place of one pod under another name from now on.
    pub fn rename(&mut self, pod: &PodName, to: PodName) {
        if let Some(place) = self.places.remove(pod) {
            self.places.insert(to, place);
        }
    }

    /// Places that nobody has by name and that interfaces are led to, with the addresses that the
    /// kernel knows of them: left by an agent whose notes are lost.
    pub fn nameless(&self) -> impl Iterator<Item = &Lingering> {
        self.lingering.values().filter(|left| !left.addresses.is_empty())
    }

    fn is_taken(&self, slot: u32) -> bool {
        self.places.values().any(|place| place.slot == slot)
    }

    /// The kernel no longer leads any packet to places that were given up: they are free again.
    pub fn recycle(&mut self) {
        self.lingering.clear();
    }

    /// The slot that one of the interfaces is led to; with its epoch where that is the very same
    /// incarnation (an agent's whose notes are lost).
    fn take_over(&self, incarnation: &Incarnation) -> Option<(u32, Option<u32>)> {
        let shares = |left: &Lingering| {
            left.interfaces.iter().any(|ifindex| incarnation.interfaces.contains_key(ifindex))
        };
        let (slot, left) = self.lingering.iter().find(|(_, left)| shares(left))?;
        let same = left.addresses == incarnation.addresses
            && left.interfaces.iter().eq(incarnation.interfaces.keys());
        Some((*slot, same.then_some(left.epoch)))
    }

    fn free(&self) -> Option<u32> {
        let taken: BTreeSet<u32> = self.places.values().map(|place| place.slot).collect();
        let reserved = self.reserved.as_ref().map(|(_, slot)| *slot);
        (1..CROWD_SLOT).find(|slot| {
            !taken.contains(slot) && !self.lingering.contains_key(slot) && reserved != Some(*slot)
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
    fn a_further_address_is_the_same_incarnation_and_another_address_is_not() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        let mut more = incarnation(1, "10.0.0.1", 5);
        more.addresses.insert("fd00::1".parse().expect("an address"));
        let place = slots.assign(&pod("a"), more).expect("a place");
        assert_eq!((place.slot, place.epoch), (1, 1));
        let place = slots.assign(&pod("a"), incarnation(1, "10.0.0.7", 5)).expect("a place");
        assert_eq!((place.slot, place.epoch), (1, 2), "the interface stays led to its slot");
    }

    #[test]
    fn who_is_found_on_the_interface_of_another_takes_over_the_slot() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        slots.assign(&pod("z"), incarnation(1, "10.0.0.9", 9)).expect("a place");
        let old = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        slots.release(&pod("a"));
        let new = slots.assign(&pod("b"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        assert_eq!(new.slot, old.slot);
        assert_ne!(new.epoch, old.epoch);
    }

    #[test]
    fn places_survive_a_restart_with_notes_and_without() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        slots.assign(&pod("z"), incarnation(1, "10.0.0.9", 9)).expect("a place");
        let place = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");

        let mut noted = Slots::restore(slots.places().clone(), BTreeMap::new(), slots.next_epoch());
        assert_eq!(noted.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)), Ok(place.clone()));

        let left = Lingering {
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
        for i in 1..CROWD_SLOT {
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
    fn a_reserved_slot_is_its_pods_alone() {
        let mut slots = Slots::restore(BTreeMap::new(), BTreeMap::new(), 1);
        assert_eq!(slots.reserve(pod("a")), Ok(1));
        let other = slots.assign(&pod("b"), incarnation(1, "10.0.0.2", 6)).expect("a place");
        assert_eq!(other.slot, 2);
        let place = slots.assign(&pod("a"), incarnation(1, "10.0.0.1", 5)).expect("a place");
        assert_eq!(place.slot, 1);
        let next = slots.assign(&pod("a"), incarnation(2, "10.0.0.1", 7)).expect("a place");
        assert_eq!(next.slot, 1, "the trace follows the pod to its next incarnation");
        assert_ne!(next.epoch, place.epoch);
    }
}
