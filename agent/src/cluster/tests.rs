use std::net::IpAddr;
use std::path::PathBuf;

use sluice_policy::model::{PodName, Protocol};

use super::*;
use crate::manifest::read::Text;
use crate::manifest::{Object, load_text};

fn objects(text: &str) -> Vec<Object> {
    let text = Text { file: "t".into(), directory: PathBuf::from("."), text: text.to_owned() };
    let loaded = load_text(&text);
    assert_eq!(loaded.errors, []);
    loaded.objects.into_iter().map(|placed| placed.object).collect()
}

fn cluster(text: &str) -> Cluster {
    Cluster::from_objects(&objects(text), &mut AddressPlan::default()).expect("addresses suffice")
}

fn pod(text: &str) -> PodName {
    let (namespace, name) = text.split_once('/').expect("a literal name");
    PodName { namespace: namespace.into(), name: name.into() }
}

fn addresses(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().expect("a literal address")).collect()
}

const DEPLOYMENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: x}
spec:
  replicas: 5
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      initContainers: [{name: i, ports: [{name: init, containerPort: 81, protocol: UDP}]}]
      containers: [{name: c, ports: [{name: http, containerPort: 80}]}]
";

#[test]
fn a_workload_becomes_at_most_two_pods() {
    let cluster = cluster(DEPLOYMENT);
    let pods: Vec<String> = cluster.world.pods.keys().map(ToString::to_string).collect();
    assert_eq!(pods, ["x/web-0", "x/web-1"]);
    assert_eq!(cluster.workloads[&pod("x/web")], [pod("x/web-0"), pod("x/web-1")]);
    let first = &cluster.world.pods[&pod("x/web-0")];
    assert_eq!(first.labels.get("app"), Some("web"));
    assert_eq!(first.node, IMPLIED_NODE);
    assert_eq!(first.addresses, addresses(&["10.244.0.2", "fd00:10:244::2"]));
    let names: Vec<&str> = first.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["http", "init"]);
    let listens = [(Protocol::Tcp, 80), (Protocol::Udp, 81)].into();
    assert_eq!(cluster.listens[&pod("x/web-0")], listens);
}

#[test]
fn the_resolved_objects_make_the_same_cluster_again() {
    let text = format!(
        "{DEPLOYMENT}---\napiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: x}}\nspec: {{selector: {{app: web}}, ports: [{{port: 80}}]}}\n"
    );
    let first = cluster(&text);
    let resolved: Vec<String> = first.objects.values().map(ToString::to_string).collect();
    // An agent that invents nothing sees it too.
    let again =
        Cluster::from_objects(&objects(&resolved.join("\n---\n")), &mut AddressPlan::none())
            .expect("nothing to assign");
    assert_eq!(again.world, first.world);
    assert_eq!(again.nodes, first.nodes);
    assert_eq!(again.world.services, first.world.services);
}

#[test]
fn without_assignment_nothing_is_invented() {
    let text = format!("{DEPLOYMENT}---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\n");
    let cluster =
        Cluster::from_objects(&objects(&text), &mut AddressPlan::none()).expect("no pool");
    let pods: Vec<String> = cluster.world.pods.keys().map(ToString::to_string).collect();
    assert_eq!(pods, ["default/p"]);
    assert!(cluster.world.pods[&pod("default/p")].addresses.is_empty());
    assert!(cluster.nodes.is_empty());
}

#[test]
fn pods_of_a_workload_that_are_in_the_input_are_not_made_again() {
    let own = "
apiVersion: v1
kind: Pod
metadata: {name: web-7d4b-x, namespace: x, labels: {app: web}}
spec: {nodeName: n}
status: {podIP: 10.1.0.1}
";
    let set = DEPLOYMENT.replace("Deployment", "ReplicaSet").replace(
        "name: web,",
        "name: web-7d4b, ownerReferences: [{apiVersion: apps/v1, kind: Deployment, name: web, uid: u, controller: true}],",
    );
    let text = format!("{DEPLOYMENT}---{own}---{set}");
    let found = cluster(&text);
    let pods: Vec<String> = found.world.pods.keys().map(ToString::to_string).collect();
    assert_eq!(pods, ["x/web-7d4b-x"]);
    assert_eq!(found.workloads[&pod("x/web")], [pod("x/web-7d4b-x")]);
    // What another workload made makes nothing itself.
    let both = cluster(&format!("{DEPLOYMENT}---{set}"));
    assert_eq!(both.world.pods.len(), 2);
}

#[test]
fn a_daemon_set_has_a_pod_on_each_node() {
    let set =
        DEPLOYMENT.replace("Deployment", "DaemonSet").replace("replicas: 5", "minReadySeconds: 0");
    let node =
        |name: &str| format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}}}\n");
    let cluster = cluster(&format!("{set}{}{}", node("a"), node("b")));
    let nodes: Vec<&str> = cluster.world.pods.values().map(|pod| pod.node.as_str()).collect();
    assert_eq!(nodes, ["a", "b"]);
    assert_eq!(cluster.nodes.len(), 2, "no node is implied");
}

#[test]
fn a_finished_pod_releases_its_address() {
    let pod_at = |name: &str, phase: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x}}\nstatus: {{phase: {phase}, podIP: 10.1.0.1}}\n"
        )
    };
    for phase in ["Succeeded", "Failed"] {
        let cluster = cluster(&format!("{}{}", pod_at("z", phase), pod_at("a", "Running")));
        assert!(cluster.world.pods[&pod("x/z")].addresses.is_empty());
        let address = "10.1.0.1".parse().expect("a literal address");
        assert_eq!(cluster.pod_at(address), Some(&pod("x/a")));
    }
}

#[test]
fn of_two_live_pods_with_one_address_the_younger_has_it() {
    let pod_at = |name: &str, hour: u32| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: x, creationTimestamp: '2024-01-01T{hour:02}:00:00Z'}}\nstatus: {{podIP: 10.1.0.1}}\n"
        )
    };
    let cluster = cluster(&format!("{}{}", pod_at("a", 2), pod_at("b", 1)));
    let address = "10.1.0.1".parse().expect("a literal address");
    assert_eq!(cluster.pod_at(address), Some(&pod("x/a")));
}

#[test]
fn a_pod_with_host_network_has_the_addresses_of_its_node() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: p, namespace: x}
spec: {hostNetwork: true, nodeName: n, containers: []}
";
    let cluster = cluster(text);
    assert_eq!(cluster.world.pods[&pod("x/p")].addresses, cluster.nodes["n"].addresses);
    assert_eq!(cluster.nodes["n"].addresses, addresses(&["172.30.0.2", "fd00:172:30::2"]));
    assert_eq!(cluster.pod_at(cluster.nodes["n"].addresses[0]), None);
}

#[test]
fn namespaces_that_are_used_exist_and_all_have_the_name_label() {
    let text = format!(
        "{DEPLOYMENT}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: y, labels: {{a: b}}}}\n"
    );
    let cluster = cluster(&text);
    let label =
        |namespace: &str| cluster.world.namespaces[namespace].get("kubernetes.io/metadata.name");
    assert_eq!((label("x"), label("y")), (Some("x"), Some("y")));
    assert_eq!(cluster.world.namespaces["y"].get("a"), Some("b"));
}

const SERVICE: &str = "
---
apiVersion: v1
kind: Service
metadata: {name: s, namespace: x}
spec: {selector: {app: web}, ports: [{name: h, port: 8000, targetPort: http}]}
";

fn backends(cluster: &Cluster) -> Vec<String> {
    let service = ServiceName { namespace: "x".into(), name: "s".into() };
    let port = &cluster.world.services[&service].ports[0];
    port.backends.iter().map(|b| format!("{} {}", b.address, b.port)).collect()
}

#[test]
fn a_service_leads_to_the_pods_that_it_selects_at_their_port() {
    let cluster = cluster(&format!("{DEPLOYMENT}{SERVICE}"));
    let expected = ["10.244.0.2 80", "10.244.0.3 80", "fd00:10:244::2 80", "fd00:10:244::3 80"];
    assert_eq!(backends(&cluster), expected);
    let service = ServiceName { namespace: "x".into(), name: "s".into() };
    let own = addresses(&["10.96.0.2", "fd00:10:96::2"]);
    assert_eq!(cluster.world.services[&service].addresses, own);
    assert_eq!(cluster.service_at(own[0]), Some(&service));
}

#[test]
fn endpoint_slices_say_it_where_there_are_any() {
    let slice = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: x, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: h, port: 1234}, {name: other, port: 99}]
endpoints:
- {addresses: [10.1.0.2], conditions: {ready: true}}
- {addresses: [10.1.0.1], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [10.1.0.3], conditions: {ready: false}}
";
    let text = format!("{DEPLOYMENT}{SERVICE}{slice}");
    assert_eq!(backends(&cluster(&text)), ["10.1.0.2 1234"]);
    // Where nothing is ready, those on their way out still serve.
    let text = text.replace("ready: true", "ready: false");
    assert_eq!(backends(&cluster(&text)), ["10.1.0.1 1234"]);
}

/// Without this, whoever may make a service could lead pods past their policies to any address.
#[test]
fn what_kube_proxy_does_not_translate_is_no_address_of_a_service() {
    let with = |field: &str| SERVICE.replace("spec: {", &format!("spec: {{{field}"));
    let addresses = |text: &str| {
        let name = ServiceName { namespace: "x".into(), name: "s".into() };
        cluster(&format!("{DEPLOYMENT}{text}")).world.services[&name].addresses.clone()
    };
    let external: IpAddr = "198.51.100.7".parse().expect("an address");
    let translated = with("externalIPs: [198.51.100.7], ");
    assert!(addresses(&translated).contains(&external));
    let headless = with("externalIPs: [198.51.100.7], clusterIP: None, ");
    let others = "{name: s, namespace: x, labels: {service.kubernetes.io/service-proxy-name: own}}";
    let left_to_others = translated.replace("{name: s, namespace: x}", others);
    for text in [headless, left_to_others] {
        assert_eq!(addresses(&text), [] as [IpAddr; 0], "{text}");
    }
}

#[test]
fn an_endpoint_that_is_published_counts_as_ready_while_it_terminates() {
    let slice = "
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: s-1, namespace: x, labels: {kubernetes.io/service-name: s}}
addressType: IPv4
ports: [{name: h, port: 1234}]
endpoints:
- {addresses: [10.1.0.2], conditions: {ready: true}}
- {addresses: [10.1.0.1], conditions: {ready: true, serving: false, terminating: true}}
";
    let text = format!("{DEPLOYMENT}{SERVICE}{slice}");
    assert_eq!(backends(&cluster(&text)), ["10.1.0.1 1234", "10.1.0.2 1234"]);
}
