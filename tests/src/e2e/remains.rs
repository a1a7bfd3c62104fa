//! What sluice leaves on the nodes: nothing, once it is uninstalled.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sluice::cli::probe::Network;

use super::api::Kube;
use super::pods::{POD_PATIENCE, make_namespace, pod_key, running};
use super::shared::Shared;
use super::stage::{self, probe_pod};
use super::station::CONTAINER;

/// Where the node's network configurations are in the pods.
const CNI_CONF_DIR: [&str; 2] = ["--cni-conf-dir", "/host/etc/cni/net.d"];

/// The network configurations of a node, by the files' names.
pub type Networks = BTreeMap<String, Network>;

/// Pods that look at their nodes: one on each.
pub struct Watchmen {
    kube: Kube,
    namespace: String,
    /// Node and pod.
    pods: Vec<(String, String)>,
    /// The agent's places, as arguments; the node's root is below `/host` in the pods.
    places: Vec<String>,
}

impl Watchmen {
    /// Posts them.
    ///
    /// # Errors
    /// One does not run in time.
    pub async fn new(shared: &Shared, daemon_set: &Value) -> anyhow::Result<Self> {
        let (kube, namespace) = (shared.kube.clone(), format!("{}-watchmen", shared.run));
        make_namespace(&kube, &stage::namespace(&namespace, &shared.run, None)).await?;
        let mut pods = Vec::new();
        for (i, node) in shared.nodes.keys().enumerate() {
            let name = format!("watchman-{i}");
            let labels = json!({});
            let mut pod =
                probe_pod(&shared.image, &namespace, &name, &labels, Some(node.as_str()), true);
            let container = &mut pod["spec"]["containers"][0];
            container["securityContext"] = json!({"privileged": true});
            container["volumeMounts"] = json!([{"name": "host", "mountPath": "/host",
                "mountPropagation": "HostToContainer", "readOnly": true}]);
            pod["spec"]["volumes"] = json!([{"name": "host", "hostPath": {"path": "/"}}]);
            kube.apply(&pod).await?;
            pods.push((node.clone(), name));
        }
        for (_, name) in &pods {
            let pod = pod_key(&namespace, name);
            kube.wait(&pod, POD_PATIENCE, |pod| running(pod).map(drop)).await?;
        }
        Ok(Self { kube, namespace, pods, places: places(daemon_set) })
    }

    /// What each node has of sluice.
    ///
    /// # Errors
    /// That cannot be known.
    pub async fn report(&self) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
        let places: Vec<&str> = self.places.iter().map(String::as_str).collect();
        self.ask("remains", &places).await
    }

    /// The network configurations of each node, byte for byte.
    ///
    /// # Errors
    /// That cannot be known.
    pub async fn networks(&self) -> anyhow::Result<BTreeMap<String, Networks>> {
        self.ask("networks", &CNI_CONF_DIR).await
    }

    /// What `sluice probe` says on each node.
    async fn ask<T: DeserializeOwned>(
        &self,
        what: &str,
        arguments: &[&str],
    ) -> anyhow::Result<BTreeMap<String, T>> {
        let command = [&["/sluice", "probe", what], arguments].concat();
        let mut found = BTreeMap::new();
        for (node, pod) in &self.pods {
            let said = self.kube.exec(&self.namespace, pod, CONTAINER, &command).await?;
            let answer = serde_json::from_str(&said.out);
            let answer = answer.with_context(|| format!("{node}: {}{}", said.out, said.error))?;
            found.insert(node.clone(), answer);
        }
        Ok(found)
    }

    /// Every node has something: what is looked for is found where it is.
    ///
    /// # Errors
    /// A node has nothing.
    pub async fn check_present(&self) -> anyhow::Result<()> {
        for (node, remains) in self.report().await? {
            let has = |what: &str| remains.iter().any(|line| line.starts_with(what));
            ensure!(has("pins") && has("notes"), "{node}: no trace of the agent: {remains:?}");
        }
        Ok(())
    }

    /// No node has anything.
    ///
    /// # Errors
    /// What is left, by node.
    pub async fn check_absent(&self) -> anyhow::Result<()> {
        let left: Vec<_> =
            self.report().await?.into_iter().filter(|(_, remains)| !remains.is_empty()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        Ok(())
    }
}

/// The agent keeps its things where its environment says; in its container too the node is below
/// `/host`.
fn places(daemon_set: &Value) -> Vec<String> {
    let environment = daemon_set.pointer("/spec/template/spec/containers/0/env");
    let environment = environment.and_then(Value::as_array).into_iter().flatten();
    let mut places = Vec::new();
    for variable in environment {
        let flag = match variable["name"].as_str() {
            Some("SLUICE_BPFFS") => "--bpffs",
            Some("SLUICE_STATE_DIR") => "--state-dir",
            _ => continue,
        };
        places.extend([flag.into(), variable["value"].as_str().unwrap_or_default().into()]);
    }
    places.extend(CNI_CONF_DIR.map(str::to_owned));
    places.extend(["--cni-bin-dir", "/host/opt/cni/bin"].map(str::to_owned));
    places
}
