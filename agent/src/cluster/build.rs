//! From objects to a cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_policy::model::{Labels, PodName, Service, ServiceName};

use super::addresses::{AddressPlan, ClusterError};
use super::{Cluster, IMPLIED_NODE, Node, ObjectKey, services};
use crate::convert::Item;
use crate::convert::endpointslice::EndpointSlice;
use crate::convert::namespace::NAME_LABEL;
use crate::convert::networkpolicy::NetworkPolicy;
use crate::convert::pod::Pod;
use crate::convert::service::{self, ServiceAddress};
use crate::convert::workload::{REPLICA_LIMIT, Replicas, Workload};
use crate::manifest::Object;
use crate::manifest::kinds::Kind;

impl Cluster {
    /// Makes a cluster of objects; what has no address gets one from `plan`. PolicyTests are no part
    /// of a cluster.
    ///
    /// # Errors
    /// [`ClusterError`] where the addresses do not suffice.
    pub fn from_objects<'a>(
        objects: impl IntoIterator<Item = &'a Object>,
        plan: &mut AddressPlan,
    ) -> Result<Self, ClusterError> {
        let mut builder = Builder::default();
        for object in objects {
            builder.add(object);
        }
        builder.finish(plan)
    }
}

#[derive(Default)]
struct Builder<'a> {
    cluster: Cluster,
    pods: BTreeMap<PodName, Pod>,
    workloads: BTreeMap<PodName, &'a Workload>,
    services: BTreeMap<ServiceName, &'a service::Service>,
    slices: BTreeMap<ServiceName, Vec<&'a EndpointSlice>>,
    /// Addresses that manifests say.
    taken: BTreeSet<IpAddr>,
}

impl<'a> Builder<'a> {
    fn add(&mut self, object: &'a Object) {
        match &object.item {
            Item::Namespace(namespace) => {
                let (name, labels) = (namespace.name.clone(), namespace.labels.clone());
                self.cluster.world.namespaces.insert(name, labels);
            }
            Item::Node(node) => {
                self.taken.extend(&node.addresses);
                let value = Node { addresses: node.addresses.clone() };
                self.cluster.nodes.insert(node.name.clone(), value);
            }
            Item::Pod(pod) => {
                self.taken.extend(&pod.addresses);
                self.pods.insert(pod.name.clone(), (**pod).clone());
            }
            Item::Workload(workload) => {
                let (namespace, name) = (workload.namespace.clone(), workload.name.clone());
                self.workloads.insert(PodName { namespace, name }, workload);
                // Its pods take its place.
                return;
            }
            Item::Service(service) => {
                if let ServiceAddress::Given(addresses) = &service.address {
                    self.taken.extend(addresses);
                }
                self.services.insert(service_name(&service.namespace, &service.name), service);
            }
            Item::EndpointSlice(slice) => {
                if let Some(service) = &slice.service {
                    let name = service_name(&slice.namespace, service);
                    self.slices.entry(name).or_default().push(slice);
                }
            }
            Item::NetworkPolicy(policy) => {
                let NetworkPolicy { name, policy, inert: _ } = &**policy;
                self.cluster.world.policies.insert(name.clone(), policy.clone());
            }
            Item::PolicyTest(_) => return,
        }
        self.cluster.objects.insert(object.key.clone(), object.value.clone());
    }

    fn finish(mut self, plan: &mut AddressPlan) -> Result<Cluster, ClusterError> {
        if plan.assigns() {
            self.imply_nodes();
            self.make_pods_of_workloads();
        }
        self.address_nodes(plan)?;
        self.address_pods(plan)?;
        self.address_services(plan)?;
        self.imply_namespaces();
        for (name, pod) in self.pods {
            self.cluster.listens.insert(name.clone(), pod.spec.listens.clone());
            self.cluster.world.pods.insert(name, pod.to_model());
        }
        Ok(self.cluster)
    }

    /// Every node that a pod names is there, and so is the one for those that name none.
    fn imply_nodes(&mut self) {
        let named = self.pods.values_mut().map(|pod| {
            if pod.node.is_empty() {
                pod.node = IMPLIED_NODE.into();
            }
            pod.node.clone()
        });
        let templates = self.workloads.values().filter(|w| !w.node.is_empty());
        let mut names: BTreeSet<String> = named.collect();
        names.extend(templates.map(|w| w.node.clone()));
        let homeless = self
            .workloads
            .values()
            .any(|w| w.node.is_empty() && matches!(w.replicas, Replicas::Count(_)));
        if homeless || self.cluster.nodes.is_empty() && names.is_empty() {
            names.insert(IMPLIED_NODE.into());
        }
        for name in names {
            self.cluster.nodes.entry(name).or_default();
        }
    }

    /// A workload whose pods are in the input too has those; one that another made has none.
    fn make_pods_of_workloads(&mut self) {
        for (name, workload) in std::mem::take(&mut self.workloads) {
            // An empty selector would claim the pods of all workloads.
            let selector = workload.selector.as_ref().filter(|s| !s.requirements.is_empty());
            let own: Vec<PodName> = match selector {
                Some(selector) => self
                    .pods
                    .values()
                    .filter(|pod| pod.name.namespace == name.namespace)
                    .filter(|pod| selector.selects(&pod.labels))
                    .map(|pod| pod.name.clone())
                    .collect(),
                None => Vec::new(),
            };
            if !own.is_empty() {
                self.cluster.workloads.insert(name, own);
            } else if !workload.controlled {
                let made = self.make_pods(&name, workload);
                self.cluster.workloads.insert(name, made);
            }
        }
    }

    fn make_pods(&mut self, name: &PodName, workload: &Workload) -> Vec<PodName> {
        let nodes: Vec<String> = match (workload.replicas, workload.node.as_str()) {
            (Replicas::Count(count), "") => vec![IMPLIED_NODE.into(); count],
            (Replicas::Count(count), node) => vec![node.into(); count],
            (Replicas::PerNode, "") => {
                self.cluster.nodes.keys().take(REPLICA_LIMIT).cloned().collect()
            }
            (Replicas::PerNode, node) => vec![node.into()],
        };
        let mut made = Vec::new();
        for (i, node) in nodes.into_iter().enumerate() {
            let namespace = name.namespace.clone();
            let pod_name = PodName { namespace, name: format!("{}-{i}", name.name) };
            // A pod that the input has under this name stays as it is.
            if !self.pods.contains_key(&pod_name) {
                let key = pod_key(&pod_name);
                self.cluster.objects.insert(key, pod_manifest(&pod_name, workload));
                self.pods.insert(pod_name.clone(), pod_of(&pod_name, workload, node));
            }
            made.push(pod_name);
        }
        made
    }

    fn address_nodes(&mut self, plan: &mut AddressPlan) -> Result<(), ClusterError> {
        for (name, node) in &mut self.cluster.nodes {
            if node.addresses.is_empty() {
                node.addresses = plan.node(name, &self.taken)?;
            }
            let key =
                ObjectKey { kind: "Node".into(), namespace: String::new(), name: name.clone() };
            let value = self.cluster.objects.entry(key).or_insert_with(
                || json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}),
            );
            let listed: Vec<Value> = node
                .addresses
                .iter()
                .map(|a| json!({"type": "InternalIP", "address": a.to_string()}))
                .collect();
            set(value, "status", "addresses", listed.into());
        }
        Ok(())
    }

    fn address_pods(&mut self, plan: &mut AddressPlan) -> Result<(), ClusterError> {
        for (name, pod) in &mut self.pods {
            if pod.addresses.is_empty() && !pod.finished {
                pod.addresses = if pod.spec.host_network {
                    self.cluster
                        .nodes
                        .get(&pod.node)
                        .map(|n| n.addresses.clone())
                        .unwrap_or_default()
                } else {
                    plan.pod(name, &self.taken)?
                };
            }
            let Some(value) = self.cluster.objects.get_mut(&pod_key(name)) else { continue };
            if !pod.node.is_empty() {
                set(value, "spec", "nodeName", pod.node.as_str().into());
            }
            let listed: Vec<Value> =
                pod.addresses.iter().map(|a| json!({"ip": a.to_string()})).collect();
            set(value, "status", "podIPs", listed.into());
            if let Some(first) = pod.addresses.first() {
                set(value, "status", "podIP", first.to_string().into());
            }
        }
        Ok(())
    }

    fn address_services(&mut self, plan: &mut AddressPlan) -> Result<(), ClusterError> {
        for (name, service) in &self.services {
            let own = match &service.address {
                ServiceAddress::Given(addresses) => addresses.clone(),
                ServiceAddress::Assigned => plan.service(name, &self.taken)?,
                ServiceAddress::None => Vec::new(),
            };
            let key = ObjectKey {
                kind: Kind::Service.as_str().into(),
                namespace: name.namespace.clone(),
                name: name.name.clone(),
            };
            if let (Some(value), Some(first)) = (self.cluster.objects.get_mut(&key), own.first()) {
                set(value, "spec", "clusterIP", first.to_string().into());
                let listed: Vec<Value> = own.iter().map(|a| a.to_string().into()).collect();
                set(value, "spec", "clusterIPs", listed.into());
            }
            let slices = self.slices.get(name).map(Vec::as_slice).unwrap_or_default();
            let ports = services::resolve(service, slices, &self.pods);
            let addresses = own.into_iter().chain(service.external.iter().copied()).collect();
            self.cluster.world.services.insert(name.clone(), Service { addresses, ports });
        }
        Ok(())
    }

    /// A namespace that is used exists.
    fn imply_namespaces(&mut self) {
        let world = &mut self.cluster.world;
        let used = self.pods.keys().map(|name| &name.namespace);
        let policies = world.policies.keys().filter_map(|name| name.namespace.as_ref());
        let services = self.services.keys().map(|name| &name.namespace);
        for namespace in used.chain(policies).chain(services) {
            if !world.namespaces.contains_key(namespace) {
                let labels = Labels::from([(NAME_LABEL, namespace)]);
                world.namespaces.insert(namespace.clone(), labels);
            }
        }
    }
}

fn service_name(namespace: &str, name: &str) -> ServiceName {
    ServiceName { namespace: namespace.into(), name: name.into() }
}

fn pod_key(name: &PodName) -> ObjectKey {
    ObjectKey { kind: "Pod".into(), namespace: name.namespace.clone(), name: name.name.clone() }
}

fn pod_of(name: &PodName, workload: &Workload, node: String) -> Pod {
    Pod {
        name: name.clone(),
        labels: workload.labels.clone(),
        addresses: Vec::new(),
        node,
        finished: false,
        ready: true,
        created: workload.created,
        deleting: false,
        spec: workload.containers.clone(),
    }
}

fn pod_manifest(name: &PodName, workload: &Workload) -> Value {
    let labels: BTreeMap<_, _> = workload.labels.iter().collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"namespace": name.namespace, "name": name.name, "labels": labels},
        "spec": workload.pod_spec,
        "status": {"phase": "Running"},
    })
}

/// Sets `object.section.field`, where the section may be missing or null.
fn set(object: &mut Value, section: &str, field: &str, value: Value) {
    let Some(object) = object.as_object_mut() else { return };
    let section = object.entry(section).or_insert(Value::Null);
    if section.is_null() {
        *section = json!({});
    }
    if let Some(section) = section.as_object_mut() {
        section.insert(field.to_owned(), value);
    }
}
