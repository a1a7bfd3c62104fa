//! A state of a case with the addresses that the real cluster has given: what the oracle is asked
//! about, and which probes it cannot be asked about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice::cluster::{Cluster, Node};
use sluice::engine::{End, Family, Probe, ProbeProtocol, ProbeVerdict};
use sluice_policy::model::{Backend, PodName, ServiceName};

/// What the real cluster has given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Addresses of pods, by the case's names. Those in their node's network are not in it.
    pub pods: BTreeMap<PodName, Vec<IpAddr>>,
    /// The node of each pod, by the case's names.
    pub seats: BTreeMap<PodName, String>,
    /// Addresses of nodes, by the case's names.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
    /// Addresses of services, by the case's names.
    pub services: BTreeMap<ServiceName, Vec<IpAddr>>,
}

/// A state of a case, as it is on the real cluster.
#[derive(Clone, Debug, Default)]
pub struct Placed {
    /// With real addresses.
    pub cluster: Cluster,
    /// Services that the case leads to addresses which no pod and no node has.
    pub elsewhere: BTreeSet<ServiceName>,
}

impl Placed {
    /// `cluster` with the given addresses in the place of the case's own.
    pub fn new(cluster: &Cluster, given: &Given) -> Self {
        let mut placed = Self { cluster: cluster.clone(), elsewhere: BTreeSet::new() };
        let world = &mut placed.cluster.world;
        placed.cluster.nodes = given
            .nodes
            .iter()
            .map(|(name, addresses)| (name.clone(), Node { addresses: addresses.clone() }))
            .collect();
        for (name, pod) in &mut world.pods {
            if let Some(node) = given.seats.get(name) {
                pod.node.clone_from(node);
            }
            let of =
                if pod.host_network { given.nodes.get(&pod.node) } else { given.pods.get(name) };
            pod.addresses = of.cloned().unwrap_or_default();
        }
        for (name, service) in &mut world.services {
            service.addresses = given.services.get(name).cloned().unwrap_or_default();
            for port in &mut service.ports {
                let mut backends = Vec::new();
                for backend in &port.backends {
                    match real_address(cluster, given, backend.address) {
                        Some(of) => backends
                            .extend(of.map(|address| Backend { address, port: backend.port })),
                        None => _ = placed.elsewhere.insert(name.clone()),
                    }
                }
                backends.sort();
                backends.dedup();
                port.backends = backends;
            }
        }
        placed
    }

    /// Why a probe cannot be tried here; `there` and `here` are the oracle's verdicts with the case's
    /// own addresses and with the real ones.
    pub fn obstacle(
        &self,
        probe: &Probe,
        there: ProbeVerdict,
        here: ProbeVerdict,
    ) -> Option<&'static str> {
        let ends = [&probe.from, &probe.to];
        if ends.iter().any(|end| matches!(end, End::External(_))) {
            return Some("an end is outside the cluster");
        }
        if matches!(&probe.to, End::Service(namespace, name)
            if self.elsewhere.contains(&ServiceName { namespace: namespace.clone(), name: name.clone() }))
        {
            return Some("the service leads to an address that no pod has");
        }
        if ends.iter().any(|end| !self.has(end, probe.family)) {
            return Some("an end has no address of the family");
        }
        if matches!(&probe.from, End::Node(_)) && probe.protocol == ProbeProtocol::Icmp {
            return Some("a node's echo sockets are the node's to allow");
        }
        if there != here {
            return Some("the verdict is about addresses that the case gives itself");
        }
        None
    }

    fn has(&self, end: &End, family: Family) -> bool {
        let of_family = |addresses: &[IpAddr]| addresses.iter().any(|a| family.is_of(*a));
        match end {
            End::Pod(name) => {
                self.cluster.world.pods.get(name).is_some_and(|pod| of_family(&pod.addresses))
            }
            End::Node(name) => {
                self.cluster.nodes.get(name).is_some_and(|node| of_family(&node.addresses))
            }
            End::Service(namespace, name) => {
                let name = ServiceName { namespace: namespace.clone(), name: name.clone() };
                let service = self.cluster.world.services.get(&name);
                service.is_some_and(|service| of_family(&service.addresses))
            }
            End::External(_) => false,
        }
    }
}

/// The real address of whoever has one of the case's own: none where nobody has it, and an empty
/// answer where the real cluster has none of that family.
fn real_address(
    cluster: &Cluster,
    given: &Given,
    address: IpAddr,
) -> Option<impl Iterator<Item = IpAddr>> {
    let real = match (cluster.pod_at(address), cluster.node_at(address)) {
        (Some(pod), _) => given.pods.get(pod)?,
        (None, Some(node)) => given.nodes.get(node)?,
        (None, None) => return None,
    };
    let family = Family::of(address);
    Some(real.iter().copied().find(|real| family.is_of(*real)).into_iter())
}

#[cfg(test)]
mod tests {
    use sluice::cluster::AddressPlan;
    use sluice::engine::Engine as _;
    use sluice::engine::model::Model;
    use sluice::manifest;

    use super::*;

    const CASE: &str = r#"
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: a, labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}
---
{apiVersion: v1, kind: Pod, metadata: {namespace: x, name: b}, spec: {containers: [{name: c, image: i}]}, status: {podIPs: [{ip: 10.244.50.1}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: x, name: web}, spec: {selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {namespace: x, name: api}, spec: {ports: [{port: 443}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {namespace: x, name: api, labels: {kubernetes.io/service-name: api}}, addressType: IPv4, ports: [{port: 6443}], endpoints: [{addresses: [192.0.2.1]}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: block}
spec:
  podSelector: {matchLabels: {app: a}}
  ingress: [{from: [{ipBlock: {cidr: 10.244.50.0/24}}]}]
"#;

    fn pod(name: &str) -> PodName {
        PodName { namespace: "x".into(), name: name.into() }
    }

    fn service(name: &str) -> ServiceName {
        ServiceName { namespace: "x".into(), name: name.into() }
    }

    fn probe(from: &str, to: End, family: Family) -> Probe {
        let (protocol, port) = (ProbeProtocol::Tcp, 80);
        Probe { from: End::Pod(pod(from)), to, protocol, port, family, established: false }
    }

    /// The case, and the case on a cluster of one family.
    fn both() -> (Cluster, Placed) {
        let loaded = manifest::load_bytes(CASE.as_bytes());
        assert!(loaded.errors.is_empty(), "{:?}", loaded.errors);
        let objects = loaded.objects.iter().map(|placed| &placed.object);
        let cluster = Cluster::from_objects(objects, &mut AddressPlan::default());
        let cluster = cluster.expect("a cluster");
        let address = |text: &str| vec![text.parse().expect("an address")];
        let given = Given {
            pods: [(pod("a"), address("10.1.0.2")), (pod("b"), address("10.1.0.3"))].into(),
            nodes: [("node-1".into(), address("192.168.0.1"))].into(),
            services: [(service("web"), address("10.2.0.1"))].into(),
            ..Given::default()
        };
        let placed = Placed::new(&cluster, &given);
        (cluster, placed)
    }

    #[test]
    fn pods_and_the_backends_of_services_have_the_real_addresses() {
        let (_, placed) = both();
        let world = &placed.cluster.world;
        assert_eq!(world.pods[&pod("a")].addresses, ["10.1.0.2".parse::<IpAddr>().expect("one")]);
        let web = &world.services[&service("web")];
        assert_eq!(web.addresses, ["10.2.0.1".parse::<IpAddr>().expect("one")]);
        let address = "10.1.0.2".parse().expect("one");
        assert_eq!(web.ports[0].backends, [Backend { address, port: 8080 }]);
        assert_eq!(placed.elsewhere, BTreeSet::from([service("api")]));
    }

    #[test]
    fn what_cannot_be_tried_is_left_out_for_its_reason() {
        let (cluster, placed) = both();
        let svc = |name: &str| End::Service("x".into(), name.into());
        let outside = End::External("203.0.113.9".parse().expect("an address"));
        for (probe, expected) in [
            (probe("a", End::Pod(pod("b")), Family::IPv4), None),
            (probe("a", svc("web"), Family::IPv4), None),
            (probe("a", outside, Family::IPv4), Some("an end is outside the cluster")),
            (
                probe("a", End::Pod(pod("b")), Family::IPv6),
                Some("an end has no address of the family"),
            ),
            (
                probe("a", svc("api"), Family::IPv4),
                Some("the service leads to an address that no pod has"),
            ),
            // Allowed by a block of addresses that the case gives its pods.
            (
                probe("b", End::Pod(pod("a")), Family::IPv4),
                Some("the verdict is about addresses that the case gives itself"),
            ),
        ] {
            let verdict = |cluster: &Cluster| {
                Model.step(cluster, std::slice::from_ref(&probe)).expect("an answer")[0].verdict
            };
            let (there, here) = (verdict(&cluster), verdict(&placed.cluster));
            assert_eq!(placed.obstacle(&probe, there, here), expected, "{probe:?}");
        }
    }
}
