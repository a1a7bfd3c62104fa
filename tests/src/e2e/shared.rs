//! What all parts of a run share.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::runtime::Handle;

use super::agents::Agents;
use super::api::Kube;
use super::stage::Image;

/// For policies to be in force.
const POLICY_PATIENCE: Duration = Duration::from_secs(30);
/// First of the ports that policies are told apart by.
const FIRST_MARK: u16 = 20_000;

/// What all parts of a run share.
#[derive(Clone)]
pub struct Shared {
    /// The cluster.
    pub kube: Kube,
    /// Its agents.
    pub agents: Agents,
    /// The image of probe pods.
    pub image: Image,
    /// The runtime that carries what is sent to the API server.
    pub handle: Handle,
    /// Name of the run; a namespace of this name has a probe pod on each node.
    pub run: String,
    /// Everything is left as it is at the end.
    pub keep: bool,
    /// Real nodes, with their addresses.
    pub nodes: BTreeMap<String, Vec<IpAddr>>,
}

impl Shared {
    /// Waits until everything that was told to the API server before is in force on every node; how
    /// long the agents took.
    ///
    /// # Errors
    /// It is not in time.
    pub async fn in_force(&self) -> anyhow::Result<Duration> {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let mark = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("mark-{mark}");
        // A rule like no other, or it would be one with another mark's.
        let policy = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"namespace": self.run, "name": name},
            "spec": {"podSelector": {}, "policyTypes": ["Ingress"],
                "ingress": [{"ports": [{"port": FIRST_MARK + mark}]}]},
        });
        self.kube.apply(&policy).await?;
        let took = self.agents.wait_for_policy(&self.run, &name, POLICY_PATIENCE).await?;
        self.kube.delete(&policy).await?;
        Ok(took)
    }
}
