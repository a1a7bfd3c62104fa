//! `sluice lab`: a cluster of network namespaces with the real agent, to try policies by hand.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read as _, Seek as _};
use std::net::IpAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use sluice_policy::model::Protocol;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::input::InputArguments;
use super::{Failure, need_root, print};
use crate::cluster::Cluster;
use crate::lab::{self, BPFFS, Description, Lab, LabError, LabOptions};
use crate::report::terminal::Look;

/// How often `--watch` reads the manifests again.
const WATCH: Duration = Duration::from_millis(500);

/// Arguments of `sluice lab`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice lab up policies/ --watch          stays in the foreground; Ctrl-C takes it down
  sluice lab up policies/ --detach --name demo
  sluice lab exec --name demo shop/web -- curl -m 1 http://10.244.0.2:8080
  sluice lab down demo

All labs are made of network namespaces; nothing is made in the machine's own. `ip netns
exec` enters the namespaces that `lab up` and `lab list` name.

The exit status of `lab exec` is the command's; as in a shell, 127 where there is no such command
and 126 where it cannot be run.")]
pub struct LabArguments {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Build a lab from manifests and enforce their policies in it
    Up(UpArguments),
    /// Take a lab down; one that is not there is down already
    Down {
        /// Its name
        #[arg(default_value = DEFAULT_NAME)]
        name: String,
    },
    /// Run a command in the network of a pod, a node or an outside host
    Exec {
        /// The lab's name
        #[arg(long, default_value = DEFAULT_NAME)]
        name: String,
        /// NAMESPACE/POD, NAMESPACE/WORKLOAD (its first pod), node/NAME, or an outside host's address
        #[arg(value_name = "NS/POD")]
        whom: String,
        /// The command
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// List the labs that are up
    List {
        /// Form of the answer
        #[arg(long, short, value_enum, default_value_t)]
        output: LabOutput,
    },
    /// Wait for a lab's process to end, then take down what is left (started by `lab up`)
    #[command(hide = true)]
    Reap {
        /// Its name
        name: String,
    },
}

/// Name of a lab that is not given one.
const DEFAULT_NAME: &str = "lab";

#[derive(Debug, Args)]
struct UpArguments {
    #[command(flatten)]
    input: InputArguments,
    /// Name of the lab; several can be up side by side
    #[arg(long, default_value = DEFAULT_NAME)]
    name: String,
    /// Add a host outside the cluster with this address; repeatable
    #[arg(long, value_name = "ADDRESS")]
    external: Vec<IpAddr>,
    /// Read the manifests again when they change
    #[arg(long)]
    watch: bool,
    /// Return once the lab is up; `sluice lab down` takes it down
    #[arg(long)]
    detach: bool,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: LabOutput,
    /// This is the process that `--detach` has started
    #[arg(long, hide = true, conflicts_with = "detach")]
    background: bool,
}

/// Forms of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum LabOutput {
    /// Pods, their namespaces and addresses
    #[default]
    Table,
    /// The same as JSON
    Json,
}

/// Runs the command.
///
/// # Errors
/// Its exit status and what to say.
pub fn run(arguments: &LabArguments) -> Result<(), Failure> {
    need_root("a lab")?;
    match &arguments.command {
        LabCommand::Up(arguments) if arguments.detach => detach(arguments),
        LabCommand::Up(arguments) => up(arguments),
        LabCommand::Down { name } => down(name),
        LabCommand::Exec { name, whom, command } => exec(name, whom, command),
        LabCommand::List { output } => list(*output),
        LabCommand::Reap { name } => Ok(lab::reap(name)?),
    }
}

/// Bad names are bad usage; everything else is the machine's.
fn failure(error: LabError) -> Failure {
    match error {
        LabError::Name(_) | LabError::InUse(_) | LabError::Missing(_) | LabError::NoPod { .. } => {
            Failure::usage(error)
        }
        LabError::NotEnforced(_) | LabError::Machine(_) | LabError::Failed(_) => {
            Failure::Cannot(error.into())
        }
    }
}

fn up(arguments: &UpArguments) -> Result<(), Failure> {
    let stdin = arguments.input.paths.iter().any(|path| path.as_path() == Path::new("-"));
    if arguments.watch && stdin {
        return Err(Failure::usage("--watch cannot read standard input again"));
    }
    let cluster = arguments.input.load()?.cluster()?;
    let externals: BTreeSet<IpAddr> = arguments.external.iter().copied().collect();
    for address in &externals {
        if let Some(owner) = owner_of(*address, &cluster) {
            return Err(Failure::Usage(format!("--external {address}: is {owner}'s address")));
        }
    }
    let sluice = std::env::current_exe().context("cannot find this program's own file")?;
    let options =
        LabOptions { name: arguments.name.clone(), sluice, bpffs: BPFFS.into(), agents: true };
    let mut lab = Lab::up(options, &cluster, &externals).map_err(failure)?;
    let description = lab.description();
    // Before anybody is told that the lab is up: from then on a signal takes it down in order.
    let mut ends = Ends::listen().context("cannot listen for signals")?;
    print(&match arguments.output {
        LabOutput::Table => {
            table(&description) + &hints(&description, &cluster, arguments.background)
        }
        LabOutput::Json => json(&description)?,
    })?;
    if arguments.background {
        lab.redirect_output().context("cannot leave the terminal")?;
    }
    stay(&mut lab, &mut ends, arguments, cluster, &externals)?;
    Ok(lab.down()?)
}

/// Who in the cluster has an address.
fn owner_of(address: IpAddr, cluster: &Cluster) -> Option<String> {
    let pod = || cluster.pod_at(address).map(ToString::to_string);
    let node = || cluster.node_at(address).map(|node| format!("node {node}"));
    let service = || {
        let name = cluster.service_at(address)?;
        Some(format!("service {}/{}", name.namespace, name.name))
    };
    pod().or_else(node).or_else(service)
}

/// The signals that end a lab.
struct Ends {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Ends {
    fn listen() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let entered = runtime.enter();
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        let hangup = signal(SignalKind::hangup())?;
        drop(entered);
        Ok(Self { runtime, interrupt, terminate, hangup })
    }
}

/// Until a signal; with `--watch` the lab follows the manifests meanwhile.
fn stay(
    lab: &mut Lab,
    ends: &mut Ends,
    arguments: &UpArguments,
    mut cluster: Cluster,
    externals: &BTreeSet<IpAddr>,
) -> anyhow::Result<()> {
    let Ends { runtime, interrupt, terminate, hangup } = ends;
    runtime.block_on(async {
        let mut tick = tokio::time::interval(WATCH);
        let mut complaint = None;
        loop {
            tokio::select! {
                _ = interrupt.recv() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                _ = hangup.recv() => return Ok(()),
                _ = tick.tick(), if arguments.watch => {
                    let new = match read_again(arguments) {
                        Ok(new) => {
                            complaint = None;
                            new
                        }
                        Err(reason) => {
                            say_once(&mut complaint, format!("{reason}\nThe lab stays as it was."));
                            continue;
                        }
                    };
                    if new.objects != cluster.objects {
                        follow(lab, &new, externals)?;
                        cluster = new;
                    }
                }
            }
        }
    })
}

/// The cluster as the manifests are now, or what is wrong with them.
fn read_again(arguments: &UpArguments) -> Result<Cluster, String> {
    let read = || arguments.input.load_quietly()?.cluster();
    read().map_err(|failure| failure.reason().unwrap_or_default())
}

/// Files that stay wrong are complained about once.
fn say_once(said: &mut Option<String>, complaint: String) {
    if said.as_ref() != Some(&complaint) {
        eprintln!("sluice: {complaint}");
        *said = Some(complaint);
    }
}

/// Brings the lab to a changed cluster.
fn follow(lab: &mut Lab, cluster: &Cluster, externals: &BTreeSet<IpAddr>) -> anyhow::Result<()> {
    match lab.change(cluster, externals) {
        Ok(()) => eprintln!("The lab follows the change of the manifests."),
        Err(LabError::NotEnforced(reason)) => eprintln!("sluice: {reason}"),
        Err(error) => return Err(error).context("the lab could not follow the manifests"),
    }
    Ok(())
}

/// Runs `lab up` in a process of its own and waits until that is up, or has failed.
fn detach(arguments: &UpArguments) -> Result<(), Failure> {
    let sluice = std::env::current_exe().context("cannot find this program's own file")?;
    let mut complaints = tempfile::tempfile().context("cannot make a temporary file")?;
    let mut command = Command::new(sluice);
    command.args(["lab", "up", "--background", "--name", &arguments.name]);
    command.args(["--output", if arguments.output == LabOutput::Json { "json" } else { "table" }]);
    command.args(arguments.watch.then_some("--watch"));
    for address in &arguments.external {
        command.arg("--external").arg(address.to_string());
    }
    command.arg("--").args(&arguments.input.paths);
    command.stdout(Stdio::piped());
    command.stderr(complaints.try_clone().context("cannot share a temporary file")?);
    // SAFETY: between fork and exec only one setsid, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(nix::unistd::setsid().map(|_| ())?));
    }
    let mut child = command.spawn().context("cannot run this program again")?;
    let mut answer = String::new();
    // The other process closes its output when the lab is up.
    let mut output = child.stdout.take().context("the process has an output")?;
    output.read_to_string(&mut answer).context("cannot read the process's output")?;
    print(&answer)?;
    complaints.rewind().context("cannot read the process's messages")?;
    let mut messages = String::new();
    complaints.read_to_string(&mut messages).context("cannot read the process's messages")?;
    if !answer.is_empty() {
        eprint!("{messages}");
        return Ok(());
    }
    let status = child.wait().context("cannot wait for the process")?;
    let messages = messages.trim().trim_start_matches("sluice: ").to_string();
    match status.code() {
        Some(2) => Err(Failure::Usage(messages)),
        _ => Err(Failure::Cannot(anyhow!(messages))),
    }
}

fn down(name: &str) -> Result<(), Failure> {
    if !lab::down(name).map_err(failure)? {
        eprintln!("There is no lab named {name}.");
    }
    Ok(())
}

/// Replaces this process by the command, in the pod's namespace.
fn exec(name: &str, whom: &str, command: &[String]) -> Result<(), Failure> {
    lab::enter(name, whom).map_err(failure)?;
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::usage("there is no command"));
    };
    let error = Command::new(program).args(arguments).exec();
    Err(Failure::NotRun { program: program.clone(), error })
}

fn list(output: LabOutput) -> Result<(), Failure> {
    let labs = lab::list()?;
    let text = match output {
        LabOutput::Json => {
            let descriptions: Vec<_> = labs.values().flatten().collect();
            json(&descriptions)?
        }
        LabOutput::Table if labs.is_empty() => "No lab is up.\n".into(),
        LabOutput::Table => {
            let one = |(name, description): (&String, &Option<Description>)| match description {
                Some(description) => table(description),
                None => format!("lab {name} is on its way up or down\n"),
            };
            labs.iter().map(one).collect::<Vec<_>>().join("\n")
        }
    };
    print(&text)
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    Ok(serde_json::to_string_pretty(value).context("cannot write JSON")? + "\n")
}

fn table(lab: &Description) -> String {
    let mut table = Look::of_stdout().table();
    table.set_header(["WHO", "ADDRESSES", "NODE", "NETNS", "INTERFACE"]);
    let text = |addresses: &[IpAddr]| {
        addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
    };
    for pod in &lab.endpoints {
        let addresses = text(&pod.addresses);
        table.add_row([&pod.pod, &addresses, &pod.node, &pod.netns, &pod.interface]);
    }
    for node in &lab.nodes {
        table.add_row([
            &format!("node/{}", node.node),
            &text(&node.addresses),
            "",
            &node.netns,
            "",
        ]);
    }
    for host in &lab.externals {
        table.add_row(["outside host", &text(&host.addresses), "", &host.netns, ""]);
    }
    format!("lab {}\n{}\n", lab.lab, table.trim_fmt())
}

/// What to try next.
fn hints(lab: &Description, cluster: &Cluster, background: bool) -> String {
    let mut hints = String::from("\nTry:\n");
    let name = &lab.lab;
    if let (Some(first), Some(to)) = (lab.endpoints.first(), something_that_listens(lab, cluster)) {
        let connect = format!("timeout 1 bash -c ': < /dev/tcp/{}/{}' && echo open", to.0, to.1);
        let _ = writeln!(hints, "  sluice lab exec --name {name} {} -- {connect}", first.pod);
    }
    if let Some(node) = lab.nodes.first() {
        let (bpffs, state_dir) = (node.bpffs.display(), node.state_dir.display());
        let _ = writeln!(hints, "  sluice status --bpffs {bpffs} --state-dir {state_dir}");
    }
    let end = if background { "" } else { "   (or Ctrl-C here)" };
    let _ = writeln!(hints, "  sluice lab down {name}{end}");
    hints
}

/// Address and TCP port of the last pod that declares one.
fn something_that_listens(lab: &Description, cluster: &Cluster) -> Option<(IpAddr, u16)> {
    lab.endpoints.iter().rev().find_map(|endpoint| {
        let (pod, ports) = cluster.listens.iter().find(|(p, _)| p.to_string() == endpoint.pod)?;
        let port = ports.iter().find(|(protocol, _)| *protocol == Protocol::Tcp)?.1;
        let addresses = &cluster.world.pods.get(pod)?.addresses;
        Some((*addresses.iter().find(|address| address.is_ipv4())?, port))
    })
}
