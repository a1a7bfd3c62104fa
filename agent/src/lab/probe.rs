//! Runs probes and judges them: what answered is allowed; what did not is denied if the agents'
//! counters account for it, and unreachable if they do not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sluice_policy::model::{PodName, ServiceName};

use super::resident::{Attempt, Job, Port, Reply};
use super::rounds::{Ends, PAIR_MAX, rounds};
use super::topology::Place;
use crate::cluster::Cluster;
use crate::engine::{End, Outcome, Probe, ProbeProtocol, ProbeVerdict};

/// How long an attempt waits for its answer. Below the second after which TCP sends again.
const WINDOW: Duration = Duration::from_millis(350);
/// The same where an attempt is repeated alone: the machine may have been busy.
const LONG_WINDOW: Duration = Duration::from_millis(900);
/// How often an attempt is repeated before its end counts as unreachable.
const REPEATS: usize = 2;

/// Who asks and answers in a place.
pub trait Station {
    /// Hands over a job. The returned channel brings the reply, and breaks where the station ends.
    fn ask(&self, job: Job) -> Receiver<Reply>;
}

/// Where probes run: what is there, who asks there, and what was dropped.
pub trait Field {
    /// Where an end is; none where it is not in the field.
    fn place(&self, end: &End) -> Option<Place>;

    /// Addresses of a place.
    fn addresses(&self, place: &Place) -> Vec<IpAddr>;

    /// The station of a place.
    fn station(&self, place: &Place) -> Option<&dyn Station>;

    /// Every station.
    fn stations(&self) -> Vec<&dyn Station>;

    /// Packets of pods that were dropped so far. Where nothing is known of a pod, nothing was.
    ///
    /// # Errors
    /// The counters cannot be read.
    fn dropped(&self, pods: &BTreeSet<PodName>) -> anyhow::Result<BTreeMap<PodName, Dropped>>;
}

/// Packets dropped, by the pod's view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// On their way to the pod.
    pub ingress: u64,
    /// On their way from it.
    pub egress: u64,
}

/// Runs probes.
#[derive(Debug)]
pub struct Prober<'a, F> {
    /// Where.
    pub field: &'a F,
    /// The cluster as it is there: for the addresses and backends of services.
    pub cluster: &'a Cluster,
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

impl<F: Field> Prober<'_, F> {
    /// Answers the probes, in their order. Connections stay open until [`Self::next_step`].
    ///
    /// # Errors
    /// An end that is not in the field, or the field itself fails.
    pub fn run(&self, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
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
        let verdict =
            |t: Option<Try>| t.and_then(|t| t.verdict).unwrap_or(ProbeVerdict::Unreachable);
        let outcome = |t| Outcome { verdict: verdict(t), egress: None, ingress: None };
        Ok(tries.into_iter().map(outcome).collect())
    }

    /// Keeps the connections that were opened or used since the last call and that answer, and closes
    /// the others.
    ///
    /// # Errors
    /// A station has ended.
    pub fn next_step(&self) -> anyhow::Result<()> {
        let stations = self.field.stations();
        let asked: Vec<_> = stations.iter().map(|station| station.ask(Job::NextStep)).collect();
        asked.into_iter().try_for_each(|answer| done(&answer))
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
        let attempt = Attempt {
            connection: connection(probe),
            established: probe.established,
            protocol: probe.protocol,
            from: own,
            to: SocketAddr::new(address, probe.port),
        };
        let ends = (from, arrivals.iter().map(|(place, _)| place.clone()).collect());
        Ok(Some(Try { ends, arrivals, attempt, verdict: None }))
    }

    fn place(&self, end: &End) -> anyhow::Result<Place> {
        self.field.place(end).with_context(|| format!("{end} is not there"))
    }

    /// The addresses that `end`, which is at `place`, means.
    fn addresses(&self, end: &End, place: &Place) -> Vec<IpAddr> {
        match end {
            End::External(address) => vec![*address],
            _ => self.field.addresses(place),
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
        let service = service.with_context(|| format!("svc/{namespace}/{name} is not there"))?;
        let ports = service.ports.iter().filter(|port| {
            Some(port.protocol) == probe.protocol.transport() && port.port == probe.port
        });
        let mut arrivals: Vec<Arrival> = ports
            .flat_map(|port| &port.backends)
            .filter(|backend| probe.family.is_of(backend.address))
            .filter_map(|backend| {
                let pod = self.cluster.pod_at(backend.address);
                let end = pod.map_or(End::External(backend.address), |pod| End::Pod(pod.clone()));
                Some((self.field.place(&end)?, backend.port))
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
            let protocol = one.attempt.protocol;
            for (place, port) in &one.arrivals {
                if protocol != ProbeProtocol::Icmp {
                    ports.entry(place).or_default().insert((protocol, *port));
                }
            }
        }
        let mut waiting = Vec::new();
        for (place, ports) in ports {
            let addresses = self.field.addresses(place);
            let station = self.field.station(place);
            waiting.extend(
                station.map(|station| (place, station.ask(Job::Listen { addresses, ports }))),
            );
        }
        waiting.iter().try_for_each(|(place, answer)| {
            done(answer).with_context(|| format!("cannot listen in {place}"))
        })
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
        for round in rounds(&ends, per_pair) {
            self.round(tries, &round, window)?;
        }
        Ok(())
    }

    fn round(
        &self,
        tries: &mut [Option<Try>],
        round: &[usize],
        window: Duration,
    ) -> anyhow::Result<()> {
        let mut pairs: BTreeMap<Ends, Vec<usize>> = BTreeMap::new();
        for index in round {
            if let Some(one) = &tries[*index] {
                pairs.entry(one.ends.clone()).or_default().push(*index);
            }
        }
        let pods: BTreeSet<PodName> = pairs.keys().flat_map(pods_of).cloned().collect();
        let before = self.field.dropped(&pods)?;
        let mut waiting = Vec::new();
        for (ends, indexes) in &pairs {
            let attempts = indexes.iter().filter_map(|i| Some(tries[*i].as_ref()?.attempt.clone()));
            let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
            let job = Job::Attempt { attempts: attempts.collect(), window_ms };
            let station = self.field.station(&ends.0);
            let station = station.with_context(|| format!("nobody can ask in {}", ends.0))?;
            waiting.push((station.ask(job), ends, indexes));
        }
        let mut answers = Vec::new();
        for (answer, ends, indexes) in waiting {
            let answered = answered(&answer).with_context(|| format!("in {}", ends.0))?;
            answers.push((ends, indexes, answered));
        }
        let after = self.field.dropped(&pods)?;
        for (ends, indexes, answered) in answers {
            let silent = answered.iter().filter(|yes| !**yes).count() as u64;
            let accounted = silent > 0 && drops(&after, ends) >= drops(&before, ends) + silent;
            for (index, yes) in indexes.iter().zip(answered) {
                if let Some(one) = &mut tries[*index] {
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
        let wanted = one.verdict.is_none() && one.attempt.established == established;
        wanted.then_some(index)
    })
}

/// The name of a probe's connection: that of the probe which opens it.
fn connection(probe: &Probe) -> String {
    let Probe { from, to, protocol, port, family, established: _ } = probe;
    format!("{from} {to} {} {port} {}", protocol.as_str(), family.as_str())
}

/// The pods among the ends of a pair.
fn pods_of((from, to): &Ends) -> impl Iterator<Item = &PodName> {
    std::iter::once(from).chain(to).filter_map(|place| match place {
        Place::Pod(pod) => Some(pod),
        _ => None,
    })
}

/// Packets dropped that can be those of a pair: on their way out of its source, or into any of its
/// destinations.
fn drops(dropped: &BTreeMap<PodName, Dropped>, (from, to): &Ends) -> u64 {
    let of = |place: &Place| match place {
        Place::Pod(pod) => dropped.get(pod).copied().unwrap_or_default(),
        _ => Dropped::default(),
    };
    of(from).egress + to.iter().map(|place| of(place).ingress).sum::<u64>()
}

/// Waits for a job that has nothing to tell but that it is done.
///
/// # Errors
/// It cannot be done, or the station has ended.
fn done(answer: &Receiver<Reply>) -> anyhow::Result<()> {
    match answer.recv().context("the station has ended")? {
        Reply::Done => Ok(()),
        other => unexpected(other),
    }
}

fn answered(answer: &Receiver<Reply>) -> anyhow::Result<Vec<bool>> {
    match answer.recv().context("the station has ended")? {
        Reply::Answered { answered } => Ok(answered),
        other => unexpected(other),
    }
}

fn unexpected<T>(reply: Reply) -> anyhow::Result<T> {
    match reply {
        Reply::Failed { reason } => bail!("{reason}"),
        other => bail!("a station answered what was not expected: {other:?}"),
    }
}
