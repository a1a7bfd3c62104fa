//! The objects of a case, as they are to be on a real cluster: namespaces of its own, probe pods for
//! pods, real nodes for nodes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sluice::cluster::{Cluster, ObjectKey};
use sluice_policy::model::PodName;

use super::station::CONTAINER;

/// The label that every namespace has by its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";
/// The label of every namespace that a run makes; its value is the run's name.
pub const RUN_LABEL: &str = "e2e.sluice.dev/run";

/// The image of probe pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// Its name.
    pub name: String,
    /// `imagePullPolicy`.
    pub pull_policy: String,
}

/// Where a case plays.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Name of the run.
    run: String,
    /// Begins the names of the case's namespaces.
    prefix: String,
    image: Image,
    /// The real node of each of the case's nodes.
    nodes: BTreeMap<String, String>,
    /// Real nodes, where it does not matter to the case on which a pod is.
    spread: Vec<String>,
    /// The real node of each pod that was seen.
    seats: BTreeMap<PodName, String>,
}

impl Stage {
    /// For a case whose steps lead through `clusters`; none where it has more nodes than `real` are.
    pub fn new(
        run: &str,
        number: usize,
        image: Image,
        clusters: &[&Cluster],
        real: &[String],
    ) -> Option<Self> {
        let names: BTreeSet<&String> = clusters.iter().flat_map(|c| c.nodes.keys()).collect();
        if names.len() > real.len() {
            return None;
        }
        let spread = if names.len() == 1 { real.to_vec() } else { Vec::new() };
        let nodes = names.into_iter().cloned().zip(real.iter().cloned()).collect();
        let prefix = format!("{run}-{number}");
        Some(Self { run: run.into(), prefix, image, nodes, spread, seats: BTreeMap::new() })
    }

    /// The real name of one of the case's namespaces.
    pub fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// The case's name of a real namespace, where that is one of its own.
    pub fn own<'a>(&self, real: &'a str) -> Option<&'a str> {
        real.strip_prefix(&self.prefix)?.strip_prefix('-')
    }

    /// The real node of one of the case's nodes.
    pub fn node(&self, name: &str) -> Option<&str> {
        self.nodes.get(name).map(String::as_str)
    }

    /// Every node of the case, with the real one.
    pub fn nodes(&self) -> &BTreeMap<String, String> {
        &self.nodes
    }

    /// The case's name of a real node; the real one where the case has none for it.
    pub fn alias<'a>(&'a self, real: &'a str) -> &'a str {
        let found = self.nodes.iter().find(|(_, own)| *own == real);
        found.map_or(real, |(name, _)| name.as_str())
    }

    /// The real node of a pod, the same at every step.
    pub fn seat(&mut self, pod: &PodName, node: &str) -> String {
        if self.spread.is_empty() {
            return self.nodes.get(node).cloned().unwrap_or_default();
        }
        let next = self.spread[self.seats.len() % self.spread.len()].clone();
        self.seats.entry(pod.clone()).or_insert(next).clone()
    }

    /// The namespaces of a state of the case, as they are to be.
    pub fn namespaces(&self, cluster: &Cluster) -> BTreeMap<ObjectKey, Value> {
        let objects = cluster.objects.keys().filter(|key| key.kind != "Node");
        let used = objects.map(|key| match key.kind.as_str() {
            "Namespace" => key.name.clone(),
            _ => key.namespace.clone(),
        });
        used.collect::<BTreeSet<_>>()
            .into_iter()
            .map(|name| {
                let key = ObjectKey {
                    kind: "Namespace".into(),
                    namespace: String::new(),
                    name: name.clone(),
                };
                let own = cluster.objects.get(&key).and_then(|v| v.pointer("/metadata/labels"));
                let object = namespace(&self.namespace(&name), &self.run, own);
                (key, object)
            })
            .collect()
    }

    /// An object as it is to be; none for those that a real cluster has or makes by itself.
    pub fn object(&mut self, key: &ObjectKey, value: &Value) -> Option<Value> {
        let mut object = value.clone();
        match key.kind.as_str() {
            "Pod" => return Some(self.pod(key, value)),
            "Service" => strip_addresses(&mut object),
            "NetworkPolicy" => self.rename_in_selectors(&mut object),
            _ => return None,
        }
        object["metadata"]["namespace"] = self.namespace(&key.namespace).into();
        Some(object)
    }

    fn pod(&mut self, key: &ObjectKey, value: &Value) -> Value {
        let name = PodName { namespace: key.namespace.clone(), name: key.name.clone() };
        let node = value.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
        let node = self.seat(&name, node);
        let host_network = value.pointer("/spec/hostNetwork") == Some(&Value::Bool(true));
        let mut pod = probe_pod(
            &self.image,
            &self.namespace(&key.namespace),
            &key.name,
            value.pointer("/metadata/labels").unwrap_or(&Value::Null),
            Some(&node),
            host_network,
        );
        let containers = value.pointer("/spec/containers").and_then(Value::as_array);
        let ports = containers.into_iter().flatten().filter_map(|c| c["ports"].as_array());
        let ports: Vec<Value> = ports.flatten().cloned().collect();
        // In the node's network a port that is declared would be taken on the node.
        if !ports.is_empty() && !host_network {
            pod["spec"]["containers"][0]["ports"] = ports.into();
        }
        pod
    }

    /// Selectors name namespaces by a label that holds the name.
    fn rename_in_selectors(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.rename_in_selectors(item)),
            Value::Object(fields) => {
                for (field, inner) in fields {
                    match field.as_str() {
                        "namespaceSelector" => self.rename(inner),
                        _ => self.rename_in_selectors(inner),
                    }
                }
            }
            _ => {}
        }
    }

    fn rename(&self, selector: &mut Value) {
        if let Some(Value::String(name)) = selector.pointer_mut("/matchLabels").and_then(by_name) {
            *name = self.namespace(name);
        }
        let expressions = selector.get_mut("matchExpressions").and_then(Value::as_array_mut);
        for expression in expressions.into_iter().flatten() {
            if expression["key"] == NAME_LABEL {
                let values = expression.get_mut("values").and_then(Value::as_array_mut);
                for value in values.into_iter().flatten() {
                    *value = self.namespace(value.as_str().unwrap_or_default()).into();
                }
            }
        }
    }
}

fn by_name(labels: &mut Value) -> Option<&mut Value> {
    labels.get_mut(NAME_LABEL)
}

/// Addresses are the real cluster's to give.
fn strip_addresses(service: &mut Value) {
    if let Some(fields) = service.as_object_mut() {
        fields.remove("status");
    }
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        for field in ["clusterIP", "clusterIPs", "externalIPs", "loadBalancerIP"] {
            // A headless service stays one.
            if spec.get(field).and_then(Value::as_str) != Some("None") {
                spec.remove(field);
            }
        }
    }
}

/// A namespace of a run. Probe pods need more than the restricted pod security standard gives.
pub fn namespace(name: &str, run: &str, labels: Option<&Value>) -> Value {
    let mut all: Map<String, Value> =
        labels.and_then(Value::as_object).cloned().unwrap_or_default();
    all.remove(NAME_LABEL);
    all.insert(RUN_LABEL.into(), run.into());
    all.insert("pod-security.kubernetes.io/enforce".into(), "privileged".into());
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": all}})
}

/// A pod with a station in it.
pub fn probe_pod(
    image: &Image,
    namespace: &str,
    name: &str,
    labels: &Value,
    node: Option<&str>,
    host_network: bool,
) -> Value {
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": probe_spec(image, host_network),
    });
    if let Some(node) = node {
        // By name, and past the scheduler: the case says where it is.
        pod["spec"]["nodeName"] = node.into();
    }
    pod
}

/// What a probe pod runs.
pub fn probe_spec(image: &Image, host_network: bool) -> Value {
    let mut spec = json!({
        "containers": [{
            "name": CONTAINER,
            "image": image.name,
            "imagePullPolicy": image.pull_policy,
            "args": ["probe", "station"],
            "stdin": true,
            // Echoes by unprivileged sockets, SCTP by raw ones, and ports below 1024.
            "securityContext": {
                "runAsUser": 0,
                "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"], "add": ["NET_RAW", "NET_BIND_SERVICE"]},
            },
        }],
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "tolerations": [{"operator": "Exists"}],
    });
    if host_network {
        spec["hostNetwork"] = true.into();
    } else {
        let sysctl = json!([{"name": "net.ipv4.ping_group_range", "value": "0 2147483647"}]);
        spec["securityContext"] = json!({"sysctls": sysctl});
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> Stage {
        let image = Image { name: "image:1".into(), pull_policy: "Never".into() };
        let mut cluster = Cluster::default();
        cluster.nodes.insert("node-1".into(), sluice::cluster::Node::default());
        let real = ["a".to_owned(), "b".to_owned()];
        Stage::new("run", 3, image, &[&cluster], &real).expect("enough nodes")
    }

    fn key(kind: &str, name: &str) -> ObjectKey {
        ObjectKey { kind: kind.into(), namespace: "x".into(), name: name.into() }
    }

    #[test]
    fn selectors_name_the_namespaces_that_the_run_makes() {
        let policy = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": {"ingress": [{"from": [
            {"namespaceSelector": {"matchLabels": {NAME_LABEL: "y", "team": "y"}}},
            {"namespaceSelector": {"matchExpressions": [
                {"key": NAME_LABEL, "operator": "In", "values": ["y", "z"]},
                {"key": "team", "operator": "In", "values": ["y"]},
            ]}},
        ]}]}});
        let made = stage().object(&key("NetworkPolicy", "p"), &policy).expect("an object");
        assert_eq!(made["metadata"]["namespace"], "run-3-x");
        let from = &made["spec"]["ingress"][0]["from"];
        let labels = json!({NAME_LABEL: "run-3-y", "team": "y"});
        assert_eq!(from[0]["namespaceSelector"]["matchLabels"], labels);
        let expressions = &from[1]["namespaceSelector"]["matchExpressions"];
        assert_eq!(expressions[0]["values"], json!(["run-3-y", "run-3-z"]));
        assert_eq!(expressions[1]["values"], json!(["y"]));
    }

    #[test]
    fn pods_keep_labels_and_ports_and_their_node() {
        let mut stage = stage();
        let ports = json!([{"name": "web", "containerPort": 8080, "protocol": "TCP"}]);
        let pod = json!({"metadata": {"name": "a", "labels": {"app": "a"}}, "spec": {
            "nodeName": "node-1", "containers": [{"name": "c", "image": "i", "ports": ports}]}});
        let made = stage.object(&key("Pod", "a"), &pod).expect("an object");
        assert_eq!(made["metadata"]["labels"], json!({"app": "a"}));
        assert_eq!(made["spec"]["containers"][0]["ports"], ports);
        assert_eq!(made["spec"]["nodeName"], "a");
        // Where nodes do not matter, the next pod is on the next one; and a pod stays where it is.
        assert_eq!(stage.object(&key("Pod", "b"), &pod).expect("one")["spec"]["nodeName"], "b");
        assert_eq!(stage.object(&key("Pod", "a"), &pod).expect("one")["spec"]["nodeName"], "a");
    }

    #[test]
    fn a_case_with_too_many_nodes_is_not_staged() {
        let image = Image { name: "image:1".into(), pull_policy: "Never".into() };
        let mut cluster = Cluster::default();
        for node in ["node-1", "node-2"] {
            cluster.nodes.insert(node.into(), sluice::cluster::Node::default());
        }
        assert!(Stage::new("run", 0, image, &[&cluster], &["a".to_owned()]).is_none());
    }
}
