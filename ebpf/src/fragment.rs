//! Packets that come in pieces.

use sluice_common::abi::{CONTROL_INDEX, Direction, Fragment, FragmentSet};
use sluice_common::fragment as pieces;
use sluice_common::parse::Transport;
use sluice_common::reason::Reason;

use crate::flow::Blur;
use crate::maps;
use crate::path::Scene;

/// The element in which the packet is that the fragment is a part of, if it is known.
///
/// Another CPU may write it at the same time, and the two packets be taken for one. Later fragments that
/// are then judged by wrong ports have their own addresses still, and make no packet: the first one was
/// judged by what it holds.
#[inline(always)]
fn element(scene: &Scene, direction: Direction) -> Option<&'static mut FragmentSet> {
    let seed = &maps::CONTROL.get(CONTROL_INDEX)?.hash_seed;
    let index = pieces::index(scene.slot, direction, &scene.packet, seed);
    let element = maps::FRAGMENTS.get_ptr_mut(index)?;
    // SAFETY: an element of an array, which stays; numbers only, valid whatever they are.
    Some(unsafe { &mut *element })
}

/// What is known of the packet that the fragment is a part of.
#[inline(always)]
fn known(scene: &Scene, direction: Direction) -> Option<&'static mut Fragment> {
    let set = element(scene, direction)?;
    let way = pieces::find(set, &scene.packet, scene.endpoint.epoch, scene.clock);
    set.places.get_mut(way)
}

/// Gives a later fragment the ports of the first.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub(crate) fn follow(scene: &mut Scene, direction: Direction) -> Result<(), Reason> {
    match known(scene, direction) {
        Some(known) => pieces::follow(known, &mut scene.packet),
        None => Err(Reason::Fragment),
    }
}

/// True for a first fragment of a packet of which one has passed.
#[inline(always)]
pub(crate) fn is_repeated(scene: &Scene, direction: Direction) -> bool {
    scene.packet.piece.is_fragment && known(scene, direction).is_some()
}

/// Notes a first fragment that passes.
#[inline(always)]
pub(crate) fn note(scene: &Scene, direction: Direction) {
    let is_first = scene.packet.piece.more && scene.packet.piece.offset == 0;
    // An error's own flow is that of what it quotes: its later fragments cannot be told.
    if !is_first || matches!(scene.packet.transport, Transport::Error { .. }) {
        return;
    }
    let Scene { packet, endpoint, clock, .. } = scene;
    if let Some(set) = element(scene, direction) {
        let way = pieces::place_for(set, packet, endpoint.epoch, *clock, Blur(packet.piece.id));
        set.places[way] = pieces::begin(packet, endpoint.epoch, *clock);
    }
}
