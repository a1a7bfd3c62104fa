//! Isolated pods that start at once: how long until their policies are in force.

use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use serde_json::{Value, json};

use super::histogram::Histogram;
use super::pods::{POD_PATIENCE, running};
use super::scene::Scene;
use super::shared::Shared;
use super::stage::probe_pod;

/// Pods on each node.
const PER_NODE: usize = 8;
/// For every pod to be enforced, once it runs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(500);

/// What starts of pods wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// For nothing.
    Not,
    /// For the CNI plugin.
    ForPlugin,
}

/// How long the starts took, as the agents have counted.
struct Taken {
    /// From a pod's creation to its enforcement.
    start: Histogram,
    /// From an event to the kernel's enforcing it.
    event: Histogram,
    /// What the plugin has waited for.
    enforced: Histogram,
    /// The same, where the plugin said no.
    failed: Histogram,
}

impl Taken {
    async fn so_far(shared: &Shared) -> anyhow::Result<Self> {
        let metrics = shared.agents.metrics().await?;
        let read = |name: &str, label| Histogram::read(&metrics, name, label);
        let add = |result| read("sluice_cni_add_seconds", Some(("result", result)));
        Ok(Self {
            start: read("sluice_pod_start_to_enforced_seconds", None),
            event: read("sluice_event_to_enforced_seconds", None),
            enforced: add("enforced"),
            failed: add("failed"),
        })
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            start: self.start.since(&before.start),
            event: self.event.since(&before.event),
            enforced: self.enforced.since(&before.enforced),
            failed: self.failed.since(&before.failed),
        }
    }
}

/// Starts pods that a policy isolates; in words how long it took until they were enforced.
///
/// # Errors
/// One does not run or is not enforced in time, or has started without the plugin that was to be asked.
pub async fn starts(shared: &Shared, name: &str, waiting: Waiting) -> anyhow::Result<String> {
    let scene = Scene::new(shared, name, &[]).await?;
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    scene.policy("closed", closed).await?;
    let before = Taken::so_far(shared).await?;
    let begun = Instant::now();
    let nodes = shared.nodes.keys().flat_map(|node| std::iter::repeat_n(node, PER_NODE));
    let pods: Vec<Value> = nodes
        .enumerate()
        .map(|(i, node)| {
            let (image, name) = (&shared.image, format!("pod-{i}"));
            probe_pod(image, &scene.namespace, &name, &json!({}), Some(node.as_str()), false)
        })
        .collect();
    try_join_all(pods.iter().map(|pod| shared.kube.apply(pod))).await?;
    all_run(&scene, pods.len()).await?;
    let ran = begun.elapsed().as_secs_f64();
    let count = u64::try_from(pods.len())?;
    let taken = all_enforced(shared, &before, count).await?;
    // Nothing more is asked of them.
    let space =
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": scene.namespace}});
    shared.kube.delete(&space).await?;
    let Taken { start, event, enforced, failed } = taken;
    let waited = match waiting {
        Waiting::Not => String::new(),
        Waiting::ForPlugin => {
            let asked = enforced.count;
            ensure!(asked >= count, "{asked} of {count} pods have waited for their policies");
            format!("; the plugin waited {}, {} times in vain", enforced.in_words(), failed.count)
        }
    };
    Ok(format!(
        "{count} pods ran after {ran:.1} s; from creation to enforced {}; from event to enforced {}{waited}",
        start.in_words(),
        event.in_words()
    ))
}

async fn all_run(scene: &Scene, wanted: usize) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let pods = scene.shared.kube.list("v1", "Pod", &scene.namespace, "").await?;
        let states: Vec<_> = pods.iter().map(|pod| running(Some(pod))).collect();
        if states.iter().filter(|state| state.is_ok()).count() == wanted {
            return Ok(());
        }
        let why = states.into_iter().find_map(Result::err).unwrap_or_default();
        ensure!(begun.elapsed() < POD_PATIENCE, "of {wanted} pods, one {why}");
        tokio::time::sleep(LOOK).await;
    }
}

async fn all_enforced(shared: &Shared, before: &Taken, wanted: u64) -> anyhow::Result<Taken> {
    let begun = Instant::now();
    loop {
        let taken = Taken::so_far(shared).await?.since(before);
        if taken.start.count >= wanted {
            return Ok(taken);
        }
        let enforced = taken.start.count;
        ensure!(begun.elapsed() < PATIENCE, "{enforced} of {wanted} new pods are enforced");
        tokio::time::sleep(LOOK).await;
    }
}
