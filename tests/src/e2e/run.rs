//! The order of a run, and its end: whatever happens, what was made is removed.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::ensure;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use sluice::policytest::PlannedTest;
use tokio::runtime::Handle;

use super::agents::Agents;
use super::api::Kube;
use super::cases::{self, Cases};
use super::checks;
use super::install::{self, Manifests, WITH_PLUGIN, roll_out};
use super::learning::learning;
use super::plugin;
use super::pods::{is_gone, make_namespace};
use super::remains::Watchmen;
use super::report::{Ending, Report};
use super::rollout::Traffic;
use super::shared::Shared;
use super::stage::{self, Image, RUN_LABEL};
use super::starts::{Waiting, starts};

/// For namespaces to go, with everything in them.
const GONE_PATIENCE: Duration = Duration::from_secs(600);

/// What is asked of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the manifests are.
    pub manifests: PathBuf,
    /// The image, where it is not the one that the manifests say.
    pub image: Option<Image>,
    /// Files with PolicyTests.
    pub cases: Vec<PathBuf>,
    /// Leave everything as it is at the end.
    pub keep: bool,
}

/// Why there is no run at all.
#[derive(Debug, thiserror::Error)]
pub enum NoRun {
    /// What was given cannot be used.
    #[error("{0:#}")]
    Input(anyhow::Error),
    /// The cluster cannot do it.
    #[error("{0:#}")]
    Cluster(anyhow::Error),
}

/// What is read before anything is done.
struct Plan {
    manifests: Manifests,
    image: Image,
    tests: Vec<PlannedTest>,
}

impl Plan {
    fn read(settings: &Settings) -> anyhow::Result<Self> {
        let manifests = Manifests::read(&settings.manifests, settings.image.as_ref())?;
        let image = manifests.image()?;
        Ok(Self { manifests, image, tests: cases::plan(&settings.cases)? })
    }
}

/// Runs everything.
///
/// # Errors
/// [`NoRun`]; what fails in a run is in the report.
pub async fn run(kubeconfig: &std::path::Path, settings: &Settings) -> Result<Report, NoRun> {
    let plan = Plan::read(settings).map_err(NoRun::Input)?;
    let config = sluice::source::kube::config(Some(kubeconfig)).await;
    let config = config.map_err(|error| NoRun::Input(error.into()))?;
    let kube = Kube::connect(config).await.map_err(NoRun::Cluster)?;
    install::refuse_installed(&kube, &plan.manifests).await.map_err(NoRun::Cluster)?;
    let nodes = nodes(&kube).await.map_err(NoRun::Cluster)?;
    let name = format!("sluice-e2e-{:04x}", rand::random::<u16>());
    let report = Report { run: name, nodes: nodes.keys().cloned().collect(), ..Report::default() };
    eprintln!("run {} on {}", report.run, report.nodes.join(", "));
    let mut run = Run { kube, nodes, plan, keep: settings.keep, report };
    let broken_off = tokio::select! {
        () = run.parts() => false,
        _ = tokio::signal::ctrl_c() => true,
    };
    if broken_off {
        run.report.end("run", Ending::Failed, Duration::ZERO, "broken off by the user".into());
    }
    run.clean().await;
    Ok(run.report)
}

/// The nodes that take pods, with their addresses.
async fn nodes(kube: &Kube) -> anyhow::Result<BTreeMap<String, Vec<IpAddr>>> {
    let mut nodes = BTreeMap::new();
    for node in kube.list("v1", "Node", "", "").await? {
        let name = node.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
            continue;
        }
        let listed = node.pointer("/status/addresses").and_then(Value::as_array);
        let internal = listed.into_iter().flatten().filter(|entry| entry["type"] == "InternalIP");
        let addresses = internal.filter_map(|entry| entry["address"].as_str()?.parse().ok());
        nodes.insert(name.to_owned(), addresses.collect());
    }
    ensure!(!nodes.is_empty(), "the cluster has no node that takes pods");
    Ok(nodes)
}

/// A run under way.
struct Run {
    kube: Kube,
    nodes: BTreeMap<String, Vec<IpAddr>>,
    plan: Plan,
    keep: bool,
    report: Report,
}

impl Run {
    /// One part after the other; without agents there is nothing to look at.
    async fn parts(&mut self) {
        let begun = Instant::now();
        let shared = match self.install().await {
            Ok(shared) => {
                let note = format!("ready on {} nodes", self.nodes.len());
                self.report.end("install", Ending::Ok, begun.elapsed(), note);
                shared
            }
            Err(error) => {
                let note = format!("{error:#}");
                self.report.end("install", Ending::Failed, begun.elapsed(), note);
                return;
            }
        };
        self.part("metrics", checks::metrics(&shared)).await;
        self.part("status", checks::status(&shared)).await;
        self.optional_part("names", "there is no Service kube-dns", checks::names(&shared)).await;
        let why = "there is one node";
        self.optional_part("node port", why, checks::node_port(&shared)).await;
        self.part("events", checks::events(&shared)).await;
        self.part("learning", learning(&shared)).await;
        self.part("starts", starts(&shared, "starts", Waiting::Not)).await;
        self.cases(&shared).await;
        self.replace(&shared).await;
        self.plugin_and_uninstall(&shared).await;
    }

    async fn install(&self) -> anyhow::Result<Shared> {
        let Plan { manifests, image, .. } = &self.plan;
        install::install(&self.kube, &manifests.install).await?;
        let run = &self.report.run;
        make_namespace(&self.kube, &stage::namespace(run, run, None)).await?;
        // A pod on every node that policies can be seen to reach.
        let labels = json!({"app": "beacon"});
        let beacons = json!({
            "apiVersion": "apps/v1",
            "kind": "DaemonSet",
            "metadata": {"namespace": run, "name": "beacon"},
            "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": stage::probe_spec(image, false)}},
        });
        self.kube.apply(&beacons).await?;
        roll_out(&self.kube, &beacons).await?;
        Ok(Shared {
            kube: self.kube.clone(),
            agents: Agents::of(&self.kube, manifests.daemon_set()?).await?,
            image: image.clone(),
            handle: Handle::current(),
            run: run.clone(),
            keep: self.keep,
            nodes: self.nodes.clone(),
        })
    }

    async fn part(
        &mut self,
        name: &'static str,
        work: impl Future<Output = anyhow::Result<String>>,
    ) {
        let work = async { work.await.map(Some) };
        self.optional_part(name, "", work).await;
    }

    /// A part that `Ok(None)` says cannot be had here.
    async fn optional_part(
        &mut self,
        name: &'static str,
        why_not: &str,
        work: impl Future<Output = anyhow::Result<Option<String>>>,
    ) {
        let begun = Instant::now();
        let (ending, note) = match work.await {
            Ok(Some(note)) => (Ending::Ok, note),
            Ok(None) => (Ending::LeftOut, why_not.to_owned()),
            Err(error) => (Ending::Failed, format!("{error:#}")),
        };
        self.report.end(name, ending, begun.elapsed(), note);
    }

    async fn cases(&mut self, shared: &Shared) {
        let tests = std::mem::take(&mut self.plan.tests);
        let (begun, shared) = (Instant::now(), shared.clone());
        let played = tokio::task::spawn_blocking(move || cases::run(&shared, tests)).await;
        let (ending, note) = match played {
            Err(error) => (Ending::Failed, error.to_string()),
            Ok(cases) => {
                let ending = if cases.is_good() { Ending::Ok } else { Ending::Failed };
                let note = in_words(&cases);
                self.report.cases = Some(cases);
                (ending, note)
            }
        };
        self.report.end("cases", ending, begun.elapsed(), note);
    }

    /// The agents are replaced twice: by the same, and by others.
    async fn replace(&mut self, shared: &Shared) {
        let begun = Instant::now();
        let traffic = Traffic::new(shared).await;
        let (traffic, daemon_set) = match (traffic, self.plan.manifests.daemon_set()) {
            (Ok(traffic), Ok(daemon_set)) => (traffic, daemon_set.clone()),
            (Err(error), _) | (_, Err(error)) => {
                let note = format!("{error:#}");
                return self.report.end("restart", Ending::Failed, begun.elapsed(), note);
            }
        };
        let annotation = json!({"metadata": {"annotations": {"e2e.sluice.dev/restart": "1"}}});
        self.part("restart", traffic.through(&daemon_set, annotation)).await;
        self.part("upgrade", traffic.through(&daemon_set, upgraded(&daemon_set))).await;
    }

    /// What is looked at on the nodes themselves.
    async fn plugin_and_uninstall(&mut self, shared: &Shared) {
        let begun = Instant::now();
        let posted = async {
            let watchmen = Watchmen::new(shared, self.plan.manifests.daemon_set()?).await?;
            let networks = watchmen.networks().await?;
            anyhow::Ok((watchmen, networks))
        };
        let (watchmen, networks) = match posted.await {
            Ok(posted) => posted,
            Err(error) => {
                let note = format!("{error:#}");
                return self.report.end("uninstall", Ending::Failed, begun.elapsed(), note);
            }
        };
        self.plugin(shared, &watchmen).await;
        let (kube, manifests) = (self.kube.clone(), self.plan.manifests.clone());
        let work = async {
            watchmen.check_present().await?;
            let took = install::uninstall(&kube, &manifests).await?;
            watchmen.check_absent().await?;
            let left = watchmen.networks().await?;
            ensure!(left == networks, "network configurations: {networks:?} became {left:?}");
            let nodes = shared.nodes.len();
            Ok(format!("nothing left on {nodes} nodes, {:.1} s", took.as_secs_f64()))
        };
        self.part("uninstall", work).await;
    }

    /// The plugin is turned on, and stays on.
    async fn plugin(&mut self, shared: &Shared, watchmen: &Watchmen) {
        let Some(objects) = self.plan.manifests.with_plugin.clone() else {
            let note = format!("there is no {WITH_PLUGIN} beside the manifests");
            return self.report.end("plugin", Ending::LeftOut, Duration::ZERO, note);
        };
        let begun = Instant::now();
        let shared = match plugin::turn_on(shared, &objects, watchmen).await {
            Ok((shared, note)) => {
                self.report.end("plugin", Ending::Ok, begun.elapsed(), note);
                shared
            }
            Err(error) => {
                let note = format!("{error:#}");
                return self.report.end("plugin", Ending::Failed, begun.elapsed(), note);
            }
        };
        self.part("plugin starts", starts(&shared, "waits", Waiting::ForPlugin)).await;
        let away = async { plugin::away(&shared, install::daemon_set(&objects)?).await };
        self.part("agents away", away).await;
    }

    /// Removes what the run has made, and what it has installed.
    async fn clean(&mut self) {
        let name = &self.report.run;
        if self.keep {
            let note = format!("everything is left as it is: namespaces with {RUN_LABEL}={name}");
            return self.report.end("clean", Ending::LeftOut, Duration::ZERO, note);
        }
        let work = clean(&self.kube, &self.plan.manifests, name);
        let (begun, done) = (Instant::now(), work.await);
        let (ending, note) = match done {
            Ok(count) => (Ending::Ok, format!("{count} namespaces removed")),
            Err(error) => (Ending::Failed, format!("{error:#}")),
        };
        self.report.end("clean", ending, begun.elapsed(), note);
    }
}

async fn clean(kube: &Kube, manifests: &Manifests, run: &str) -> anyhow::Result<usize> {
    let installed = kube.get(manifests.daemon_set()?).await?.is_some();
    // The namespaces go also where a node keeps something.
    let off = if installed { install::uninstall(kube, manifests).await.map(drop) } else { Ok(()) };
    let spaces = kube.list("v1", "Namespace", "", &format!("{RUN_LABEL}={run}")).await?;
    let named = |space: &Value| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space["metadata"]["name"]}});
    let spaces: Vec<Value> = spaces.iter().map(named).collect();
    try_join_all(spaces.iter().map(|space| kube.delete(space))).await?;
    try_join_all(spaces.iter().map(|space| kube.wait(space, GONE_PATIENCE, is_gone))).await?;
    off.map(|()| spaces.len())
}

/// A pod template that logs in another form: another agent, as an upgrade makes one.
fn upgraded(daemon_set: &Value) -> Value {
    let container = daemon_set.pointer("/spec/template/spec/containers/0").unwrap_or(&Value::Null);
    let mut environment = container["env"].as_array().cloned().unwrap_or_default();
    environment.retain(|variable| variable["name"] != "SLUICE_LOG_FORMAT");
    environment.push(json!({"name": "SLUICE_LOG_FORMAT", "value": "json"}));
    let mut containers = daemon_set.pointer("/spec/template/spec/containers").cloned();
    if let Some(first) = containers.as_mut().and_then(|all| all.get_mut(0)) {
        first["env"] = environment.into();
    }
    json!({"spec": {"containers": containers}})
}

fn in_words(cases: &Cases) -> String {
    let summary = cases.report.summary;
    let left_out: usize = cases.left_out.values().sum();
    let mut note = format!(
        "{} of {} probes of {} tests as expected, {left_out} left out; {} steps were asked again",
        summary.as_expected, summary.probes, summary.tests, cases.settled
    );
    if !cases.broken.is_empty() {
        note += &format!("; {} tests broke off", cases.broken.len());
    }
    note
}
