//! What can be seen of packets from outside: counters, records of drops, the trace.

use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_log_ebpf::info;
use sluice_common::abi::{
    Counter, Direction, Event, RuleId, SLOT_NONE, counter_index, event_budget_index,
};
use sluice_common::flow::second;
use sluice_common::parse::Bytes as _;
use sluice_common::reason::Reason;

use crate::maps;
use crate::packet::Skb;
use crate::path::Scene;

/// Slot whose packets are logged, set at load; 0: none. It is read-only by then, so the verifier
/// removes the code behind it.
#[unsafe(no_mangle)]
static TRACE_SLOT: Global<u32> = Global::new(0);

/// Counts a packet of an endpoint under a reason.
#[inline(always)]
pub(crate) fn count(slot: u32, skb: &Skb, direction: Direction, reason: Reason) {
    let index = counter_index(slot, direction, reason as u32);
    if let Some(counter) = maps::COUNTERS.get_ptr_mut(index) {
        add(counter, skb.length());
    }
}

/// Counts a packet that a rule (or the default, as rule 0) decided on.
#[inline(always)]
pub(crate) fn count_rule(skb: &Skb, rule: RuleId) {
    if let Some(counter) = maps::RULE_HITS.get_ptr_mut(rule) {
        add(counter, skb.length());
    }
}

#[inline(always)]
fn add(counter: *mut Counter, length: u32) {
    // SAFETY: the pointer is to this CPU's element of a per-CPU array. A program that interrupts this
    // one on the same CPU may cost a count, no more.
    let counter = unsafe { &mut *counter };
    counter.packets += 1;
    counter.bytes += u64::from(length);
}

/// Writes a record of a drop, within the endpoint's rate for its reason; counts what it could not write.
///
/// Nobody is woken for it: a reader that keeps up would be, for every record, by the CPU that drops packets,
/// which cost that 4,600 ns for each where a record that nobody reads costs 160.
#[inline(always)]
pub(crate) fn report(scene: &Scene, skb: &Skb, direction: Direction, reason: Reason) {
    if !take_from_budget(scene, reason) {
        return count(scene.slot, skb, direction, Reason::EventLost);
    }
    let Some(mut record) = maps::EVENTS.reserve(0) else {
        return count(scene.slot, skb, direction, Reason::EventLost);
    };
    record.write(Event {
        // SAFETY: the helper has no preconditions.
        time_ns: unsafe { bpf_ktime_get_ns() },
        slot: scene.slot,
        epoch: scene.endpoint.epoch,
        direction: direction as u32,
        reason: reason as u32,
        rule: scene.rule,
        generation: scene.generation,
        source: scene.packet.source,
        destination: scene.packet.destination,
        source_port_be: scene.packet.source_port_be,
        destination_port_be: scene.packet.destination_port_be,
        protocol: u32::from(scene.packet.protocol),
        length: skb.length(),
        reserved: 0,
    });
    record.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// True if the endpoint may write one more record for the reason in this second.
#[inline(always)]
fn take_from_budget(scene: &Scene, reason: Reason) -> bool {
    let index = event_budget_index(scene.slot, reason as u32);
    let Some(budget) = maps::EVENT_BUDGETS.get_ptr_mut(index) else { return false };
    // SAFETY: the pointer is to an element of an array, which stays. Other CPUs may write it at the
    // same time: its two words are independent enough that a few records too many are the worst.
    let budget = unsafe { &mut *budget };
    let second = second(scene.clock.now, scene.clock.rate);
    if budget.second != second {
        budget.second = second;
        budget.used = 0;
    }
    if budget.used >= scene.event_rate {
        return false;
    }
    budget.used += 1;
    true
}

/// True while a slot's packets are logged.
#[inline(always)]
pub(crate) fn traces() -> bool {
    TRACE_SLOT.load() != SLOT_NONE
}

/// Logs a packet of the slot that is traced.
#[inline(always)]
pub(crate) fn trace(scene: &Scene, skb: &Skb, direction: Direction, reason: Reason) {
    let traced = TRACE_SLOT.load();
    // Asked by itself, so that the verifier can answer it.
    if traced == SLOT_NONE {
        return;
    }
    if traced != scene.slot {
        return;
    }
    let source = core::net::Ipv6Addr::from(scene.packet.source.octets());
    let destination = core::net::Ipv6Addr::from(scene.packet.destination.octets());
    info!(
        skb.context(),
        "slot {} direction {} {:i}:{} > {:i}:{} protocol {}: reason {} rule {}",
        scene.slot,
        direction as u32,
        source,
        u16::from_be(scene.packet.source_port_be),
        destination,
        u16::from_be(scene.packet.destination_port_be),
        scene.packet.protocol,
        reason as u32,
        scene.rule
    );
}
