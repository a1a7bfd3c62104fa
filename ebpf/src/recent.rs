//! The flows that this CPU has looked up lately: a direct-mapped cache in front of the flow table.
//!
//! An element stands for one look-up that let a packet pass and wrote nothing. For a second it answers
//! for the next packets of the flow that would change nothing either, as long as the generation is the
//! same: policy that changes is seen by the next packet. The table is asked once a second, so that the
//! flow's time is kept and what has taken its place there is seen.
//!
//! Where a flow is looked for is no secret: who finds flows that share an element with another's gives that
//! one's packets the way through the flow table, and nothing else. Going by the flow table's own hash
//! ([`sluice_common::hash`]) takes 5 ns more.

use sluice_common::abi::{Flow, FlowKey, FlowState, RuleId};
use sluice_common::flow::Clock;

use crate::{maps, words};

/// Elements per CPU; a power of two.
pub(crate) const RECENT: u32 = 1 << INDEX_BITS;
const INDEX_BITS: u32 = 12;

/// An element of `recent`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Recent {
    key: FlowKey,
    /// At which the flow was last judged; 0, which no packet is judged at: none.
    generation: u32,
    /// Jiffies at the look-up.
    looked_up: u64,
    /// The rule that allowed it.
    rule: RuleId,
    reserved: u32,
}

/// The element of a flow.
#[inline(always)]
fn index(key: &FlowKey) -> u32 {
    /// Odd numbers without a pattern (xxHash's first two primes).
    const SPREAD: [u64; 2] = [0x9e37_79b1_85eb_ca87, 0xc2b2_ae3d_27d4_eb4f];
    let FlowKey { remote, epoch, local_port_be, remote_port_be, protocol } = *key;
    let [a, b, c, d] = remote.words();
    let addresses = u64::from(a ^ c) << 32 | u64::from(b ^ d);
    let ports = u64::from(local_port_be) << 16 | u64::from(remote_port_be);
    let rest = u64::from(epoch ^ protocol << 24) << 32 | ports;
    let mixed = (addresses ^ rest.wrapping_mul(SPREAD[0])).wrapping_mul(SPREAD[1]);
    (mixed >> (64 - INDEX_BITS)) as u32
}

/// The rule that allowed the flow, if it was looked up lately and at this generation.
#[inline(always)]
pub(crate) fn find(key: &FlowKey, generation: u32, clock: Clock) -> Option<RuleId> {
    // SAFETY: this CPU's element, which no other program run uses meanwhile (see `Scene::open`).
    let recent = unsafe { &*maps::RECENT.get_ptr(index(key))? };
    let is_it = recent.generation == generation
        && clock.now.wrapping_sub(recent.looked_up) < clock.rate as u64
        && recent.key == *key;
    is_it.then_some(recent.rule)
}

/// Notes a flow that was looked up and let a packet pass; forgets one that has left the state in which its
/// next packet changes nothing.
#[inline(always)]
pub(crate) fn note(key: &FlowKey, flow: &Flow, clock: Clock) {
    if flow.state != FlowState::Established as u32 {
        return forget(key);
    }
    // Each packet of a flow that can come back to the pod is marked.
    if flow.flags & Flow::FLAG_SELF != 0 {
        return;
    }
    let Some(recent) = maps::RECENT.get_ptr_mut(index(key)) else { return };
    // SAFETY: as in `find`. What it held are numbers, valid whatever they are.
    let recent = unsafe { &mut *recent };
    // SAFETY: as above; a key is words only.
    unsafe { words::copy::<_, u32>(key, &raw mut recent.key) };
    recent.generation = flow.generation;
    recent.looked_up = clock.now;
    recent.rule = flow.rule;
}

/// Forgets a flow whose key another connection takes. Another CPU may know the former one for a second
/// more, and until then have the new one count as not yet answered.
#[inline(always)]
pub(crate) fn forget(key: &FlowKey) {
    let Some(recent) = maps::RECENT.get_ptr_mut(index(key)) else { return };
    // SAFETY: as in `note`.
    let recent = unsafe { &mut *recent };
    recent.generation = 0;
}
