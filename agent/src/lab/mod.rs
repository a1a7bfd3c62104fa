//! A cluster of network namespaces with the real agent: to test policies, and to try them by hand.
//!
//! * `topology`: which namespaces there are; `wire` and `netns` make them; `translate` is for services;
//! * `node`: the agent of a node; `station`: the thread in a namespace; `resident`: how it asks
//!   (`connection`, `sctp`) and answers (`respond`);
//! * `probe` and `rounds`: probes and their verdicts;
//! * `state` and `reaper`: what is on disk, and how it all ends; `manage` and `description`: for those
//!   outside.
//!
//! Nothing is made in the machine's own network namespace. All labs use the same addresses side by
//! side, since each has a fabric of its own.

mod connection;
mod description;
mod manage;
mod netns;
mod node;
mod options;
pub mod probe;
mod reaper;
pub mod resident;
mod respond;
mod rounds;
mod sctp;
mod state;
mod station;
mod topology;
mod translate;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use sluice_policy::model::{PodName, Protocol};

use self::node::{NodeAgent, NodeFiles};
use self::options::check_machine;
use self::probe::{Dropped, Field, Prober, Station as _};
use self::reaper::Reaper;
use self::resident::{Job, Port, Reply};
use self::state::{Notes, Registry, StateDir};
use self::station::Station;
use self::topology::Topology;
use crate::cluster::Cluster;
use crate::engine::{End, Outcome, Probe, ProbeProtocol};

pub use self::description::{
    Description, EndpointDescription, ExternalDescription, NodeDescription,
};
pub use self::manage::{down, enter, list};
pub use self::options::{LabError, LabOptions};
pub use self::reaper::reap;
pub use self::topology::{OUTSIDE_HOST, Place};

/// Where BPF file systems are mounted by custom.
pub const BPFFS: &str = "/sys/fs/bpf";

/// A running lab. It is taken down when this value is dropped or its process ends, however it ends.
#[derive(Debug)]
pub struct Lab {
    options: LabOptions,
    state: StateDir,
    topology: Topology,
    cluster: Cluster,
    /// Rules for services, by node.
    translations: BTreeMap<String, String>,
    // Dropped in this order: sockets, agents, then everything.
    stations: BTreeMap<Place, Station>,
    agents: BTreeMap<String, NodeAgent>,
    reaper: Reaper,
}

impl Lab {
    /// Builds a lab for a cluster and waits until its policies are in force. What dead labs have left
    /// behind is removed on the way.
    ///
    /// # Errors
    /// [`LabError`].
    pub fn up(
        options: LabOptions,
        cluster: &Cluster,
        externals: &BTreeSet<IpAddr>,
    ) -> Result<Self, LabError> {
        let state = StateDir::of(&options.name)?;
        check_machine(&options)?;
        let registry = Registry::hold()?;
        manage::remove_dead(&registry)?;
        let lock = state.lock(&registry)?.ok_or_else(|| LabError::InUse(options.name.clone()))?;
        let topology = Topology::empty(&options.name);
        let reaper = Reaper::start(&options.sluice, &state, lock)?;
        let mut lab = Self {
            options,
            state,
            topology,
            cluster: Cluster::default(),
            translations: BTreeMap::new(),
            stations: BTreeMap::new(),
            agents: BTreeMap::new(),
            reaper,
        };
        lab.note(&[], None)?;
        wire::make_fabric(&lab.topology)?;
        fs::create_dir_all(lab.state.manifests())
            .context("cannot create the manifests' directory")?;
        lab.change(cluster, externals)?;
        Ok(lab)
    }

    /// Changes the lab to another cluster and waits until that is in force.
    ///
    /// # Errors
    /// [`LabError::NotEnforced`]: it is changed, and can be changed further. After any other error it
    /// is in no known state and should be taken down.
    pub fn change(
        &mut self,
        cluster: &Cluster,
        externals: &BTreeSet<IpAddr>,
    ) -> Result<(), LabError> {
        let new = Topology::new(&self.options.name, cluster, externals);
        let old = self.topology.clone();
        let gone: Vec<&Place> = differing(&old, &new);
        let added: Vec<&Place> = differing(&new, &old);
        let planned: Vec<String> = added.iter().map(|p| new.leaves[*p].netns.clone()).collect();
        self.note(&planned, None)?;
        for place in &gone {
            self.stations.remove(*place);
            if let Place::Node(node) = place {
                self.agents.remove(node);
                self.translations.remove(node);
            }
        }
        wire::remove(&old, &gone)?;
        wire::add(&new, &added)?;
        self.topology = new.clone();
        self.cluster = cluster.clone();
        self.populate(&added)?;
        self.translate()?;
        self.publish()?;
        self.note(&[], Some(self.description()))?;
        self.sync().map_err(|error| LabError::NotEnforced(format!("{error:#}")))
    }

    /// Threads and agents for what is new.
    fn populate(&mut self, added: &[&Place]) -> anyhow::Result<()> {
        for place in added {
            let leaf = &self.topology.leaves[*place];
            let station = Station::start(&leaf.netns)?;
            let ports = declared_ports(&self.cluster, place);
            let job = Job::Listen { addresses: leaf.addresses.clone(), ports };
            let listening = station.ask(job).recv().context("a namespace's thread has ended")?;
            anyhow::ensure!(listening == Reply::Done, "in {place}: {listening:?}");
            self.stations.insert((*place).clone(), station);
            if let (Place::Node(node), true) = (place, self.options.agents) {
                let files = self.node_files(node);
                let agent = NodeAgent::start(&self.options.sluice, node, &leaf.netns, files)?;
                self.agents.insert(node.clone(), agent);
            }
        }
        Ok(())
    }

    /// Brings services' rules to where the cluster has them.
    fn translate(&mut self) -> anyhow::Result<()> {
        for (place, leaf) in &self.topology.leaves {
            let Place::Node(node) = place else { continue };
            let rules = translate::rules(&self.cluster, leaf);
            let old = self.translations.entry(node.clone()).or_default();
            if *old != rules {
                translate::apply(&leaf.netns, &rules)?;
                *old = rules;
            }
        }
        Ok(())
    }

    /// Hands the cluster to the agents.
    fn publish(&mut self) -> anyhow::Result<()> {
        let items: Vec<&serde_json::Value> = self.cluster.objects.values().collect();
        let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items});
        // One file, replaced at once: an agent never sees a part of a change.
        let file = self.state.manifests().join("cluster.json");
        state::replace(&file, &serde_json::to_vec(&list)?)?;
        for (node, agent) in &self.agents {
            let pods = self.topology.leaves.values().filter(|leaf| match &leaf.parent {
                Place::Node(parent) => parent == node,
                _ => false,
            });
            agent.show(&pods.map(|leaf| leaf.netns.as_str()).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Waits until it is in force.
    fn sync(&mut self) -> anyhow::Result<()> {
        for (node, agent) in &mut self.agents {
            agent.sync().with_context(|| format!("node {node}"))?;
        }
        Ok(())
    }

    /// Runs probes, as new connections unless they say otherwise.
    ///
    /// # Errors
    /// An end is not in the lab, or the lab itself fails.
    pub fn probe(&mut self, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
        let prober = Prober { field: &*self, cluster: &self.cluster };
        let outcomes = prober.run(probes)?;
        prober.next_step()?;
        Ok(outcomes)
    }

    /// What there is.
    pub fn description(&self) -> Description {
        let mut description = Description {
            lab: self.options.name.clone(),
            pins: self.pins(),
            ..Description::default()
        };
        for (place, leaf) in &self.topology.leaves {
            let (netns, addresses) = (leaf.netns.clone(), leaf.addresses.clone());
            match place {
                Place::Fabric => {}
                Place::Pod(pod) => description.endpoints.push(EndpointDescription {
                    pod: pod.to_string(),
                    node: self.topology.node(place).unwrap_or_default().to_string(),
                    netns,
                    addresses,
                    interface: leaf.interface.clone(),
                }),
                Place::External(_) => {
                    description.externals.push(ExternalDescription { addresses, netns });
                }
                Place::Node(node) => {
                    let files = self.node_files(node);
                    description.nodes.push(NodeDescription {
                        node: node.clone(),
                        addresses,
                        netns,
                        state_dir: files.directory.join("state"),
                        bpffs: files.pins,
                        agent_pid: self.agents.get(node).map(NodeAgent::pid),
                    });
                }
            }
        }
        description
    }

    /// Takes the lab down and waits until nothing is left.
    ///
    /// # Errors
    /// Something could not be removed.
    pub fn down(mut self) -> anyhow::Result<()> {
        self.stations.clear();
        self.agents.clear();
        self.reaper.finish()
    }

    /// Lets go of the terminal, or of whoever reads the output: from here on it goes to the lab's log.
    ///
    /// # Errors
    /// The log cannot be made.
    pub fn redirect_output(&self) -> anyhow::Result<()> {
        let log = fs::File::create(self.state.log())?;
        nix::unistd::dup2_stderr(&log)?;
        nix::unistd::dup2_stdout(fs::File::options().write(true).open("/dev/null")?)?;
        nix::unistd::dup2_stdin(fs::File::open("/dev/null")?)?;
        Ok(())
    }

    fn pins(&self) -> PathBuf {
        self.options.bpffs.join(format!("sluice-lab-{}", self.options.name))
    }

    fn node_files(&self, node: &str) -> NodeFiles {
        let id = topology::node_id(node);
        NodeFiles {
            directory: self.state.node(&id),
            manifests: self.state.manifests(),
            // bpffs takes no dots in names; a node's name has no underscores.
            pins: self.pins().join(node.replace('.', "_")),
        }
    }

    /// Writes down what there is and what is about to be.
    fn note(&self, planned: &[String], description: Option<Description>) -> anyhow::Result<()> {
        let mut namespaces = vec![self.topology.fabric.clone()];
        namespaces.extend(self.topology.leaves.values().map(|leaf| leaf.netns.clone()));
        namespaces.extend_from_slice(planned);
        namespaces.sort();
        namespaces.dedup();
        let pins = self.pins();
        self.state.write(&Notes { namespaces, pins, pid: std::process::id(), description })
    }
}

impl Field for Lab {
    fn place(&self, end: &End) -> Option<Place> {
        self.topology.place(end)
    }

    fn addresses(&self, place: &Place) -> Vec<IpAddr> {
        self.topology.leaves.get(place).map_or(Vec::new(), |leaf| leaf.addresses.clone())
    }

    fn station(&self, place: &Place) -> Option<&dyn probe::Station> {
        self.stations.get(place).map(|station| station as &dyn probe::Station)
    }

    fn stations(&self) -> Vec<&dyn probe::Station> {
        self.stations.values().map(|station| station as &dyn probe::Station).collect()
    }

    fn dropped(&self, pods: &BTreeSet<PodName>) -> anyhow::Result<BTreeMap<PodName, Dropped>> {
        let mut found = BTreeMap::new();
        for (node, agent) in &self.agents {
            let counters =
                agent.counters().with_context(|| format!("cannot read the tables of {node}"))?;
            let here = |pod: &&PodName| {
                self.topology.node(&Place::Pod((*pod).clone())) == Some(node.as_str())
            };
            for pod in pods.iter().filter(here) {
                let dropped = counters.dropped(pod);
                let dropped =
                    dropped.with_context(|| format!("cannot read the counters of {pod}"))?;
                found.insert(pod.clone(), dropped);
            }
        }
        Ok(found)
    }
}

/// Places of `one` that `other` has not or has otherwise, or whose parent is such a place.
fn differing<'a>(one: &'a Topology, other: &Topology) -> Vec<&'a Place> {
    let differs = |place: &Place| one.leaves.get(place) != other.leaves.get(place);
    let leaves = one.leaves.iter();
    leaves
        .filter(|(place, leaf)| {
            differs(place) || leaf.parent != Place::Fabric && differs(&leaf.parent)
        })
        .map(|(place, _)| place)
        .collect()
}

/// What a pod listens on whether it is probed or not.
fn declared_ports(cluster: &Cluster, place: &Place) -> BTreeSet<Port> {
    let Place::Pod(pod) = place else { return BTreeSet::new() };
    let declared = cluster.listens.get(pod).into_iter().flatten();
    declared
        .map(|(protocol, port)| {
            let protocol = match protocol {
                Protocol::Tcp => ProbeProtocol::Tcp,
                Protocol::Udp => ProbeProtocol::Udp,
                Protocol::Sctp => ProbeProtocol::Sctp,
            };
            (protocol, *port)
        })
        .collect()
}
