//! The desired contents of the kernel tables, as values.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{Address, CidrKey, ClassId, Decision, DecisionKey, Endpoint};

/// A prefix of a trie key: the first `bits` bits of `key` count, the rest is zero. Ordered by key,
/// then shorter first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix<K> {
    /// Key data, with every bit beyond `bits` zero.
    pub key: K,
    /// Number of bits that count.
    pub bits: u32,
}

/// What packets should see. `Versioned` and absent values exist only in [`crate::diff`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// By slot.
    pub endpoints: BTreeMap<u32, Endpoint>,
    /// By pod address.
    pub peers: BTreeMap<Address, ClassId>,
    /// By policy set and address prefix.
    pub cidrs: BTreeMap<Prefix<CidrKey>, ClassId>,
    /// By policy set, class and port prefix.
    pub decisions: BTreeMap<Prefix<DecisionKey>, Decision>,
}

/// Keys whose desired value may have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Slots.
    pub endpoints: BTreeSet<u32>,
    /// Addresses.
    pub peers: BTreeSet<Address>,
    /// Prefixes.
    pub cidrs: BTreeSet<Prefix<CidrKey>>,
    /// Prefixes.
    pub decisions: BTreeSet<Prefix<DecisionKey>>,
}
