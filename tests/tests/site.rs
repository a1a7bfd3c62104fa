//! What the administrator of a node adds to the policies, by the agent's environment: in a lab, with
//! real packets (SEMANTICS 42 and 44). Needs root.

use std::fs;
use std::process::Command;

use serde_json::Value;
use sluice_tests::needs_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// A client that may reach the DNS pods only; probes to the cache on its node, and to the node.
const TEST: &str = "
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: client}
spec: {nodeName: node-1, containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Pod
metadata: {namespace: kube-system, name: dns, labels: {k8s-app: kube-dns}}
spec: {nodeName: node-1, containers: [{name: c, image: i}]}
---
apiVersion: v1
kind: Service
metadata: {namespace: kube-system, name: kube-dns}
spec: {selector: {k8s-app: kube-dns}, ports: [{port: 53, protocol: UDP}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: x, name: dns-only}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
  - to: [{namespaceSelector: {}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: 53, protocol: UDP}]
---
apiVersion: sluice.dev/v1alpha1
kind: PolicyTest
metadata: {name: site}
steps:
- probes:
  - {from: x/client, to: svc/kube-system/kube-dns, port: 53, protocol: UDP}
  - {from: x/client, to: 169.254.20.10, port: 53, protocol: UDP}
  - {from: x/client, to: 169.254.20.10, port: 54, protocol: UDP}
  - {from: x/client, to: node/node-1, port: 10250}
";

/// The verdicts of the probes, with these variables in the environment.
fn verdicts(environment: &[(&str, &str)]) -> Vec<String> {
    needs_root();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("test.yaml");
    fs::write(&file, TEST).expect("written");
    let output = Command::new(SLUICE)
        .args(["test", "--engine", "lab", "-o", "json"])
        .arg(&file)
        .envs(environment.iter().copied())
        .output()
        .expect("sluice runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let probes = report["tests"][0]["steps"][0]["probes"].as_array().expect("probes").clone();
    probes.iter().map(|probe| probe["verdict"].as_str().expect("a verdict").to_owned()).collect()
}

#[test]
fn without_additions_the_policies_decide() {
    assert_eq!(verdicts(&[]), ["allow", "deny", "deny", "deny"]);
}

#[test]
fn an_alias_of_the_dns_service_is_what_a_rule_for_its_pods_allows() {
    let alias = ("SLUICE_SERVICE_ALIAS", "kube-system/kube-dns=169.254.20.10");
    assert_eq!(verdicts(&[alias]), ["allow", "allow", "deny", "deny"]);
}

#[test]
fn egress_to_the_own_node_can_be_let_out() {
    let allow = ("SLUICE_HOST_EGRESS", "allow");
    assert_eq!(verdicts(&[allow]), ["allow", "deny", "deny", "allow"]);
}
