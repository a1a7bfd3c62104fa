//! What an operator looks at: metrics, status, Events; and what every pod needs: names and Services.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sluice::engine::ProbeProtocol;
use sluice::lab::resident::{Job, Reply};
use sluice::status::EnforcementState;

use super::agents::samples;
use super::scene::Scene;
use super::shared::Shared;

/// For an Event, which agents make at times of their own.
const EVENT_PATIENCE: Duration = Duration::from_secs(60);
/// For a name to be resolved; longer than a resolver waits before it asks again.
const NAME_WINDOW_MS: u64 = 6_000;
/// How long a name that must not be resolved is asked for.
const SHORT_WINDOW_MS: u64 = 2_000;
/// The port that servers of checks answer on.
const PORT: u16 = 8080;

/// Every agent is ready, watches everything, enforces everything, and its metrics say so.
///
/// # Errors
/// What is not so.
pub async fn metrics(shared: &Shared) -> anyhow::Result<String> {
    let agents = &shared.agents;
    shared.in_force().await?;
    for (agent, text) in agents.all.iter().zip(agents.metrics().await?) {
        let node = &agent.node;
        let watches: Vec<_> = samples(&text, "sluice_watch_connected").collect();
        ensure!(watches.len() >= 6, "{node}: {} kinds are watched, not 6 or more", watches.len());
        for (labels, connected) in watches {
            ensure!(connected == 1, "{node}: {labels:?} is not watched");
        }
        let states = samples(&text, "sluice_endpoints");
        let not_enforced: Vec<_> = states
            .filter(|(labels, count)| labels.get("state") == Some(&"not-enforced") && *count > 0)
            .collect();
        ensure!(not_enforced.is_empty(), "{node}: not enforced: {not_enforced:?}");
        for name in ["sluice_build_info", "sluice_map_entries", "sluice_map_capacity"] {
            ensure!(samples(&text, name).next().is_some(), "{node}: there is no {name}");
        }
        let timing = "sluice_event_to_enforced_seconds_count";
        ensure!(text.contains(timing), "{node}: there is no {timing}");
        agents.get(agent, "/livez").await.with_context(|| format!("{node}: not alive"))?;
        agents.get(agent, "/readyz").await.with_context(|| format!("{node}: not ready"))?;
    }
    Ok(format!("{} agents ready, every kind watched", agents.all.len()))
}

/// `sluice status` and `sluice inspect` in an agent's pod know a pod that a policy isolates.
///
/// # Errors
/// What is not so.
pub async fn status(shared: &Shared) -> anyhow::Result<String> {
    let mut pods = Vec::new();
    let names: Vec<String> = (0..shared.nodes.len()).map(|i| format!("pod-{i}")).collect();
    for (name, node) in names.iter().zip(shared.nodes.keys()) {
        pods.push((name.as_str(), node.as_str(), false));
    }
    let scene = Scene::new(shared, "status", &pods).await?;
    scene.policy("closed", json!({"podSelector": {}, "policyTypes": ["Ingress"]})).await?;
    for (name, node, _) in pods {
        let agent = shared.agents.all.iter().find(|agent| agent.node == node);
        let agent = agent.with_context(|| format!("{node} has no agent"))?;
        let pod = format!("{}/{name}", scene.namespace);
        let status = shared.agents.status(agent).await?;
        ensure!(status.agent && status.synced, "{node}: not in sync: {status:?}");
        let endpoint = status.endpoints.iter().find(|endpoint| endpoint.pod == pod);
        let endpoint = endpoint.with_context(|| format!("{node}: {pod} is not in the status"))?;
        ensure!(endpoint.state == EnforcementState::Enforced, "{node}: {endpoint:?}");
        ensure!(endpoint.ingress && !endpoint.egress, "{node}: {endpoint:?}");
        let inspected = shared.agents.sluice(agent, &["inspect", &pod]).await?;
        ensure!(inspected.success, "{node}: inspect {pod}: {}", inspected.error);
        ensure!(inspected.out.contains(&pod), "{node}: inspect {pod}: {}", inspected.out);
    }
    Ok(format!("{} pods known as enforced, each to its node", shared.nodes.len()))
}

/// A policy that nobody can read isolates what it selects, and an Event on it says why.
///
/// # Errors
/// What is not so.
pub async fn events(shared: &Shared) -> anyhow::Result<String> {
    let node = shared.nodes.keys().next().context("there is a node")?;
    let cast = [("server", node.as_str(), false), ("client", node.as_str(), false)];
    let scene = Scene::new(shared, "events", &cast).await?;
    scene.listen("server", ProbeProtocol::Tcp, PORT).await?;
    let server = SocketAddr::new(scene.pod("server")?.addresses[0], PORT);
    scene.expect("client", server, true).await?;
    // The API server takes this block, with a warning, and nobody can say what it means.
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "server"}},
        "ingress": [{"from": [{"ipBlock": {"cidr": "::ffff:10.0.0.0/104"}}]}],
    });
    scene.policy("unreadable", spec).await?;
    scene.expect("client", server, false).await?;
    ensure!(scene.dropped("server").await?.ingress > 0, "no drop counter accounts for the denial");
    let begun = Instant::now();
    loop {
        let events = shared.kube.list("events.k8s.io/v1", "Event", &scene.namespace, "").await?;
        let about = |event: &&Value| {
            event.pointer("/regarding/kind") == Some(&"NetworkPolicy".into())
                && event.pointer("/regarding/name") == Some(&"unreadable".into())
        };
        if let Some(event) = events.iter().find(about) {
            let note = event["note"].as_str().unwrap_or_default();
            ensure!(
                note.contains("spec.ingress[0].from[0]"),
                "the Event does not say why: {event}"
            );
            let took = begun.elapsed().as_secs();
            return Ok(format!("closed, and an Event after {took} s: {note}"));
        }
        ensure!(begun.elapsed() < EVENT_PATIENCE, "no Event on the policy in time");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Names are resolved, are not where egress is closed, and are again where DNS is allowed. `Ok(None)`
/// where the cluster has no DNS as it is by custom.
///
/// # Errors
/// What is not so.
pub async fn names(shared: &Shared) -> anyhow::Result<Option<String>> {
    let service = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "kube-system", "name": "kube-dns"}});
    let Some(dns) = shared.kube.get(&service).await? else { return Ok(None) };
    let node = shared.nodes.keys().next_back().context("there is a node")?;
    let scene = Scene::new(shared, "names", &[("client", node, false)]).await?;
    let address = resolve(&scene, NAME_WINDOW_MS).await?;
    ensure!(!address.is_empty(), "{NAME} is not resolved without a policy");
    let closed = json!({"podSelector": {}, "policyTypes": ["Egress"]});
    scene.policy("closed", closed).await?;
    let found = resolve(&scene, SHORT_WINDOW_MS).await?;
    ensure!(found.is_empty(), "{NAME} is resolved although egress is closed: {found:?}");
    ensure!(scene.dropped("client").await?.egress > 0, "no drop counter accounts for the denial");
    let ports = dns.pointer("/spec/ports").and_then(Value::as_array).into_iter().flatten();
    let ports: Vec<Value> = ports
        .map(|port| json!({"protocol": port["protocol"], "port": port["targetPort"]}))
        .collect();
    let to = json!({
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": dns["spec"]["selector"]},
    });
    let rule = json!({"podSelector": {}, "policyTypes": ["Egress"],
        "egress": [{"to": [to], "ports": ports}]});
    scene.policy("names", rule).await?;
    let found = resolve(&scene, NAME_WINDOW_MS).await?;
    ensure!(found == address, "{NAME} is {found:?} although DNS is allowed, and was {address:?}");
    let api = SocketAddr::new(address[0], 443);
    ensure!(!scene.reaches("client", api).await?, "the rule for DNS opens the API server as well");
    Ok(Some("resolved, cut off by a closed egress, resolved by a rule for DNS".into()))
}

/// A name that every cluster has.
const NAME: &str = "kubernetes.default";

async fn resolve(scene: &Scene, window_ms: u64) -> anyhow::Result<Vec<std::net::IpAddr>> {
    let job = Job::Resolve { name: NAME.into(), window_ms };
    match scene.order("client", job).await? {
        Reply::Resolved { addresses } => Ok(addresses),
        other => bail!("a station answered what was not expected: {other:?}"),
    }
}

/// A port of the nodes that leads to an isolated pod: closed for another node until its address is
/// allowed. `Ok(None)` with fewer than two nodes.
///
/// # Errors
/// What is not so.
pub async fn node_port(shared: &Shared) -> anyhow::Result<Option<String>> {
    let mut nodes = shared.nodes.keys();
    let (Some(near), Some(far)) = (nodes.next(), nodes.next()) else { return Ok(None) };
    let cast = [("server", near.as_str(), false), ("node", far.as_str(), true)];
    let scene = Scene::new(shared, "node-port", &cast).await?;
    scene.listen("server", ProbeProtocol::Tcp, PORT).await?;
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": scene.namespace, "name": "server"},
        "spec": {"type": "NodePort", "selector": {"app": "server"},
            "ports": [{"port": 80, "targetPort": PORT}]},
    });
    shared.kube.apply(&service).await?;
    let made = shared.kube.get(&service).await?.context("the Service is there")?;
    let port = made.pointer("/spec/ports/0/nodePort").and_then(Value::as_u64);
    let port = port.and_then(|port| u16::try_from(port).ok()).context("it has a port of nodes")?;
    // By way of the node that the client is on: its own translation, as for anyone from outside.
    let family = made.pointer("/spec/ipFamilies/0").and_then(Value::as_str);
    let own = shared.nodes[far].iter().copied().find(|a| a.is_ipv4() == (family == Some("IPv4")));
    let address = own.with_context(|| format!("{far} has no address of the Service's family"))?;
    let entrance = SocketAddr::new(address, port);
    scene.expect("node", entrance, true).await?;
    let selector = json!({"matchLabels": {"app": "server"}});
    let closed = json!({"podSelector": selector, "policyTypes": ["Ingress"]});
    scene.policy("server", closed).await?;
    scene.expect("node", entrance, false).await?;
    ensure!(scene.dropped("server").await?.ingress > 0, "no drop counter accounts for the denial");
    let length = if address.is_ipv4() { 32 } else { 128 };
    let from = json!([{"ipBlock": {"cidr": format!("{address}/{length}")}}]);
    let open =
        json!({"podSelector": selector, "ingress": [{"from": from, "ports": [{"port": PORT}]}]});
    scene.policy("server", open).await?;
    scene.expect("node", entrance, true).await?;
    Ok(Some(format!("{entrance}: open, closed by a policy, open for the node's address")))
}
