//! The manifests of a cluster's operator: applied, rolled out, taken back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use sluice::manifest::yaml;

use super::api::{Kube, title};
use super::pods::is_gone;
use super::stage::Image;

/// For every node to have its agent, or none any more.
const PATIENCE: Duration = Duration::from_secs(180);

/// The manifest that has the CNI plugin.
pub const WITH_PLUGIN: &str = "sluice-cni.yaml";

/// The manifests.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// What installs.
    pub install: Vec<Value>,
    /// The same with the CNI plugin, where there is such a manifest.
    pub with_plugin: Option<Vec<Value>>,
    /// What takes everything off the nodes, in the place of what installs.
    pub remove: Vec<Value>,
}

impl Manifests {
    /// Reads `sluice.yaml`, `remove.yaml` and, where it is there, [`WITH_PLUGIN`] of a folder, and puts
    /// an image into them.
    ///
    /// # Errors
    /// They cannot be read, or hold no DaemonSet.
    pub fn read(folder: &Path, image: Option<&Image>) -> anyhow::Result<Self> {
        let read = |name: &str| read(&folder.join(name), image);
        let with_plugin =
            folder.join(WITH_PLUGIN).exists().then(|| read(WITH_PLUGIN)).transpose()?;
        Ok(Self { install: read("sluice.yaml")?, with_plugin, remove: read("remove.yaml")? })
    }

    /// The DaemonSet of the agent.
    ///
    /// # Errors
    /// There is none.
    pub fn daemon_set(&self) -> anyhow::Result<&Value> {
        daemon_set(&self.install)
    }

    /// The image of the agent.
    ///
    /// # Errors
    /// There is no DaemonSet, or it says none.
    pub fn image(&self) -> anyhow::Result<Image> {
        let container = self.daemon_set()?.pointer("/spec/template/spec/containers/0");
        let text = |field: &str| container.and_then(|c| c[field].as_str()).map(str::to_owned);
        let name = text("image").context("the DaemonSet says no image")?;
        Ok(Image { name, pull_policy: text("imagePullPolicy").unwrap_or_default() })
    }
}

fn read(path: &Path, image: Option<&Image>) -> anyhow::Result<Vec<Value>> {
    let at = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(at)?;
    let mut objects = Vec::new();
    for document in yaml::documents(&text) {
        let document = document
            .map_err(|error| anyhow::anyhow!("{}:{}: {}", at(), error.line, error.reason))?;
        let mut object = document.value();
        if let Some(image) = image {
            set_image(&mut object, image);
        }
        objects.push(object);
    }
    daemon_set(&objects).with_context(at)?;
    Ok(objects)
}

/// The DaemonSet among objects.
///
/// # Errors
/// There is none.
pub fn daemon_set(objects: &[Value]) -> anyhow::Result<&Value> {
    let found = objects.iter().find(|object| object["kind"] == "DaemonSet");
    found.context("there is no DaemonSet among the manifests")
}

fn set_image(object: &mut Value, image: &Image) {
    for list in ["containers", "initContainers"] {
        let path = format!("/spec/template/spec/{list}");
        let containers = object.pointer_mut(&path).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            container["image"] = image.name.as_str().into();
            container["imagePullPolicy"] = image.pull_policy.as_str().into();
        }
    }
}

/// Applies manifests and waits until every node has its agent; how long that took.
///
/// # Errors
/// The API server refuses, or an agent is not ready in time: with its state.
pub async fn install(kube: &Kube, objects: &[Value]) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    for object in objects {
        kube.apply(object).await?;
    }
    roll_out(kube, daemon_set(objects)?).await?;
    Ok(begun.elapsed())
}

/// Waits until a DaemonSet is everywhere what it is to be.
///
/// # Errors
/// It is not in time: with the state of its pods.
pub async fn roll_out(kube: &Kube, daemon_set: &Value) -> anyhow::Result<()> {
    let Err(error) = kube.wait(daemon_set, PATIENCE, rolled_out).await else { return Ok(()) };
    let namespace = daemon_set.pointer("/metadata/namespace").and_then(Value::as_str);
    let name = daemon_set.pointer("/metadata/name").unwrap_or(&Value::Null);
    let mut states = String::new();
    for pod in kube.list("v1", "Pod", namespace.unwrap_or_default(), "").await? {
        if pod.pointer("/metadata/ownerReferences/0/name") == Some(name) {
            states += &format!("\n  {}: {}", title(&pod), troubles(&pod));
        }
    }
    bail!("{error:#}; its pods:{states}");
}

/// What the containers of a pod wait for, or how they ended.
fn troubles(pod: &Value) -> String {
    let mut found = Vec::new();
    for list in ["initContainerStatuses", "containerStatuses"] {
        for container in pod["status"][list].as_array().into_iter().flatten() {
            for state in [&container["state"], &container["lastState"]] {
                for kind in ["waiting", "terminated"] {
                    let text = |field: &str| state[kind][field].as_str().unwrap_or_default();
                    if state.get(kind).is_some() {
                        let name = container["name"].as_str().unwrap_or_default();
                        found.push(format!("{name}: {} {}", text("reason"), text("message")));
                    }
                }
            }
        }
    }
    if found.is_empty() { "it runs".into() } else { found.join("; ") }
}

fn rolled_out(daemon_set: Option<&Value>) -> Result<(), String> {
    let daemon_set = daemon_set.ok_or("is not there")?;
    let number = |path: &str| daemon_set.pointer(path).and_then(Value::as_i64).unwrap_or(0);
    let wanted = number("/status/desiredNumberScheduled");
    let (updated, ready) =
        (number("/status/updatedNumberScheduled"), number("/status/numberReady"));
    let seen = number("/status/observedGeneration") >= number("/metadata/generation");
    if seen && wanted > 0 && updated == wanted && ready == wanted {
        return Ok(());
    }
    Err(format!("{updated} of {wanted} pods are up to date, {ready} ready"))
}

/// Takes sluice off the nodes, then its objects off the cluster; how long that took. The objects go
/// also where a node is not done.
///
/// # Errors
/// A node is not done in time, or an object stays.
pub async fn uninstall(kube: &Kube, manifests: &Manifests) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    for object in &manifests.remove {
        kube.apply(object).await?;
    }
    let off = roll_out(kube, daemon_set(&manifests.remove)?).await;
    let all = manifests.install.iter().chain(&manifests.remove);
    for object in all.clone() {
        kube.delete(object).await?;
    }
    for object in all {
        kube.wait(object, PATIENCE, is_gone).await?;
    }
    off.context("sluice may still be on a node")?;
    Ok(begun.elapsed())
}

/// Refuses where sluice is on the cluster already: a run takes it off at its end.
///
/// # Errors
/// It is.
pub async fn refuse_installed(kube: &Kube, manifests: &Manifests) -> anyhow::Result<()> {
    let daemon_set = manifests.daemon_set()?;
    ensure!(
        kube.get(daemon_set).await?.is_none(),
        "sluice is installed already ({}), and the run would remove it at its end: use another \
         cluster, or uninstall it first",
        title(daemon_set)
    );
    Ok(())
}

/// Where the manifests are in this repository.
pub fn default_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}
