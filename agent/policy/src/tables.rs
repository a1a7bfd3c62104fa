//! The desired contents of the kernel tables, as values.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{
    Address, CIDR_KEY_BITS, CidrKey, ClassId, Decision, DecisionKey, Endpoint, Hairpin, HairpinKey,
    RuleId, SetId, UNCLASSIFIED, VipKey,
};
use sluice_common::decide::Lookup;

/// A prefix of a trie key: the first `bits` bits of `key` count, the rest is zero. Ordered by key,
/// then shorter first: what covers a prefix stands before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix<K> {
    /// Key data, with every bit beyond `bits` zero.
    pub key: K,
    /// Number of bits that count.
    pub bits: u32,
}

/// Key data of an LPM trie. Its `Ord` must be the order of its bits.
pub trait TrieKey: Copy + Ord {
    /// Number of leading bits that two keys share.
    fn common_bits(&self, other: &Self) -> u32;
    /// The key with every bit from `bits` on zero.
    #[must_use]
    fn truncate(&self, bits: u32) -> Self;
}

/// Number of leading bits that two addresses share.
fn common_address_bits(a: &Address, b: &Address) -> u32 {
    (u128::from_be_bytes(a.octets()) ^ u128::from_be_bytes(b.octets())).leading_zeros()
}

impl TrieKey for Address {
    fn common_bits(&self, other: &Self) -> u32 {
        common_address_bits(self, other)
    }
    fn truncate(&self, bits: u32) -> Self {
        let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
        Self::from_octets((u128::from_be_bytes(self.octets()) & mask).to_be_bytes())
    }
}

impl TrieKey for CidrKey {
    fn common_bits(&self, other: &Self) -> u32 {
        match (self.set() ^ other.set()).leading_zeros() {
            32 => 32 + common_address_bits(&self.address, &other.address),
            bits => bits,
        }
    }
    fn truncate(&self, bits: u32) -> Self {
        let set = self.set() & u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
        Self::new(set, self.address.truncate(bits.saturating_sub(32)))
    }
}

impl TrieKey for DecisionKey {
    fn common_bits(&self, other: &Self) -> u32 {
        (decision_bits(self) ^ decision_bits(other)).leading_zeros()
    }
    fn truncate(&self, bits: u32) -> Self {
        let mask = u128::MAX.checked_shl(128 - bits.min(Self::BITS)).unwrap_or(0);
        let kept = (decision_bits(self) & mask).to_be_bytes();
        let word = |i: usize| u32::from_be_bytes([kept[i], kept[i + 1], kept[i + 2], kept[i + 3]]);
        Self::new(word(0), word(4), kept[8], u16::from_be_bytes([kept[10], kept[11]]))
    }
}

/// The key's bits, at the upper end.
fn decision_bits(key: &DecisionKey) -> u128 {
    u128::from(key.set()) << 96
        | u128::from(key.class()) << 64
        | u128::from(key.protocol()) << 56
        | u128::from(key.port()) << 32
}

impl<K: TrieKey> Prefix<K> {
    /// The first `bits` bits of a key.
    pub fn new(key: K, bits: u32) -> Self {
        Self { key: key.truncate(bits), bits }
    }

    /// True if every key of `other` is one of this prefix.
    pub fn covers(&self, other: &Self) -> bool {
        self.bits <= other.bits && self.key.common_bits(&other.key) >= self.bits
    }
}

/// The longest prefix of the trie that covers `prefix`, which may be `prefix` itself, and its value.
pub fn longest_match<K: TrieKey, V>(
    trie: &BTreeMap<Prefix<K>, V>,
    prefix: Prefix<K>,
) -> Option<(&Prefix<K>, &V)> {
    let mut probe = prefix;
    loop {
        // Whatever covers the probe stands before it. If its predecessor does not cover it, then
        // what does must end before the bit at which the two part.
        let (found, value) = trie.range(..=probe).next_back()?;
        if found.covers(&probe) {
            return Some((found, value));
        }
        probe = Prefix::new(prefix.key, found.key.common_bits(&probe.key));
    }
}

/// As [`longest_match`], but strictly shorter than `prefix`.
pub fn longest_cover<K: TrieKey, V>(
    trie: &BTreeMap<Prefix<K>, V>,
    prefix: Prefix<K>,
) -> Option<(&Prefix<K>, &V)> {
    longest_match(trie, Prefix::new(prefix.key, prefix.bits.checked_sub(1)?))
}

/// What packets should see. `Versioned` and absent values exist only in [`crate::diff`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// By slot.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// By pod address.
    pub peers: BTreeMap<Address, ClassId>,
    /// By address and port of a service.
    pub vips: BTreeMap<VipKey, ClassId>,
    /// By slot and address and port of a service that leads to the endpoint.
    pub hairpins: BTreeMap<HairpinKey, Hairpin>,
    /// By policy set and address prefix. [`UNCLASSIFIED`] takes a covering prefix's class off.
    pub cidrs: BTreeMap<Prefix<CidrKey>, ClassId>,
    /// By policy set, class and port prefix.
    pub decisions: BTreeMap<Prefix<DecisionKey>, Decision>,
}

impl Lookup for Tables {
    fn vip(&self, vip: &VipKey) -> ClassId {
        self.vips.get(vip).copied().unwrap_or(UNCLASSIFIED)
    }

    fn hairpin(&self, key: &HairpinKey) -> Hairpin {
        self.hairpins.get(key).copied().unwrap_or_default()
    }

    fn peer(&self, address: &Address) -> ClassId {
        self.peers.get(address).copied().unwrap_or(UNCLASSIFIED)
    }

    fn cidr(&self, set: SetId, address: &Address) -> ClassId {
        let key = Prefix { key: CidrKey::new(set, *address), bits: CIDR_KEY_BITS };
        // A prefix shorter than the set's number would be nobody's; compile makes none.
        longest_match(&self.cidrs, key).map_or(UNCLASSIFIED, |(_, class)| *class)
    }

    fn decision(&self, set: SetId, class: ClassId, protocol: u8, port: u16) -> Decision {
        let key = DecisionKey::new(set, class, protocol, port);
        let key = Prefix { key, bits: DecisionKey::BITS };
        longest_match(&self.decisions, key).map_or_else(Decision::default, |(_, d)| *d)
    }
}

/// Keys whose desired value may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Slots.
    pub endpoints: BTreeSet<u32>,
    /// Addresses.
    pub peers: BTreeSet<Address>,
    /// Addresses and ports of services.
    pub vips: BTreeSet<VipKey>,
    /// Slots, with addresses and ports of services.
    pub hairpins: BTreeSet<HairpinKey>,
    /// Prefixes.
    pub cidrs: BTreeSet<Prefix<CidrKey>>,
    /// Prefixes.
    pub decisions: BTreeSet<Prefix<DecisionKey>>,
    /// Rule numbers that came to mean another rule: their counters are to be zeroed.
    pub rules: BTreeSet<RuleId>,
}

impl Touched {
    /// True if nothing may have changed.
    pub fn is_empty(&self) -> bool {
        let Self { endpoints, peers, vips, hairpins, cidrs, decisions, rules } = self;
        endpoints.is_empty()
            && peers.is_empty()
            && vips.is_empty()
            && hairpins.is_empty()
            && cidrs.is_empty()
            && decisions.is_empty()
            && rules.is_empty()
    }

    /// Takes in what a later change touched.
    pub fn merge(&mut self, later: Self) {
        let Self { endpoints, peers, vips, hairpins, cidrs, decisions, rules } = later;
        self.endpoints.extend(endpoints);
        self.peers.extend(peers);
        self.vips.extend(vips);
        self.hairpins.extend(hairpins);
        self.cidrs.extend(cidrs);
        self.decisions.extend(decisions);
        self.rules.extend(rules);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Keys that collide often: few values, in the first and the last byte of the address.
    fn prefixes() -> impl Strategy<Value = Prefix<CidrKey>> {
        let bits = prop_oneof![32_u32..=40, 150_u32..=160];
        (1_u32..3, any::<(u8, u8)>(), bits).prop_map(|(set, (first, last), bits)| {
            let mut octets = [0; 16];
            (octets[0], octets[15]) = (first, last);
            Prefix::new(CidrKey::new(set, Address::from_octets(octets)), bits)
        })
    }

    proptest! {
        #[test]
        fn the_longest_match_is_what_a_search_of_all_finds(
            entries in prop::collection::btree_map(prefixes(), 0_u32..9, 0..60),
            probe in prefixes(),
        ) {
            let expected = entries.iter().filter(|(p, _)| p.covers(&probe)).max_by_key(|(p, _)| p.bits);
            prop_assert_eq!(longest_match(&entries, probe), expected);
            let shorter = entries.iter().filter(|(p, _)| p.covers(&probe) && p.bits < probe.bits);
            prop_assert_eq!(longest_cover(&entries, probe), shorter.max_by_key(|(p, _)| p.bits));
        }

        #[test]
        fn decision_keys_keep_their_first_bits(set: u32, class: u32, port: u16, bits in 0_u32..=96) {
            let key = DecisionKey::new(set, class, 132, port);
            let short = key.truncate(bits);
            prop_assert!(short <= key);
            prop_assert!(key.common_bits(&short) >= bits);
            prop_assert_eq!(short.truncate(bits), short);
        }
    }
}
