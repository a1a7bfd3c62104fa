//! The way of a packet through the programs, written down once more in user space: with the same parser
//! and the same transitions of flows (`sluice_common`), and plain tables of its own.
//!
//! Time stands still in it. What it is compared with must not take seconds.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use sluice_common::abi::{
    Address, Direction, Endpoint, EndpointFlags, Flow, FlowKey, FragmentSet, Lifetimes,
    RULE_DEFAULT, RuleId, SetId,
};
use sluice_common::bucket::Plain;
use sluice_common::flow::{self as track, Clock, Known};
use sluice_common::fragment as pieces;
use sluice_common::hash::Seed;
use sluice_common::parse::{
    Frame, Packet, Transport, claims_another_target, is_control, parse, quoted,
    source_is_acceptable,
};
use sluice_common::reason::{Outcome, Reason};

use crate::scene::{EPOCH, POD, POD6, SLOT};

use Direction::{Egress, Ingress};

const NOW: Clock = Clock { now: 1_000_000_000, rate: 1 };

/// Flows that nobody forgets while a test runs.
pub const FOREVER: Lifetimes = {
    let lifetime = Lifetimes::STANDARD.established;
    Lifetimes {
        opening: lifetime,
        established: lifetime,
        closing: lifetime,
        udp_opening: lifetime,
        udp: lifetime,
        echo: lifetime,
    }
};

/// A [`crate::scene::Scene`] of the same pod: what the programs know, and what they make of a packet.
pub struct Model {
    endpoint: Endpoint,
    generation: u32,
    /// Of the tables that it stands beside.
    seed: Seed,
    /// Direction, protocol and port that policy allows; it denies everything else.
    allowed: BTreeSet<(Direction, u8, u16)>,
    flows: HashMap<FlowKey, Flow>,
    fragments: HashMap<u32, FragmentSet>,
    /// Flows that a CPU may remember to have seen, and at which generation.
    recent: HashMap<FlowKey, u32>,
}

/// What a packet comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Why it passes or is dropped.
    pub reason: Reason,
    /// The flow that it was looked up as, if any.
    pub looked_up: Option<LookedUp>,
}

/// A flow that a packet was looked up as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookedUp {
    /// Its key.
    pub key: FlowKey,
    /// What stood there before.
    pub before: Option<Flow>,
    /// A CPU may have remembered it, and then nothing was written.
    pub may_be_recent: bool,
}

impl Model {
    /// A pod that is isolated in both directions, with no rules. `seed` is that of the tables.
    pub fn new(seed: Seed) -> Self {
        let (v4, v6) = (IpAddr::from(POD).into(), IpAddr::from(POD6).into());
        let flags = EndpointFlags::PRESENT;
        Self {
            endpoint: Endpoint { sets: [1, 2], epoch: EPOCH, flags, v4, v6 },
            generation: 1,
            seed,
            allowed: BTreeSet::new(),
            flows: HashMap::new(),
            fragments: HashMap::new(),
            recent: HashMap::new(),
        }
    }

    /// Another pod in the same slot, under the same policy.
    pub fn replace_pod(&mut self, epoch: u32) {
        self.endpoint.epoch = epoch;
        self.flows.clear();
        self.fragments.clear();
        self.recent.clear();
    }

    /// Isolates the pod in these directions only.
    pub fn govern(&mut self, sets: [SetId; 2]) {
        self.endpoint.sets = sets;
        self.generation += 1;
    }

    /// Allows a port of a protocol in a direction, or denies it.
    pub fn decide(&mut self, direction: Direction, protocol: u8, port: u16, allow: bool) {
        let port = (direction, protocol, port);
        let _ = if allow { self.allowed.insert(port) } else { self.allowed.remove(&port) };
        self.generation += 1;
    }

    /// No CPU remembers anything.
    pub fn forget_recent(&mut self) {
        self.recent.clear();
    }

    /// All flows.
    pub fn flows(&self) -> impl Iterator<Item = (&FlowKey, &Flow)> {
        self.flows.iter()
    }

    /// A flow.
    pub fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.get(key).copied()
    }

    /// Puts a flow back to what it was before a packet that a CPU remembered.
    pub fn restore(&mut self, looked_up: &LookedUp) {
        match looked_up.before {
            Some(flow) => self.flows.insert(looked_up.key, flow),
            None => self.flows.remove(&looked_up.key),
        };
    }

    /// A flow as the model would have it: seen now.
    pub fn timeless(flow: Flow) -> Flow {
        Flow { last_seen: NOW.now, ..flow }
    }

    /// What the programs make of a packet; `from_host`: of the node's own host stack.
    pub fn judge(&mut self, direction: Direction, frame: &[u8], from_host: bool) -> Judged {
        let mut packet = Packet::default();
        let read = parse(frame, &mut packet);
        let mut walk = Walk { model: self, frame, direction, packet, read, looked_up: None };
        let reason = walk.reason(from_host);
        Judged { reason, looked_up: walk.looked_up }
    }

    fn governs(&self, direction: Direction) -> bool {
        self.endpoint.is_governed(direction)
    }

    /// The rule that allows it, if one does: of each direction there is one, with its number.
    fn ask(&self, direction: Direction, protocol: u8, port: u16) -> Option<RuleId> {
        if !self.governs(direction) {
            return Some(RULE_DEFAULT);
        }
        self.allowed.contains(&(direction, protocol, port)).then_some(direction as RuleId + 1)
    }
}

/// A packet on its way.
struct Walk<'a> {
    model: &'a mut Model,
    frame: &'a [u8],
    direction: Direction,
    packet: Packet,
    read: Result<Frame, Reason>,
    looked_up: Option<LookedUp>,
}

impl Walk<'_> {
    fn reason(&mut self, from_host: bool) -> Reason {
        let Self { model, frame, direction, packet, read, .. } = self;
        let endpoint = &model.endpoint;
        let is_piece = packet.piece.is_fragment;
        let may_be_cut = match read {
            Ok(_) => packet.has_fragment_header,
            Err(_) => !packet.addressed || !packet.source.is_v4(),
        };
        if *direction == Ingress && from_host && !may_be_cut {
            self.note_own_host();
            return Reason::Host;
        }
        let control = match read {
            Ok(Frame::Arp) => true,
            Ok(Frame::Ip) => !is_piece && is_control(*frame, packet, endpoint, *direction),
            _ => false,
        };
        if *direction == Egress {
            if *read == Err(Reason::MartianAddress) {
                return Reason::MartianAddress;
            }
            let is_wrong = !source_is_acceptable(packet, endpoint, control)
                || claims_another_target(*frame, packet, endpoint);
            if packet.addressed && is_wrong {
                return Reason::SpoofedSource;
            }
        }
        if control {
            return Reason::Control;
        }
        let unreadable = match *read {
            Err(reason) => Some(reason),
            Ok(_) if is_piece => self.wrong_piece(),
            Ok(_) => None,
        };
        if let Some(reason) = unreadable {
            let governs = self.model.governs(self.direction);
            return if governs { reason } else { Reason::NotIsolated };
        }
        let reason = self.whole();
        if reason.outcome() == Outcome::Pass {
            self.note_piece();
        }
        reason
    }

    fn remote(&self) -> Address {
        match self.direction {
            Ingress => self.packet.source,
            Egress => self.packet.destination,
        }
    }

    /// The element in which a fragment's packet is.
    fn pieces(&mut self) -> &mut FragmentSet {
        let index = pieces::index(SLOT, self.direction, &self.packet, &self.model.seed);
        self.model.fragments.entry(index).or_default()
    }

    fn wrong_piece(&mut self) -> Option<Reason> {
        let (epoch, mut packet) = (self.model.endpoint.epoch, self.packet);
        let is_later = self.read == Ok(Frame::Piece);
        let set = self.pieces();
        let way = pieces::find(set, &packet, epoch, NOW);
        let result = match set.places.get_mut(way) {
            Some(_) if !is_later => Err(Reason::OverlappingFragment),
            Some(known) => pieces::follow(known, &mut packet),
            None if is_later => Err(Reason::Fragment),
            None => Ok(()),
        };
        self.packet = packet;
        result.err()
    }

    fn note_piece(&mut self) {
        let (epoch, packet) = (self.model.endpoint.epoch, self.packet);
        let is_first = packet.piece.more && packet.piece.offset == 0;
        if is_first && !matches!(packet.transport, Transport::Error { .. }) {
            let set = self.pieces();
            let way = pieces::place_for(set, &packet, epoch, NOW, Plain);
            set.places[way] = pieces::begin(&packet, epoch, NOW);
        }
    }

    /// Looks a flow up.
    fn find(&mut self, key: FlowKey) -> Option<Flow> {
        let before = self.model.flow(&key);
        let at = self.model.recent.get(&key);
        let may_be_recent = at == Some(&self.model.generation) && track::is_steady(&self.packet);
        self.looked_up = Some(LookedUp { key, before, may_be_recent });
        before
    }

    fn insert(&mut self, key: FlowKey, flow: Flow) {
        self.model.recent.remove(&key);
        self.model.flows.insert(key, flow);
    }

    fn known(&self, flow: &Flow, key: &FlowKey) -> Known {
        let Self { model, packet, direction, .. } = self;
        track::known(flow, key, packet, *direction, model.generation, NOW, &FOREVER)
    }

    fn open(&self, rule: RuleId, flags: u32) -> Option<Flow> {
        track::open(&self.packet, self.direction, self.model.generation, NOW, rule, flags)
    }

    fn key(&self, direction: Direction) -> Option<FlowKey> {
        track::key(&self.packet, direction, self.model.endpoint.epoch)
    }

    fn note_own_host(&mut self) {
        if self.read != Ok(Frame::Ip) || !self.model.governs(Egress) {
            return;
        }
        let Some(key) = self.key(Ingress) else { return };
        if let Some(flow) = self.find(key) {
            match self.known(&flow, &key) {
                Known::Passes(next) => {
                    self.model.flows.insert(key, next);
                    return;
                }
                Known::Stale | Known::Revoked(_) => return,
                Known::First | Known::Again => {}
            }
        }
        if track::begins(&self.packet)
            && let Some(flow) = self.open(RULE_DEFAULT, Flow::FLAG_HOST)
        {
            self.insert(key, flow);
        }
    }

    fn whole(&mut self) -> Reason {
        if self.is_to_itself() {
            return Reason::OwnAddress;
        }
        if !self.model.governs(Ingress) && !self.model.governs(Egress) {
            return Reason::NotIsolated;
        }
        let is_error = matches!(self.packet.transport, Transport::Error { .. });
        let key = if is_error {
            self.key_of_quoted()
        } else if self.model.endpoint.owns(&self.remote()) {
            None
        } else {
            self.key(self.direction)
        };
        let flow = key.and_then(|key| self.find(key));
        let (Some(key), Some(flow)) = (key, flow) else { return self.first(key, !is_error) };
        match self.known(&flow, &key) {
            Known::Passes(_) if is_error => Reason::RelatedError,
            Known::Passes(next) => {
                self.model.flows.insert(key, next);
                if next.generation == self.model.generation {
                    self.model.recent.insert(key, next.generation);
                }
                Reason::Established
            }
            Known::Revoked(next) if !is_error => {
                self.model.flows.insert(key, next);
                Reason::Revoked
            }
            Known::Stale => self.again(key, &flow, is_error),
            Known::Again => self.first(Some(key), false),
            Known::First | Known::Revoked(_) => self.first(Some(key), !is_error),
        }
    }

    fn is_to_itself(&mut self) -> bool {
        let endpoint = &self.model.endpoint;
        if !endpoint.owns(&self.packet.destination) || !endpoint.owns(&self.remote()) {
            return false;
        }
        let Some(key) = self.key(Egress) else { return self.direction == Egress };
        let known = self.find(key).filter(|flow| track::is_own(flow, &key, NOW, &FOREVER));
        if self.direction == Ingress {
            return known.is_some();
        }
        match known {
            Some(flow) => {
                self.model.flows.insert(key, track::seen(flow, NOW));
            }
            None => self.insert(key, track::to_itself(self.model.generation, NOW)),
        }
        true
    }

    fn key_of_quoted(&self) -> Option<FlowKey> {
        let Self { model, frame, direction, packet, .. } = self;
        let quoted = quoted(*frame, packet)?;
        let own = if *direction == Ingress { &quoted.source } else { &quoted.destination };
        let is_for_its_sender = quoted.source == packet.destination;
        if !model.endpoint.owns(own) || !is_for_its_sender {
            return None;
        }
        track::key(&quoted, direction.reverse(), model.endpoint.epoch)
    }

    /// A packet of no flow.
    fn first(&mut self, key: Option<FlowKey>, opens_flow: bool) -> Reason {
        let (protocol, port) = (self.packet.protocol, self.packet.decision_port());
        let Some(rule) = self.model.ask(self.direction, protocol, port) else {
            return Reason::DefaultDeny;
        };
        if opens_flow
            && let Some(key) = key
            && let Some(flow) = self.open(rule, 0)
        {
            self.insert(key, flow);
        }
        let governs = self.model.governs(self.direction);
        if governs { Reason::Allowed } else { Reason::NotIsolated }
    }

    /// A packet of a flow that was judged before policy changed.
    fn again(&mut self, key: FlowKey, flow: &Flow, is_error: bool) -> Reason {
        let initiator = if flow.initiator == Ingress as u32 { Ingress } else { Egress };
        let port = track::decision_port(&key, initiator);
        let rule = self.model.ask(initiator, key.protocol as u8, port);
        if is_error {
            return if rule.is_some() { Reason::RelatedError } else { Reason::Revoked };
        }
        let Self { model, packet, direction, .. } = self;
        match track::judged_again(flow, packet, *direction, model.generation, NOW, rule) {
            Known::Passes(next) => {
                model.flows.insert(key, next);
                Reason::Established
            }
            Known::Revoked(next) => {
                model.flows.insert(key, next);
                Reason::Revoked
            }
            outcome => unreachable!("no outcome of a judgement: {outcome:?}"),
        }
    }
}
