//! A few probe pods in a namespace of their own, for checks that are no PolicyTests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use sluice::engine::ProbeProtocol;
use sluice::lab::Place;
use sluice::lab::probe::{Dropped, Station as _};
use sluice::lab::resident::{Attempt, Job, Reply};
use sluice_policy::model::PodName;

use super::pods::{join, make_namespace, pod_key};
use super::shared::Shared;
use super::stage::{self, probe_pod};
use super::station::PodStation;

/// For a connection that is to come about.
const WINDOW: Duration = Duration::from_millis(900);
/// For what comes by watches: Services and their translation, labels, addresses.
const SETTLING: Duration = Duration::from_secs(20);

/// A pod of a scene.
pub struct Cast {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its node.
    pub node: String,
    station: PodStation,
}

/// The pods.
pub struct Scene {
    /// What the run shares.
    pub shared: Shared,
    /// Their namespace.
    pub namespace: String,
    /// By name.
    pub pods: BTreeMap<String, Cast>,
}

impl Scene {
    /// Makes pods: name, node, and whether it is in the node's network. A pod's label `app` is its
    /// name.
    ///
    /// # Errors
    /// One does not run in time.
    pub async fn new(
        shared: &Shared,
        name: &str,
        pods: &[(&str, &str, bool)],
    ) -> anyhow::Result<Self> {
        let (kube, namespace) = (&shared.kube, format!("{}-{name}", shared.run));
        make_namespace(kube, &stage::namespace(&namespace, &shared.run, None)).await?;
        let mut cast = BTreeMap::new();
        for (name, node, host_network) in pods {
            let labels = json!({"app": name});
            let (image, node) = (&shared.image, Some(*node));
            let pod = probe_pod(image, &namespace, name, &labels, node, *host_network);
            kube.apply(&pod).await?;
        }
        for (name, node, _) in pods {
            let place = Place::Node((*node).to_owned());
            let pod = pod_key(&namespace, name);
            let (_, addresses, station) = join(kube, place, pod, false).await?;
            let station = station.context("a pod that is new has a new station")?;
            let (name, node) = ((*name).to_owned(), (*node).to_owned());
            cast.insert(name, Cast { addresses, node, station });
        }
        Ok(Self { shared: shared.clone(), namespace, pods: cast })
    }

    /// A pod.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn pod(&self, name: &str) -> anyhow::Result<&Cast> {
        self.pods.get(name).with_context(|| format!("there is no pod {name} in the scene"))
    }

    /// Has a pod do a job.
    ///
    /// # Errors
    /// It cannot.
    pub async fn order(&self, pod: &str, job: Job) -> anyhow::Result<Reply> {
        let answer = self.pod(pod)?.station.ask(job);
        let reply = tokio::task::spawn_blocking(move || answer.recv()).await?;
        match reply.with_context(|| format!("the line to {pod} has ended"))? {
            Reply::Failed { reason } => bail!("{pod}: {reason}"),
            reply => Ok(reply),
        }
    }

    /// Has a pod answer on a port.
    ///
    /// # Errors
    /// It cannot.
    pub async fn listen(
        &self,
        pod: &str,
        protocol: ProbeProtocol,
        port: u16,
    ) -> anyhow::Result<()> {
        let addresses = self.pod(pod)?.addresses.clone();
        let ports = BTreeSet::from([(protocol, port)]);
        self.order(pod, Job::Listen { addresses, ports }).await.map(drop)
    }

    /// An attempt of a pod: its own address is that of the destination's family.
    ///
    /// # Errors
    /// It has none.
    pub fn attempt(
        &self,
        pod: &str,
        protocol: ProbeProtocol,
        to: SocketAddr,
    ) -> anyhow::Result<Attempt> {
        let own = &self.pod(pod)?.addresses;
        let from = own.iter().copied().find(|own| own.is_ipv4() == to.is_ipv4());
        let from = from.with_context(|| format!("{pod} has no address for {to}"))?;
        let connection = format!("{} {to}", protocol.as_str());
        Ok(Attempt { connection, established: false, protocol, from, to })
    }

    /// Makes attempts; which were answered.
    ///
    /// # Errors
    /// The pod is away.
    pub async fn attempts(
        &self,
        pod: &str,
        attempts: Vec<Attempt>,
        window: Duration,
    ) -> anyhow::Result<Vec<bool>> {
        let window_ms = window.as_millis().try_into().unwrap_or(u64::MAX);
        match self.order(pod, Job::Attempt { attempts, window_ms }).await? {
            Reply::Answered { answered } => Ok(answered),
            other => bail!("{pod} answered what was not expected: {other:?}"),
        }
    }

    /// Whether a connection by TCP comes about.
    ///
    /// # Errors
    /// The pod is away.
    pub async fn reaches(&self, pod: &str, to: SocketAddr) -> anyhow::Result<bool> {
        let attempt = self.attempt(pod, ProbeProtocol::Tcp, to)?;
        Ok(self.attempts(pod, vec![attempt], WINDOW).await? == [true])
    }

    /// Tries until a connection does what is expected of it.
    ///
    /// # Errors
    /// It does not in time.
    pub async fn expect(&self, pod: &str, to: SocketAddr, allowed: bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        while self.reaches(pod, to).await? != allowed {
            let what = if allowed { "does not reach" } else { "reaches" };
            ensure!(
                begun.elapsed() < SETTLING,
                "{pod} ({}) {what} {to} after {} s",
                self.pod(pod)?.node,
                SETTLING.as_secs()
            );
        }
        Ok(())
    }

    /// Applies a NetworkPolicy of the namespace, and waits until it is in force.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn policy(&self, name: &str, spec: Value) -> anyhow::Result<()> {
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": self.namespace, "name": name},
            "spec": spec,
        });
        self.shared.kube.apply(&policy).await?;
        self.shared.in_force().await.map(drop)
    }

    /// Packets of a pod that were dropped so far.
    ///
    /// # Errors
    /// An agent does not answer.
    pub async fn dropped(&self, pod: &str) -> anyhow::Result<Dropped> {
        let name = PodName { namespace: self.namespace.clone(), name: pod.into() };
        Ok(self.shared.agents.dropped().await?.get(&name).copied().unwrap_or_default())
    }
}
