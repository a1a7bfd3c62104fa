//! The tc programs of sluice.
//!
//! One pair, loaded once and attached to every isolated pod's host-side interface: `sluice_ingress` at
//! its tc egress hook (packets to the pod), `sluice_egress` at its tc ingress hook (packets from the
//! pod). Everything that differs between pods is in the tables.
//!
//! * `short`: the way of packets that a cache answers for;
//! * `path`: the checks that any other packet goes through;
//! * `packet`: reading it; `policy`, `flow`: the tables it is judged by; `recent`: a cache of flows;
//! * `fragment`: packets that come in pieces;
//! * `hairpin`: a pod that reaches itself through a service;
//! * `observe`: counters, records, trace;
//! * `maps`: all tables.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod flow;
#[cfg(target_arch = "bpf")]
mod fragment;
#[cfg(target_arch = "bpf")]
mod hairpin;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod observe;
#[cfg(target_arch = "bpf")]
mod packet;
#[cfg(target_arch = "bpf")]
mod path;
#[cfg(target_arch = "bpf")]
mod policy;
#[cfg(target_arch = "bpf")]
mod recent;
#[cfg(target_arch = "bpf")]
mod short;
#[cfg(target_arch = "bpf")]
mod words;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;
    use sluice_common::abi::{CONTROL_INDEX, Direction, EndpointFlags, SLOT_NONE, SLOTS_BY_INDEX};
    use sluice_common::reason::{Outcome, Reason};

    use crate::packet::Skb;
    use crate::path::{Scene, walk};
    use crate::{maps, observe, short};

    /// The packet goes on to the CNI's own programs.
    const PASS: i32 = TC_ACT_UNSPEC;
    const DROP: i32 = TC_ACT_SHOT;

    // Inlined into what the kernel calls, which would else be a function of its own: 8 ns for a packet.

    /// Packets to the pod.
    #[classifier]
    #[inline(always)]
    pub(crate) fn sluice_ingress(context: TcContext) -> i32 {
        run(context, Direction::Ingress)
    }

    /// Packets from the pod.
    #[classifier]
    #[inline(always)]
    pub(crate) fn sluice_egress(context: TcContext) -> i32 {
        run(context, Direction::Egress)
    }

    #[inline(always)]
    fn run(context: TcContext, direction: Direction) -> i32 {
        let skb = Skb::new(context);
        let slot = slot(skb.interface());
        if slot == SLOT_NONE {
            return PASS;
        }
        // None of these can be missing; if they were, nothing could be judged.
        let Some(control) = maps::CONTROL.get(CONTROL_INDEX) else { return DROP };
        let Some(endpoint) = maps::ENDPOINTS.get(slot) else { return DROP };
        // SAFETY: a read of an aligned word that the agent replaces by one store. It must happen once:
        // everything about this packet is judged at one generation. Nothing keeps a processor that reads
        // out of order (arm64) from having read a table before it: x86-64 does not.
        let generation = unsafe { (&raw const control.generation).read_volatile() };
        let endpoint = endpoint.at(generation);
        if !endpoint.is_present() {
            return PASS;
        }
        if !observe::traces() && short::passes(&skb, endpoint, generation, direction) {
            observe::count(slot, &skb, direction, Reason::Established);
            return PASS;
        }
        let Some(scene) = Scene::open(&skb, slot, endpoint, generation, control.event_rate) else {
            return DROP;
        };
        let reason = walk(scene, &skb, direction);
        conclude(scene, &skb, direction, reason)
    }

    /// The slot of an interface.
    #[inline(always)]
    fn slot(interface: u32) -> u32 {
        let slot = if interface < SLOTS_BY_INDEX {
            maps::ENDPOINT_SLOTS.get(interface)
        } else {
            // SAFETY: written by the agent only, one aligned word. Memory of an element that was
            // replaced or removed is used again by the next that is added, before which the agent lets
            // a grace period pass (`KernelMaps::set_slot`): no program run that found it is left.
            unsafe { maps::ENDPOINT_SLOTS_HIGH.get(&interface) }
        };
        slot.copied().unwrap_or(SLOT_NONE)
    }

    /// The verdict table: the only place where the reason of a packet that `path` has judged becomes an
    /// action, a count and a record.
    #[inline(always)]
    fn conclude(scene: &Scene, skb: &Skb, direction: Direction, reason: Reason) -> i32 {
        observe::count(scene.slot, skb, direction, reason);
        observe::trace(scene, skb, direction, reason);
        match reason.outcome() {
            Outcome::Pass => PASS,
            // No packet is judged with a reason that only notes something; it would be an error of
            // ours, and fails closed.
            Outcome::Drop | Outcome::Note => {
                observe::report(scene, skb, direction, reason);
                if scene.endpoint.flags & EndpointFlags::SHADOW != 0 { PASS } else { DROP }
            }
        }
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    // SAFETY: read by the kernel at load; never written.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}
