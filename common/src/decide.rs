//! The order of table look-ups that turns a packet into a decision: one implementation for the kernel
//! programs and for the `tables` engine.

use crate::abi::{Address, ClassId, Decision, SetId, UNCLASSIFIED};

/// The three policy tables, as a reader at one generation sees them.
pub trait Lookup {
    /// Class of a pod address in `peers`, or [`UNCLASSIFIED`].
    fn peer(&self, address: &Address) -> ClassId;
    /// Class of the longest prefix of the set that covers the address in `cidrs`, or
    /// [`UNCLASSIFIED`].
    fn cidr(&self, set: SetId, address: &Address) -> ClassId;
    /// The longest match in `decisions`; absent where there is none.
    fn decision(&self, set: SetId, class: ClassId, protocol: u8, port: u16) -> Decision;
}

/// What `set` says to `remote` on a port (host order; see [`crate::abi::DecisionKey::new`]).
/// `None`: the set is not in the tables, which the caller must treat as closed.
#[inline(always)]
pub fn decide(
    tables: &impl Lookup,
    set: SetId,
    remote: &Address,
    protocol: u8,
    port: u16,
) -> Option<Decision> {
    let mut class = tables.peer(remote);
    if class == UNCLASSIFIED {
        class = tables.cidr(set, remote);
    }
    let mut decision = tables.decision(set, class, protocol, port);
    if decision.is_absent() && class != UNCLASSIFIED {
        decision = tables.decision(set, UNCLASSIFIED, protocol, port);
    }
    (!decision.is_absent()).then_some(decision)
}
