//! Which pod has an address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_common::abi::Address;

use crate::model::PodName;

/// A pod's claim to an address. The greatest wins: a pod that is not being deleted, then the youngest,
/// then the greater name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Claim {
    pub(crate) stays: bool,
    pub(crate) created: i64,
    pub(crate) pod: Arc<PodName>,
}

/// All claims. Nearly every address has one, which is why that case needs no set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    first: BTreeMap<Address, Claim>,
    /// The claims that lose, where there are any.
    others: BTreeMap<Address, BTreeSet<Claim>>,
}

impl Owners {
    /// The pod that has the address.
    pub(crate) fn of(&self, address: &Address) -> Option<&PodName> {
        self.first.get(address).map(|claim| &*claim.pod)
    }

    /// The addresses that pods have, ascending.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.first.keys()
    }

    /// The addresses from this one on, ascending, each with the pod that has it.
    pub(crate) fn from(&self, first: Address) -> impl Iterator<Item = (&Address, &PodName)> {
        self.first.range(first..).map(|(address, claim)| (address, &*claim.pod))
    }

    pub(crate) fn claim(&mut self, address: Address, claim: Claim) {
        let Some(first) = self.first.get_mut(&address) else {
            self.first.insert(address, claim);
            return;
        };
        let loser = if claim > *first { std::mem::replace(first, claim) } else { claim };
        self.others.entry(address).or_default().insert(loser);
    }

    pub(crate) fn release(&mut self, address: Address, claim: &Claim) {
        let others = self.others.get_mut(&address);
        if self.first.get(&address) == Some(claim) {
            match others.and_then(BTreeSet::pop_last) {
                Some(next) => self.first.insert(address, next),
                None => self.first.remove(&address),
            };
        } else if let Some(others) = others {
            others.remove(claim);
        }
        if self.others.get(&address).is_some_and(BTreeSet::is_empty) {
            self.others.remove(&address);
        }
    }
}
