//! Connections from before a pod is isolated: what policy allows lives on, the rest is cut.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;
use sluice::engine::ProbeProtocol;
use sluice::lab::resident::Attempt;

use super::agents::samples;
use super::scene::Scene;
use super::shared::Shared;

/// The port that servers answer on.
const PORT: u16 = 8080;
/// For an answer that is to come.
const PATIENT: Duration = Duration::from_secs(5);
/// For an answer that is not to come.
const BRIEF: Duration = Duration::from_secs(1);

/// Opens connections to a pod and from it, isolates the pod, and goes on with them.
///
/// # Errors
/// What is allowed was cut, what is not was answered, or nothing was learned.
pub async fn learning(shared: &Shared) -> anyhow::Result<String> {
    let mut nodes = shared.nodes.keys();
    let near = nodes.next().context("there is a node")?;
    let far = nodes.next().unwrap_or(near);
    let cast = [
        ("server", near.as_str(), false),
        ("friend", far.as_str(), false),
        ("stranger", far.as_str(), false),
        ("peer", far.as_str(), false),
    ];
    let scene = Scene::new(shared, "learning", &cast).await?;
    let mut open = Vec::new();
    for (client, server) in [("friend", "server"), ("stranger", "server"), ("server", "peer")] {
        scene.listen(server, ProbeProtocol::Tcp, PORT).await?;
        let kept = kept(&scene, client, server)?;
        let answered = scene.attempts(client, kept.clone(), PATIENT).await?;
        ensure!(answered.iter().all(|yes| *yes), "{client} does not reach {server}: {answered:?}");
        let kept: Vec<_> =
            kept.into_iter().map(|attempt| Attempt { established: true, ..attempt }).collect();
        open.push((client, server, kept));
    }
    let before = learned(shared).await?;
    // Answers to what the server has opened arrive by ingress, which no rule allows them.
    let spec = json!({
        "podSelector": {"matchLabels": {"app": "server"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "friend"}}}]}],
    });
    scene.policy("friends", spec).await?;
    let (mut live, mut cut) = (0, 0);
    for (client, server, kept) in open {
        let allowed = client != "stranger";
        let window = if allowed { PATIENT } else { BRIEF };
        let answered = scene.attempts(client, kept, window).await?;
        let as_wanted = answered.iter().all(|yes| *yes == allowed);
        let what = if allowed { "live on" } else { "be cut" };
        ensure!(as_wanted, "connections of {client} to {server} do not {what}: {answered:?}");
        *(if allowed { &mut live } else { &mut cut }) += answered.len();
    }
    ensure!(scene.dropped("server").await?.ingress > 0, "no drop counter accounts for the cut");
    let learned = learned(shared).await? - before;
    let least = u64::try_from(live)?;
    ensure!(learned >= least, "{learned} connections were learned, and {live} live on");
    Ok(format!("{learned} connections learned: {live} live on, {cut} cut"))
}

/// A connection of a client to each address of a server.
fn kept(scene: &Scene, client: &str, server: &str) -> anyhow::Result<Vec<Attempt>> {
    let addresses = &scene.pod(server)?.addresses;
    let to = addresses.iter().map(|address| SocketAddr::new(*address, PORT));
    to.map(|to| scene.attempt(client, ProbeProtocol::Tcp, to)).collect()
}

/// Connections that the agents have learned so far.
async fn learned(shared: &Shared) -> anyhow::Result<u64> {
    let texts = shared.agents.metrics().await?;
    let values = texts.iter().flat_map(|text| samples(text, "sluice_learned_connections_total"));
    Ok(values.map(|(_, value)| value).sum())
}
