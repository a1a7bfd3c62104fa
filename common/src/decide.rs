//! The order of table look-ups that turns a packet into a decision: one implementation for the kernel
//! programs and for the `tables` engine.

use crate::abi::{
    Address, ClassId, Decision, Direction, Endpoint, Hairpin, HairpinKey, PROTOCOL_ANY, SetId,
    UNCLASSIFIED, VipKey,
};

/// The policy tables, as a reader at one generation sees them.
pub trait Lookup {
    /// Class of a service's address and port in `vips`, or [`UNCLASSIFIED`].
    fn vip(&self, vip: &VipKey) -> ClassId;
    /// What `hairpins` has, or its default.
    fn hairpin(&self, key: &HairpinKey) -> Hairpin;
    /// Class of a pod address in `peers`, or [`UNCLASSIFIED`].
    fn peer(&self, address: &Address) -> ClassId;
    /// Class of the longest prefix of the set that covers the address in `cidrs`, or
    /// [`UNCLASSIFIED`].
    fn cidr(&self, set: SetId, address: &Address) -> ClassId;
    /// The longest match in `decisions`; absent where there is none.
    fn decision(&self, set: SetId, class: ClassId, protocol: u8, port: u16) -> Decision;
}

/// What is asked about an endpoint that is governed in a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its slot.
    pub slot: u32,
    /// The direction of the connection's first packet.
    pub direction: Direction,
    /// The address at the other end, as the pod sees it: before the cluster translates it.
    pub remote: Address,
    /// Its protocol.
    pub protocol: u8,
    /// Its port, host order (see [`crate::abi::DecisionKey::new`]).
    pub port: u16,
}

/// What the endpoint's set for the direction says. `None`: the set is not in the tables, which the
/// caller must treat as closed.
#[inline(always)]
pub fn decide(tables: &impl Lookup, endpoint: &Endpoint, asked: &Asked) -> Option<Decision> {
    let set = endpoint.set(asked.direction);
    let Asked { remote, mut protocol, mut port, .. } = *asked;
    let mut class = UNCLASSIFIED;
    if matches!(asked.direction, Direction::Egress) {
        let vip = VipKey::new(remote, protocol, port);
        if endpoint.has_hairpins() {
            let own = tables.hairpin(&HairpinKey { slot: asked.slot, vip }).decision;
            if !own.is_absent() {
                return Some(own);
            }
        }
        class = tables.vip(&vip);
    }
    if class != UNCLASSIFIED {
        // The ports of its backends are in the class. What the set says to others on the service's
        // own port is about another port.
        (protocol, port) = (PROTOCOL_ANY, 0);
    } else {
        class = tables.peer(&remote);
        if class == UNCLASSIFIED {
            class = tables.cidr(set, &remote);
        }
    }
    let mut decision = tables.decision(set, class, protocol, port);
    if decision.is_absent() && class != UNCLASSIFIED {
        decision = tables.decision(set, UNCLASSIFIED, protocol, port);
    }
    (!decision.is_absent()).then_some(decision)
}
