//! Packets that come in pieces.

use sluice_common::abi::{Direction, Fragment};
use sluice_common::fragment as pieces;
use sluice_common::parse::Transport;
use sluice_common::reason::Reason;

use crate::maps;
use crate::path::Scene;

/// The element of the packet that the fragment is a part of, whatever packet it is about now.
///
/// Another CPU may write it at the same time, and the two packets be taken for one. Later fragments that
/// are then judged by wrong ports have their own addresses still, and make no packet: the first one was
/// judged by what it holds.
#[inline(always)]
fn element(scene: &Scene, direction: Direction) -> Option<&'static mut Fragment> {
    let element =
        maps::FRAGMENTS.get_ptr_mut(pieces::index(scene.slot, direction, &scene.packet))?;
    // SAFETY: an element of an array, which stays; numbers only, valid whatever they are.
    Some(unsafe { &mut *element })
}

#[inline(always)]
fn is_known(known: &Fragment, scene: &Scene) -> bool {
    pieces::is_known(known, &scene.packet, scene.endpoint.epoch, scene.clock)
}

/// Gives a later fragment the ports of the first.
///
/// # Errors
/// The reason to drop it.
#[inline(always)]
pub(crate) fn follow(scene: &mut Scene, direction: Direction) -> Result<(), Reason> {
    match element(scene, direction) {
        Some(known) if is_known(known, scene) => pieces::follow(known, &mut scene.packet),
        _ => Err(Reason::Fragment),
    }
}

/// True for a first fragment of a packet of which one has passed.
#[inline(always)]
pub(crate) fn is_repeated(scene: &Scene, direction: Direction) -> bool {
    scene.packet.piece.is_fragment
        && element(scene, direction).is_some_and(|known| is_known(known, scene))
}

/// Notes a first fragment that passes.
#[inline(always)]
pub(crate) fn note(scene: &Scene, direction: Direction) {
    let is_first = scene.packet.piece.more && scene.packet.piece.offset == 0;
    // An error's own flow is that of what it quotes: its later fragments cannot be told.
    if !is_first || matches!(scene.packet.transport, Transport::Error { .. }) {
        return;
    }
    if let Some(element) = element(scene, direction) {
        *element = pieces::begin(&scene.packet, scene.endpoint.epoch, scene.clock);
    }
}
