//! What the reconciler says of itself.

use std::collections::{BTreeMap, BTreeSet};

use sluice_common::abi::{Direction, RULE_MAX, RuleId, SLOT_NONE};
use sluice_policy::model::{Action, PodName, RuleName, ServiceName};

use super::{Kernel, Reconciler};
use crate::datapath::counters::Snapshot;
use crate::endpoint::links::IfIndex;
use crate::endpoint::{Interface, NotFound, Unenforced};
use crate::metrics::RuleReport;
use crate::status::{EndpointStatus, EnforcementState, InterfaceStatus, TableStatus};

impl<K: Kernel> Reconciler<K> {
    /// Generation of the tables in the kernel; 0 where it is not known.
    pub fn generation(&self) -> u32 {
        self.mirror.as_ref().map_or(0, |mirror| mirror.generation)
    }

    /// Corrections since the start.
    pub const fn corrections(&self) -> u64 {
        self.corrections
    }

    /// Local pods that have addresses and are not found, or found and not enforced: why, by name.
    pub fn missing(&self) -> BTreeMap<PodName, String> {
        let unfound = self.assignment.iter().filter_map(|(pod, found)| match found {
            Err(reason @ (NotFound::NoInterface | NotFound::NoHostSide(_))) => {
                Some((pod.clone(), reason.to_string()))
            }
            _ => None,
        });
        let refused = self.refused.iter().map(|(pod, reason)| (pod.clone(), reason.to_string()));
        refused.chain(unfound).collect()
    }

    /// Sets that did not fit and were closed, each with its endpoint.
    pub fn overflows(&self) -> Vec<String> {
        self.compiler.overflows().iter().map(ToString::to_string).collect()
    }

    /// By pod, the services that are closed to it because their backends get different verdicts, in
    /// words.
    pub fn mixed_services(&self) -> BTreeMap<String, String> {
        let in_words = |services: BTreeSet<ServiceName>| {
            let names: Vec<String> = services.iter().map(ToString::to_string).collect();
            format!(
                "closed to it (mixed-backends), because policies allow it some backends and not \
                 others: Service {}; `sluice explain` lists them",
                names.join(", Service ")
            )
        };
        let mixed = self.compiler.mixed_services();
        mixed.into_iter().map(|(pod, services)| (pod.to_string(), in_words(services))).collect()
    }

    /// Programs of others on an interface's hooks; none where it went away.
    pub fn foreign(&mut self, ifindex: IfIndex) -> Vec<String> {
        self.kernel.foreign(ifindex).unwrap_or_default()
    }

    /// All local pods, without programs of others.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        self.local.keys().map(|pod| self.endpoint(pod)).collect()
    }

    /// How full the tables are.
    pub fn tables(&self) -> Vec<TableStatus> {
        let mut tables = TableStatus::of(self.compiler.tables());
        tables.push(TableStatus {
            table: "rule_hits".into(),
            used: self.compiler.names().rules.len() as u64,
            capacity: (RULE_MAX - 1).into(),
        });
        tables
    }

    /// When a local pod was created, in seconds; `None` for others.
    pub fn created(&self, pod: &PodName) -> Option<i64> {
        self.local.get(pod).map(|pod| pod.created)
    }

    /// What is counted for a slot; nothing for [`SLOT_NONE`].
    ///
    /// # Errors
    /// The kernel.
    pub fn counted(&mut self, slot: u32) -> anyhow::Result<Snapshot> {
        if slot == SLOT_NONE { Ok(Snapshot::new()) } else { self.kernel.counted(slot) }
    }

    /// The rules in force, with what they have decided on. Those that only hand on to the next tier
    /// decide nothing.
    ///
    /// # Errors
    /// The kernel.
    pub fn rules(&mut self) -> anyhow::Result<Vec<RuleReport>> {
        let Some(last) = self.compiler.names().rules.keys().next_back() else {
            return Ok(Vec::new());
        };
        let hits = self.kernel.rule_hits(*last)?;
        let report = |(id, rule): (&RuleId, &RuleName)| {
            Some(RuleReport {
                rule: rule.clone(),
                verdict: self.verdict(rule)?,
                packets: hits.get(*id as usize)?.packets,
            })
        };
        Ok(self.compiler.names().rules.iter().filter_map(report).collect())
    }

    fn verdict(&self, rule: &RuleName) -> Option<&'static str> {
        let policy = self.compiler.world().policies.get(&rule.policy)?;
        match policy.rules(rule.direction)?.get(rule.index)?.action {
            Action::Allow => Some("allow"),
            Action::Deny => Some("deny"),
            Action::Pass => None,
        }
    }

    /// How a pod stands, without programs of others.
    pub fn endpoint(&self, pod: &PodName) -> EndpointStatus {
        let (interfaces, unfound) = match self.assignment.get(pod) {
            Some(Ok(interfaces)) => (interfaces.clone(), None),
            Some(Err(reason)) => (Vec::new(), Some(Unenforced::NotFound(reason.clone()))),
            None => (Vec::new(), Some(Unenforced::Pending)),
        };
        let place = self.slots.places().get(pod);
        let (slot, epoch) = place.map_or((0, 0), |place| (place.slot, place.epoch));
        let (ingress, egress) =
            (self.is_governed(slot, Direction::Ingress), self.is_governed(slot, Direction::Egress));
        let reason = self.refused.get(pod).cloned().or(unfound);
        let overflow = self.compiler.overflows().iter().find(|overflow| overflow.pod == *pod);
        let led = interfaces.iter().all(|i| self.leading.get(&i.ifindex) == Some(&slot));
        let reason =
            reason.or_else(|| ((ingress || egress) && !led).then_some(Unenforced::Pending));
        let state = match (&reason, overflow) {
            (Some(_), _) => EnforcementState::NotEnforced,
            (None, Some(_)) => EnforcementState::Closed,
            (None, None) if !ingress && !egress => EnforcementState::NotIsolated,
            (None, None) => EnforcementState::Enforced,
        };
        let overflow = overflow.map(ToString::to_string);
        EndpointStatus {
            pod: pod.to_string(),
            addresses: self.local.get(pod).map(|pod| pod.addresses.clone()).unwrap_or_default(),
            interfaces: interfaces.iter().map(interface_status).collect(),
            slot,
            epoch,
            ingress,
            egress,
            state,
            cause: reason.as_ref().map(|reason| reason.label().into()),
            reason: reason.map(|reason| reason.to_string()).or(overflow),
        }
    }
}

fn interface_status(interface: &Interface) -> InterfaceStatus {
    InterfaceStatus {
        name: interface.name.clone(),
        ifindex: interface.ifindex,
        netns: interface.netns_path.clone(),
        foreign_programs: Vec::new(),
    }
}
