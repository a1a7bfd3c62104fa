//! Which pods' connections are followed, and learning those of the ones that begin to be.

use std::collections::BTreeSet;

use anyhow::Context as _;

use super::{Kernel, Reconciler, Wanted};
use crate::endpoint::learn::Isolating;

impl<K: Kernel> Reconciler<K> {
    /// Live connections that were learned since the start.
    pub const fn learned(&self) -> u64 {
        self.learned
    }

    /// The pods that are to be isolated and whose packets no program has followed until now. `fresh` are
    /// the slots of new incarnations.
    ///
    /// A pod that is isolated in one direction is followed in both. What a former agent left in the
    /// kernel goes on: flows are in the pinned tables, and a place without its interfaces led there has
    /// none.
    pub(super) fn isolating(
        &mut self,
        wanted: &Wanted,
        fresh: &[u32],
    ) -> anyhow::Result<Vec<Isolating>> {
        let left = if self.adopted { None } else { Some(self.kernel.slots()?) };
        let mut isolating = Vec::new();
        for (pod, interfaces) in wanted {
            let Some(endpoint) = self.compiler.world().endpoints.get(pod) else { continue };
            let is_left = left.as_ref().is_some_and(|left| {
                !fresh.contains(&endpoint.slot)
                    && interfaces.iter().all(|(ifindex, slot)| left.get(ifindex) == Some(slot))
            });
            if is_left || self.followed.contains(&endpoint.epoch) {
                continue;
            }
            let Some(Ok(found)) = self.assignment.get(pod) else { continue };
            let (Some(interface), Some(local)) = (found.first(), self.local.get(pod)) else {
                continue;
            };
            isolating.push(Isolating {
                pod: pod.to_string(),
                netns: interface.netns_path.clone(),
                addresses: local.addresses.iter().copied().collect(),
                epoch: endpoint.epoch,
            });
        }
        Ok(isolating)
    }

    /// Takes their live connections into the flows, as far as they are not there.
    pub(super) fn learn(&mut self, isolating: &[Isolating]) -> anyhow::Result<()> {
        if isolating.is_empty() {
            return Ok(());
        }
        let learned = self
            .kernel
            .learn(isolating, &self.scan.host)
            .context("cannot take live connections into the flows")?;
        if learned > 0 {
            let pods: Vec<&str> = isolating.iter().map(|pod| pod.pod.as_str()).collect();
            tracing::info!(connections = learned, pods = pods.join(", "), "learned what was open");
        }
        self.learned += learned;
        Ok(())
    }

    /// Epochs of the incarnations whose packets the programs follow now.
    pub(super) fn led(&self, wanted: &Wanted) -> BTreeSet<u32> {
        let is_led = |led: &[(u32, u32)]| {
            led.iter().all(|(ifindex, slot)| self.leading.get(ifindex) == Some(slot))
        };
        let led = wanted.iter().filter(|(_, interfaces)| is_led(interfaces));
        let endpoints = &self.compiler.world().endpoints;
        led.filter_map(|(pod, _)| Some(endpoints.get(pod)?.epoch)).collect()
    }
}
