//! What the loop says of itself, to `sluice status`, to scrapes and to probes.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use sluice_policy::model::{PodName, direction_label};

use super::{Agent, NOT_SYNCED, lacking};
use crate::datapath::attach::is_ours;
use crate::endpoint::Unenforced;
use crate::metrics::{Inquiry, Readiness, Report, Timings};
use crate::reconcile::kernel::Kernel;
use crate::source::InvalidPod;
use crate::status::{EndpointStatus, EnforcementState};

/// Pods that have reached their first state, for [`Timings::pod_start_to_enforced`].
#[derive(Debug)]
pub(super) struct Starts {
    /// Epochs of incarnations that are there.
    settled: BTreeSet<u32>,
    /// When the agent started: it cannot know when older pods were enforced.
    since: SystemTime,
}

impl Starts {
    pub(super) fn new() -> Self {
        Self { settled: BTreeSet::new(), since: SystemTime::now() }
    }

    /// Takes in the endpoints as they are; `created` says when a pod was, in seconds. Returns how long
    /// those that are enforced for the first time have waited for it.
    fn note(
        &mut self,
        endpoints: &[EndpointStatus],
        created: impl Fn(&EndpointStatus) -> Option<u64>,
    ) -> Vec<Duration> {
        let mut waits = Vec::new();
        let is_settled = |e: &&EndpointStatus| {
            let settled = [EnforcementState::Enforced, EnforcementState::NotIsolated];
            e.epoch != 0 && settled.contains(&e.state)
        };
        let now: BTreeSet<u32> = endpoints.iter().filter(is_settled).map(|e| e.epoch).collect();
        let first = |e: &&EndpointStatus| {
            e.state == EnforcementState::Enforced && !self.settled.contains(&e.epoch)
        };
        for endpoint in endpoints.iter().filter(is_settled).filter(first) {
            let Some(created) = created(endpoint) else { continue };
            let created = SystemTime::UNIX_EPOCH + Duration::from_secs(created);
            if created >= self.since {
                waits.push(SystemTime::now().duration_since(created).unwrap_or_default());
            }
        }
        self.settled = now;
        waits
    }
}

impl<K: Kernel> Agent<K> {
    /// Answers a question of the metrics server, who may have gone away.
    pub(super) fn inform(&mut self, inquiry: Inquiry) {
        match inquiry {
            Inquiry::Report { rules, reply } => {
                let report = self.report(rules).map_err(|error| format!("{error:#}"));
                let _ = reply.send(report);
            }
            Inquiry::Readiness { reply } => {
                let _ = reply.send(self.readiness());
            }
        }
    }

    fn report(&mut self, rules: bool) -> anyhow::Result<Report> {
        let mut endpoints = Vec::new();
        for endpoint in self.known_endpoints() {
            let counted = self.reconciler.counted(endpoint.slot)?;
            endpoints.push((endpoint, counted));
        }
        let watches = self.watches.iter().map(|(kind, watch)| (kind.clone(), watch.connected));
        Ok(Report {
            endpoints,
            rules: if rules { self.reconciler.rules()? } else { Vec::new() },
            tables: self.reconciler.tables(),
            objects: self.objects.counts.clone(),
            unresolved_ports: self.unresolved_ports.len() as u64,
            watches: watches.collect(),
            last_heal_corrections: self.last_heal_corrections,
            timings: self.timings.clone(),
            learned_connections: self.reconciler.learned(),
        })
    }

    fn readiness(&self) -> Readiness {
        let watches = self.watches.values().filter(|watch| !watch.synced || watch.error.is_some());
        let mut missing: Vec<String> = watches
            .map(|watch| match &watch.error {
                Some(error) => format!("{}: {error}", watch.kind),
                None => format!("{}: the first full list is not through", watch.kind),
            })
            .collect();
        let mut notes = self.faults_of_objects();
        for (pod, reason) in self.reconciler.lacking() {
            if self.lacking.holds_up(&pod) {
                missing.push(format!("{pod}: {reason}"));
            } else {
                let seconds = lacking::HOLD.as_secs();
                notes.push(format!("{pod}: not enforced for more than {seconds} s: {reason}"));
            }
        }
        missing.extend(self.unwritten());
        missing.extend(self.link_watch.failure().map(str::to_owned));
        missing.extend(self.reconciler.overflows());
        if let Some(failure) = self.failure.as_ref().filter(|failure| !missing.contains(failure)) {
            missing.push(failure.clone());
        }
        notes.extend(self.reconciler.notes_failure().map(str::to_owned));
        Readiness { missing, notes }
    }

    /// What is wrong with objects and what is closed for it, and with the node's network configuration:
    /// nothing that the agent could mend.
    pub(super) fn faults_of_objects(&self) -> Vec<String> {
        let mut faults = self.faults.clone();
        let mixed = self.reconciler.mixed_services().into_iter();
        faults.extend(mixed.map(|(pod, why)| format!("{pod}: {why}")));
        faults.extend(self.cni_trouble.as_ref().and_then(|trouble| trouble.borrow().clone()));
        faults
    }

    /// Pods that are not found or not enforced, and [`Self::unwritten`].
    pub(super) fn missing(&self) -> Vec<String> {
        let pods = self.reconciler.missing().into_iter();
        pods.map(|(pod, reason)| format!("{pod}: {reason}")).chain(self.unwritten()).collect()
    }

    /// Why the kernel may lack something, whosever.
    fn unwritten(&self) -> Vec<String> {
        let mut missing = Vec::new();
        missing.extend(self.node_unknown.clone());
        missing.extend(self.scan_failure.clone());
        if !self.synced {
            missing.push(NOT_SYNCED.into());
        } else if self.changed {
            missing
                .push(self.failure.clone().unwrap_or_else(|| "changes are not written yet".into()));
        }
        missing
    }

    /// All local pods, those that cannot be known included, without programs of others.
    pub(super) fn known_endpoints(&self) -> Vec<EndpointStatus> {
        let mut endpoints = self.reconciler.endpoints();
        let ours = |pod: &InvalidPod| pod.node.as_ref().is_none_or(|node| *node == self.node);
        let invalid = self.objects.invalid_pods.iter().filter(|(_, pod)| ours(pod));
        endpoints.extend(invalid.map(|(name, pod)| {
            let reason = Unenforced::InvalidObject(pod.reason.clone());
            EndpointStatus {
                pod: name.to_string(),
                state: EnforcementState::NotEnforced,
                cause: Some(reason.label().into()),
                reason: Some(reason.to_string()),
                ..EndpointStatus::default()
            }
        }));
        endpoints
    }

    /// The endpoints, with the programs of others on their interfaces.
    pub(super) async fn endpoints(&mut self) -> Vec<EndpointStatus> {
        let mut endpoints = self.known_endpoints();
        for interface in endpoints.iter_mut().flat_map(|endpoint| &mut endpoint.interfaces) {
            interface.foreign_programs = self.reconciler.foreign(interface.ifindex);
            // An interface that went away has no filters.
            let filters = self.links.filters(interface.ifindex).await.unwrap_or_default();
            for (direction, name) in filters.into_iter().filter(|(_, name)| !is_ours(name)) {
                let label = direction_label(direction);
                interface.foreign_programs.push(format!("{label}: {name} (clsact)"));
            }
        }
        endpoints
    }

    /// Observes how long pods that are enforced now have waited for it.
    pub(super) fn note_starts(&mut self, endpoints: &[EndpointStatus]) {
        let created = |endpoint: &EndpointStatus| {
            let (namespace, name) = endpoint.pod.split_once('/')?;
            let pod = PodName { namespace: namespace.into(), name: name.into() };
            u64::try_from(self.reconciler.created(&pod)?).ok().filter(|created| *created > 0)
        };
        for wait in self.starts.note(endpoints, created) {
            Timings::observe(&self.timings.pod_start_to_enforced, wait);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(epoch: u32, state: EnforcementState) -> EndpointStatus {
        EndpointStatus { pod: "x/a".into(), epoch, state, ..EndpointStatus::default() }
    }

    /// Seconds since 1970, surely after the agent's start.
    fn soon() -> u64 {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        now.as_secs() + 60
    }

    #[test]
    fn an_incarnation_is_observed_once_and_only_if_it_is_new_and_isolated_from_its_start() {
        let mut starts = Starts::new();
        let mut count = |endpoint, created| starts.note(&[endpoint], |_| created).len();
        let new = Some(soon());
        assert_eq!(count(endpoint(1, EnforcementState::NotEnforced), new), 0);
        assert_eq!(count(endpoint(1, EnforcementState::Enforced), new), 1);
        assert_eq!(count(endpoint(1, EnforcementState::Enforced), new), 0);
        // Created again under its name.
        assert_eq!(count(endpoint(2, EnforcementState::Enforced), new), 1);
        // A policy comes later.
        assert_eq!(count(endpoint(3, EnforcementState::NotIsolated), new), 0);
        assert_eq!(count(endpoint(3, EnforcementState::Enforced), new), 0);
        // Older than the agent, or of unknown age.
        assert_eq!(count(endpoint(4, EnforcementState::Enforced), Some(17)), 0);
        assert_eq!(count(endpoint(5, EnforcementState::Enforced), None), 0);
    }
}
