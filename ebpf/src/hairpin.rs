//! A pod that reaches itself through a service. Its packet leaves for the service's address and comes
//! back, translated, from an address of the node: nothing in it says any more whose it is.
//!
//! So the egress program leaves two marks when a pod that is a backend sends to such a service: the
//! *stamp*, its slot in the packet's `tc_index`, which bridging, routing and translation keep; and a
//! note of the packet. The ingress program lets a packet in as the pod's own only with both. The stamp
//! alone proves nothing, since a pod without our programs can set it in its own namespace; a note is
//! of one packet, by a word of it that translation does not change, is good once and for seconds.
//!
//! Another backend of the service may be given the packet, and know that word. What it sends does not
//! come from the pod's own interface, nor from an address of the node, which is what the node gives to a
//! packet that it leads back: one of the two is asked for as well. What is left to it is a packet with
//! the node's address in the place of its own, where a bridge lets such through, and within the note's
//! seconds: the answers go to the node.

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_NOT_FWDED, bpf_fib_lookup, bpf_fib_lookup__bindgen_ty_1,
    bpf_fib_lookup__bindgen_ty_2, bpf_fib_lookup__bindgen_ty_3, bpf_fib_lookup__bindgen_ty_4,
    bpf_fib_lookup__bindgen_ty_5, bpf_fib_lookup__bindgen_ty_6,
    bpf_fib_lookup__bindgen_ty_6__bindgen_ty_2,
};
use aya_ebpf::helpers;
use sluice_common::abi::{Hairpin, HairpinKey, HairpinNote, HairpinNoteKey, VipKey};
use sluice_common::parse::{Bytes as _, Packet, Transport, sctp_chunk};

use crate::maps;
use crate::packet::Skb;
use crate::path::Scene;

/// Nonzero where the stamp is in the packet's mark: `BPF_PROG_TEST_RUN` gives no `tc_index` in nor out.
/// Set at load, so the verifier removes the code for the other.
#[unsafe(no_mangle)]
static STAMP_IN_MARK: Global<u32> = Global::new(0);

/// Seconds for which a note is good: longer than the kernel looks for a neighbour while the packet
/// waits (three seconds).
const LIFETIME_SECONDS: u64 = 4;

/// True for a packet from the pod to a service that leads back to it.
#[inline(always)]
pub(crate) fn can_return(scene: &Scene) -> bool {
    scene.endpoint.has_hairpins() && port(scene) != 0
}

/// See [`Hairpin::port`].
#[inline(always)]
fn port(scene: &Scene) -> u32 {
    let Packet { destination, protocol, .. } = scene.packet;
    let vip = VipKey::new(destination, protocol, scene.packet.decision_port());
    let key = HairpinKey { slot: scene.slot, vip };
    // SAFETY: as for `peers` (see `policy`).
    match unsafe { maps::HAIRPINS.get(&key) } {
        Some(way) => way.hairpin.at(scene.generation).port,
        None => 0,
    }
}

/// Marks a packet that may come back. Every packet of such a flow is marked, not only the first: the
/// flow at the other end may have been lost, or begun before anyone looked.
#[inline(always)]
pub(crate) fn mark(scene: &Scene, skb: &Skb) {
    let port = port(scene);
    let Some(key) = note_key(scene, skb).filter(|_| port != 0) else { return };
    let note = HairpinNote { noted: scene.clock.now, port, reserved: 0 };
    // Without the note the packet is judged by policy when it comes back.
    let _ = maps::HAIRPIN_NOTES.insert(&key, &note, 0);
    if STAMP_IN_MARK.load() == 0 {
        skb.set_tc_index(scene.slot);
    } else {
        skb.set_mark(scene.slot);
    }
}

/// True for a packet to the pod that the pod itself sent to a service, and that comes back now.
#[inline(always)]
pub(crate) fn has_returned(scene: &Scene, skb: &Skb) -> bool {
    if !scene.endpoint.has_hairpins() {
        return false;
    }
    let stamp = if STAMP_IN_MARK.load() == 0 { skb.tc_index() } else { skb.mark() };
    if stamp != scene.slot || !(skb.is_from_own_interface() || is_from_node(scene, skb)) {
        return false;
    }
    let Some(key) = note_key(scene, skb) else { return false };
    // SAFETY: only these programs write it, whole elements; one that is evicted and used again under
    // this look is another note of a pod that reaches itself, with a time and a port of its own.
    let Some(note) = (unsafe { maps::HAIRPIN_NOTES.get(&key) }) else { return false };
    let HairpinNote { noted, port, .. } = *note;
    let _ = maps::HAIRPIN_NOTES.remove(&key);
    let age = scene.clock.now.saturating_sub(noted);
    age <= LIFETIME_SECONDS * u64::from(scene.clock.rate)
        && Hairpin::leads_to(port, scene.packet.decision_port())
}

/// True for a packet from an address of the node, as far as its routes tell: they lead to no other
/// machine or pod. False where the node does not forward at all.
#[inline(always)]
fn is_from_node(scene: &Scene, skb: &Skb) -> bool {
    const AF_INET: u8 = 2;
    const AF_INET6: u8 = 10;
    let source = &scene.packet.source;
    let words = source.words();
    let (family, to) =
        if source.is_v4() { (AF_INET, [words[3], 0, 0, 0]) } else { (AF_INET6, words) };
    let unknown = bpf_fib_lookup__bindgen_ty_6__bindgen_ty_2 { smac: [0; 6], dmac: [0; 6] };
    let mut asked = bpf_fib_lookup {
        family,
        l4_protocol: 0,
        sport: 0,
        dport: 0,
        __bindgen_anon_1: bpf_fib_lookup__bindgen_ty_1 { tot_len: 0 },
        ifindex: skb.interface(),
        __bindgen_anon_2: bpf_fib_lookup__bindgen_ty_2 { flowinfo: 0 },
        __bindgen_anon_3: bpf_fib_lookup__bindgen_ty_3 { ipv6_src: [0; 4] },
        __bindgen_anon_4: bpf_fib_lookup__bindgen_ty_4 { ipv6_dst: to },
        __bindgen_anon_5: bpf_fib_lookup__bindgen_ty_5 { tbid: 0 },
        __bindgen_anon_6: bpf_fib_lookup__bindgen_ty_6 { __bindgen_anon_2: unknown },
    };
    let length = const { size_of::<bpf_fib_lookup>() as i32 };
    // SAFETY: the context is the one that the kernel gave to the program, and `asked` is as long as
    // `length` says, each byte of it written.
    let answer = unsafe { helpers::bpf_fib_lookup(skb.as_ptr(), &raw mut asked, length, 0) };
    answer == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED)
}

/// Key of the packet's note. A packet without the word, such as a datagram without data, has none: it
/// could not be told from anybody else's; nor has a later fragment, which has no transport header.
#[inline(always)]
fn note_key(scene: &Scene, skb: &Skb) -> Option<HairpinNoteKey> {
    let Packet { transport, transport_offset, protocol, piece, .. } = scene.packet;
    if piece.offset != 0 {
        return None;
    }
    // Where the word is that `HairpinNoteKey::token` names.
    let place = match transport {
        Transport::Udp => 8,
        Transport::Sctp { chunk: sctp_chunk::INIT } => 16,
        _ => 4,
    };
    let [token] = skb.words(transport_offset + place)?;
    Some(HairpinNoteKey { epoch: scene.endpoint.epoch, protocol: u32::from(protocol), token })
}
