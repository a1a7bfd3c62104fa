//! Port names of egress rules, and whom they are asked of.
//!
//! What a name stands for depends on the pod, so each number that pods give it is a predicate. It
//! holds only for pods that a peer of some rule with that name lets in: of the others nobody asks, and
//! a name as common as `http` must not put every pod of the cluster into `peers`.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::Protocol;
use crate::predicates::PredicateId;
use crate::rules::ListId;

/// A name that a port can be called by.
pub(crate) type PortName = (Protocol, String);

/// Whom the rules of a list ask for a port name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    /// A rule without peers asks: every pod.
    pub(crate) everyone: bool,
    /// The peers of the rules that ask.
    pub(crate) peers: BTreeSet<PredicateId>,
}

/// A port name that some list asks for.
#[derive(Clone, Debug, Default)]
pub(crate) struct PortReference {
    /// The lists that ask.
    pub(crate) users: BTreeSet<ListId>,
    /// The predicate of each number that a pod gave it.
    pub(crate) numbers: BTreeMap<u16, PredicateId>,
    /// How many lists ask every pod.
    everyone: usize,
    /// How many lists ask those for whom a predicate holds.
    peers: BTreeMap<PredicateId, usize>,
}

/// Who was not asked for a port name before and is now, or the other way round.
#[derive(Debug, Default)]
pub(crate) struct AskedAnew {
    pub(crate) everyone: bool,
    pub(crate) peers: BTreeSet<PredicateId>,
}

impl PortReference {
    /// A list asks `new`, where it asked `old` before.
    pub(crate) fn ask(&mut self, old: &Asked, new: &Asked) -> AskedAnew {
        let mut anew = AskedAnew::default();
        let everyone = self.everyone > 0;
        self.everyone = self.everyone + usize::from(new.everyone) - usize::from(old.everyone);
        anew.everyone = everyone != (self.everyone > 0);
        for peer in new.peers.difference(&old.peers) {
            let count = self.peers.entry(*peer).or_default();
            *count += 1;
            if *count == 1 {
                anew.peers.insert(*peer);
            }
        }
        for peer in old.peers.difference(&new.peers) {
            let Some(count) = self.peers.get_mut(peer) else { continue };
            *count -= 1;
            if *count == 0 {
                self.peers.remove(peer);
                anew.peers.insert(*peer);
            }
        }
        anew
    }

    /// True if somebody asks those for whom a predicate holds, and not only everyone.
    pub(crate) fn asks(&self, peer: PredicateId) -> bool {
        self.peers.contains_key(&peer)
    }

    /// True if somebody asks an address for which these predicates hold.
    pub(crate) fn asks_any(&self, holding: &[PredicateId]) -> bool {
        self.everyone > 0 || holding.iter().any(|id| self.peers.contains_key(id))
    }
}
