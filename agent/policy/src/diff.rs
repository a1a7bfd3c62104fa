//! From what the kernel holds to what it should hold: ordered operations.

use std::collections::BTreeMap;

use sluice_common::abi::{
    Address, CidrKey, ClassId, Decision, DecisionKey, Endpoint, RuleId, Versioned,
};

use crate::tables::Prefix;

/// One write to the kernel. Any prefix of a diff's operations leaves every packet with its old
/// verdict (up to [`Op::Flip`]) or its new one (from there on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write an element of `endpoints`.
    Endpoint(u32, Versioned<Endpoint>),
    /// Write an element of `peers`.
    Peer(Address, Versioned<ClassId>),
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
    RemoveCidr(Prefix<CidrKey>),
    /// Likewise.
    RemoveDecision(Prefix<DecisionKey>),
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
    /// `cidrs`.
    pub cidrs: BTreeMap<Prefix<CidrKey>, Versioned<ClassId>>,
    /// `decisions`.
    pub decisions: BTreeMap<Prefix<DecisionKey>, Versioned<Decision>>,
}
