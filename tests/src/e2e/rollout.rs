//! The agents replaced under traffic: what is allowed goes on, what is denied stays denied.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sluice::engine::ProbeProtocol;
use sluice::lab::resident::{Attempt, Job, Reply};

use super::agents::Agents;
use super::install::roll_out;
use super::scene::Scene;
use super::shared::Shared;

/// The port that the server answers on.
const PORT: u16 = 8080;
/// For an answer that is to come, also while the machine starts containers.
const PATIENT: Duration = Duration::from_secs(5);
/// For an answer that is not to come.
const BRIEF: Duration = Duration::from_millis(300);

/// What went over the network meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    attempts: u64,
    answered: u64,
}

/// The pods that send and receive while agents are replaced.
pub struct Traffic {
    scene: Scene,
    /// Where the server answers, of each family.
    servers: Vec<SocketAddr>,
}

impl Traffic {
    /// A server, a client beside it, one on another node where there is one, and one that is denied.
    ///
    /// # Errors
    /// They do not come about, or policy is not in force.
    pub async fn new(shared: &Shared) -> anyhow::Result<Self> {
        let mut nodes = shared.nodes.keys();
        let near = nodes.next().context("there is a node")?;
        let far = nodes.next().unwrap_or(near);
        let cast = [
            ("server", near.as_str(), false),
            ("near", near.as_str(), false),
            ("far", far.as_str(), false),
            ("stranger", far.as_str(), false),
        ];
        let scene = Scene::new(shared, "traffic", &cast).await?;
        for protocol in [ProbeProtocol::Tcp, ProbeProtocol::Udp] {
            scene.listen("server", protocol, PORT).await?;
        }
        let clients = json!([{"podSelector": {"matchExpressions":
            [{"key": "app", "operator": "In", "values": ["near", "far"]}]}}]);
        let spec = json!({"podSelector": {"matchLabels": {"app": "server"}},
            "ingress": [{"from": clients}]});
        scene.policy("clients", spec).await?;
        let addresses = scene.pod("server")?.addresses.iter();
        let servers: Vec<_> = addresses.map(|a| SocketAddr::new(*a, PORT)).collect();
        for server in &servers {
            scene.expect("near", *server, true).await?;
            scene.expect("far", *server, true).await?;
            scene.expect("stranger", *server, false).await?;
        }
        Ok(Self { scene, servers })
    }

    /// Changes the agents' pod template, and waits until every node has a new agent, under traffic. In
    /// words what went over the network.
    ///
    /// # Errors
    /// A connection that is allowed was lost, or one that is denied was answered, or the agents do not
    /// come back.
    pub async fn through(&self, daemon_set: &Value, change: Value) -> anyhow::Result<String> {
        let kube = &self.scene.shared.kube;
        let over = AtomicBool::new(false);
        let heard_before = self.heard().await?;
        let roll = async {
            let rolled = async {
                kube.merge(daemon_set, &json!({"spec": {"template": change}})).await?;
                roll_out(kube, daemon_set).await
            };
            let rolled = rolled.await;
            over.store(true, Ordering::Relaxed);
            rolled
        };
        let (rolled, near, far, stranger) = tokio::join!(
            roll,
            self.allowed("near", &over),
            self.allowed("far", &over),
            self.denied(&over)
        );
        rolled?;
        let heard = self.heard().await? - heard_before;
        let (near, far, stranger) = (near?, far?, stranger?);
        let lost = near.attempts + far.attempts - near.answered - far.answered;
        ensure!(near.answered > 0 && far.answered > 0 && stranger.attempts > 0, "no traffic");
        let all = near.attempts + far.attempts;
        ensure!(lost == 0, "{lost} of {all} allowed exchanges were lost");
        let (got, tried) = (stranger.answered, stranger.attempts);
        ensure!(got == 0, "{got} of {tried} denied exchanges were answered");
        ensure!(heard == 0, "{heard} connections and datagrams arrived against policy");
        let agents = Agents::of(kube, daemon_set).await?.all.len();
        Ok(format!(
            "{agents} agents: 0 of {all} allowed exchanges lost, 0 of {tried} denied arrived"
        ))
    }

    /// Connections and datagrams of the pod that is denied which have arrived at the server.
    async fn heard(&self) -> anyhow::Result<u64> {
        let from = self.scene.pod("stranger")?.addresses.clone();
        match self.scene.order("server", Job::Heard { from }).await? {
            Reply::Heard { count } => Ok(count),
            other => bail!("a station answered what was not expected: {other:?}"),
        }
    }

    /// New connections and datagrams, and a connection that stays open, until it is over.
    async fn allowed(&self, pod: &str, over: &AtomicBool) -> anyhow::Result<Tally> {
        let mut fresh = Vec::new();
        let mut kept = Vec::new();
        for server in &self.servers {
            fresh.push(self.scene.attempt(pod, ProbeProtocol::Tcp, *server)?);
            fresh.push(self.scene.attempt(pod, ProbeProtocol::Udp, *server)?);
            let open = self.scene.attempt(pod, ProbeProtocol::Tcp, *server)?;
            kept.push(Attempt { connection: format!("kept {server}"), ..open });
        }
        let opened = self.scene.attempts(pod, kept.clone(), PATIENT).await?;
        ensure!(opened.iter().all(|yes| *yes), "{pod} cannot open connections");
        let kept = kept.into_iter().map(|attempt| Attempt { established: true, ..attempt });
        fresh.extend(kept);
        self.repeat(pod, &fresh, PATIENT, over).await
    }

    async fn denied(&self, over: &AtomicBool) -> anyhow::Result<Tally> {
        let mut fresh = Vec::new();
        for server in &self.servers {
            for protocol in [ProbeProtocol::Tcp, ProbeProtocol::Udp] {
                fresh.push(self.scene.attempt("stranger", protocol, *server)?);
            }
        }
        self.repeat("stranger", &fresh, BRIEF, over).await
    }

    async fn repeat(
        &self,
        pod: &str,
        attempts: &[Attempt],
        window: Duration,
        over: &AtomicBool,
    ) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        while !over.load(Ordering::Relaxed) {
            let answered = self.scene.attempts(pod, attempts.to_vec(), window).await?;
            tally.attempts += answered.len() as u64;
            tally.answered += answered.iter().filter(|yes| **yes).count() as u64;
        }
        Ok(tally)
    }
}
