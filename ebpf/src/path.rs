//! A packet's way through the checks. Everything here answers with a [`Reason`]; what becomes of the
//! packet is decided in one place, the verdict table in `main.rs`.

use core::arch::asm;

use sluice_common::abi::{
    Address, Direction, Endpoint, EndpointFlags, Flow, FlowKey, RULE_DEFAULT, RULE_SELF, RuleId,
};
use sluice_common::bucket::Spot;
use sluice_common::decide::Asked;
use sluice_common::flow::{self as track, Clock, Known};
use sluice_common::parse::{
    self, Frame, Packet, Transport, claims_another_target, is_control, parse, source_is_acceptable,
};
use sluice_common::reason::{Outcome, Reason};

use crate::observe::{count, count_rule};
use crate::packet::Skb;
use crate::policy::judge;
use crate::{flow, fragment, hairpin, maps, recent, words};

/// A packet, its endpoint, and the state of the tables that it is judged by.
///
/// It lies in the table `scratch` and not on the stack: the verifier does not follow what is in
/// tables, so whatever way a packet took through the parser, the rest of the program is looked at
/// once.
pub(crate) struct Scene {
    /// The endpoint.
    pub(crate) endpoint: Endpoint,
    /// The time.
    pub(crate) clock: Clock,
    /// The endpoint's slot.
    pub(crate) slot: u32,
    /// The generation, read once.
    pub(crate) generation: u32,
    /// Records of drops per reason and second.
    pub(crate) event_rate: u32,
    /// What was read of the packet.
    pub(crate) packet: Packet,
    /// What reading it came to.
    pub(crate) read: Result<Frame, Reason>,
    /// The rule that decided.
    pub(crate) rule: RuleId,
    /// It leaves for a service that can lead it back to the pod.
    pub(crate) may_return: bool,
    /// If it is allowed, a flow is opened by it.
    opens_flow: bool,
}

const _: () = assert!(size_of::<Scene>() <= size_of::<Scratch>());
const _: () = assert!(align_of::<Scene>() <= align_of::<Scratch>());

/// A value of `scratch`: room for a [`Scene`], as words because its own types are not for BTF.
pub(crate) type Scratch = [u64; 32];

impl Scene {
    /// Reads the packet and keeps what is known about it. `None` only if there were no scratch table.
    #[inline(always)]
    pub(crate) fn open(
        skb: &Skb,
        slot: u32,
        endpoint: &Endpoint,
        generation: u32,
        event_rate: u32,
    ) -> Option<&'static mut Self> {
        /// Writes a field of what is not a whole `Scene` yet.
        macro_rules! write {
            ($room:ident.$field:ident, $value:expr) => {
                // SAFETY: this CPU's element of the table has room for a `Scene` and its alignment
                // (asserted above). Programs at this hook do not interrupt each other on one CPU, so
                // nobody else holds it.
                unsafe { (&raw mut (*$room).$field).write($value) }
            };
        }
        let room = maps::SCRATCH.get_ptr_mut(0)?.cast::<Self>();
        // SAFETY: within the room, as above.
        let its_endpoint = unsafe { &raw mut (*room).endpoint };
        // SAFETY: within the room, as above.
        let packet = unsafe { &raw mut (*room).packet };
        // SAFETY: as above; an endpoint is words only.
        unsafe { words::copy::<_, u64>(endpoint, its_endpoint) };
        // SAFETY: as above; zeros are an empty packet (as its type says).
        unsafe { words::clear(packet) };
        write!(room.clock, flow::clock());
        write!(room.slot, slot);
        write!(room.generation, generation);
        write!(room.event_rate, event_rate);
        write!(room.read, Ok(Frame::Ip));
        write!(room.rule, RULE_DEFAULT);
        write!(room.may_return, false);
        write!(room.opens_flow, true);
        // SAFETY: as above; every field was written. What the element held before was not read.
        let scene = unsafe { &mut *room };
        scene.read = parse(skb, &mut scene.packet);
        Some(reread(scene))
    }

    #[inline(always)]
    fn governs(&self, direction: Direction) -> bool {
        self.endpoint.is_governed(direction)
    }
}

/// The same reference; the compiler must take its contents from memory again.
#[inline(always)]
fn reread(scene: &'static mut Scene) -> &'static mut Scene {
    let mut address: *mut Scene = scene;
    // SAFETY: no instruction changes anything; the register keeps its value.
    unsafe { asm!("{0} = {0}", inout(reg) address, options(nostack, preserves_flags)) };
    // SAFETY: it is the reference that came in, which is not used any more.
    unsafe { &mut *address }
}

/// Why the packet passes or is dropped.
#[inline(always)]
pub(crate) fn walk(scene: &mut Scene, skb: &Skb, direction: Direction) -> Reason {
    if matches!(direction, Direction::Ingress) && skb.is_from_own_host() && is_of_one_piece(scene) {
        return from_own_host(scene, skb);
    }
    let control = match scene.read {
        Ok(Frame::Arp) => true,
        // Neighbour discovery never comes in pieces (RFC 6980).
        Ok(Frame::Ip) if !scene.packet.piece.is_fragment => {
            is_control(skb, &scene.packet, &scene.endpoint, direction)
        }
        _ => false,
    };
    if matches!(direction, Direction::Egress)
        && let Some(reason) = wrong_source(scene, skb, control)
    {
        return reason;
    }
    if control {
        return Reason::Control;
    }
    if let Err(reason) = scene.read {
        return if scene.governs(direction) { reason } else { Reason::NotIsolated };
    }
    if scene.packet.piece.is_fragment
        && let Some(reason) = wrong_piece(scene, direction)
    {
        return if scene.governs(direction) { reason } else { Reason::NotIsolated };
    }
    let reason = whole(scene, skb, direction);
    if matches!(reason.outcome(), Outcome::Pass) {
        fragment::note(scene, direction);
    }
    reason
}

/// The reason to drop a fragment for what is known of its packet. A later one is given the ports of the
/// first here, and is judged like a whole packet from then on.
#[inline(always)]
fn wrong_piece(scene: &mut Scene, direction: Direction) -> Option<Reason> {
    if scene.read == Ok(Frame::Piece) {
        return fragment::follow(scene, direction).err();
    }
    fragment::is_repeated(scene, direction).then_some(Reason::OverlappingFragment)
}

#[inline(always)]
fn whole(scene: &mut Scene, skb: &Skb, direction: Direction) -> Reason {
    if is_to_itself(scene, skb, direction) {
        return Reason::OwnAddress;
    }
    if !scene.governs(direction) && !scene.governs(direction.reverse()) {
        return Reason::NotIsolated;
    }
    let reason = by_flow_or_policy(scene, skb, direction);
    if matches!(direction, Direction::Egress) && scene.may_return {
        hairpin::mark(scene, skb);
    }
    reason
}

/// The address at the other end.
#[inline(always)]
pub(crate) const fn remote(packet: &Packet, direction: Direction) -> &Address {
    match direction {
        Direction::Ingress => &packet.source,
        Direction::Egress => &packet.destination,
    }
}

/// The pod sent the packet to its own address, and nobody else did.
///
/// Such packets leave the pod only to be sent back by the node (a hairpin). Its address as source
/// proves nothing there, since any pod without our programs can write it: so what goes out is noted,
/// and only what was noted may come in.
#[inline(always)]
fn is_to_itself(scene: &Scene, skb: &Skb, direction: Direction) -> bool {
    let Scene { endpoint, packet, generation, clock, .. } = scene;
    if !endpoint.owns(&packet.destination) || !endpoint.owns(remote(packet, direction)) {
        return false;
    }
    let Some(key) = track::key(packet, Direction::Egress, endpoint.epoch) else {
        // Of a message without a flow nothing is noted.
        return matches!(direction, Direction::Egress);
    };
    let spot = flow::spot(&key);
    let lifetimes = flow::lifetimes();
    let place = flow::find(&key, spot);
    let place = place.filter(|place| track::is_own(&place.flow, &key, *clock, &lifetimes));
    match (direction, place) {
        (Direction::Ingress, place) => return place.is_some(),
        (Direction::Egress, Some(place)) => {
            place.set(&key, &track::seen(place.flow, *clock));
        }
        // Without the entry it does not come back in, but for policy: that fails closed.
        (Direction::Egress, None) => {
            insert(scene, skb, direction, &key, &track::to_itself(*generation, *clock), spot);
        }
    }
    true
}

/// True unless the packet may be a piece of an IPv6 packet.
///
/// A node that tracks connections puts fragments together, forwards the whole and cuts it again. What
/// IPv6 cuts anew has no ingress interface (IPv4 copies it), whoever sent it. Whatever cannot be read to
/// its end may hide such a piece.
#[inline(always)]
fn is_of_one_piece(scene: &Scene) -> bool {
    match scene.read {
        Ok(_) => !scene.packet.has_fragment_header,
        Err(_) => scene.packet.addressed && scene.packet.source.is_v4(),
    }
}

/// A packet of the node's own host stack always passes. Where the pod's egress is governed, and the host
/// begins something, a flow is noted that lets the answer out.
///
/// What it says in the middle of something is noted nowhere: that may be the pod's, which policy can take
/// back. The host's connections from before are learned (the agent's `endpoint::learn`).
#[inline(always)]
fn from_own_host(scene: &Scene, skb: &Skb) -> Reason {
    const DIRECTION: Direction = Direction::Ingress;
    if scene.read != Ok(Frame::Ip) || !scene.governs(DIRECTION.reverse()) {
        return Reason::Host;
    }
    let Some(key) = track::key(&scene.packet, DIRECTION, scene.endpoint.epoch) else {
        return Reason::Host;
    };
    let spot = flow::spot(&key);
    if let Some(place) = flow::find(&key, spot) {
        match known(scene, &place.flow, &key, DIRECTION) {
            Known::Passes(next) => {
                place.set(&key, &next);
                return Reason::Host;
            }
            // The pod opened it: its own next packet brings the new judgement.
            Known::Stale | Known::Revoked(_) => return Reason::Host,
            Known::First | Known::Again => {}
        }
    }
    if track::begins(&scene.packet)
        && let Some(flow) = open(scene, DIRECTION, RULE_DEFAULT, Flow::FLAG_HOST)
    {
        // Without the entry the answer is judged by policy, which fails closed.
        insert(scene, skb, DIRECTION, &key, &flow, spot);
    }
    Reason::Host
}

/// The reason to drop a packet from the pod for an address that is not its own. Checked in any pod
/// that is managed, whether its egress is isolated or not, as far as the packet can be read.
#[inline(always)]
fn wrong_source(scene: &Scene, skb: &Skb, control: bool) -> Option<Reason> {
    if scene.endpoint.flags & EndpointFlags::ANY_SOURCE != 0 {
        return None;
    }
    if scene.read == Err(Reason::MartianAddress) {
        return Some(Reason::MartianAddress);
    }
    let Scene { packet, endpoint, .. } = scene;
    let is_wrong = packet.addressed
        && (!source_is_acceptable(packet, endpoint, control)
            || claims_another_target(skb, packet, endpoint));
    is_wrong.then_some(Reason::SpoofedSource)
}

/// A flow that passes the packet, or else policy.
#[inline(always)]
fn by_flow_or_policy(scene: &mut Scene, skb: &Skb, direction: Direction) -> Reason {
    let is_error = matches!(scene.packet.transport, Transport::Error { .. });
    let key = if is_error {
        key_of_quoted(scene, skb, direction)
    } else if scene.endpoint.owns(remote(&scene.packet, direction)) {
        // It claims the pod's own address. The flows to that are the pod's; this is none of them.
        None
    } else {
        track::key(&scene.packet, direction, scene.endpoint.epoch)
    };
    let spot = key.as_ref().map_or_else(Spot::default, flow::spot);
    let is_steady = !is_error && track::is_steady(&scene.packet);
    if is_steady
        && let Some(key) = &key
        && let Some(rule) = recent::find(key, scene.generation, scene.clock)
    {
        scene.rule = rule;
        return Reason::Established;
    }
    let place = key.as_ref().and_then(|key| flow::find(key, spot));
    let mut question = Asked {
        slot: scene.slot,
        direction,
        remote: *remote(&scene.packet, direction),
        protocol: scene.packet.protocol,
        port: scene.packet.decision_port(),
    };
    // It is a flow's renewed judgement, not a first packet's.
    let mut again = false;
    scene.opens_flow = !is_error;
    if let (Some(key), Some(place)) = (&key, &place) {
        match known(scene, &place.flow, key, direction) {
            Known::Passes(_) if is_error => return Reason::RelatedError,
            Known::Passes(next) => {
                place.set(key, &next);
                if next.generation == scene.generation {
                    recent::note(key, &next, scene.clock);
                }
                scene.rule = next.rule;
                scene.may_return = goes_out_to_return(&next);
                return Reason::Established;
            }
            Known::Revoked(next) if !is_error => {
                place.set(key, &next);
                return Reason::Revoked;
            }
            Known::Stale => {
                let initiator = initiator(&place.flow);
                again = true;
                question.direction = initiator;
                question.remote = key.remote;
                question.protocol = key.protocol as u8;
                question.port = track::decision_port(key, initiator);
            }
            Known::Again => scene.opens_flow = false,
            Known::First | Known::Revoked(_) => {}
        }
    }
    let is_first = !again && !is_error;
    if matches!(direction, Direction::Ingress) && is_first && hairpin::has_returned(scene, skb) {
        return returned(scene, skb, key.as_ref(), spot);
    }
    let denied = ask(scene, skb, &question);
    if let (true, Some(key), Some(place)) = (again, &key, &place) {
        return renewed(scene, key, place, direction, denied.is_none(), is_error);
    }
    if let Some(reason) = denied {
        return reason;
    }
    opened(scene, skb, key.as_ref(), spot, direction)
}

/// Key of the flow that an ICMP error is about: one that this pod's packets belong to, for an error
/// that it is sent, and the other end's, for one that it sends.
#[inline(always)]
fn key_of_quoted(scene: &Scene, skb: &Skb, direction: Direction) -> Option<FlowKey> {
    let quoted = parse::quoted(skb, &scene.packet)?;
    let own = match direction {
        Direction::Ingress => &quoted.source,
        Direction::Egress => &quoted.destination,
    };
    // An error goes to the one that sent what it quotes (RFC 792, RFC 4443 section 2.2), or a pod could
    // send it to anyone.
    if !scene.endpoint.owns(own) || quoted.source != scene.packet.destination {
        return None;
    }
    track::key(&quoted, direction.reverse(), scene.endpoint.epoch)
}

#[inline(always)]
fn known(scene: &Scene, flow: &Flow, key: &FlowKey, direction: Direction) -> Known {
    let Scene { packet, generation, clock, .. } = scene;
    track::known(flow, key, packet, direction, *generation, *clock, &flow::lifetimes())
}

#[inline(always)]
const fn initiator(flow: &Flow) -> Direction {
    if flow.initiator == Direction::Ingress as u32 { Direction::Ingress } else { Direction::Egress }
}

/// Asks policy, and notes which rule answered. The reason to drop, if any.
#[inline(always)]
fn ask(scene: &mut Scene, skb: &Skb, question: &Asked) -> Option<Reason> {
    if !scene.governs(question.direction) {
        return None;
    }
    let judgement = judge(&scene.endpoint, scene.generation, question);
    scene.rule = judgement.rule;
    count_rule(skb, judgement.rule);
    judgement.denied
}

/// A flow that was judged again.
#[inline(always)]
fn renewed(
    scene: &mut Scene,
    key: &FlowKey,
    place: &flow::Place,
    direction: Direction,
    is_allowed: bool,
    is_error: bool,
) -> Reason {
    if is_error {
        // The flow's own next packet writes the new judgement down.
        return if is_allowed { Reason::RelatedError } else { Reason::Revoked };
    }
    let Scene { packet, generation, clock, .. } = scene;
    let rule = is_allowed.then_some(scene.rule);
    match track::judged_again(&place.flow, packet, direction, *generation, *clock, rule) {
        Known::Passes(next) => {
            place.set(key, &next);
            scene.may_return = goes_out_to_return(&next);
            Reason::Established
        }
        Known::Revoked(next) => {
            place.set(key, &next);
            Reason::Revoked
        }
        // Never the outcome of a judgement.
        Known::First | Known::Again | Known::Stale => Reason::Revoked,
    }
}

/// Adds a flow, or replaces the one that has its key. False if the table did not take it.
#[inline(always)]
fn insert(
    scene: &Scene,
    skb: &Skb,
    direction: Direction,
    key: &FlowKey,
    flow: &Flow,
    spot: Spot,
) -> bool {
    let added = flow::insert(key, flow, spot, scene.clock);
    if added == flow::Added::Displacing {
        count(scene.slot, skb, direction, Reason::FlowDisplaced);
    }
    added != flow::Added::No
}

/// True for a flow that the pod opened to a service that can lead back to it.
#[inline(always)]
const fn goes_out_to_return(flow: &Flow) -> bool {
    flow.flags & Flow::FLAG_SELF != 0 && flow.initiator == Direction::Egress as u32
}

/// A packet of the pod's own that came back opens a flow that nothing takes back.
#[inline(always)]
fn returned(scene: &mut Scene, skb: &Skb, key: Option<&FlowKey>, spot: Spot) -> Reason {
    const DIRECTION: Direction = Direction::Ingress;
    scene.rule = RULE_SELF;
    if let Some(key) = key
        && let Some(flow) = open(scene, DIRECTION, RULE_SELF, Flow::FLAG_SELF)
    {
        // Without the entry each packet shows anew whose it is, and the answers are judged by policy.
        insert(scene, skb, DIRECTION, key, &flow, spot);
    }
    Reason::OwnAddress
}

/// A packet that policy lets pass opens its flow.
#[inline(always)]
fn opened(
    scene: &mut Scene,
    skb: &Skb,
    key: Option<&FlowKey>,
    spot: Spot,
    direction: Direction,
) -> Reason {
    let is_governed = scene.governs(direction);
    scene.may_return = matches!(direction, Direction::Egress) && hairpin::can_return(scene);
    let flags = if scene.may_return { Flow::FLAG_SELF } else { 0 };
    if scene.opens_flow
        && let Some(key) = key
        && let Some(flow) = open(scene, direction, scene.rule, flags)
        && !insert(scene, skb, direction, key, &flow, spot)
        && is_governed
    {
        return Reason::FlowTableFull;
    }
    if is_governed { Reason::Allowed } else { Reason::NotIsolated }
}

#[inline(always)]
fn open(scene: &Scene, direction: Direction, rule: RuleId, flags: u32) -> Option<Flow> {
    track::open(&scene.packet, direction, scene.generation, scene.clock, rule, flags)
}
