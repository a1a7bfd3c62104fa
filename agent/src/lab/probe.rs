//! Runs probes and judges them: what answered is allowed; what did not is denied if the agents'
//! counters account for it, and unreachable if they do not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use sluice_policy::model::{PodName, ServiceName};

use super::node::{DropCounters, Dropped, NodeAgent};
use super::respond::Port;
use super::rounds::{Ends, PAIR_MAX, rounds};
use super::station::{Attempt, Station};
use super::topology::{Place, Topology};
use crate::cluster::Cluster;
use crate::engine::{End, Outcome, Probe, ProbeProtocol, ProbeVerdict};

/// How long an attempt waits for its answer. Below the second after which TCP sends again.
const WINDOW: Duration = Duration::from_millis(350);
/// The same where an attempt is repeated alone: the machine may have been busy.
const LONG_WINDOW: Duration = Duration::from_millis(900);
/// How often an attempt is repeated before its end counts as unreachable.
const REPEATS: usize = 2;

/// What a run of probes works with.
pub(super) struct Prober<'a> {
    /// Where everything is.
    pub(super) topology: &'a Topology,
    /// Addresses of services.
    pub(super) cluster: &'a Cluster,
    /// By place.
    pub(super) stations: &'a BTreeMap<Place, Station>,
    /// By node; without agents nothing is ever denied.
    pub(super) agents: &'a BTreeMap<String, NodeAgent>,
}

/// A place where a probe may arrive, and on which port.
type Arrival = (Place, u16);

/// A probe that can be tried.
struct Try {
    ends: Ends,
    /// The destinations, each with the port on which it must answer.
    arrivals: Vec<Arrival>,
    attempt: Attempt,
    verdict: Option<ProbeVerdict>,
}

impl Prober<'_> {
    /// Answers the probes, in their order.
    ///
    /// # Errors
    /// An end that is not in the lab, or the lab itself fails.
    pub(super) fn run(&self, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
        let mut tries =
            probes.iter().map(|p| self.prepare(p)).collect::<anyhow::Result<Vec<_>>>()?;
        self.listen(&tries)?;
        // A connection that is cut goes on trying, so those come after everything else.
        for established in [false, true] {
            let fresh: Vec<usize> = open(&tries, established).collect();
            self.pass(&mut tries, &fresh, PAIR_MAX, WINDOW)?;
            // What the counters did not account for, one at a time per pair, so that they must.
            for _ in 0..REPEATS {
                let rest: Vec<usize> = open(&tries, established).collect();
                self.pass(&mut tries, &rest, 1, LONG_WINDOW)?;
            }
        }
        for station in self.stations.values() {
            station.next_step();
        }
        let verdict =
            |t: Option<Try>| t.and_then(|t| t.verdict).unwrap_or(ProbeVerdict::Unreachable);
        let outcome = |t| Outcome { verdict: verdict(t), egress: None, ingress: None };
        Ok(tries.into_iter().map(outcome).collect())
    }

    /// `None` where an end has no address of the family: there is no way.
    fn prepare(&self, probe: &Probe) -> anyhow::Result<Option<Try>> {
        let from = self.place(&probe.from)?;
        let own = self.addresses(&probe.from, &from);
        let (addresses, arrivals) = match &probe.to {
            End::Service(namespace, name) => self.service(namespace, name, probe)?,
            end => {
                let place = self.place(end)?;
                (self.addresses(end, &place), vec![(place, probe.port)])
            }
        };
        let of_family = |addresses: Vec<IpAddr>| {
            addresses.into_iter().find(|address| probe.family.is_of(*address))
        };
        let (Some(own), Some(address)) = (of_family(own), of_family(addresses)) else {
            return Ok(None);
        };
        let attempt =
            Attempt { probe: probe.clone(), from: own, to: SocketAddr::new(address, probe.port) };
        let ends = (from, arrivals.iter().map(|(place, _)| place.clone()).collect());
        Ok(Some(Try { ends, arrivals, attempt, verdict: None }))
    }

    fn place(&self, end: &End) -> anyhow::Result<Place> {
        self.topology.place(end).with_context(|| format!("{end} is not in the lab"))
    }

    /// The addresses that `end`, which is at `place`, means.
    fn addresses(&self, end: &End, place: &Place) -> Vec<IpAddr> {
        match end {
            End::External(address) => vec![*address],
            _ => self.topology.leaves.get(place).map_or(Vec::new(), |leaf| leaf.addresses.clone()),
        }
    }

    /// Addresses of a service, and where a connection to one of its ports can arrive.
    fn service(
        &self,
        namespace: &str,
        name: &str,
        probe: &Probe,
    ) -> anyhow::Result<(Vec<IpAddr>, Vec<Arrival>)> {
        let key = ServiceName { namespace: namespace.into(), name: name.into() };
        let service = self.cluster.world.services.get(&key);
        let service =
            service.with_context(|| format!("svc/{namespace}/{name} is not in the lab"))?;
        let ports = service.ports.iter().filter(|port| {
            Some(port.protocol) == probe.protocol.transport() && port.port == probe.port
        });
        let mut arrivals: Vec<Arrival> = ports
            .flat_map(|port| &port.backends)
            .filter(|backend| probe.family.is_of(backend.address))
            .filter_map(|backend| {
                let pod = self.cluster.pod_at(backend.address);
                let end = pod.map_or(End::External(backend.address), |pod| End::Pod(pod.clone()));
                Some((self.topology.place(&end)?, backend.port))
            })
            .collect();
        arrivals.sort();
        arrivals.dedup();
        Ok((service.addresses.clone(), arrivals))
    }

    /// Every destination answers on the ports that are probed there.
    fn listen(&self, tries: &[Option<Try>]) -> anyhow::Result<()> {
        let mut ports: BTreeMap<&Place, BTreeSet<Port>> = BTreeMap::new();
        for one in tries.iter().flatten() {
            let protocol = one.attempt.probe.protocol;
            for (place, port) in &one.arrivals {
                if protocol != ProbeProtocol::Icmp {
                    ports.entry(place).or_default().insert((protocol, *port));
                }
            }
        }
        let waiting: Vec<_> = ports
            .into_iter()
            .filter_map(|(place, ports)| Some((place, self.stations.get(place)?.listen(ports))))
            .collect();
        for (place, answer) in waiting {
            answer
                .recv()
                .with_context(|| format!("the thread in {place} has ended"))?
                .with_context(|| format!("cannot listen in {place}"))?;
        }
        Ok(())
    }

    /// Tries those of `which`, and sets the verdicts that are beyond doubt.
    fn pass(
        &self,
        tries: &mut [Option<Try>],
        which: &[usize],
        per_pair: usize,
        window: Duration,
    ) -> anyhow::Result<()> {
        let ends: Vec<(usize, Ends)> = which
            .iter()
            .filter_map(|index| Some((*index, tries[*index].as_ref()?.ends.clone())))
            .collect();
        if ends.is_empty() {
            return Ok(());
        }
        let ledger = Ledger::open(self.topology, self.agents)?;
        for round in rounds(&ends, per_pair) {
            self.round(tries, &round, window, &ledger)?;
        }
        Ok(())
    }

    fn round(
        &self,
        tries: &mut [Option<Try>],
        round: &[usize],
        window: Duration,
        ledger: &Ledger<'_>,
    ) -> anyhow::Result<()> {
        let mut pairs: BTreeMap<Ends, Vec<usize>> = BTreeMap::new();
        for index in round {
            if let Some(one) = &tries[*index] {
                pairs.entry(one.ends.clone()).or_default().push(*index);
            }
        }
        let mut before = BTreeMap::new();
        for ends in pairs.keys() {
            before.insert(ends.clone(), ledger.drops(ends)?);
        }
        let mut waiting = Vec::new();
        for (ends, indexes) in pairs {
            let attempts = indexes.iter().filter_map(|i| Some(tries[*i].as_ref()?.attempt.clone()));
            let station = self.stations.get(&ends.0).context("every place has a thread")?;
            waiting.push((station.attempt(attempts.collect(), window), ends, indexes));
        }
        for (answer, ends, indexes) in waiting {
            let answered =
                answer.recv().with_context(|| format!("the thread in {} has ended", ends.0))?;
            let silent = answered.iter().filter(|yes| !**yes).count() as u64;
            let accounted = silent > 0 && ledger.drops(&ends)? >= before[&ends] + silent;
            for (index, yes) in indexes.into_iter().zip(answered) {
                if let Some(one) = &mut tries[index] {
                    one.verdict = match (yes, accounted) {
                        (true, _) => Some(ProbeVerdict::Allow),
                        (false, true) => Some(ProbeVerdict::Deny),
                        (false, false) => None,
                    };
                }
            }
        }
        Ok(())
    }
}

/// Those without a verdict, new connections or established ones.
fn open(tries: &[Option<Try>], established: bool) -> impl Iterator<Item = usize> {
    tries.iter().enumerate().filter_map(move |(index, one)| {
        let one = one.as_ref()?;
        let wanted = one.verdict.is_none() && one.attempt.probe.established == established;
        wanted.then_some(index)
    })
}

/// The drop counters of all nodes.
struct Ledger<'a> {
    topology: &'a Topology,
    nodes: BTreeMap<&'a str, DropCounters<'a>>,
}

impl<'a> Ledger<'a> {
    fn open(
        topology: &'a Topology,
        agents: &'a BTreeMap<String, NodeAgent>,
    ) -> anyhow::Result<Self> {
        let counters = |(node, agent): (&'a String, &'a NodeAgent)| {
            let counters =
                agent.counters().with_context(|| format!("cannot read the tables of {node}"))?;
            Ok((node.as_str(), counters))
        };
        Ok(Self { topology, nodes: agents.iter().map(counters).collect::<anyhow::Result<_>>()? })
    }

    /// Packets dropped so far that can be those of a pair: on their way out of its source, or into
    /// any of its destinations.
    fn drops(&self, (from, to): &Ends) -> anyhow::Result<u64> {
        let mut sum = self.of(from)?.egress;
        for place in to {
            sum += self.of(place)?.ingress;
        }
        Ok(sum)
    }

    fn of(&self, place: &Place) -> anyhow::Result<Dropped> {
        let Place::Pod(pod) = place else { return Ok(Dropped::default()) };
        let counters = self.topology.node(place).and_then(|node| self.nodes.get(node));
        counters.map_or(Ok(Dropped::default()), |counters| dropped(counters, pod))
    }
}

fn dropped(counters: &DropCounters<'_>, pod: &PodName) -> anyhow::Result<Dropped> {
    counters.dropped(pod).with_context(|| format!("cannot read the counters of {pod}"))
}
