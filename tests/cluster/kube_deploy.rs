//! The manifests of deploy/ against a real API server. Needs root, and the API server's programs;
//! `cargo xtask test cluster` runs it.

use serde_json::{Value, json};
use sluice_tests::apiserver::{ApiServer, assets_or_say_so, shipped};
use sluice_tests::node::Node;

const BINARY: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// The one document of a kind in a manifest.
fn only<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    let mut found = documents.iter().filter(|document| document["kind"] == kind);
    let one = found.next().unwrap_or_else(|| panic!("there is no {kind}"));
    assert_eq!(found.next(), None, "a second {kind}");
    one
}

/// What the server made of the agent's container.
fn agent(server: &ApiServer) -> Value {
    let found = server.get("DaemonSet", "kube-system/sluice").expect("a DaemonSet");
    found["spec"]["template"]["spec"]["containers"][0].clone()
}

#[test]
fn the_server_takes_the_manifests_and_their_removal_in_place() {
    let Some(assets) = assets_or_say_so() else { return };
    let netns = Node::new(BINARY);
    let server = ApiServer::start(&netns.netns_path("node"), assets);
    for file in ["sluice.yaml", "sluice-cni.yaml"] {
        for object in shipped(file) {
            server.apply(object);
        }
        let running = agent(&server);
        assert_eq!(running["args"], json!(["agent"]));
        assert_eq!(running["securityContext"]["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(running["securityContext"]["readOnlyRootFilesystem"], json!(true));
    }
    // What removes it is the same DaemonSet, so that no old agent is left beside it.
    for object in shipped("remove.yaml") {
        server.apply(object);
    }
    assert_eq!(agent(&server)["args"], json!(["agent", "--uninstall", "--wait"]));
}

#[test]
fn the_plugin_is_installed_where_it_is_asked_for_and_removed_wherever_it_may_be() {
    let first = |file: &str| {
        let documents = shipped(file);
        let template = &only(&documents, "DaemonSet")["spec"]["template"]["spec"];
        template["initContainers"][0]["args"].clone()
    };
    assert_eq!(first("sluice.yaml"), Value::Null);
    assert_eq!(first("sluice-cni.yaml"), json!(["cni", "install"]));
    assert_eq!(first("remove.yaml"), json!(["cni", "uninstall"]));
}

#[test]
fn all_manifests_give_the_agent_the_same_rights() {
    let rights = shipped("rbac.yaml");
    for file in ["sluice.yaml", "sluice-cni.yaml", "remove.yaml"] {
        let documents = shipped(file);
        for kind in ["ServiceAccount", "ClusterRole", "ClusterRoleBinding"] {
            assert_eq!(only(&documents, kind), only(&rights, kind), "{file}");
        }
        let account = &only(&rights, "ServiceAccount")["metadata"]["name"];
        let template = &only(&documents, "DaemonSet")["spec"]["template"]["spec"];
        assert_eq!(&template["serviceAccountName"], account, "{file}");
    }
}
