//! Namespaces and probe pods: made, waited for, taken hold of.

use std::net::IpAddr;
use std::time::Duration;

use serde_json::{Value, json};
use sluice::lab::Place;

use super::api::Kube;
use super::station::PodStation;

/// For a pod to start or to go: images are there, but the machine may be busy.
pub const POD_PATIENCE: Duration = Duration::from_secs(120);

/// Makes a namespace, and waits until pods can be made in it.
///
/// # Errors
/// The API server refuses, or gives it no service account in time.
pub async fn make_namespace(kube: &Kube, namespace: &Value) -> anyhow::Result<()> {
    kube.apply(namespace).await?;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"namespace": namespace["metadata"]["name"], "name": "default"}});
    let there = |found: Option<&Value>| found.map(drop).ok_or("is not there".into());
    kube.wait(&account, POD_PATIENCE, there).await
}

/// Waits for a pod, and attaches to its station where that is not known.
///
/// # Errors
/// It does not run in time.
pub async fn join(
    kube: &Kube,
    place: Place,
    pod: Value,
    known: bool,
) -> anyhow::Result<(Place, Vec<IpAddr>, Option<PodStation>)> {
    let mut addresses = Vec::new();
    kube.wait(&pod, POD_PATIENCE, |pod| {
        addresses = running(pod)?;
        Ok(())
    })
    .await?;
    let text = |path: &str| pod.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
    let station = match known {
        true => None,
        false => Some(PodStation::attach(kube, namespace, name).await?),
    };
    Ok((place, addresses, station))
}

/// The addresses of a pod that runs; otherwise what it is doing.
pub fn running(pod: Option<&Value>) -> Result<Vec<IpAddr>, String> {
    let pod = pod.ok_or("is not there")?;
    let ready = |condition: &&Value| condition["type"] == "Ready" && condition["status"] == "True";
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    if conditions.into_iter().flatten().find(ready).is_none() {
        let waits = pod.pointer("/status/containerStatuses/0/state/waiting");
        let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or("unknown");
        let why = waits.map(|waits| format!(", waiting: {waits}")).unwrap_or_default();
        return Err(format!("is not ready (phase {phase}{why})"));
    }
    let listed = pod.pointer("/status/podIPs").and_then(Value::as_array);
    let texts = listed.into_iter().flatten().filter_map(|entry| entry["ip"].as_str());
    Ok(texts.filter_map(|text| text.parse().ok()).collect())
}

/// For [`Kube::wait`].
pub fn is_gone(object: Option<&Value>) -> Result<(), String> {
    object.map_or(Ok(()), |_| Err("is still there".into()))
}

/// What names a pod.
pub fn pod_key(namespace: &str, name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name}})
}
