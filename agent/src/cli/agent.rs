//! `sluice agent`: the per-node daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use nix::fcntl::Flock;
use sluice_policy::model::PodName;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::cni::{DEFAULT_BIN_DIR, EntryArguments};
use super::lifetimes::LifetimeArgs;
use super::{Failure, need_root};
use crate::cni;
use crate::control;
use crate::datapath::attach::Backend;
use crate::datapath::enforcer::{self, Enforcer};
use crate::datapath::pins::{Pins, PinsError};
use crate::endpoint::admitted;
use crate::endpoint::links::Links;
use crate::endpoint::slots::{Lingering, Slots};
use crate::lock::{self, LockError};
use crate::memory;
use crate::metrics::{self, Inquiries};
use crate::reconcile::Reconciler;
use crate::reconcile::kernel::Kernel as _;
use crate::reconcile::site::{Alias, Site};
use crate::run::{self, Agent};
use crate::source::{Source, dir, kube};
use crate::state::State;

/// Where everything is kept while nobody says otherwise.
pub const DEFAULT_BPFFS: &str = "/sys/fs/bpf/sluice";
/// See [`DEFAULT_BPFFS`].
pub const DEFAULT_STATE_DIR: &str = "/run/sluice";

/// Enforces the policies of a source on the pods of this node.
///
/// Policies stay in force when the agent stops, however it stops; the next one takes over without a
/// gap. `--uninstall` ends enforcement and removes everything.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluice agent --node-name node-1
  sluice agent --node-name node-1 --kubeconfig ~/.kube/config
  sluice agent --node-name node-1 --source dir:/etc/sluice/manifests
  sluice agent --node-name node-1 --source dir:manifests --trace default/web-0
  sluice agent --uninstall

Every flag can be given by environment: SLUICE_NODE_NAME, SLUICE_SOURCE, SLUICE_BPFFS, …
SIGHUP compares the kernel with what should be in it and corrects it, as happens every 30 s.")]
pub struct AgentArguments {
    /// Name of this node, as in `spec.nodeName` of its pods
    #[arg(
        long,
        value_name = "NAME",
        env = "SLUICE_NODE_NAME",
        required_unless_present = "uninstall"
    )]
    node_name: Option<String>,
    /// Where objects come from: `kube`, the API server, or `dir:PATH`, a directory or file of manifests
    #[arg(long, value_name = "SOURCE", env = "SLUICE_SOURCE", default_value = "kube")]
    source: SourceArg,
    /// How to reach the API server; otherwise as the pod that the agent runs in does
    #[arg(long, value_name = "FILE", env = "SLUICE_KUBECONFIG")]
    kubeconfig: Option<PathBuf>,
    /// Directory for pins, on a BPF file system
    #[arg(long, value_name = "DIR", env = "SLUICE_BPFFS", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// Directory with the network namespaces of pods; repeatable (comma-separated in the environment)
    #[arg(
        long = "netns-dir",
        value_name = "DIR",
        env = "SLUICE_NETNS_DIR",
        value_delimiter = ',',
        default_value = "/run/netns"
    )]
    netns_dirs: Vec<PathBuf>,
    /// Directory for notes to the next agent and the control socket
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Serve /metrics, /livez and /readyz over HTTP at this address; nothing is served without it
    #[arg(long, value_name = "ADDR:PORT", env = "SLUICE_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
    /// Have /metrics tell the packets of every rule, a series for each rule in force on this node
    #[arg(
        long,
        value_name = "BOOL",
        env = "SLUICE_RULE_METRICS",
        default_value_t = true,
        action = clap::ArgAction::Set
    )]
    rule_metrics: bool,
    /// What an egress-isolated pod may send to its own node without a rule
    #[arg(long, value_name = "VERDICT", env = "SLUICE_HOST_EGRESS", default_value = "deny")]
    host_egress: HostEgress,
    /// A further address of a service, as of a DNS cache on the node; repeatable (comma-separated in
    /// the environment)
    #[arg(
        long = "service-alias",
        value_name = "NS/NAME=ADDRESS",
        env = "SLUICE_SERVICE_ALIAS",
        value_delimiter = ','
    )]
    service_aliases: Vec<Alias>,
    /// Keep the CNI plugin in the network configuration of this directory, whoever writes that anew
    /// (`sluice cni install` puts the plugin's file in place)
    #[arg(long, value_name = "DIR", env = "SLUICE_CNI_CONF_DIR")]
    cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins: while ours is not there, no network configuration is made to name it
    #[arg(long, value_name = "DIR", env = "SLUICE_CNI_BIN_DIR", default_value = DEFAULT_BIN_DIR)]
    cni_bin_dir: PathBuf,
    #[command(flatten)]
    cni_entry: EntryArguments,
    /// Log every packet of one pod, with the verdict; costs speed for all
    #[arg(long, value_name = "NS/POD", env = "SLUICE_TRACE")]
    trace: Option<PodArg>,
    /// Form of the log lines on standard error
    #[arg(long, value_name = "FORMAT", env = "SLUICE_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    #[command(flatten)]
    lifetimes: LifetimeArgs,
    /// Remove programs, pins and notes: nothing is enforced on this node any more
    #[arg(long)]
    uninstall: bool,
    /// After --uninstall, stay until told to stop: a pod of a DaemonSet that ends is started again
    #[arg(long, requires = "uninstall")]
    wait: bool,
}

/// `--host-egress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum HostEgress {
    /// What the policies say.
    Deny,
    /// Everything to any address of the node's own interfaces.
    Allow,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `--source`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum SourceArg {
    Dir(PathBuf),
    Kube,
}

impl FromStr for SourceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "kube" => Ok(Self::Kube),
            Some(("dir", path)) if !path.is_empty() => Ok(Self::Dir(path.into())),
            _ => Err("must be kube or dir:PATH".into()),
        }
    }
}

/// Threads for what is not the agent's loop: watches, the control socket, metrics. One for each core,
/// as is usual, would take memory on a node with many and have nothing to do.
const WORKERS: usize = 2;

/// `NS/POD`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodArg(pub PodName);

impl FromStr for PodArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Self(PodName { namespace: namespace.into(), name: name.into() }))
            }
            _ => Err("must be NAMESPACE/POD".into()),
        }
    }
}

/// Runs the agent until it is told to stop.
///
/// # Errors
/// This machine cannot do it (exit status 3), and why. What was enforced stays enforced.
pub fn run(args: &AgentArguments) -> Result<(), Failure> {
    log_to_stderr(args.log_format)?;
    need_root("the agent")?;
    memory::be_lean();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .context("cannot start")?;
    let Some(node) = args.node_name.as_ref().filter(|_| !args.uninstall) else {
        uninstall(&args.bpffs, &args.state_dir)?;
        if args.wait {
            runtime.block_on(run::until_stopped())?;
        }
        return Ok(());
    };
    let origin = runtime.block_on(Origin::find(args))?;
    let done = runtime.block_on(enforce(args, node, origin));
    // A read of a great directory goes on in the background: its end is not worth waiting for.
    runtime.shutdown_background();
    Ok(done?)
}

/// Where objects come from, found and not yet watched.
enum Origin {
    Dir(PathBuf),
    Kube(Box<::kube::Config>),
}

impl Origin {
    async fn find(args: &AgentArguments) -> Result<Self, Failure> {
        match (&args.source, &args.kubeconfig) {
            (SourceArg::Dir(path), None) => Ok(Self::Dir(path.clone())),
            (SourceArg::Dir(_), Some(_)) => {
                Err(Failure::usage("--kubeconfig is for --source kube, and goes with no other"))
            }
            (SourceArg::Kube, file) => {
                let config = kube::config(file.as_deref()).await.map_err(Failure::usage)?;
                Ok(Self::Kube(Box::new(config)))
            }
        }
    }

    fn start(self, node: &str) -> anyhow::Result<Source> {
        match self {
            Self::Dir(path) => Ok(dir::start(path)),
            Self::Kube(config) => kube::start(*config, node.to_owned())
                .context("cannot make a client of the API server"),
        }
    }
}

/// How long a scrape or a probe waits for the agent's loop.
const METRICS_PATIENCE: Duration = Duration::from_secs(5);

/// Serves metrics and health where that is asked for, and returns the loop's end.
fn serve_metrics(args: &AgentArguments) -> anyhow::Result<Inquiries> {
    let (asker, inquiries) = metrics::inquiries(METRICS_PATIENCE);
    if let Some(address) = args.metrics_listen {
        let listener = metrics::http::listen(address)
            .with_context(|| format!("cannot listen on {address} (--metrics-listen)"))?;
        let address = listener.local_addr().context("cannot tell where metrics are served")?;
        tracing::info!(%address, "serving /metrics, /livez and /readyz");
        let options = metrics::http::Options { rules: args.rule_metrics };
        tokio::spawn(metrics::http::serve(listener, asker, options));
    }
    Ok(inquiries)
}

/// Takes the lock of the notes' directory: those of one agent mean nothing to another's tables.
fn hold_state_dir(path: &Path) -> anyhow::Result<Flock<File>> {
    match lock::hold(path) {
        Ok(held) => Ok(held),
        Err(LockError::Held) => bail!(
            "another agent keeps its notes in {}: end that one, or give this one a directory of its \
             own with --state-dir",
            path.display()
        ),
        Err(LockError::Io(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// Takes the lock of this network namespace.
fn hold_network() -> anyhow::Result<Option<UnixListener>> {
    match lock::hold_network() {
        Ok(held) => {
            if held.is_none() {
                tracing::warn!(
                    "a process that is not root's, or does not answer, is in the place of another \
                     agent; going on"
                );
            }
            Ok(held)
        }
        Err(LockError::Held) => bail!(
            "another agent enforces with the interfaces of this network namespace, perhaps with \
             another --bpffs: end that one first"
        ),
        Err(LockError::Io(error)) => Err(error).context("cannot tell whether another agent runs"),
    }
}

async fn enforce(args: &AgentArguments, node: &str, origin: Origin) -> anyhow::Result<()> {
    let _alone = hold_network()?;
    let pins = Pins::hold(&args.bpffs)?;
    std::fs::create_dir_all(&args.state_dir)
        .with_context(|| format!("cannot make {}", args.state_dir.display()))?;
    let _held = hold_state_dir(&args.state_dir)?;
    let notes = State::load(&args.state_dir).unwrap_or_else(|error| {
        tracing::warn!(%error, "going on without notes");
        None
    });
    // Which slot to trace must be known before the tables are: a restored place, or a free one.
    let mut slots = restore(notes.as_ref(), None)?;
    let trace_slot = match &args.trace {
        Some(PodArg(pod)) => NonZeroU32::new(slots.reserve(pod.clone())?),
        None => None,
    };
    let mut enforcer = Enforcer::open(pins, Backend::detect(), trace_slot, args.lifetimes.into())?;
    let notes = match notes {
        Some(notes) if is_older(&notes, &mut enforcer)? => {
            tracing::warn!("the notes are older than the kernel tables; going on without");
            None
        }
        notes => notes,
    };
    let mut slots = restore(notes.as_ref(), Some(&mut enforcer))?;
    if let Some(PodArg(pod)) = &args.trace {
        slots.reserve(pod.clone())?;
        print_trace(&mut enforcer)?;
    }
    let links = Links::open()?;
    let (sender, requests) = mpsc::channel(16);
    control::serve(&args.state_dir, sender).with_context(|| {
        format!("cannot listen on {}", control::socket_path(&args.state_dir).display())
    })?;
    let inquiries = serve_metrics(args)?;
    let reconciler =
        Reconciler::new(enforcer, node.to_owned(), args.state_dir.clone(), notes, slots)
            .with_site(site(args));
    let cni_trouble = args.cni_conf_dir.as_ref().map(|directory| {
        let (configurations, plugins) = (directory.clone(), args.cni_bin_dir.clone());
        let directories = cni::watch::Directories { configurations, plugins };
        cni::watch::start(directories, args.cni_entry.entry())
    });
    let source = origin.start(node)?;
    tracing::info!(node, source = source.name, "enforcing");
    Agent::new(reconciler, source, links, args.netns_dirs.clone(), node.to_owned())
        .with_cni(cni_trouble)
        .run(requests, inquiries)
        .await
}

fn site(args: &AgentArguments) -> Site {
    let host_egress = args.host_egress == HostEgress::Allow;
    Site { host_egress, ..args.service_aliases.iter().cloned().collect() }
}

/// True for notes that were written before the tables: by an agent with another state directory, or
/// put back from a copy. The places in them may be others' by now.
fn is_older(notes: &State, kernel: &mut Enforcer) -> anyhow::Result<bool> {
    let state = kernel.read()?;
    let mut endpoints = state.endpoints.values().map(|endpoint| endpoint.at(state.generation));
    Ok(endpoints.any(|endpoint| endpoint.is_present() && endpoint.epoch >= notes.next_epoch))
}

/// The places of pods, from the notes and from what the kernel holds.
fn restore(notes: Option<&State>, kernel: Option<&mut Enforcer>) -> anyhow::Result<Slots> {
    let mut lingering: BTreeMap<u32, Lingering> = BTreeMap::new();
    let mut next_epoch = notes.map_or(1, |notes| notes.next_epoch);
    if let Some(kernel) = kernel {
        let state = kernel.read()?;
        for (slot, endpoint) in &state.endpoints {
            let endpoint = endpoint.at(state.generation);
            if !endpoint.is_present() {
                continue;
            }
            let own = [endpoint.v4, endpoint.v6].into_iter().filter(|a| !a.is_unspecified());
            let addresses: BTreeSet<IpAddr> = own.map(IpAddr::from).collect();
            let left = Lingering { epoch: endpoint.epoch, addresses, interfaces: BTreeSet::new() };
            lingering.insert(*slot, left);
            next_epoch = next_epoch.max(endpoint.epoch.saturating_add(1));
        }
        for (ifindex, slot) in kernel.slots()? {
            lingering.entry(slot).or_default().interfaces.insert(ifindex);
        }
        // Flows of pods that are gone remember epochs that notes, lost or old, may not.
        for (key, _) in kernel.datapath().maps().flows()? {
            next_epoch = next_epoch.max(key.epoch.saturating_add(1));
        }
    }
    let places = notes.map(|notes| notes.places.clone()).unwrap_or_default();
    Ok(Slots::restore(places, lingering, next_epoch))
}

/// Sends the per-packet lines of the traced pod to the log.
fn print_trace(enforcer: &mut Enforcer) -> anyhow::Result<()> {
    let logger = aya_log::EbpfLogger::init(enforcer.datapath().object())
        .context("the programs have no trace")?;
    // SAFETY: the logger owns its ring's descriptor and keeps it open and the same until it is dropped,
    // after the registration inside `AsyncFd` has ended.
    let registered = unsafe { AsyncFd::register(logger) };
    let mut logger = registered.context("cannot wait for the trace")?;
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
    Ok(())
}

fn uninstall(bpffs: &Path, state_dir: &Path) -> anyhow::Result<()> {
    match Pins::hold_existing(bpffs) {
        Ok(pins) => enforcer::uninstall(pins, Backend::detect())?,
        Err(PinsError::Missing(path)) => {
            tracing::info!("{} does not exist: nothing was enforced with it", path.display());
        }
        Err(error) => return Err(error.into()),
    }
    State::remove(state_dir)?;
    admitted::remove(state_dir).with_context(|| state_dir.display().to_string())?;
    // The socket of an agent that ended without a chance to.
    let _ = std::fs::remove_file(control::socket_path(state_dir));
    match std::fs::remove_dir(state_dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            // It may be a mount point, or hold others' files.
            tracing::warn!("{} is left: {error}", state_dir.display());
        }
        _ => {}
    }
    tracing::info!("nothing is enforced any more");
    Ok(())
}

/// What kube-rs warns of is logged here once, as a fault, and not at every attempt.
const DEFAULT_LOG: &str = "info,kube_runtime=error,kube_client=off";

/// What is logged: `text`, or where that is empty [`DEFAULT_LOG`].
fn log_filter(text: &str) -> Result<EnvFilter, Failure> {
    let text = if text.is_empty() { DEFAULT_LOG } else { text };
    let wrong = |error: String| {
        Failure::usage(format!("SLUICE_LOG={text}: {error}; give a level, such as info or debug"))
    };
    // A word alone that is no level would be taken for the name of a module, and nothing else be logged.
    let mut words = text.split(',').filter(|word| !word.contains(['=', '[', ']', '}']));
    if let Some(word) = words.find(|word| word.parse::<LevelFilter>().is_err()) {
        return Err(wrong(format!("{word} is no level")));
    }
    EnvFilter::try_new(text).map_err(|error| wrong(error.to_string()))
}

/// # Errors
/// `SLUICE_LOG` says nothing that can be understood.
fn log_to_stderr(format: LogFormat) -> Result<(), Failure> {
    let filter = log_filter(&std::env::var("SLUICE_LOG").unwrap_or_default())?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_of_the_log_that_cannot_be_understood_is_bad_usage() {
        for text in ["", "debug", "info,kube_runtime=off", "off,sluice=trace"] {
            assert!(log_filter(text).is_ok(), "{text}");
        }
        for text in ["verbose", "info,debg", "info,sluice=loud", "sluice=debug=info"] {
            let Err(Failure::Usage(reason)) = log_filter(text) else { panic!("{text} is taken") };
            assert!(reason.starts_with(&format!("SLUICE_LOG={text}: ")), "{reason}");
        }
    }
}
