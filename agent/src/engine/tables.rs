//! The engine `tables`: the compiled tables and the decision code shared with the kernel, in user
//! space. Each node of the cluster has its own tables, as it would have in its kernel, and they are
//! changed from step to step as an agent would change them.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::ENDPOINT_MAX;
use sluice_policy::answer::answer;
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::Compiler;
use sluice_policy::model::{Answer, DecidedBy, LocalEndpoint, PodName, World};
use sluice_policy::names::Names;

use super::sides::{judge_probe, sides};
use super::{Engine, Outcome, Probe};
use crate::cluster::Cluster;

/// The compiled tables of every node.
#[derive(Debug, Default)]
pub struct Tables {
    kernels: BTreeMap<Place, Compiler>,
    endpoints: BTreeMap<PodName, (Place, LocalEndpoint)>,
    next_epoch: u32,
}

/// A node, or a part of a node that has more pods than one kernel has slots.
type Place = (String, usize);

impl Engine for Tables {
    fn name(&self) -> &'static str {
        "tables"
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        *self = Self::default();
        Ok(())
    }

    fn step(&mut self, cluster: &Cluster, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
        self.place_endpoints(&cluster.world);
        // A node that no probe asks needs no tables.
        let asked = probes.iter().filter_map(|probe| sides(cluster, probe));
        let pods: BTreeSet<PodName> =
            asked.flat_map(|s| [s.egress, s.ingress]).flatten().map(|q| q.pod).collect();
        let places: BTreeSet<Place> =
            pods.iter().filter_map(|pod| Some(self.endpoints.get(pod)?.0.clone())).collect();
        for place in places {
            self.update(place, &cluster.world)?;
        }
        Ok(probes.iter().map(|probe| self.judge(cluster, probe)).collect())
    }
}

impl Tables {
    /// Pods keep their slots; new ones take the first free one of their node.
    fn place_endpoints(&mut self, world: &World) {
        let is_endpoint = |name: &PodName, node: &str| {
            world.pods.get(name).is_some_and(|pod| {
                pod.node == node && !pod.host_network && !pod.addresses.is_empty()
            })
        };
        self.endpoints.retain(|name, (place, _)| is_endpoint(name, &place.0));
        let mut used: BTreeSet<(Place, u32)> =
            self.endpoints.values().map(|(place, e)| (place.clone(), e.slot)).collect();
        let mut search_from: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, pod) in &world.pods {
            if self.endpoints.contains_key(name) || !is_endpoint(name, &pod.node) {
                continue;
            }
            let first = search_from.entry(&pod.node).or_default();
            let (place, slot) = free_slot(&used, &pod.node, *first);
            // Slots are counted over all parts of a node; nothing before this one is free.
            *first = index_of(&place, slot) + 1;
            used.insert((place.clone(), slot));
            self.next_epoch += 1;
            let endpoint = LocalEndpoint { slot, epoch: self.next_epoch, flags: 0 };
            self.endpoints.insert(name.clone(), (place, endpoint));
        }
    }

    /// # Errors
    /// What does not fit: an agent would close those pods, which is no answer to a test of policies.
    fn update(&mut self, place: Place, world: &World) -> anyhow::Result<()> {
        let local = self.endpoints.iter().filter(|(_, (p, _))| *p == place);
        let endpoints = local.map(|(name, (_, endpoint))| (name.clone(), *endpoint)).collect();
        let world = World { endpoints, ..world.clone() };
        let compiler = self
            .kernels
            .entry(place)
            .or_insert_with(|| Compiler::new(Capacity::default(), Names::default()));
        compiler.apply(compiler.world().changes_to(&world));
        // What fits must not depend on the steps before.
        compiler.reconsider();
        match compiler.overflows() {
            [] => Ok(()),
            overflows => {
                let lines: Vec<String> = overflows.iter().map(ToString::to_string).collect();
                anyhow::bail!("the policies do not fit the kernel tables: {}", lines.join("; "))
            }
        }
    }

    fn judge(&self, cluster: &Cluster, probe: &Probe) -> Outcome {
        judge_probe(cluster, probe, |question| {
            // `step` has brought up the tables of every pod that is asked.
            match self.endpoints.get(&question.pod).and_then(|(place, _)| self.kernels.get(place)) {
                Some(compiler) => answer(compiler, question),
                None => {
                    Answer { allowed: false, isolated: true, decided_by: DecidedBy::DefaultDeny }
                }
            }
        })
    }
}

const SLOTS: usize = ENDPOINT_MAX as usize - 1;

fn index_of(place: &Place, slot: u32) -> usize {
    place.1 * SLOTS + slot as usize - 1
}

fn free_slot(used: &BTreeSet<(Place, u32)>, node: &str, first: usize) -> (Place, u32) {
    (first..)
        .map(|index| ((node.to_owned(), index / SLOTS), (index % SLOTS) as u32 + 1))
        .find(|candidate| !used.contains(candidate))
        .expect("there are more indexes than pods")
}
