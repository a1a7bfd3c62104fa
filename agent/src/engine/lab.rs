//! The engine `lab`: namespaces, the real agent, real connections.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use super::{End, Engine, Outcome, Probe};
use crate::cluster::Cluster;
use crate::lab::{BPFFS, Lab, LabOptions};

/// Builds a lab at a test's first step, changes it at the others, and takes it down at its end.
#[derive(Debug)]
pub struct LabEngine {
    options: LabOptions,
    lab: Option<Lab>,
    /// Outside hosts that any step has named: they stay, so that their connections do.
    externals: BTreeSet<IpAddr>,
}

impl LabEngine {
    /// An engine whose agents are run by the binary `sluice`.
    pub fn new(sluice: PathBuf) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let options = LabOptions { name, sluice, bpffs: BPFFS.into(), agents: true };
        Self { options, lab: None, externals: BTreeSet::new() }
    }
}

impl Engine for LabEngine {
    fn name(&self) -> &'static str {
        "lab"
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        self.externals.clear();
        self.lab.take().map_or(Ok(()), Lab::down)
    }

    fn step(&mut self, cluster: &Cluster, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
        for probe in probes {
            for end in [&probe.from, &probe.to] {
                if let End::External(address) = end {
                    self.externals.insert(*address);
                }
            }
        }
        let lab = match &mut self.lab {
            Some(lab) => {
                lab.change(cluster, &self.externals)?;
                lab
            }
            none => none.insert(Lab::up(self.options.clone(), cluster, &self.externals)?),
        };
        lab.probe(probes)
    }
}
