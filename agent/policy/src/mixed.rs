//! Services that are closed to an endpoint because their backends get different verdicts.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{ClassId, Direction, Endpoint, RULE_MIXED, VipKey};
use sluice_common::decide::{Asked, decide};

use crate::compile::Compiler;
use crate::model::{PodName, ServiceName};

impl Compiler {
    /// The services that are closed to endpoints for this reason, by endpoint. Where there are any, it
    /// looks at all VIPs; where there are none, at no decision: it is asked after every change.
    pub fn mixed_services(&self) -> BTreeMap<PodName, BTreeSet<ServiceName>> {
        let tables = self.tables();
        let classes: BTreeSet<ClassId> = self
            .vips
            .classes
            .iter()
            .filter(|(_, class)| !class.mixed_in.is_empty())
            .filter_map(|(_, class)| class.number)
            .collect();
        let hairpins = tables.hairpins.iter().filter(|(_, way)| way.decision.rule == RULE_MIXED);
        let mut vips: BTreeSet<VipKey> = hairpins.map(|(key, _)| key.vip).collect();
        if !classes.is_empty() {
            let mixed = tables.vips.iter().filter(|(_, class)| classes.contains(class));
            vips.extend(mixed.map(|(vip, _)| *vip));
        }
        let mut found: BTreeMap<PodName, BTreeSet<ServiceName>> = BTreeMap::new();
        if vips.is_empty() {
            return found;
        }
        for (pod, local) in &self.world().endpoints {
            let Some(endpoint) = tables.endpoints.get(&local.slot) else { continue };
            for vip in vips.iter().filter(|vip| self.is_closed_as_mixed(local.slot, endpoint, vip))
            {
                let services = self.vips.claims.get(vip).into_iter().flatten().cloned();
                found.entry(pod.clone()).or_default().extend(services);
            }
        }
        found
    }

    fn is_closed_as_mixed(&self, slot: u32, endpoint: &Endpoint, vip: &VipKey) -> bool {
        let (protocol, port) = (vip.protocol(), vip.port());
        let direction = Direction::Egress;
        let asked = Asked { slot, direction, remote: vip.address, protocol, port };
        endpoint.is_governed(direction)
            && decide(self.tables(), endpoint, &asked).is_some_and(|said| said.rule == RULE_MIXED)
    }
}
