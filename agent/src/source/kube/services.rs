//! Services and their slices: what each service leads to.

use std::collections::{BTreeMap, HashMap};

use sluice_policy::model;

use crate::cluster;
use crate::convert::endpointslice::EndpointSlice;
use crate::convert::service::{Service, ServiceAddress};

/// All services and slices of the cluster. A slice may come before its service, and stay after it.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: BTreeMap<model::ServiceName, Known<Service>>,
    slices: BTreeMap<model::ServiceName, BTreeMap<Box<str>, Known<EndpointSlice>>>,
    /// The service of each slice that has one.
    owners: HashMap<Box<str>, model::ServiceName>,
}

/// An object, and whether all of it could be read.
#[derive(Debug)]
struct Known<T> {
    object: T,
    whole: bool,
}

impl Services {
    /// Takes in a service; `whole` says that all of it could be read.
    pub(super) fn put(&mut self, service: Service, whole: bool) -> model::ServiceName {
        let name =
            model::ServiceName { namespace: service.namespace.clone(), name: service.name.clone() };
        self.services.insert(name.clone(), Known { object: service, whole });
        name
    }

    /// Forgets a service.
    pub(super) fn remove(&mut self, name: &model::ServiceName) {
        self.services.remove(name);
    }

    /// Takes in a slice, and returns the services that may lead elsewhere now.
    pub(super) fn put_slice(
        &mut self,
        name: &str,
        slice: EndpointSlice,
        whole: bool,
    ) -> Vec<model::ServiceName> {
        let mut touched: Vec<_> = self.remove_slice(name).into_iter().collect();
        let Some(service) = slice.service.clone() else { return touched };
        let owner = model::ServiceName { namespace: slice.namespace.clone(), name: service };
        let slices = self.slices.entry(owner.clone()).or_default();
        slices.insert(name.into(), Known { object: slice, whole });
        self.owners.insert(name.into(), owner.clone());
        if !touched.contains(&owner) {
            touched.push(owner);
        }
        touched
    }

    /// Forgets a slice, and returns the service that may lead elsewhere now.
    pub(super) fn remove_slice(&mut self, name: &str) -> Option<model::ServiceName> {
        let owner = self.owners.remove(name)?;
        if let Some(slices) = self.slices.get_mut(&owner) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(&owner);
            }
        }
        Some(owner)
    }

    /// Nothing of a service can be read any more. Returns it where it was known.
    pub(super) fn spoil(&mut self, name: model::ServiceName) -> Option<model::ServiceName> {
        self.services.get_mut(&name)?.whole = false;
        Some(name)
    }

    /// Nothing of a slice can be read any more. Returns its service where it had one.
    pub(super) fn spoil_slice(&mut self, name: &str) -> Option<model::ServiceName> {
        let owner = self.owners.get(name)?.clone();
        self.slices.get_mut(&owner)?.get_mut(name)?.whole = false;
        Some(owner)
    }

    /// The service as policy looks at it; none where there is none.
    ///
    /// A service that could not be read in full, or one of whose slices could not, leads nowhere: it
    /// must not be taken for one whose backends are all allowed.
    pub(super) fn resolved(&self, name: &model::ServiceName) -> Option<model::Service> {
        let Known { object: service, whole } = self.services.get(name)?;
        let slices = self.slices.get(name);
        let slices = || slices.into_iter().flat_map(BTreeMap::values);
        let whole = *whole && slices().all(|slice| slice.whole);
        let slices: Vec<&EndpointSlice> = slices().map(|slice| &slice.object).collect();
        let mut addresses = match &service.address {
            ServiceAddress::Given(own) => own.iter().chain(&service.external).copied().collect(),
            // Until it has an address of its own kube-proxy translates none.
            ServiceAddress::Assigned | ServiceAddress::None => Vec::new(),
        };
        addresses.sort();
        addresses.dedup();
        let mut ports = cluster::resolve_service(service, &slices, &BTreeMap::new());
        if !whole {
            ports.iter_mut().for_each(|port| port.backends.clear());
        }
        Some(model::Service { addresses, ports })
    }
}

#[cfg(test)]
mod tests;
