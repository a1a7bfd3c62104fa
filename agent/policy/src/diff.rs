//! From what the kernel holds to what it should hold: ordered operations.
//!
//! Order: every stage, then one flip, then the removals. A staged value is invisible, the flip shows
//! all of them in one write, and what is removed says the same as what remains. So after any prefix
//! of the operations a packet meets the old tables or the new ones, whole.
//!
//! In the tries it is not enough to give each entry its two values, since a new entry hides what
//! covers it and a removed one uncovers it. A new entry's old version therefore repeats what the old
//! tables say for its prefix and since when, and an entry that is to go takes as its new version what the
//! new tables say for it.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{
    Address, CidrKey, ClassId, Decision, DecisionKey, Endpoint, Hairpin, HairpinKey, RuleId,
    Versioned, VipKey,
};

use crate::tables::{Prefix, Tables, Touched, TrieKey, longest_cover};

/// One write to the kernel. Any prefix of a diff's operations leaves every packet with its old
/// verdict (up to [`Op::Flip`]) or its new one (from there on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write an element of `endpoints`.
    Endpoint(u32, Versioned<Endpoint>),
    /// Write an element of `peers`.
    Peer(Address, Versioned<ClassId>),
    /// Write an element of `vips`.
    Vip(VipKey, Versioned<ClassId>),
    /// Write an element of `hairpins`.
    Hairpin(HairpinKey, Versioned<Hairpin>),
    /// Write an element of `cidrs`.
    Cidr(Prefix<CidrKey>, Versioned<ClassId>),
    /// Write an element of `decisions`.
    Decision(Prefix<DecisionKey>, Versioned<Decision>),
    /// Zero a rule's counters: its number has a new meaning.
    ResetRule(RuleId),
    /// Make everything staged visible, in one write: the new generation.
    Flip(u32),
    /// Remove an element that is absent since the flip. Packets that began before the flip must have
    /// ended: the applier waits for an RCU grace period first.
    RemovePeer(Address),
    /// Likewise.
    RemoveVip(VipKey),
    /// Likewise.
    RemoveHairpin(HairpinKey),
    /// Likewise.
    RemoveCidr(Prefix<CidrKey>),
    /// Likewise.
    RemoveDecision(Prefix<DecisionKey>),
}

impl Op {
    /// True if it takes away what packets may look at that are on their way since before the present
    /// generation, but not since before `oldest`: the applier waits for their end first.
    ///
    /// A staged value takes the place of the version that the kept one has replaced. Where that was
    /// before all of these packets, none of them looks for it.
    pub fn disturbs(&self, oldest: u32) -> bool {
        let kept_since = match self {
            Self::Endpoint(_, value) => value.kept_since(),
            Self::Peer(_, value) | Self::Vip(_, value) | Self::Cidr(_, value) => value.kept_since(),
            Self::Hairpin(_, value) => value.kept_since(),
            Self::Decision(_, value) => value.kept_since(),
            Self::ResetRule(_) | Self::Flip(_) => return false,
            Self::RemovePeer(_)
            | Self::RemoveVip(_)
            | Self::RemoveHairpin(_)
            | Self::RemoveCidr(_)
            | Self::RemoveDecision(_) => return true,
        };
        kept_since > oldest
    }
}

/// What the kernel holds, raw: the agent's mirror, and what heal reads back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelState {
    /// The generation that packets see.
    pub generation: u32,
    /// `endpoints`, present or staged ones only.
    pub endpoints: BTreeMap<u32, Versioned<Endpoint>>,
    /// `peers`.
    pub peers: BTreeMap<Address, Versioned<ClassId>>,
    /// `vips`.
    pub vips: BTreeMap<VipKey, Versioned<ClassId>>,
    /// `hairpins`.
    pub hairpins: BTreeMap<HairpinKey, Versioned<Hairpin>>,
    /// `cidrs`.
    pub cidrs: BTreeMap<Prefix<CidrKey>, Versioned<ClassId>>,
    /// `decisions`.
    pub decisions: BTreeMap<Prefix<DecisionKey>, Versioned<Decision>>,
}

impl KernelState {
    /// Takes in one write, as the kernel does.
    pub fn apply(&mut self, op: &Op) {
        match *op {
            Op::Endpoint(slot, value) => {
                self.endpoints.insert(slot, value);
            }
            Op::Peer(address, value) => {
                self.peers.insert(address, value);
            }
            Op::Vip(vip, value) => {
                self.vips.insert(vip, value);
            }
            Op::Hairpin(key, value) => {
                self.hairpins.insert(key, value);
            }
            Op::Cidr(prefix, value) => {
                self.cidrs.insert(prefix, value);
            }
            Op::Decision(prefix, value) => {
                self.decisions.insert(prefix, value);
            }
            Op::ResetRule(_) => {}
            Op::Flip(generation) => self.generation = generation,
            Op::RemovePeer(address) => {
                self.peers.remove(&address);
            }
            Op::RemoveVip(vip) => {
                self.vips.remove(&vip);
            }
            Op::RemoveHairpin(key) => {
                self.hairpins.remove(&key);
            }
            Op::RemoveCidr(prefix) => {
                self.cidrs.remove(&prefix);
            }
            Op::RemoveDecision(prefix) => {
                self.decisions.remove(&prefix);
            }
        }
    }

    /// What a packet sees now. The tries keep entries that are absent at this generation: they hide
    /// what covers them from a packet too.
    pub fn view(&self) -> Tables {
        let generation = self.generation;
        let endpoints = self.endpoints.iter().map(|(slot, e)| (*slot, *e.at(generation)));
        Tables {
            endpoints: endpoints.filter(|(_, e)| e.is_present()).collect(),
            peers: present(&self.peers, generation),
            vips: present(&self.vips, generation),
            hairpins: present(&self.hairpins, generation),
            cidrs: self.cidrs.iter().map(|(p, class)| (*p, *class.at(generation))).collect(),
            decisions: self.decisions.iter().map(|(p, d)| (*p, *d.at(generation))).collect(),
        }
    }
}

/// The operations that bring the kernel to `desired`: none where nothing is to be done.
///
/// `touched` names the keys to look at: all that may differ, which holds for what
/// [`Compiler::apply`](crate::compile::Compiler::apply) returns if the kernel held the compiler's
/// tables before. `None` compares everything (first load, heal); counters that are to be zeroed are
/// named by `touched` only.
pub fn diff(kernel: &KernelState, desired: &Tables, touched: Option<&Touched>) -> Vec<Op> {
    let generation = kernel.generation;
    let mut ops = Vec::new();
    let mut removals = Vec::new();
    if let Some(touched) = touched {
        ops.extend(touched.rules.iter().map(|rule| Op::ResetRule(*rule)));
    }
    let resets = ops.len();

    let cidrs = Trie {
        generation,
        kernel: &kernel.cidrs,
        desired: &desired.cidrs,
        stage: Op::Cidr,
        remove: Op::RemoveCidr,
    };
    cidrs.diff(touched.map(|t| &t.cidrs), &mut ops, &mut removals);
    let decisions = Trie {
        generation,
        kernel: &kernel.decisions,
        desired: &desired.decisions,
        stage: Op::Decision,
        remove: Op::RemoveDecision,
    };
    decisions.diff(touched.map(|t| &t.decisions), &mut ops, &mut removals);

    let peers = Hash {
        generation,
        kernel: &kernel.peers,
        desired: &desired.peers,
        stage: Op::Peer,
        remove: Op::RemovePeer,
    };
    peers.diff(touched.map(|t| &t.peers), &mut ops, &mut removals);
    let vips = Hash {
        generation,
        kernel: &kernel.vips,
        desired: &desired.vips,
        stage: Op::Vip,
        remove: Op::RemoveVip,
    };
    vips.diff(touched.map(|t| &t.vips), &mut ops, &mut removals);
    let hairpins = Hash {
        generation,
        kernel: &kernel.hairpins,
        desired: &desired.hairpins,
        stage: Op::Hairpin,
        remove: Op::RemoveHairpin,
    };
    hairpins.diff(touched.map(|t| &t.hairpins), &mut ops, &mut removals);
    for slot in keys(&kernel.endpoints, &desired.endpoints, touched.map(|t| &t.endpoints)) {
        let target = desired.endpoints.get(&slot).copied().unwrap_or_default();
        let staged = stage(kernel.endpoints.get(&slot), generation, target);
        ops.extend(staged.map(|value| Op::Endpoint(slot, value)));
    }

    // Right values that were staged but never shown (a crash before the flip) need the flip too.
    if ops.len() > resets || kernel.shows_otherwise_at_next(touched) {
        ops.push(Op::Flip(generation.saturating_add(1)));
    }
    ops.append(&mut removals);
    ops
}

impl KernelState {
    /// True if a flip alone would change what packets see of the keys in question.
    fn shows_otherwise_at_next(&self, touched: Option<&Touched>) -> bool {
        let generation = self.generation;
        pending(&self.endpoints, generation, touched.map(|t| &t.endpoints))
            || pending(&self.peers, generation, touched.map(|t| &t.peers))
            || pending(&self.vips, generation, touched.map(|t| &t.vips))
            || pending(&self.hairpins, generation, touched.map(|t| &t.hairpins))
            || pending(&self.cidrs, generation, touched.map(|t| &t.cidrs))
            || pending(&self.decisions, generation, touched.map(|t| &t.decisions))
    }
}

fn pending<K: Ord, V: Copy + Default + PartialEq>(
    held: &BTreeMap<K, Versioned<V>>,
    generation: u32,
    touched: Option<&BTreeSet<K>>,
) -> bool {
    let differs = |v: &Versioned<V>| v.at(generation) != v.at(generation.saturating_add(1));
    match touched {
        Some(keys) => keys.iter().filter_map(|key| held.get(key)).any(differs),
        None => held.values().any(differs),
    }
}

/// The keys to look at, in order.
fn keys<K: Ord + Copy, A, B>(
    kernel: &BTreeMap<K, A>,
    desired: &BTreeMap<K, B>,
    touched: Option<&BTreeSet<K>>,
) -> Vec<K> {
    match touched {
        Some(keys) => keys.iter().copied().collect(),
        None => {
            let mut all: Vec<K> = kernel.keys().chain(desired.keys()).copied().collect();
            all.sort();
            all.dedup();
            all
        }
    }
}

/// The write that makes readers see `target` from the next generation on; `None` where they do so
/// anyhow, now and later. What a crashed agent has left for a later generation is overwritten.
fn stage<V: Copy + Default + PartialEq>(
    held: Option<&Versioned<V>>,
    generation: u32,
    target: V,
) -> Option<Versioned<V>> {
    let held = held.copied().unwrap_or_default();
    let next = generation.saturating_add(1);
    let settled = *held.at(next) == target && *held.at(u32::MAX) == target;
    (!settled).then(|| held.stage(generation, target))
}

/// The elements that are there at a generation.
fn present<K: Ord + Copy, V: Copy + Default + PartialEq>(
    held: &BTreeMap<K, Versioned<V>>,
    generation: u32,
) -> BTreeMap<K, V> {
    let seen = held.iter().map(|(key, value)| (*key, *value.at(generation)));
    seen.filter(|(_, value)| *value != V::default()).collect()
}

/// One hash: what it holds, what it should hold, and how to write it.
struct Hash<'a, K, V> {
    generation: u32,
    kernel: &'a BTreeMap<K, Versioned<V>>,
    desired: &'a BTreeMap<K, V>,
    stage: fn(K, Versioned<V>) -> Op,
    remove: fn(K) -> Op,
}

impl<K: Ord + Copy, V: Copy + Default + PartialEq> Hash<'_, K, V> {
    fn diff(&self, touched: Option<&BTreeSet<K>>, ops: &mut Vec<Op>, gone: &mut Vec<Op>) {
        for key in keys(self.kernel, self.desired, touched) {
            let (held, value) = (self.kernel.get(&key), self.desired.get(&key));
            if held.is_some() || value.is_some() {
                let target = value.copied().unwrap_or_default();
                let staged = stage(held, self.generation, target);
                ops.extend(staged.map(|value| (self.stage)(key, value)));
            }
            if held.is_some() && value.is_none() {
                gone.push((self.remove)(key));
            }
        }
    }
}

/// One trie: what it holds, what it should hold, and how to write it.
struct Trie<'a, K, V> {
    generation: u32,
    kernel: &'a BTreeMap<Prefix<K>, Versioned<V>>,
    desired: &'a BTreeMap<Prefix<K>, V>,
    stage: fn(Prefix<K>, Versioned<V>) -> Op,
    remove: fn(Prefix<K>) -> Op,
}

impl<K: TrieKey, V: Copy + Default + PartialEq> Trie<'_, K, V> {
    fn diff(&self, touched: Option<&BTreeSet<Prefix<K>>>, ops: &mut Vec<Op>, gone: &mut Vec<Op>) {
        for prefix in keys(self.kernel, self.desired, touched) {
            let staged = match (self.kernel.get(&prefix), self.desired.get(&prefix)) {
                (None, None) => None,
                (Some(held), Some(target)) => stage(Some(held), self.generation, *target),
                (None, Some(target)) => Some(self.stage_new(prefix, *target)),
                (Some(held), None) => {
                    gone.push((self.remove)(prefix));
                    let target = longest_cover(self.desired, prefix).map(|(_, value)| *value);
                    stage(Some(held), self.generation, target.unwrap_or_default())
                }
            };
            ops.extend(staged.map(|value| (self.stage)(prefix, value)));
        }
    }

    fn stage_new(&self, prefix: Prefix<K>, target: V) -> Versioned<V> {
        let covering = longest_cover(self.kernel, prefix).map(|(_, value)| *value);
        covering.unwrap_or_default().stage(self.generation, target)
    }
}
