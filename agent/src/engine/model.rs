//! The engine `model`: the oracle, straight from the specification.

use sluice_policy::oracle;

use super::sides::judge_probe;
use super::{Engine, Outcome, Probe};
use crate::cluster::Cluster;

/// The oracle. It keeps nothing from step to step: a connection that was open before is judged like
/// a new one, in the direction in which it was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Model;

impl Engine for Model {
    fn name(&self) -> &'static str {
        "model"
    }

    fn reset(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    fn step(&mut self, cluster: &Cluster, probes: &[Probe]) -> anyhow::Result<Vec<Outcome>> {
        let judge = |probe| judge_probe(cluster, probe, |q| oracle::judge(&cluster.world, q));
        Ok(probes.iter().map(judge).collect())
    }
}
