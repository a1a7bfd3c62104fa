//! The flow table, an array of buckets (see `sluice_common::bucket`), each with a lock.
//!
//! In its place there were two LRU hashes, one for flows that both ends want and one for the rest.
//! Measured beside each other in one hour (nanoseconds over an empty program; the least of 25 rounds on
//! a machine under load; 1 and 100,000 peers):
//!
//! | | established | denied | new |
//! |---|---|---|---|
//! | two LRU hashes | 61, 59 | 184, 183 | 678, 968 |
//! | buckets whose times and owners stand apart from the flows | 71, 79 | 137, 146 | 522, 586 |
//! | these buckets, all tags looked at, three times for a new flow | 56, 67 | 145, 143 | 454, 540 |
//! | tags looked at up to the first free place, twice | 58, 56 | 117, 128 | 345, 496 |
//!
//! (The second line is of medians.)
//!
//! A new flow is one look at a bucket's tags and a write beside them, where it was two look-ups and an
//! insertion in two tables; memory is 32 MiB instead of 48. A denied packet, which finds no flow either,
//! saves two misses. What the flow's own packets write is a flow's time, once a second on each CPU: nothing
//! that CPUs share is written for every packet, so that what a packet costs does not depend on their
//! number: the rest are per-CPU tables. Two CPUs with packets of one flow at once take 87 ns for each, where
//! one alone takes 85 (test `two_cores`); with 64 a flow's bucket is written 64 times a second at most. The
//! lock is taken by packets that the cache `recent` does not answer: those of flows that one end alone
//! wants, and one a second of any other.
//!
//! How many peers there are costs a new flow nothing; that each flow comes from another peer does. Of
//! 100,000 in the table, 64 in use cost 330 to 346 ns, one alone 336, and 50,000 in turn 478 to 488 (least
//! of 11 rounds, the programs as they are, load 10): the look-up's two lines in the table `peers`, the
//! hash's own and the element's, are in no cache then, nor are their pages in the translation buffer, at
//! some 70 ns for each. Tried against that: touching the flow's bucket and asking for the peer before the
//! flow is looked for, so that the processor waits for both at once. It saves 10 to 17 ns of 480, and costs
//! each packet of a flow that only one end wants a look-up of 30 ns. What would help is to keep the peers
//! as the flows are, with a line to a look-up.
//!
//! Nor does it help to keep the tags in a table of their own, 2 MiB instead of 32: the first look at a
//! bucket's tags is half of what a new flow costs either way (new 344 ns against 353, least of 5 x 11
//! rounds), a wait for memory that nobody has looked at for long.
//!
//! Tried for the LRU hashes, and of no help: a list per CPU (`BPF_F_NO_COMMON_LRU`), whose size would
//! also depend on the number of CPUs. A plain hash cannot make room by itself: user space would have to
//! sweep it, and could not say for whom.

use core::arch::asm;

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_jiffies64, bpf_spin_lock, bpf_spin_unlock};
use sluice_common::abi::capacity::FLOW_BUCKETS;
use sluice_common::abi::{
    CONTROL_INDEX, FLOW_WAYS, Flow, FlowBucket, FlowEntry, FlowKey, Lifetimes,
};
use sluice_common::bucket::{self, Blur as _, Spot};
use sluice_common::flow::{self as track, Clock};

use crate::{maps, recent, words};

/// Jiffies per second (the kernel's HZ), set at load.
#[unsafe(no_mangle)]
static TICK_RATE: Global<u32> = Global::new(250);

/// The time now.
#[inline(always)]
pub(crate) fn clock() -> Clock {
    // SAFETY: the helper has no preconditions.
    Clock { now: unsafe { bpf_jiffies64() }, rate: TICK_RATE.load() }
}

/// How long flows are remembered. There always is the table's only element; if it were missing, none
/// would be.
#[inline(always)]
pub(crate) fn lifetimes() -> Lifetimes {
    maps::CONTROL.get(CONTROL_INDEX).map_or(Lifetimes::default(), |control| control.lifetimes)
}

/// Where the flow with this key is to be looked for.
#[inline(always)]
pub(crate) fn spot(key: &FlowKey) -> Spot {
    match maps::CONTROL.get(CONTROL_INDEX) {
        Some(control) => Spot::new(key, &control.hash_seed),
        // There always is the table's only element.
        None => Spot::default(),
    }
}

/// A flow in the table.
pub(crate) struct Place {
    bucket: Bucket,
    /// Below [`FLOW_WAYS`].
    way: usize,
    /// As it was found.
    pub(crate) flow: Flow,
}

/// A bucket of the table, which stays.
#[derive(Clone, Copy)]
struct Bucket(*mut FlowBucket);

impl Bucket {
    #[inline(always)]
    fn of(spot: Spot) -> Option<Self> {
        maps::FLOWS.get_ptr_mut(spot.bucket(FLOW_BUCKETS)).map(Self)
    }

    /// Takes the lock. No function may be called until it is given back, by [`Self::unlock`] and on every
    /// way; nor, therefore, may what happens meanwhile be a closure.
    #[inline(always)]
    fn lock(self) {
        // SAFETY: the lock is the element's first field.
        unsafe { bpf_spin_lock(self.0.cast()) };
    }

    /// See [`Self::lock`].
    #[inline(always)]
    fn unlock(self) {
        // SAFETY: as in `lock`.
        unsafe { bpf_spin_unlock(self.0.cast()) };
    }

    /// The place of the flow with this tag, or [`FLOW_WAYS`] or more, while other CPUs may be writing
    /// tags. As [`bucket::find`] looks for it.
    #[inline(always)]
    fn way(self, tag: u32) -> usize {
        let mut found = FLOW_WAYS;
        for way in 0..FLOW_WAYS {
            // SAFETY: within the element; an aligned word.
            let its = unsafe { self.tags().wrapping_add(way).read_volatile() };
            if its == tag {
                found = way;
                break;
            }
            if its == 0 {
                break;
            }
        }
        Blur(tag).blur(found as u64) as usize
    }

    #[inline(always)]
    fn tags(self) -> *mut u32 {
        // SAFETY: a field of the element.
        unsafe { (&raw mut (*self.0).tags).cast() }
    }

    #[inline(always)]
    fn entry(self, way: usize) -> *mut FlowEntry {
        // SAFETY: as above.
        let entries: *mut FlowEntry = unsafe { (&raw mut (*self.0).entries).cast() };
        entries.wrapping_add(way)
    }

    /// True if the place is the flow's. To be called under the lock.
    #[inline(always)]
    fn is_of(self, way: usize, key: &FlowKey) -> bool {
        // SAFETY: within the element; under the lock nobody writes it.
        unsafe { (*self.entry(way)).key == *key }
    }
}

/// Numbers without what the verifier knows of them: mixed twice with this one, of which it knows nothing.
#[derive(Clone, Copy)]
pub(crate) struct Blur(pub(crate) u32);

impl bucket::Blur for Blur {
    #[inline(always)]
    fn blur(self, value: u64) -> u64 {
        let mut value = value;
        // SAFETY: arithmetic on registers only.
        unsafe {
            asm!(
                "{value} ^= {key}",
                "{value} ^= {key}",
                value = inout(reg) value,
                key = in(reg) u64::from(self.0),
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value
    }
}

/// The place, if it is one of a bucket's.
///
/// The compiler may compare one register and go on with a copy made before, of which Linux 5.10 knows no
/// bound. So what it goes on with is compared once more where it cannot come between. (The branch that
/// is never taken is the verifier's last, and adds nothing to what it has seen by then.)
#[inline(always)]
fn checked(way: usize) -> Option<usize> {
    if way >= FLOW_WAYS {
        return None;
    }
    let mut way = way as u64;
    // SAFETY: arithmetic on a register only, and jumps within these instructions.
    unsafe {
        asm!(
            "if {way} > {last} goto +1",
            "goto +1",
            "{way} = 0",
            way = inout(reg) way,
            last = const FLOW_WAYS - 1,
            options(pure, nomem, nostack),
        );
    }
    Some(way as usize)
}

/// Looks a flow up.
#[inline(always)]
pub(crate) fn find(key: &FlowKey, spot: Spot) -> Option<Place> {
    let bucket = Bucket::of(spot)?;
    let tag = spot.tag();
    let way = checked(bucket.way(tag))?;
    bucket.lock();
    // SAFETY: within the element; under the lock nobody writes it.
    let flow = unsafe { (*bucket.entry(way)).flow };
    let is_it = bucket.is_of(way, key);
    bucket.unlock();
    is_it.then_some(Place { bucket, way, flow })
}

impl Place {
    /// Writes what a packet has changed; nothing where nothing has, as for most packets.
    #[inline(always)]
    pub(crate) fn set(&self, key: &FlowKey, next: &Flow) {
        let Self { bucket, way, flow: before } = self;
        if next == before {
            return;
        }
        let deadline = track::deadline(next, key, TICK_RATE.load(), &lifetimes());
        bucket.lock();
        // SAFETY: within the element; under the lock nobody else writes it.
        let entry = unsafe { &mut *bucket.entry(*way) };
        // Another flow may have taken the place meanwhile. And what has ended on another CPU since it was
        // read is not begun again with what was known before.
        if bucket.is_of(*way, key) && !track::ended_meanwhile(before, &entry.flow, next) {
            // What another CPU has seen meanwhile stays seen.
            let since = entry.flow.flags & !before.flags;
            let flags = next.flags | since & track::BOTH_CLOSED;
            entry.deadline = deadline;
            entry.flow = Flow { flags, ..*next };
        }
        bucket.unlock();
    }
}

/// What became of a flow that was to be added.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Added {
    /// The table did not take it.
    No,
    /// It is there.
    Yes,
    /// It is there instead of another that lives and that both ends want.
    Displacing,
}

/// Adds a flow, or replaces the one that has its key.
#[inline(always)]
pub(crate) fn insert(key: &FlowKey, flow: &Flow, spot: Spot, clock: Clock) -> Added {
    let Some(bucket) = Bucket::of(spot) else { return Added::No };
    let tag = spot.tag();
    let second = track::second(clock.now, clock.rate);
    let deadline = track::deadline(flow, key, clock.rate, &lifetimes());
    bucket.lock();
    // SAFETY: the element is whole, and under the lock nobody else writes it.
    let way = bucket::place_for(unsafe { &*bucket.0 }, key, tag, second, Blur(tag));
    let mut added = Added::No;
    if let Some(way) = checked(way) {
        // SAFETY: within the element, as just checked; under the lock nobody else writes it.
        unsafe { bucket.tags().wrapping_add(way).write_volatile(tag) };
        // SAFETY: as above; the tags are beside the entries.
        let entry = unsafe { &mut *bucket.entry(way) };
        let displaces = bucket::displaces(entry, key, second);
        added = if displaces { Added::Displacing } else { Added::Yes };
        // SAFETY: room for a key, which has no padding.
        unsafe { words::copy::<_, u32>(key, &raw mut entry.key) };
        entry.deadline = deadline;
        // SAFETY: room for a flow, which has no padding.
        unsafe { words::copy::<_, u64>(flow, &raw mut entry.flow) };
    }
    bucket.unlock();
    recent::forget(key);
    added
}
