//! A node with two pods and the API server that knows them: what tests of the agent begin with.

use std::path::Path;

use serde_json::Value;

use super::{ApiServer, allow, assets_or_say_so, namespace, node, pod};
use crate::node::{NODE, Node};
use crate::traffic::{CLIENT, OPEN, SERVER};

/// The agent's account, as `deploy/rbac.yaml` makes it.
const ACCOUNT: &str = "kube-system/sluice";

/// A node with a client and a server, the API server on its loopback, where both are pods, the policy
/// that lets the client reach the server on [`OPEN`], and the rights of the agent as they are shipped.
/// No agent yet; nothing where there is no API server to be had.
///
/// # Panics
/// Where something of it cannot be made.
pub fn cluster(binary: &str) -> Option<(Node, ApiServer)> {
    let assets = assets_or_say_so()?;
    let mut machine = Node::new(binary);
    machine.add_pod("client", CLIENT);
    machine.add_pod("server", SERVER);
    let server = ApiServer::start(&machine.netns_path("node"), assets);
    server.apply(namespace("x"));
    server.apply(node(NODE));
    server.apply_pod(pod("client", NODE, CLIENT, "client"));
    server.apply_pod(pod("server", NODE, SERVER, "server"));
    server.apply(allow("allow-clients", "server", "client", OPEN));
    for object in shipped("rbac.yaml") {
        server.apply(object);
    }
    let kubeconfig = server.kubeconfig("agent", &server.token(ACCOUNT));
    machine.watch_api_server(&kubeconfig);
    Some((machine, server))
}

/// The objects of a manifest in deploy/, as they are shipped.
///
/// # Panics
/// Where there is no such file, or it is no YAML.
pub fn shipped(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
    let text = std::fs::read_to_string(path).expect(file);
    let documents = sluice::manifest::yaml::documents(&text).into_iter();
    documents.map(|document| document.expect("YAML").value()).collect()
}
