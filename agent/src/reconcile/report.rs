//! What the reconciler says of itself.

use std::collections::BTreeMap;

use sluice_common::abi::Direction;
use sluice_policy::model::PodName;

use super::{Kernel, Reconciler};
use crate::endpoint::links::IfIndex;
use crate::endpoint::{Interface, NotFound};
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
        self.refused.clone().into_iter().chain(unfound).collect()
    }

    /// Sets that did not fit and were closed, each with its endpoint.
    pub fn overflows(&self) -> Vec<String> {
        self.compiler.overflows().iter().map(ToString::to_string).collect()
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
        TableStatus::of(self.compiler.tables())
    }

    fn endpoint(&self, pod: &PodName) -> EndpointStatus {
        let (interfaces, unfound) = match self.assignment.get(pod) {
            Some(Ok(interfaces)) => (interfaces.clone(), None),
            Some(Err(reason)) => (Vec::new(), Some(reason.to_string())),
            None => (Vec::new(), Some("it was not looked for yet".into())),
        };
        let place = self.slots.places().get(pod);
        let (slot, epoch) = place.map_or((0, 0), |place| (place.slot, place.epoch));
        let (ingress, egress) =
            (self.is_governed(slot, Direction::Ingress), self.is_governed(slot, Direction::Egress));
        let reason = self.refused.get(pod).cloned().or(unfound);
        let overflow = self.compiler.overflows().iter().find(|overflow| overflow.pod == *pod);
        let led = interfaces.iter().all(|i| self.leading.get(&i.ifindex) == Some(&slot));
        let (state, reason) = match (reason, overflow) {
            (Some(reason), _) => (EnforcementState::NotEnforced, Some(reason)),
            (None, Some(overflow)) => (EnforcementState::Closed, Some(overflow.to_string())),
            (None, None) if !ingress && !egress => (EnforcementState::NotIsolated, None),
            (None, None) if led => (EnforcementState::Enforced, None),
            (None, None) => (EnforcementState::NotEnforced, Some("it is not attached yet".into())),
        };
        EndpointStatus {
            pod: pod.to_string(),
            addresses: self.local.get(pod).map(|pod| pod.addresses.clone()).unwrap_or_default(),
            interfaces: interfaces.iter().map(interface_status).collect(),
            slot,
            epoch,
            ingress,
            egress,
            state,
            reason,
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
