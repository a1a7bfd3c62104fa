//! The engine `kernel`: the compiled tables in kernel maps, and the real programs run on real packets.
//!
//! Every pod that a probe names is made an endpoint, whichever node it is on. A probe is a connection:
//! its first packet goes through the egress program at the source and the ingress program at the
//! destination, and its answer the way back; between the two the addresses are translated as the node
//! would do it. There are no interfaces: the programs run as if on the loopback, whose slot is set to
//! the endpoint that is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::Context as _;
use sluice_common::abi::{Direction, ENDPOINT_MAX, Endpoint, Event, Flow, RULE_DEFAULT, RuleId};
use sluice_common::flow;
use sluice_common::parse::{Packet, parse, protocol};
use sluice_common::reason::{Outcome as Fate, Reason};
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::Compiler;
use sluice_policy::diff::diff;
use sluice_policy::model::{Answer, DecidedBy, LocalEndpoint, PodName, Question, World};
use sluice_policy::names::Names;

use super::packet::{Segment, Step};
use super::sides::{Sides, sides};
use super::{Engine, Outcome, Probe, ProbeVerdict};
use crate::cluster::Cluster;
use crate::datapath::counters::Snapshot;
use crate::datapath::events::Events;
use crate::datapath::run::{Action, ELSEWHERE, LOOPBACK};
use crate::datapath::{Datapath, LoadOptions};

/// The engine.
pub struct Kernel {
    datapath: Datapath,
    compiler: Compiler,
    endpoints: BTreeMap<PodName, Enforced>,
    /// Ports of the connections of the step before, by probe (its `established` left out).
    connections: BTreeMap<Probe, u16>,
    next_port: u16,
    next_epoch: u32,
}

/// A pod that is an endpoint.
#[derive(Clone, PartialEq, Eq)]
struct Enforced {
    endpoint: LocalEndpoint,
    /// Another pod under the same name is another endpoint.
    addresses: Vec<IpAddr>,
}

/// First of the ports that probes come from.
const FIRST_PORT: u16 = 32_768;

impl Kernel {
    /// Loads the programs, over tables that end with this value.
    ///
    /// # Errors
    /// What this machine lacks for it.
    pub fn new() -> anyhow::Result<Self> {
        let options =
            LoadOptions { event_rate: u32::MAX, stamp_in_mark: true, ..LoadOptions::default() };
        let datapath = Datapath::load(&options).context(if nix::unistd::geteuid().is_root() {
            "the engine `kernel` needs a kernel with BPF"
        } else {
            "the engine `kernel` needs root: run it with sudo"
        })?;
        Ok(Self {
            datapath,
            compiler: Compiler::new(Capacity::default(), Names::default()),
            endpoints: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_port: FIRST_PORT,
            next_epoch: 1,
        })
    }

    /// Brings the tables to a world, whose endpoints are those given in it.
    ///
    /// # Errors
    /// If the kernel refuses a write.
    pub fn load(&mut self, world: &World) -> anyhow::Result<()> {
        self.compiler.apply(self.compiler.world().changes_to(world));
        // What fits must not depend on the worlds before.
        self.compiler.reconsider();
        let state = self.datapath.maps().state()?;
        let ops = diff(&state, self.compiler.tables(), None);
        self.datapath.maps().apply(&ops).context("cannot write the tables")
    }

    /// What the tables say of a pod; `None` where it is no endpoint.
    pub fn endpoint(&self, pod: &PodName) -> Option<&Endpoint> {
        let local = self.compiler.world().endpoints.get(pod)?;
        self.compiler.tables().endpoints.get(&local.slot)
    }

    /// Runs one packet at an endpoint, and says what decided.
    ///
    /// # Errors
    /// If the kernel does not run it, or counts something else than one packet.
    pub fn run(&mut self, check: &Check<'_>) -> anyhow::Result<Answer> {
        self.run_stamped(check, 0).map(|(answer, _)| answer)
    }

    /// The same for a packet that comes with a stamp, and the stamp that it leaves with.
    fn run_stamped(&mut self, check: &Check<'_>, stamp: u32) -> anyhow::Result<(Answer, u32)> {
        let Check { pod, direction, frame, from_own_host } = *check;
        let Some(endpoint) = self.compiler.world().endpoints.get(pod).copied() else {
            // Nothing is attached to a pod that is no endpoint.
            return Ok((self.answer(check, true, DecidedBy::DefaultAllow), stamp));
        };
        let maps = self.datapath.maps();
        maps.set_slot(LOOPBACK, endpoint.slot)?;
        let before = maps.snapshot(endpoint.slot)?;
        let from_interface = if from_own_host { 0 } else { ELSEWHERE };
        let (action, stamp) = self.datapath.run_stamped(direction, frame, from_interface, stamp)?;
        let maps = self.datapath.maps();
        let after = maps.snapshot(endpoint.slot)?;
        let event = maps.events().and_then(Events::next_event);
        let reason = counted(&before, &after, direction)?;
        let allowed = action == Action::Pass;
        anyhow::ensure!(
            allowed == (reason.outcome() == Fate::Pass),
            "the program answers {action:?} and counts {}",
            reason.label()
        );
        let rule = self.deciding_rule(frame, direction, endpoint.epoch, event)?;
        let decided_by = self.decided_by(reason, rule, allowed);
        Ok((self.answer(check, allowed, decided_by), stamp))
    }

    fn answer(&self, check: &Check<'_>, allowed: bool, decided_by: DecidedBy) -> Answer {
        let isolated = self.compiler.is_isolated(check.pod, check.direction);
        Answer { allowed, isolated, decided_by }
    }

    /// The rule in the record of a drop, else the one that the packet's flow notes.
    fn deciding_rule(
        &mut self,
        frame: &[u8],
        direction: Direction,
        epoch: u32,
        event: Option<Event>,
    ) -> anyhow::Result<RuleId> {
        if let Some(event) = event {
            return Ok(event.rule);
        }
        let mut packet = Packet::default();
        let key = parse(frame, &mut packet).ok().and_then(|_| flow::key(&packet, direction, epoch));
        let Some(key) = key else { return Ok(RULE_DEFAULT) };
        Ok(self.datapath.maps().flow(&key)?.map_or(RULE_DEFAULT, |flow: Flow| flow.rule))
    }

    fn decided_by(&self, reason: Reason, rule: RuleId, allowed: bool) -> DecidedBy {
        match reason {
            Reason::Host => DecidedBy::Host,
            Reason::OwnAddress => DecidedBy::OwnAddress,
            _ => self.compiler.names().decided_by_rule(rule, allowed),
        }
    }
}

/// One packet at one endpoint.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// The pod.
    pub pod: &'a PodName,
    /// The packet's direction there.
    pub direction: Direction,
    /// The packet.
    pub frame: &'a [u8],
    /// The pod's own node made it.
    pub from_own_host: bool,
}

impl Engine for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        self.endpoints.clear();
        self.connections.clear();
        self.load(&World::default())
    }

    fn step(&mut self, cluster: &Cluster, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
        let questions: Vec<_> = probes.iter().map(|probe| sides(cluster, probe)).collect();
        self.enforce(cluster, questions.iter().flatten())?;
        let mut world = cluster.world.clone();
        world.endpoints = self.endpoints.iter().map(|(pod, e)| (pod.clone(), e.endpoint)).collect();
        self.load(&world)?;
        let before = std::mem::take(&mut self.connections);
        let mut outcomes = Vec::with_capacity(probes.len());
        for (probe, sides) in probes.iter().zip(&questions) {
            outcomes.push(match sides {
                Some(sides) => self.probe(cluster, probe, sides, &before)?,
                None => Outcome { verdict: ProbeVerdict::Unreachable, egress: None, ingress: None },
            });
        }
        Ok(outcomes)
    }
}

impl Kernel {
    /// Makes endpoints of the pods that are asked about, and keeps those of before that are still the
    /// same pods.
    fn enforce<'a>(
        &mut self,
        cluster: &Cluster,
        sides: impl Iterator<Item = &'a Sides>,
    ) -> anyhow::Result<()> {
        let pods = &cluster.world.pods;
        self.endpoints.retain(|name, enforced| {
            pods.get(name).is_some_and(|pod| pod.addresses == enforced.addresses)
        });
        let asked: BTreeSet<&PodName> =
            sides.flat_map(|s| s.egress.iter().chain(&s.ingress)).map(|q| &q.pod).collect();
        for name in asked {
            let Some(pod) = pods.get(name).filter(|pod| !pod.host_network) else { continue };
            if !self.endpoints.contains_key(name) {
                let endpoint = self.new_endpoint()?;
                let enforced = Enforced { endpoint, addresses: pod.addresses.clone() };
                self.endpoints.insert(name.clone(), enforced);
            }
        }
        Ok(())
    }

    fn new_endpoint(&mut self) -> anyhow::Result<LocalEndpoint> {
        let taken: BTreeSet<u32> = self.endpoints.values().map(|e| e.endpoint.slot).collect();
        let slot = (1..ENDPOINT_MAX)
            .find(|slot| !taken.contains(slot))
            .with_context(|| format!("probes name more than {} pods", ENDPOINT_MAX - 1))?;
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        Ok(LocalEndpoint { slot, epoch, flags: 0 })
    }

    fn probe(
        &mut self,
        cluster: &Cluster,
        probe: &Probe,
        sides: &Sides,
        before: &BTreeMap<Probe, u16>,
    ) -> anyhow::Result<Outcome> {
        let connection = Probe { established: false, ..probe.clone() };
        let open_port = before.get(&connection).filter(|_| probe.established).copied();
        let source_port = open_port.unwrap_or_else(|| self.new_port());
        self.connections.insert(connection, source_port);
        let Some(source) = source(cluster, probe, sides) else {
            // No pod at either end: nobody judges it.
            return Ok(Outcome { verdict: ProbeVerdict::Allow, egress: None, ingress: None });
        };
        let sent = Segment {
            source,
            destination: sides.sent_to.0,
            protocol: probe.protocol.number(probe.family),
            source_port,
            destination_port: sides.sent_to.1,
            step: if open_port.is_some() { Step::Data } else { Step::Open },
            forward: true,
        };
        let arriving = translated(cluster, probe, sides, &sent);
        let egress = sides.egress.as_ref().map(|q| self.ask(q, &sent, 0)).transpose()?;
        let (egress, stamp) = egress.map_or((None, 0), |(answer, stamp)| (Some(answer), stamp));
        let ingress = sides.ingress.as_ref().zip(arriving.as_ref());
        let ingress = ingress.map(|(q, packet)| self.ask(q, packet, stamp)).transpose()?;
        let mut ingress = ingress.map(|(answer, _)| answer);
        if let (Some(answer), Some(question)) = (&mut ingress, &sides.ingress)
            && is_returning(sides, &sent)
            && self.is_unmanaged(&question.pod)
        {
            // Where no program looks, none has to tell whose the translated packet is.
            answer.decided_by = DecidedBy::OwnAddress;
        }
        let allowed = [&egress, &ingress].into_iter().flatten().all(|a| a.allowed);
        let verdict = match &arriving {
            None if allowed => ProbeVerdict::Unreachable,
            Some(arriving) if allowed && self.answer_passes(cluster, sides, &sent, arriving)? => {
                ProbeVerdict::Allow
            }
            _ => ProbeVerdict::Deny,
        };
        Ok(Outcome { verdict, egress, ingress })
    }

    /// True for a pod that no policy applies to: no program is attached to it.
    fn is_unmanaged(&self, pod: &PodName) -> bool {
        self.endpoint(pod).is_none_or(|endpoint| {
            !endpoint.is_governed(Direction::Ingress) && !endpoint.is_governed(Direction::Egress)
        })
    }

    fn ask(
        &mut self,
        question: &Question,
        packet: &Segment,
        stamp: u32,
    ) -> anyhow::Result<(Answer, u32)> {
        let Question { pod, direction, from_own_host, .. } = question;
        let (direction, from_own_host) = (*direction, *from_own_host);
        let check = Check { pod, direction, frame: &packet.frame(), from_own_host };
        self.run_stamped(&check, stamp)
    }

    /// The answer goes the way back: out of the destination, into the source.
    fn answer_passes(
        &mut self,
        cluster: &Cluster,
        sides: &Sides,
        sent: &Segment,
        arriving: &Segment,
    ) -> anyhow::Result<bool> {
        let mut passes = true;
        if let Some(Question { pod, .. }) = &sides.ingress {
            let (direction, frame) = (Direction::Egress, answer_to(arriving).frame());
            let check = Check { pod, direction, frame: &frame, from_own_host: false };
            passes &= self.run(&check)?.allowed;
        }
        if let Some(Question { pod, .. }) = &sides.egress {
            let own_node = cluster.world.pods.get(pod).map(|pod| pod.node.as_str());
            let node = cluster.node_at(arriving.destination);
            let from_own_host = sides.ingress.is_none() && node.is_some() && node == own_node;
            let (direction, frame) = (Direction::Ingress, answer_to(sent).frame());
            passes &= self.run(&Check { pod, direction, frame: &frame, from_own_host })?.allowed;
        }
        Ok(passes)
    }

    fn new_port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = port.checked_add(1).unwrap_or(FIRST_PORT);
        port
    }
}

/// A packet as it arrives, given as it was sent: at the backend of a service, and with the node's
/// address as source where a pod reaches itself.
fn translated(cluster: &Cluster, probe: &Probe, sides: &Sides, sent: &Segment) -> Option<Segment> {
    let (destination, destination_port) = sides.arrives_at?;
    let node = sides.egress.as_ref().filter(|_| is_returning(sides, sent));
    let node = node.and_then(|q| cluster.nodes.get(&cluster.world.pods.get(&q.pod)?.node));
    let addresses = node.into_iter().flat_map(|node| &node.addresses);
    let source = addresses.copied().find(|address| probe.family.is_of(*address));
    Some(Segment { source: source.unwrap_or(sent.source), destination, destination_port, ..*sent })
}

/// True for a packet that a service leads back to the pod that sent it.
fn is_returning(sides: &Sides, sent: &Segment) -> bool {
    let arrives_at = sides.arrives_at.map(|(address, _)| address);
    arrives_at == Some(sent.source) && sides.sent_to.0 != sent.source
}

/// The first answer to a packet, or a later one.
fn answer_to(packet: &Segment) -> Segment {
    Segment {
        source: packet.destination,
        destination: packet.source,
        source_port: if is_echo(packet) { packet.source_port } else { packet.destination_port },
        destination_port: packet.source_port,
        step: if packet.step == Step::Open { Step::Answer } else { Step::Data },
        forward: false,
        ..*packet
    }
}

fn is_echo(segment: &Segment) -> bool {
    matches!(segment.protocol, protocol::ICMP | protocol::ICMPV6)
}

/// Where the probe comes from, if a pod is at either end.
fn source(cluster: &Cluster, probe: &Probe, sides: &Sides) -> Option<IpAddr> {
    if let Some(question) = &sides.ingress {
        return Some(question.remote);
    }
    let pod = cluster.world.pods.get(&sides.egress.as_ref()?.pod)?;
    pod.addresses.iter().copied().find(|address| probe.family.is_of(*address))
}

/// The reason under which exactly one packet was counted. What is noted beside it is not a packet.
fn counted(before: &Snapshot, after: &Snapshot, direction: Direction) -> anyhow::Result<Reason> {
    let mut reasons = Vec::new();
    for (&(counted_in, reason), counter) in after {
        let packets_before = before.get(&(counted_in, reason)).map_or(0, |c| c.packets);
        let packets = counter.packets - packets_before;
        if packets > 0 && reason.outcome() != Fate::Note {
            reasons.push((counted_in, reason, packets));
        }
    }
    match reasons[..] {
        [(counted_in, reason, 1)] if counted_in == direction => Ok(reason),
        _ => anyhow::bail!("one packet was counted as {reasons:?}"),
    }
}
