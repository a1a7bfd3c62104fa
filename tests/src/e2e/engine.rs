//! The engine `cluster`: a case through real pods, Services and policies of a real cluster.
//!
//! A step is in force when every agent has a rule of a policy made after it in force: the API server
//! tells a watch the policies in the order of their changes. Pods, namespaces and Services come by
//! other watches, so a step whose answers are not the oracle's is asked again, as a whole, for a
//! bounded time; what it answers then counts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use sluice::cluster::{Cluster, ObjectKey};
use sluice::engine::model::Model;
use sluice::engine::{End, Engine, Outcome, Probe};
use sluice::lab::Place;
use sluice::lab::probe::{Dropped, Field, Prober, Station};
use sluice_policy::model::PodName;

use super::placed::{Given, Placed};
use super::pods::{POD_PATIENCE, is_gone, join, make_namespace, pod_key};
use super::shared::Shared;
use super::stage::{self, Stage, probe_pod};
use super::station::PodStation;

/// For pods, namespaces and Services to be where policies are.
const SETTLING: Duration = Duration::from_secs(15);

/// Plays one case.
pub struct ClusterEngine {
    shared: Shared,
    stage: Stage,
    /// What each step removes first.
    deleted: Vec<Vec<ObjectKey>>,
    /// The step that comes next.
    next: usize,
    /// The objects that are there, as the case has them.
    shown: BTreeMap<ObjectKey, Value>,
    /// The namespaces that were made.
    spaces: Vec<Value>,
    stations: BTreeMap<Place, PodStation>,
    given: Given,
    placed: Placed,
    notes: Arc<Mutex<Notes>>,
}

/// What there is to say of a case besides its results.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Probes that were not tried, by step, and why.
    pub left_out: BTreeMap<(usize, Probe), &'static str>,
    /// How many steps answered otherwise at first.
    pub settled: usize,
}

impl ClusterEngine {
    /// For one case.
    pub fn new(shared: Shared, stage: Stage, deleted: Vec<Vec<ObjectKey>>) -> Self {
        Self {
            shared,
            stage,
            deleted,
            next: 0,
            shown: BTreeMap::new(),
            spaces: Vec::new(),
            stations: BTreeMap::new(),
            given: Given::default(),
            placed: Placed::default(),
            notes: Arc::default(),
        }
    }

    /// What there is to say of the case, complete once it has been played.
    pub fn notes(&self) -> Arc<Mutex<Notes>> {
        self.notes.clone()
    }

    fn note(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the objects to a state of the case.
    async fn bring(&mut self, cluster: &Cluster, deleted: &[ObjectKey]) -> anyhow::Result<()> {
        let mut gone = Vec::new();
        for (key, old) in &self.shown {
            let new = cluster.objects.get(key);
            let made_anew =
                deleted.contains(key) || new.is_none_or(|new| is_another_pod(key, old, new));
            // A namespace that is deleted and made again keeps its place; what was in it goes.
            if made_anew && (key.kind != "Namespace" || new.is_none()) {
                gone.push((key.clone(), old.clone()));
            }
        }
        self.remove(&gone).await?;
        let kube = self.shared.kube.clone();
        let spaces = self.stage.namespaces(cluster);
        let spaces: Vec<Value> = spaces.into_values().collect();
        try_join_all(spaces.iter().map(|space| make_namespace(&kube, space))).await?;
        self.spaces.retain(|space| !spaces.contains(space));
        self.spaces.extend(spaces);
        let mut made = Vec::new();
        for (key, value) in &cluster.objects {
            let finished = value.pointer("/status/phase").is_some();
            if self.shown.get(key) != Some(value) && !finished {
                made.extend(self.stage.object(key, value));
            }
        }
        // Pods first, since they take the longest, then policies: in no step do they depend on more.
        made.sort_by_key(|object| object["kind"] != "Pod");
        try_join_all(made.iter().map(|object| kube.apply(object))).await?;
        self.shown = cluster.objects.clone();
        self.meet(cluster).await
    }

    async fn remove(&mut self, gone: &[(ObjectKey, Value)]) -> anyhow::Result<()> {
        let mut objects = Vec::new();
        for (key, value) in gone {
            if key.kind == "Pod" {
                let (namespace, name) = (key.namespace.clone(), key.name.clone());
                self.stations.remove(&Place::Pod(PodName { namespace, name }));
            }
            if key.kind == "Namespace" {
                let name = self.stage.namespace(&key.name);
                objects.push(
                    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
                );
            }
            objects.extend(self.stage.object(key, value));
            self.shown.remove(key);
        }
        let kube = &self.shared.kube;
        try_join_all(objects.iter().map(|object| kube.delete(object))).await?;
        let pods = objects.iter().filter(|object| object["kind"] == "Pod");
        try_join_all(pods.map(|pod| kube.wait(pod, POD_PATIENCE, is_gone))).await?;
        Ok(())
    }

    /// Waits for the pods, takes hold of their stations, and learns the addresses.
    async fn meet(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let kube = self.shared.kube.clone();
        let mut given = Given::default();
        for (alias, real) in self.all_nodes() {
            let addresses = self.shared.nodes.get(&real).cloned().unwrap_or_default();
            given.nodes.insert(alias, addresses);
        }
        let mut joining = Vec::new();
        for (name, pod) in &cluster.world.pods {
            if pod.finished {
                continue;
            }
            let seat = self.stage.seat(name, &pod.node);
            given.seats.insert(name.clone(), self.stage.alias(&seat).to_owned());
            if !pod.host_network {
                let real = pod_key(&self.stage.namespace(&name.namespace), &name.name);
                let known = self.stations.contains_key(&Place::Pod(name.clone()));
                joining.push(join(&kube, Place::Pod(name.clone()), real, known));
            }
        }
        for (place, addresses, station) in try_join_all(joining).await? {
            if let Place::Pod(name) = &place {
                given.pods.insert(name.clone(), addresses);
            }
            self.stations.extend(station.map(|station| (place, station)));
        }
        for name in cluster.world.services.keys() {
            let real = json!({"apiVersion": "v1", "kind": "Service", "metadata":
                {"namespace": self.stage.namespace(&name.namespace), "name": name.name}});
            let service = kube.get(&real).await?.unwrap_or_default();
            let listed = service.pointer("/spec/clusterIPs").and_then(Value::as_array);
            let texts = listed.into_iter().flatten().filter_map(Value::as_str);
            let addresses = texts.filter_map(|text| text.parse().ok()).collect();
            given.services.insert(name.clone(), addresses);
        }
        self.given = given;
        self.placed = Placed::new(cluster, &self.given);
        Ok(())
    }

    /// Every real node, under the name that the case has for it.
    fn all_nodes(&self) -> Vec<(String, String)> {
        let real = self.shared.nodes.keys();
        real.map(|real| (self.stage.alias(real).to_owned(), real.clone())).collect()
    }

    /// A station in the network of every node that a probe begins or ends in.
    async fn man_nodes(&mut self, probes: &[Probe]) -> anyhow::Result<()> {
        let ends = probes.iter().flat_map(|probe| [&probe.from, &probe.to]);
        let named: BTreeSet<String> = ends
            .filter_map(|end| match end {
                End::Node(name) => Some(name.clone()),
                _ => None,
            })
            .filter(|name| !self.stations.contains_key(&Place::Node(name.clone())))
            .collect();
        for name in named {
            let Some(real) = self.stage.node(&name).map(str::to_owned) else { continue };
            let namespace = self.stage.namespace("nodes");
            let kube = &self.shared.kube;
            let space = stage::namespace(&namespace, &self.shared.run, None);
            make_namespace(kube, &space).await?;
            self.spaces.push(space);
            let pod =
                probe_pod(&self.shared.image, &namespace, &name, &json!({}), Some(&real), true);
            kube.apply(&pod).await?;
            let place = Place::Node(name.clone());
            let (place, _, station) = join(kube, place, pod_key(&namespace, &name), false).await?;
            self.stations.extend(station.map(|station| (place, station)));
        }
        Ok(())
    }

    /// Asks until the answers are the oracle's, or the time is over.
    fn ask(&mut self, probes: &[Probe], oracle: &[Outcome]) -> anyhow::Result<Vec<Outcome>> {
        let begun = Instant::now();
        let prober = Prober { field: &*self, cluster: &self.placed.cluster };
        let mut first = true;
        let outcomes = loop {
            let outcomes = prober.run(probes)?;
            let differs =
                outcomes.iter().zip(oracle).any(|(one, other)| one.verdict != other.verdict);
            if !differs || begun.elapsed() > SETTLING {
                break outcomes;
            }
            first = false;
        };
        prober.next_step()?;
        self.note().settled += usize::from(!first);
        Ok(outcomes)
    }
}

impl Engine for ClusterEngine {
    fn name(&self) -> &'static str {
        "cluster"
    }

    /// Nobody waits for the namespaces to be gone before the end of the run.
    fn reset(&mut self) -> anyhow::Result<()> {
        self.stations.clear();
        if self.shared.keep {
            return Ok(());
        }
        let spaces = std::mem::take(&mut self.spaces);
        let deleted = spaces.iter().map(|space| self.shared.kube.delete(space));
        self.shared.handle.block_on(try_join_all(deleted)).map(drop)
    }

    fn step(&mut self, cluster: &Cluster, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
        let step = self.next;
        self.next += 1;
        let deleted = self.deleted.get(step).cloned().unwrap_or_default();
        let handle = self.shared.handle.clone();
        handle.block_on(self.bring(cluster, &deleted))?;
        let there = Model.step(cluster, probes)?;
        let here = Model.step(&self.placed.cluster, probes)?;
        let mut tried = Vec::new();
        for ((probe, there), here) in probes.iter().zip(&there).zip(&here) {
            let opened_not = probe.established && step > 0 && {
                let opening = Probe { established: false, ..probe.clone() };
                [opening, probe.clone()]
                    .into_iter()
                    .any(|p| self.note().left_out.contains_key(&(step - 1, p)))
            };
            let obstacle = self.placed.obstacle(probe, there.verdict, here.verdict);
            match obstacle.or(opened_not.then_some("the probe that opens it cannot be tried")) {
                Some(why) => _ = self.note().left_out.insert((step, probe.clone()), why),
                None => tried.push((probe.clone(), here.clone())),
            }
        }
        let (tried, oracle): (Vec<Probe>, Vec<Outcome>) = tried.into_iter().unzip();
        let mut answers = if tried.is_empty() {
            Vec::new()
        } else {
            handle.block_on(async {
                self.man_nodes(&tried).await?;
                self.shared.in_force().await
            })?;
            self.ask(&tried, &oracle)?
        }
        .into_iter();
        let left_out = self.note().left_out.clone();
        // What was not tried is taken out of the results by whoever reads the notes.
        let outcomes = probes.iter().zip(there).map(|(probe, there)| {
            match left_out.contains_key(&(step, probe.clone())) {
                true => Ok(there),
                false => answers.next().context("an answer for each probe"),
            }
        });
        outcomes.collect()
    }
}

impl Field for ClusterEngine {
    fn place(&self, end: &End) -> Option<Place> {
        match end {
            End::Pod(name) => Some(Place::Pod(name.clone())),
            End::Node(name) => Some(Place::Node(name.clone())),
            End::Service(..) | End::External(_) => None,
        }
    }

    fn addresses(&self, place: &Place) -> Vec<IpAddr> {
        let of = match place {
            Place::Pod(name) => self.given.pods.get(name),
            Place::Node(name) => self.given.nodes.get(name),
            Place::Fabric | Place::External(_) => None,
        };
        of.cloned().unwrap_or_default()
    }

    fn station(&self, place: &Place) -> Option<&dyn Station> {
        self.stations.get(place).map(|station| station as &dyn Station)
    }

    fn stations(&self) -> Vec<&dyn Station> {
        self.stations.values().map(|station| station as &dyn Station).collect()
    }

    fn dropped(&self, pods: &BTreeSet<PodName>) -> anyhow::Result<BTreeMap<PodName, Dropped>> {
        let all = self.shared.handle.block_on(self.shared.agents.dropped())?;
        let own = |(real, dropped): (PodName, Dropped)| {
            let namespace = self.stage.own(&real.namespace)?.to_owned();
            let name = PodName { namespace, name: real.name };
            pods.contains(&name).then_some((name, dropped))
        };
        Ok(all.into_iter().filter_map(own).collect())
    }
}

/// A pod whose labels alone have changed stays; any other change makes another of it.
fn is_another_pod(key: &ObjectKey, old: &Value, new: &Value) -> bool {
    key.kind == "Pod" && (old["spec"] != new["spec"] || old["status"] != new["status"])
}
