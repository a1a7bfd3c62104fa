//! The CNI plugin: turned on, asked by every pod that starts, without an agent, and gone again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sluice::status::EnforcementState;

use super::agents::Agents;
use super::install::{self, roll_out};
use super::pods::{POD_PATIENCE, pod_key, running};
use super::remains::{Networks, Watchmen};
use super::scene::Scene;
use super::shared::Shared;
use super::stage::probe_pod;

/// The entry's type, which is the plugin's file.
const NAME: &str = "sluice-cni";
/// A label that no node has.
const NOWHERE: &str = "e2e.sluice.dev/nowhere";
/// For the agents to go, and for the kubelet to say that a pod does not start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const LOOK: Duration = Duration::from_millis(200);

/// Applies the manifests with the plugin over those without: what is shared with the new agents, and in
/// words what became of the nodes' network configurations.
///
/// # Errors
/// A node is not ready in time, or its configuration is other than the one before with an entry more.
pub async fn turn_on(
    shared: &Shared,
    objects: &[Value],
    watchmen: &Watchmen,
) -> anyhow::Result<(Shared, String)> {
    let before = watchmen.networks().await?;
    install::install(&shared.kube, objects).await?;
    let after = watchmen.networks().await?;
    for (node, before) in &before {
        check_added(before, &after[node]).with_context(|| node.clone())?;
    }
    let agents = Agents::of(&shared.kube, install::daemon_set(objects)?).await?;
    let shared = Shared { agents, ..shared.clone() };
    shared.in_force().await?;
    let note = format!("on {} nodes: one entry more, every other byte as it was", before.len());
    Ok((shared, note))
}

/// The first file, which the runtime takes, has an entry more, and nothing else has changed.
fn check_added(before: &Networks, after: &Networks) -> anyhow::Result<()> {
    let names = |networks: &Networks| networks.keys().cloned().collect::<Vec<_>>();
    ensure!(names(before) == names(after), "{:?} became {:?}", names(before), names(after));
    for (i, (name, old)) in before.iter().enumerate() {
        let new = &after[name];
        if i > 0 {
            ensure!(new == old, "{name} has changed, and is not the one that counts: {new:?}");
            continue;
        }
        let (mode, owner) = (new.mode == old.mode, (new.uid, new.gid) == (old.uid, old.gid));
        ensure!(mode && owner, "{name} has another mode or owner: {old:?}, then {new:?}");
        let entry = inserted(&old.text, &new.text);
        let entry = entry.with_context(|| format!("{name}: {} became {}", old.text, new.text))?;
        let is_ours = entry.contains(NAME) && entry.matches("\"type\"").count() == 1;
        ensure!(is_ours, "{name}: this was added: {entry}");
    }
    Ok(())
}

/// What stands in `new` between a beginning and an end which together are `old`.
fn inserted<'a>(old: &str, new: &'a str) -> Option<&'a str> {
    let more = new.len().checked_sub(old.len())?;
    let same = old.bytes().zip(new.bytes()).take_while(|(a, b)| a == b).count();
    let entry = new.get(same..same + more)?;
    let (rest, behind) = (&old.as_bytes()[same..], &new.as_bytes()[same + more..]);
    (more > 0 && rest == behind).then_some(entry)
}

/// Takes the agents away: pods do not start and say why; with the agents they do, and are enforced.
///
/// # Errors
/// What is not so.
pub async fn away(shared: &Shared, daemon_set: &Value) -> anyhow::Result<String> {
    let scene = Scene::new(shared, "away", &[]).await?;
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    scene.policy("closed", closed).await?;
    let kube = &shared.kube;
    let select =
        |value: Value| json!({"spec": {"template": {"spec": {"nodeSelector": {NOWHERE: value}}}}});
    kube.merge(daemon_set, &select("true".into())).await?;
    let refused = refused(&scene, daemon_set).await;
    // They come back whatever was seen.
    kube.merge(daemon_set, &select(Value::Null)).await?;
    roll_out(kube, daemon_set).await?;
    let (waited, why) = refused?;
    let back = Instant::now();
    for name in names(shared).values() {
        let pod = pod_key(&scene.namespace, name);
        kube.wait(&pod, POD_PATIENCE, |pod| running(pod).map(drop)).await?;
    }
    let started = back.elapsed().as_secs_f64();
    let agents = Agents::of(kube, daemon_set).await?;
    for agent in &agents.all {
        let status = agents.status(agent).await?;
        let pod = format!("{}/{}", scene.namespace, names(shared)[&agent.node]);
        let endpoint = status.endpoints.iter().find(|endpoint| endpoint.pod == pod);
        let endpoint = endpoint.with_context(|| format!("{pod} is not in the status"))?;
        ensure!(endpoint.state == EnforcementState::Enforced, "{endpoint:?}");
    }
    Ok(format!(
        "without agents no pod starts, and an Event says so after {waited:.1} s ({why}); {started:.1} s \
         after the agents are back they run, enforced"
    ))
}

/// A pod for each node.
fn names(shared: &Shared) -> BTreeMap<String, String> {
    shared.nodes.keys().enumerate().map(|(i, node)| (node.clone(), format!("pod-{i}"))).collect()
}

/// Starts pods without agents: how long until the last of them was refused, and why it was.
async fn refused(scene: &Scene, daemon_set: &Value) -> anyhow::Result<(f64, String)> {
    let (shared, namespace) = (&scene.shared, &scene.namespace);
    gone(shared, daemon_set).await?;
    for (node, name) in &names(shared) {
        let labels = json!({});
        let pod = probe_pod(&shared.image, namespace, name, &labels, Some(node.as_str()), false);
        shared.kube.apply(&pod).await?;
    }
    let begun = Instant::now();
    let mut why = String::new();
    for name in names(shared).values() {
        why = refusal(scene, name, begun).await?;
        let pod = shared.kube.get(&pod_key(namespace, name)).await?;
        ensure!(running(pod.as_ref()).is_err(), "{name} runs, and no agent was there");
    }
    Ok((begun.elapsed().as_secs_f64(), why))
}

/// Waits until no agent is left.
async fn gone(shared: &Shared, daemon_set: &Value) -> anyhow::Result<()> {
    let scheduled = |daemon_set: Option<&Value>| {
        let daemon_set = daemon_set.ok_or("is not there")?;
        let number = |path: &str| daemon_set.pointer(path).and_then(Value::as_i64).unwrap_or(-1);
        let left = number("/status/currentNumberScheduled");
        let seen = number("/status/observedGeneration") >= number("/metadata/generation");
        if seen && left == 0 { Ok(()) } else { Err(format!("has {left} pods")) }
    };
    shared.kube.wait(daemon_set, PATIENCE, scheduled).await?;
    // Those that are being deleted are not counted.
    let namespace = daemon_set.pointer("/metadata/namespace").and_then(Value::as_str);
    for agent in &shared.agents.all {
        let pod = pod_key(namespace.unwrap_or_default(), &agent.pod);
        shared.kube.wait(&pod, PATIENCE, super::pods::is_gone).await?;
    }
    Ok(())
}

/// Waits for the kubelet's Event on a pod that it cannot start: the plugin's words in it.
async fn refusal(scene: &Scene, pod: &str, begun: Instant) -> anyhow::Result<String> {
    loop {
        let kube = &scene.shared.kube;
        let events = kube.list("events.k8s.io/v1", "Event", &scene.namespace, "").await?;
        let about = |event: &&Value| {
            event["reason"] == "FailedCreatePodSandBox"
                && event.pointer("/regarding/name") == Some(&pod.into())
        };
        if let Some(event) = events.iter().find(about) {
            let note = event["note"].as_str().unwrap_or_default();
            let why = note.split_once("the agent on this node: ").map(|(_, why)| why);
            let named = note.contains(NAME) && note.contains("the pod's policies are not in force");
            ensure!(named && why.is_some(), "the Event on {pod} does not say why: {note}");
            return Ok(why.unwrap_or_default().to_owned());
        }
        ensure!(begun.elapsed() < PATIENCE, "no Event on {pod} says that it cannot start");
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use sluice::cli::probe::Network;

    use super::*;

    fn networks(text: &str, mode: u32) -> Networks {
        let network = |text: &str, mode| Network { text: text.into(), mode, uid: 0, gid: 0 };
        let other = network("kept", 0o600);
        BTreeMap::from([("10-a.conflist".into(), network(text, mode)), ("20-b".into(), other)])
    }

    #[test]
    fn an_entry_more_and_nothing_else() {
        const OLD: &str = r#"{"plugins": [{"type": "ptp"}]}"#;
        const NEW: &str = r#"{"plugins": [{"type": "ptp"}, {"type":"sluice-cni"}]}"#;
        let before = networks(OLD, 0o644);
        check_added(&before, &networks(NEW, 0o644)).expect("an entry was added");
        let mut other = networks(NEW, 0o644);
        other.insert("30-c".into(), before["20-b"].clone());
        for (after, why) in [
            (before.clone(), "no entry"),
            (networks(NEW, 0o600), "another mode"),
            (networks(&NEW.replace("ptp", "bridge"), 0o644), "another plugin"),
            (networks(&NEW.replace(": [", ":["), 0o644), "another layout"),
            (networks(&NEW.replace("sluice-cni", "portmap"), 0o644), "another entry"),
            (other, "a file more"),
        ] {
            assert!(check_added(&before, &after).is_err(), "{why}");
        }
    }
}
