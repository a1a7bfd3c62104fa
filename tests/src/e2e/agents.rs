//! The agents of a cluster: their pods, what they have counted, and what they have in force.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::future::try_join_all;
use serde_json::Value;
use sluice::lab::probe::Dropped;
use sluice::status::Status;
use sluice_policy::model::PodName;

use super::api::{Kube, Said};

/// Between two looks at metrics that are waited for.
const LOOK: Duration = Duration::from_millis(100);

/// An agent's pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agent {
    /// Name of the pod.
    pub pod: String,
    /// Its node.
    pub node: String,
}

/// The agents.
#[derive(Clone)]
pub struct Agents {
    kube: Kube,
    namespace: String,
    /// Port of the metrics.
    port: u16,
    /// Container of the agent.
    container: String,
    /// By node.
    pub all: Vec<Agent>,
}

impl Agents {
    /// Finds the pods of a DaemonSet.
    ///
    /// # Errors
    /// The API server does not say, or the DaemonSet serves no metrics.
    pub async fn of(kube: &Kube, daemon_set: &Value) -> anyhow::Result<Self> {
        let text = |path: &str| daemon_set.pointer(path).and_then(Value::as_str);
        let namespace = text("/metadata/namespace").context("a DaemonSet has a namespace")?;
        let container = daemon_set.pointer("/spec/template/spec/containers/0");
        let container = container.context("a DaemonSet has a container")?;
        let ports = container["ports"].as_array().into_iter().flatten();
        let port = ports.filter(|port| port["name"] == "metrics").find_map(|port| {
            port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok())
        });
        let labels = daemon_set.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
        let labels: Vec<String> = labels
            .context("a DaemonSet has labels")?
            .iter()
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let mut all = Vec::new();
        for pod in kube.list("v1", "Pod", namespace, &labels.join(",")).await? {
            // One that is being deleted is no agent any more.
            if pod.pointer("/metadata/deletionTimestamp").is_none() {
                let text =
                    |path: &str| pod.pointer(path).and_then(Value::as_str).map(str::to_owned);
                let (name, node) = (text("/metadata/name"), text("/spec/nodeName"));
                let (pod, node) = name.zip(node).context("an agent's pod has no node")?;
                all.push(Agent { pod, node });
            }
        }
        all.sort_by(|a, b| a.node.cmp(&b.node));
        Ok(Self {
            kube: kube.clone(),
            namespace: namespace.into(),
            port: port.context("the DaemonSet has no port `metrics`")?,
            container: container["name"].as_str().context("a container has a name")?.into(),
            all,
        })
    }

    /// The metrics of every agent, in the order of [`Self::all`].
    ///
    /// # Errors
    /// One does not answer.
    pub async fn metrics(&self) -> anyhow::Result<Vec<String>> {
        try_join_all(self.all.iter().map(|agent| self.get(agent, "/metrics"))).await
    }

    /// What an agent answers at a path of its metrics' port.
    ///
    /// # Errors
    /// It does not answer, or not with success.
    pub async fn get(&self, agent: &Agent, path: &str) -> anyhow::Result<String> {
        self.kube.get_from_pod(&self.namespace, &agent.pod, self.port, path).await
    }

    /// Runs the binary in an agent's container.
    ///
    /// # Errors
    /// It cannot be run.
    pub async fn sluice(&self, agent: &Agent, arguments: &[&str]) -> anyhow::Result<Said> {
        let command: Vec<&str> = ["/sluice"].iter().chain(arguments).copied().collect();
        self.kube.exec(&self.namespace, &agent.pod, &self.container, &command).await
    }

    /// The status of an agent, as the command in its pod prints it.
    ///
    /// # Errors
    /// It is no status.
    pub async fn status(&self, agent: &Agent) -> anyhow::Result<Status> {
        let said = self.sluice(agent, &["status", "-o", "json"]).await?;
        let status = serde_json::from_str(&said.out);
        status.with_context(|| format!("status of {}: {}{}", agent.node, said.out, said.error))
    }

    /// Packets of pods dropped so far, on all nodes.
    ///
    /// # Errors
    /// An agent does not answer.
    pub async fn dropped(&self) -> anyhow::Result<BTreeMap<PodName, Dropped>> {
        let mut found: BTreeMap<PodName, Dropped> = BTreeMap::new();
        for text in self.metrics().await? {
            for (labels, value) in samples(&text, "sluice_drop_packets_total") {
                let label = |name: &str| labels.get(name).copied().unwrap_or_default();
                let (namespace, name) = (label("namespace").into(), label("pod").into());
                let of = found.entry(PodName { namespace, name }).or_default();
                match label("direction") {
                    "ingress" => of.ingress += value,
                    "egress" => of.egress += value,
                    other => bail!("sluice_drop_packets_total of direction `{other}`"),
                }
            }
        }
        Ok(found)
    }

    /// Waits until every agent has a rule of a NetworkPolicy in force; how long that took.
    ///
    /// # Errors
    /// One has not in time.
    pub async fn wait_for_policy(
        &self,
        namespace: &str,
        name: &str,
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        loop {
            let mut missing = BTreeSet::new();
            for (agent, text) in self.all.iter().zip(self.metrics().await?) {
                let is_it = |(labels, _): &(BTreeMap<&str, &str>, u64)| {
                    labels.get("namespace") == Some(&namespace) && labels.get("name") == Some(&name)
                };
                if !samples(&text, "sluice_rule_packets_total").any(|sample| is_it(&sample)) {
                    missing.insert(agent.node.clone());
                }
            }
            if missing.is_empty() {
                return Ok(begun.elapsed());
            }
            ensure!(
                begun.elapsed() < patience,
                "NetworkPolicy {namespace}/{name} is not in force on {missing:?} after {} s",
                patience.as_secs()
            );
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// The series of a metric: labels and value. No label of ours needs escapes.
pub fn series<'a>(
    text: &'a str,
    metric: &'a str,
) -> impl Iterator<Item = (BTreeMap<&'a str, &'a str>, f64)> {
    text.lines().filter_map(move |line| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(rest) => rest.rsplit_once("} ")?,
            None => ("", rest.strip_prefix(' ')?),
        };
        let pairs = labels.split("\",").filter_map(|pair| pair.split_once("=\""));
        let pairs = pairs.map(|(name, value)| (name, value.trim_end_matches('"')));
        Some((pairs.collect(), value.trim().parse().ok()?))
    })
}

/// As [`series`], of a counter or a gauge: its values are whole.
pub fn samples<'a>(
    text: &'a str,
    metric: &'a str,
) -> impl Iterator<Item = (BTreeMap<&'a str, &'a str>, u64)> {
    series(text, metric).map(|(labels, value)| (labels, value as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_read_with_their_labels() {
        let text = "# TYPE a counter\na_total{x=\"1\",y=\"two\"} 7\na_total{x=\"\",y=\"\"} 0\nab{x=\"1\"} 3\nb 5\nbc 6\n";
        let found: Vec<_> = samples(text, "a_total").collect();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0], (BTreeMap::from([("x", "1"), ("y", "two")]), 7));
        assert_eq!(found[1].0["y"], "");
        assert_eq!(samples(text, "b").collect::<Vec<_>>(), [(BTreeMap::new(), 5)]);
    }
}
