//! What sluice leaves on the nodes: nothing, once it is uninstalled.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use super::api::Kube;
use super::pods::{POD_PATIENCE, make_namespace, pod_key, running};
use super::shared::Shared;
use super::stage::{self, probe_pod};
use super::station::CONTAINER;

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
    pub async fn report(&self) -> anyhow::Result<Vec<(String, Vec<String>)>> {
        let mut found = Vec::new();
        let command = ["/sluice", "probe", "remains"];
        let command: Vec<&str> =
            command.into_iter().chain(self.places.iter().map(String::as_str)).collect();
        for (node, pod) in &self.pods {
            let said = self.kube.exec(&self.namespace, pod, CONTAINER, &command).await?;
            let remains = serde_json::from_str(&said.out);
            let remains = remains.with_context(|| format!("{node}: {}{}", said.out, said.error))?;
            found.push((node.clone(), remains));
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
    let cni = ["--cni-conf-dir", "/host/etc/cni/net.d", "--cni-bin-dir", "/host/opt/cni/bin"];
    places.extend(cni.map(str::to_owned));
    places
}
