//! Changes of the world: what sources send and compile consumes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Labels, LocalEndpoint, Pod, PodName, Policy, PolicyName, Service, ServiceName, World};

/// One change of the world; `None` removes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Change {
    /// A namespace and its labels.
    Namespace(String, Option<Labels>),
    /// A pod.
    Pod(PodName, Option<Pod>),
    /// A policy.
    Policy(PolicyName, Option<Policy>),
    /// A Service with its backends.
    Service(ServiceName, Option<Service>),
    /// An endpoint of this node.
    Endpoint(PodName, Option<LocalEndpoint>),
    /// All addresses of this node that its isolated pods may reach anyhow.
    OwnHost(BTreeSet<IpAddr>),
}

impl World {
    /// Takes in one change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Namespace(name, value) => put(&mut self.namespaces, name, value),
            Change::Pod(name, value) => put(&mut self.pods, name, value),
            Change::Policy(name, value) => put(&mut self.policies, name, value),
            Change::Service(name, value) => put(&mut self.services, name, value),
            Change::Endpoint(name, value) => put(&mut self.endpoints, name, value),
            Change::OwnHost(addresses) => self.own_host = addresses,
        }
    }

    /// What makes this world the other one, in the order that costs the compiler least: what rules
    /// and selectors look at comes before what they apply to.
    pub fn changes_to(&self, to: &Self) -> Vec<Change> {
        let Self { namespaces, pods, policies, services, endpoints, own_host } = to;
        let mut changes = Vec::new();
        compare(&self.namespaces, namespaces, Change::Namespace, &mut changes);
        compare(&self.pods, pods, Change::Pod, &mut changes);
        compare(&self.policies, policies, Change::Policy, &mut changes);
        compare(&self.services, services, Change::Service, &mut changes);
        compare(&self.endpoints, endpoints, Change::Endpoint, &mut changes);
        if self.own_host != *own_host {
            changes.push(Change::OwnHost(own_host.clone()));
        }
        changes
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => {
            map.insert(key, value);
        }
        None => {
            map.remove(&key);
        }
    }
}

fn compare<K: Ord + Clone, V: PartialEq + Clone>(
    from: &BTreeMap<K, V>,
    to: &BTreeMap<K, V>,
    change: impl Fn(K, Option<V>) -> Change,
    changes: &mut Vec<Change>,
) {
    let gone = from.keys().filter(|key| !to.contains_key(key));
    changes.extend(gone.map(|key| change(key.clone(), None)));
    let changed = to.iter().filter(|(key, value)| from.get(key) != Some(value));
    changes.extend(changed.map(|(key, value)| change(key.clone(), Some(value.clone()))));
}
