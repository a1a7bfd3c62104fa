//! What the reconciler says of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_common::abi::{Direction, ENDPOINT_MAX, RULE_MAX, RuleId, SLOT_NONE, SLOTS_BY_INDEX};
use sluice_policy::capacity::{Overflow, Table};
use sluice_policy::lint;
use sluice_policy::model::{Action, PodName, PolicyName, RuleName, Service, ServiceName};

use super::{Kernel, Reconciler};
use crate::datapath::counters::Snapshot;
use crate::endpoint::links::IfIndex;
use crate::endpoint::slots::CROWD_SLOT;
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

    /// True if [`Self::missing`] has any.
    pub fn is_something_missing(&self) -> bool {
        !self.refused.is_empty() || self.unfound().next().is_some()
    }

    /// Local pods that have addresses and should be found, and are not.
    fn unfound(&self) -> impl Iterator<Item = (&PodName, &NotFound)> {
        let is_leaving = |pod| self.local.get(pod).is_some_and(|pod| pod.deleting);
        self.assignment.iter().filter_map(move |(pod, found)| match found {
            Ok(_) | Err(NotFound::NoAddress) => None,
            // It has lost its address, and the API will tell of its end.
            Err(NotFound::AddressOf(_)) if is_leaving(pod) => None,
            Err(reason) => Some((pod, reason)),
        })
    }

    /// Local pods that have addresses and are not found, or found and not enforced: why, by name.
    pub fn missing(&self) -> BTreeMap<PodName, String> {
        let unfound = self.unfound().map(|(pod, reason)| (pod.clone(), reason.to_string()));
        let refused = self.refused.iter().map(|(pod, reason)| (pod.clone(), reason.to_string()));
        refused.chain(unfound).collect()
    }

    /// Those [`Self::missing`] that a policy isolates, whether they can be found or not.
    pub fn lacking(&self) -> BTreeMap<PodName, String> {
        let mut missing = self.missing();
        missing.retain(|pod, _| !self.is_free(pod));
        missing
    }

    /// Sets that did not fit and were closed, each with its endpoint.
    pub fn overflows(&self) -> Vec<String> {
        self.compiler.overflows().iter().map(|overflow| self.in_words(overflow)).collect()
    }

    /// An overflow, and what takes most of the room where one object can.
    fn in_words(&self, overflow: &Overflow) -> String {
        let services = self.compiler.world().services.iter();
        let sizes = services.map(|(name, service)| (vips_of(service), name));
        match sizes.max().filter(|_| overflow.shortage.table == Table::Vips) {
            Some((vips, name)) => {
                format!("{overflow}; the largest service is {name}, which needs {vips}")
            }
            None => overflow.to_string(),
        }
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

    /// Policies that select a local pod and name ports that resolve nowhere, each with the reason in
    /// words.
    pub fn unresolved_ports(&self) -> BTreeMap<PolicyName, String> {
        let mut found: BTreeMap<PolicyName, String> = BTreeMap::new();
        for warning in lint::unresolved_ports(self.compiler.world(), self.local.keys()) {
            let reasons = found.entry(warning.policy).or_default();
            let separator = if reasons.is_empty() { "" } else { "; " };
            *reasons += &format!("{separator}{}: {}", warning.field, warning.message);
        }
        found
    }

    /// Programs of others on an interface's hooks; none where it went away.
    pub fn foreign(&mut self, ifindex: IfIndex) -> Vec<String> {
        self.kernel.foreign(ifindex).unwrap_or_default()
    }

    /// All local pods and what is enforced beside them, without programs of others.
    pub fn endpoints(&self) -> Vec<EndpointStatus> {
        let names: BTreeSet<&PodName> = self.local.keys().chain(self.held.keys()).collect();
        names.into_iter().map(|pod| self.endpoint(pod)).collect()
    }

    /// How full the tables are.
    pub fn tables(&self) -> Vec<TableStatus> {
        let mut tables = TableStatus::of(self.compiler.tables());
        tables.push(TableStatus {
            table: "rule_hits".into(),
            used: self.compiler.names().rules.len() as u64,
            capacity: (RULE_MAX - 1).into(),
            age_seconds: None,
        });
        let high = self.leading.keys().filter(|ifindex| **ifindex >= SLOTS_BY_INDEX).count();
        let slots = [
            ("endpoint_slots", self.leading.len() - high, SLOTS_BY_INDEX),
            ("endpoint_slots_high", high, ENDPOINT_MAX),
        ];
        tables.extend(slots.map(|(table, used, capacity)| TableStatus {
            table: table.into(),
            used: used as u64,
            capacity: capacity.into(),
            age_seconds: None,
        }));
        if let Some((counted, of_packets)) = &self.of_packets {
            let age_seconds = Some(counted.elapsed().as_secs());
            let aged = |table: &TableStatus| TableStatus { age_seconds, ..table.clone() };
            tables.extend(of_packets.iter().map(aged));
        }
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
        let held = self.held.get(pod);
        let (interfaces, unfound) = match (self.assignment.get(pod), held) {
            (Some(Ok(interfaces)), _) => (interfaces.as_slice(), None),
            (_, Some(held)) => (held.interfaces.as_slice(), None),
            (Some(Err(reason)), _) => (&[][..], Some(Unenforced::NotFound(reason.clone()))),
            (None, None) => (&[][..], Some(Unenforced::Pending)),
        };
        let place = self.slots.places().get(pod);
        let (slot, epoch) = place.map_or((0, 0), |place| (place.slot, place.epoch));
        let (ingress, egress) =
            (self.is_governed(slot, Direction::Ingress), self.is_governed(slot, Direction::Egress));
        let led = interfaces.iter().all(|i| self.leading.get(&i.ifindex) == Some(&slot));
        let pending = ((ingress || egress) && !led).then_some(Unenforced::Pending);
        let refused = self.refused.get(pod).cloned().or(unfound).or(pending);
        let overflow = self.compiler.overflows().iter().find(|overflow| overflow.pod == *pod);
        let is_shut = held.is_some_and(|held| held.why.is_closed());
        let state = match &refused {
            Some(Unenforced::NotFound(NotFound::Contested(_))) if self.is_contest_closed() => {
                EnforcementState::Closed
            }
            Some(Unenforced::NoPlace(_)) if self.is_crowded(pod) => {
                let led = |i: &Interface| self.leading.get(&i.ifindex) == Some(&CROWD_SLOT);
                if interfaces.iter().all(led) {
                    EnforcementState::Closed
                } else {
                    EnforcementState::NotEnforced
                }
            }
            Some(_) => EnforcementState::NotEnforced,
            None if overflow.is_some() || is_shut => EnforcementState::Closed,
            None if !ingress && !egress => EnforcementState::NotIsolated,
            None => EnforcementState::Enforced,
        };
        let why = held.map(|held| (held.why.label(), held.why.to_string()));
        let why = refused.map(|reason| (reason.label(), reason.to_string())).or(why);
        EndpointStatus {
            pod: pod.to_string(),
            addresses: self.addresses(pod),
            interfaces: interfaces.iter().map(interface_status).collect(),
            slot,
            epoch,
            ingress,
            egress,
            state,
            cause: why.as_ref().map(|(label, _)| (*label).into()),
            reason: why.map(|(_, reason)| reason).or(overflow.map(|o| self.in_words(o))),
        }
    }

    fn addresses(&self, pod: &PodName) -> Vec<IpAddr> {
        match self.local.get(pod) {
            Some(pod) => pod.addresses.clone(),
            None => {
                let place = self.slots.places().get(pod);
                place.into_iter().flat_map(|p| &p.incarnation.addresses).copied().collect()
            }
        }
    }

    /// Every interface that is closed because of an address on it is led to its place.
    fn is_contest_closed(&self) -> bool {
        let mut closed = self.held.iter().filter(|(_, held)| held.why.is_closed());
        closed.all(|(name, held)| {
            let slot = self.slots.places().get(name).map(|place| place.slot);
            held.interfaces.iter().all(|i| self.leading.get(&i.ifindex) == slot.as_ref())
        })
    }
}

/// Elements of `vips` that a service takes: one for each address and port.
fn vips_of(service: &Service) -> usize {
    service.addresses.len() * service.ports.len()
}

fn interface_status(interface: &Interface) -> InterfaceStatus {
    InterfaceStatus {
        name: interface.name.clone(),
        ifindex: interface.ifindex,
        netns: interface.netns_path.clone(),
        foreign_programs: Vec::new(),
    }
}
