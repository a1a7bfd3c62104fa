//! Where a flow lies in the table `flows`, and which flow gives way to another.
//!
//! The table is an array of buckets of 15 places. A flow is in the bucket that the hash of its key
//! names, or nowhere: finding it, or a place for it, is one look at the bucket's first lines. A flow
//! that is over is not found as a flow, and its place is taken first; so nothing has to sweep the table,
//! and its memory is what it was made with.
//!
//! When a bucket is full of flows that live, the one that gives way is, in this order:
//!
//! 1. one that both ends do not want (yet, or any more), of the same pod;
//! 2. such a one of the pod that has more than half of the bucket, if one has;
//! 3. any other of that pod;
//! 4. one that both ends do not want, of anybody;
//! 5. any other,
//!
//! and of several, the one whose time is over first. So whoever floods a pod replaces flows of the flood;
//! and a pod that fills the table with connections makes room for everybody else's. What that comes to
//! stands in the tests below, and in `a_flood_of_first_packets_ends_no_flow_that_stands`.
//!
//! Flows fall into buckets as numbers drawn at random do, so some are full long before the table is. Of
//! flows that all live and are wanted, one gives way for each that comes, in the long run and of those that
//! the table is asked to hold, at 131,072 (four to a bucket) in 0.0002 %, at 196,608 in 0.013 %, at 262,144
//! in 0.2 %, at 327,680 in 1 %, and at all 491,520 places in 10 %. Each is counted, as `flow-displaced`.

use crate::abi::{FLOW_WAYS, Flow, FlowBucket, FlowEntry, FlowKey};
use crate::hash::{self, Seed};

/// Where the flow with a key is to be looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    hash: u64,
}

impl Spot {
    /// Of a key, with [`crate::abi::Control::hash_seed`]: who does not know that cannot find keys that fall
    /// into one bucket.
    #[inline(always)]
    pub const fn new(key: &FlowKey, seed: &Seed) -> Self {
        let FlowKey { remote, epoch, local_port_be, remote_port_be, protocol } = *key;
        let [a, b, c, d] = remote.words();
        let ports = (local_port_be as u32) << 16 | remote_port_be as u32;
        Self { hash: hash::of_eight([a, b, c, d, epoch, ports, protocol, 0], seed) }
    }

    /// The bucket, of `count`, a power of two above 1.
    #[inline(always)]
    pub const fn bucket(self, count: u32) -> u32 {
        (self.hash >> (64 - count.trailing_zeros())) as u32
    }

    /// What tells the flow from others in its bucket, never 0; from nearly all: see [`place_for`].
    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.hash >> 12) as u32 | 1
    }
}

/// Gives back what it is given. In the kernel, without what the verifier knows of it: see
/// [`crate::parse::Bytes::blur`].
pub trait Blur: Copy {
    /// The same value.
    #[inline(always)]
    fn blur(self, value: u64) -> u64 {
        value
    }
}

/// Nothing is to be hidden from anybody.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

impl Blur for Plain {}

/// The place of the flow with this tag, or else the first free one; [`FLOW_WAYS`] where there is neither.
/// Places are taken in their order, and none is free before one that is taken.
#[inline(always)]
pub const fn find(tags: &[u32; FLOW_WAYS], tag: u32) -> usize {
    let mut way = 0;
    while way < FLOW_WAYS && tags[way] != tag && tags[way] != 0 {
        way += 1;
    }
    way
}

/// Empties a place; the last that is taken moves there.
pub fn remove(bucket: &mut FlowBucket, way: usize) {
    let taken = bucket.tags.iter().take_while(|tag| **tag != 0).count();
    if way < taken {
        bucket.tags[way] = bucket.tags[taken - 1];
        bucket.entries[way] = bucket.entries[taken - 1];
        bucket.tags[taken - 1] = 0;
        bucket.entries[taken - 1] = FlowEntry::default();
    }
}

/// The place that a new flow takes: its own, if it has one; a free one; or that of the flow which gives
/// way to it. `second` is now.
///
/// [`FLOW_WAYS`] where a flow that lives has the same tag, as one of two thousand million has: it cannot be
/// told from the new one by who looks for tags, and does not give way for that.
#[inline(always)]
pub fn place_for(
    bucket: &FlowBucket,
    key: &FlowKey,
    tag: u32,
    second: u32,
    blur: impl Blur,
) -> usize {
    let own_or_free = blur.blur(find(&bucket.tags, tag) as u64) as usize;
    if own_or_free < FLOW_WAYS {
        let entry = &bucket.entries[own_or_free];
        let is_others = bucket.tags[own_or_free] == tag && entry.key != *key;
        return if is_others && entry.deadline >= second { FLOW_WAYS } else { own_or_free };
    }
    let most = majority(bucket, blur);
    let mut worst = u64::MAX;
    for (way, entry) in bucket.entries.iter().enumerate() {
        let lives = blur.blur(is_below(entry.deadline, second, blur).wrapping_sub(1));
        let rank = rank(entry, key.epoch, most, blur) & lives;
        let score = rank << 36 | u64::from(entry.deadline) << 4 | way as u64;
        if score < worst {
            worst = score;
        }
        worst = blur.blur(worst);
    }
    worst as usize & 0xf
}

/// True where a flow that lives, and that both ends want, gives way to the one with this key.
#[inline(always)]
pub fn displaces(gives_way: &FlowEntry, key: &FlowKey, second: u32) -> bool {
    let is_wanted = gives_way.flow.flags & Flow::FLAG_WANTED != 0;
    is_wanted && gives_way.deadline >= second && gives_way.key != *key
}

/// How soon a flow that lives gives way to one of the pod of `epoch`; the pod of `most` has most of the
/// bucket.
#[inline(always)]
fn rank(entry: &FlowEntry, epoch: u32, most: u32, blur: impl Blur) -> u64 {
    /// Four bits each, the first lowest: by whether both ends want it, whether it is of the pod with
    /// most, and whether of the same pod.
    const RANKS: u64 = 0x3355_1214;
    let of = entry.key.epoch;
    let is_wanted = u64::from(entry.flow.flags & Flow::FLAG_WANTED != 0);
    let index = is_wanted << 2 | is_same(of, most, blur) << 1 | is_same(of, epoch, blur);
    RANKS >> (4 * index) & 0xf
}

/// The pod that has more than half of a full bucket; 0, which is no pod's epoch, where none has.
#[inline(always)]
fn majority(bucket: &FlowBucket, blur: impl Blur) -> u32 {
    // Boyer and Moore's vote leaves one that alone can have it.
    let (mut candidate, mut votes) = (0, 0);
    for entry in &bucket.entries {
        let change = blur.blur(0_u64.wrapping_sub(is_same(votes, 0, blur))) as u32;
        candidate = (entry.key.epoch & change) | (candidate & !change);
        votes = (votes + 2 * is_same(entry.key.epoch, candidate, blur) as u32).wrapping_sub(1);
    }
    let mut count = 0;
    for entry in &bucket.entries {
        count += is_same(entry.key.epoch, candidate, blur);
    }
    if blur.blur(count) > FLOW_WAYS as u64 / 2 { candidate } else { 0 }
}

/// 1 if they are equal, else 0. Without a branch, which would double what the verifier has to look at.
#[inline(always)]
fn is_same(one: u32, other: u32, blur: impl Blur) -> u64 {
    blur.blur(u64::from(one ^ other)).wrapping_sub(1) >> 63
}

/// 1 if the one is below the other, else 0. Without a branch, too.
#[inline(always)]
fn is_below(one: u32, other: u32, blur: impl Blur) -> u64 {
    blur.blur(u64::from(one)).wrapping_sub(u64::from(other)) >> 63
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;
    use crate::abi::Address;
    use crate::hash::SEED_WORDS;

    fn key(epoch: u32, number: u32) -> FlowKey {
        let remote = Address::from_v4_word(number);
        FlowKey { remote, epoch, local_port_be: 80, remote_port_be: 1, protocol: 6 }
    }

    const SEED: Seed = seed(1);

    /// Words without a pattern, another ten for each number.
    const fn seed(number: u32) -> Seed {
        let mut seed = [0; SEED_WORDS];
        let mut word = 0;
        while word < SEED_WORDS {
            let mixed = (number * 10 + word as u32).wrapping_mul(0x9e37_79b1);
            seed[word] = (mixed ^ mixed >> 15).wrapping_mul(0x85eb_ca77) ^ mixed >> 13;
            word += 1;
        }
        seed
    }

    /// A bucket to which flows are added as the programs do.
    #[derive(Default)]
    struct Bucket(FlowBucket);

    impl Bucket {
        fn add(&mut self, key: &FlowKey, is_wanted: bool, second: u32, lifetime: u32) {
            let tag = Spot::new(key, &SEED).tag();
            let way = place_for(&self.0, key, tag, second, Plain);
            let flags = if is_wanted { Flow::FLAG_WANTED } else { 0 };
            let flow = Flow { flags, ..Flow::default() };
            self.0.tags[way] = tag;
            self.0.entries[way] = FlowEntry { key: *key, deadline: second + lifetime, flow };
        }

        fn has(&self, key: &FlowKey) -> bool {
            let tag = Spot::new(key, &SEED).tag();
            self.0.tags.get(find(&self.0.tags, tag)) == Some(&tag)
        }
    }

    const FLOODED: u32 = 1;
    const OTHER: u32 = 2;
    const THIRD: u32 = 3;

    #[test]
    fn one_endpoint_cannot_crowd_out_another() {
        let mut bucket = Bucket::default();
        let standing = [key(FLOODED, 1), key(OTHER, 2)];
        standing.iter().for_each(|key| bucket.add(key, true, 0, 1000));
        let mut opening = Vec::new();
        for second in 0..400 {
            (0..50)
                .for_each(|n| bucket.add(&key(FLOODED, 100 + second * 50 + n), false, second, 60));
            if second % 100 == 0 {
                opening = std::vec![key(OTHER, 3 + second), key(THIRD, 4 + second)];
                opening.iter().for_each(|key| bucket.add(key, false, second, 60));
            }
            if second % 100 < 60 {
                assert!(opening.iter().all(|key| bucket.has(key)), "an opening flow, at {second}");
            }
            assert!(standing.iter().all(|key| bucket.has(key)), "a flow that stands, at {second}");
        }
    }

    #[test]
    fn an_endpoint_that_fills_a_bucket_with_wanted_flows_makes_room_for_others() {
        let mut bucket = Bucket::default();
        let hog: Vec<FlowKey> = (0..FLOW_WAYS as u32).map(|n| key(FLOODED, n)).collect();
        (0..).zip(&hog).for_each(|(second, key)| bucket.add(key, true, second, 1000));
        let others = [key(OTHER, 1), key(THIRD, 1)];
        others.iter().for_each(|key| bucket.add(key, false, 20, 60));
        assert!(others.iter().all(|key| bucket.has(key)));
        // Those that were silent longest went, and no others.
        assert!(hog[..2].iter().all(|key| !bucket.has(key)));
        assert!(hog[2..].iter().all(|key| bucket.has(key)));
    }

    /// Where nobody has most of the bucket, what would be over soonest anyway goes, whoever's it is.
    #[test]
    fn a_long_lived_flow_does_not_give_way_before_short_ones() {
        let mut bucket = Bucket::default();
        (0..7).for_each(|n| bucket.add(&key(OTHER, n), true, 0, 180));
        (0..7).for_each(|n| bucket.add(&key(THIRD, n), true, 1, 180));
        bucket.add(&key(FLOODED, 0), true, 0, 432_000);
        bucket.add(&key(FLOODED, 1), false, 10, 60);
        assert!(bucket.has(&key(FLOODED, 0)) && bucket.has(&key(FLOODED, 1)));
        let gone = (0..7).filter(|n| !bucket.has(&key(OTHER, *n))).count();
        assert_eq!(gone, 1);
    }

    #[test]
    fn only_a_wanted_flow_of_another_that_lives_is_displaced() {
        let wanted = Flow { flags: Flow::FLAG_WANTED, ..Flow::default() };
        let entry = FlowEntry { key: key(OTHER, 1), deadline: 10, flow: wanted };
        assert!(displaces(&entry, &key(FLOODED, 1), 10));
        assert!(!displaces(&entry, &key(FLOODED, 1), 11), "it was over");
        assert!(!displaces(&entry, &key(OTHER, 1), 10), "it is its own");
        let entry = FlowEntry { flow: Flow::default(), ..entry };
        assert!(!displaces(&entry, &key(FLOODED, 1), 10), "nobody wants it");
    }

    #[test]
    fn what_is_over_goes_before_what_lives() {
        let mut bucket = Bucket::default();
        bucket.add(&key(OTHER, 1), true, 0, 10);
        (0..14).for_each(|n| bucket.add(&key(FLOODED, n), false, 0, 60));
        bucket.add(&key(FLOODED, 99), false, 11, 60);
        assert!(!bucket.has(&key(OTHER, 1)), "it was over");
        assert!((0..14).all(|n| bucket.has(&key(FLOODED, n))));
    }

    #[test]
    fn a_flow_that_has_a_place_keeps_it() {
        let mut bucket = Bucket::default();
        (0..15).for_each(|n| bucket.add(&key(FLOODED, n), false, 0, 60));
        bucket.add(&key(FLOODED, 7), false, 1, 60);
        assert!((0..15).all(|n| bucket.has(&key(FLOODED, n))));
    }

    #[test]
    fn no_place_is_free_before_one_that_is_taken() {
        let mut bucket = Bucket::default();
        (0..5).for_each(|n| bucket.add(&key(OTHER, n), false, 0, 60));
        let way = find(&bucket.0.tags, Spot::new(&key(OTHER, 1), &SEED).tag());
        remove(&mut bucket.0, way);
        assert!([0, 2, 3, 4].iter().all(|n| bucket.has(&key(OTHER, *n))));
        assert!(!bucket.has(&key(OTHER, 1)));
        assert!(bucket.0.tags[..4].iter().all(|tag| *tag != 0));
        assert!(bucket.0.tags[4..].iter().all(|tag| *tag == 0));
        (0..4).for_each(|_| remove(&mut bucket.0, 0));
        remove(&mut bucket.0, 0);
        assert_eq!(bucket.0, FlowBucket::default());
    }

    /// Keys that differ in one field fall into buckets as evenly as numbers drawn at random would.
    #[test]
    fn neighbouring_keys_are_spread() {
        const BUCKETS: u32 = 1024;
        const KEYS: u32 = BUCKETS * 8;
        let ports = |n: u32| FlowKey { local_port_be: (n as u16).to_be(), ..key(1, 5) };
        let remote_ports = |n: u32| FlowKey { remote_port_be: (n as u16).to_be(), ..key(1, 5) };
        let addresses = |n: u32| key(1, (0x0a00_0000 + n).to_be());
        let epochs = |n: u32| key(n, 5);
        let fields: [&dyn Fn(u32) -> FlowKey; 4] = [&ports, &remote_ports, &addresses, &epochs];
        for (number, field) in fields.iter().enumerate() {
            for seed in (0..50).map(seed) {
                let mut load = [0_u32; BUCKETS as usize];
                for n in 0..KEYS {
                    load[Spot::new(&field(n), &seed).bucket(BUCKETS) as usize] += 1;
                }
                // The mean is 8, the standard deviation 2.8; drawn at random, the fullest has about 19.
                let fullest = load.iter().max().copied().unwrap_or_default();
                assert!(fullest <= 26, "field {number}, {seed:?}: {fullest} in one bucket");
            }
        }
    }

    #[test]
    fn the_seed_says_which_keys_share_a_bucket() {
        let bucket = |n, number| Spot::new(&key(1, n), &seed(number)).bucket(1024);
        let shared = |number| {
            (1..100_000).filter(|&n| bucket(n, number) == bucket(0, number)).collect::<Vec<u32>>()
        };
        let (one, other) = (shared(1), shared(2));
        let both = one.iter().filter(|n| other.contains(n)).count();
        assert!(!one.is_empty() && both * 10 < one.len(), "{both} of {}", one.len());
    }

    /// Words of an address.
    fn words(text: &str) -> [u32; 4] {
        Address::from(text.parse::<std::net::IpAddr>().expect("an address")).words()
    }

    /// Keys whose difference the words' exclusive-or, or a product's highest bit, would not show.
    #[test]
    fn no_two_keys_fall_together_under_every_seed() {
        const TOP: u32 = 1 << 31;
        let mut pairs = Vec::new();
        for victim in ["203.0.113.77", "2a00:1450:4001:830::200e", "10.244.3.7"].map(words) {
            let prefix = words("2001:db8:dead:beef::");
            let third = (prefix[0] ^ victim[0] ^ victim[2].rotate_left(16)).rotate_left(16);
            let last = prefix[1] ^ victim[1] ^ victim[3];
            pairs.push((victim, [prefix[0], prefix[1], third, last]));
            let [a, b, c, d] = victim;
            pairs.push((victim, [a, b ^ TOP, c ^ TOP, d ^ TOP]));
            pairs.push((victim, [a, b ^ TOP, c, d ^ TOP]));
            pairs.push((victim, [a ^ TOP, b, c ^ TOP, d]));
            pairs.push((victim, [b, a, d, c]));
            pairs.push((victim, [c, d, a, b]));
        }
        for (victim, attacker) in pairs.into_iter().filter(|(one, other)| one != other) {
            let key = |words| FlowKey { remote: Address::from_words(words), ..key(7, 0) };
            let is_shared = |number: &u32| {
                let spots = [victim, attacker].map(|words| Spot::new(&key(words), &seed(*number)));
                spots[0].bucket(32_768) == spots[1].bucket(32_768)
            };
            let shared = (0..20_000).filter(is_shared).count();
            assert!(shared < 20, "{victim:x?} and {attacker:x?}: under {shared} of 20,000 seeds");
        }
    }

    /// A flow of another key with its tag, which nobody can find without the seed, is not its own.
    #[test]
    fn no_flow_gives_way_for_its_tag() {
        let (standing, new) = (key(OTHER, 1), key(FLOODED, 2));
        let mut bucket = Bucket::default();
        bucket.add(&standing, true, 0, 1000);
        let tag = bucket.0.tags[0];
        assert_eq!(place_for(&bucket.0, &new, tag, 1, Plain), FLOW_WAYS);
        assert_eq!(place_for(&bucket.0, &standing, tag, 1, Plain), 0);
        assert_eq!(place_for(&bucket.0, &new, tag, 1001, Plain), 0, "it was over");
    }
}
