//! `sluice probe`: the far hand of an end-to-end run, in a pod of its own. Hidden: its lines are a
//! matter between two binaries of one version.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::signal::unix::{SignalKind, signal};

use super::agent::{DEFAULT_BPFFS, DEFAULT_STATE_DIR};
use super::{Failure, print};
use crate::datapath::attach;
use crate::lab::resident::{Job, Numbered, Reply, Resident};
use crate::report::json;

/// Arguments of `sluice probe`.
#[derive(Debug, Args)]
pub struct ProbeArguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Do jobs: one line of JSON each on standard input, answered by one line
    Station,
    /// List what sluice has left on this node; exit status 1 where there is something
    Remains(RemainsArguments),
}

#[derive(Debug, Args)]
struct RemainsArguments {
    /// Directory for pins that the agent had
    #[arg(long, value_name = "DIR", env = "SLUICE_BPFFS", default_value = DEFAULT_BPFFS)]
    bpffs: PathBuf,
    /// State directory that the agent had
    #[arg(long, value_name = "DIR", env = "SLUICE_STATE_DIR", default_value = DEFAULT_STATE_DIR)]
    state_dir: PathBuf,
    /// Directory of CNI configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Directory of CNI plugins
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    cni_bin_dir: PathBuf,
}

/// Runs the command.
///
/// # Errors
/// [`Failure::No`] where something is left; [`Failure::Cannot`] where that cannot be known.
pub fn run(arguments: &ProbeArguments) -> Result<(), Failure> {
    match &arguments.what {
        What::Station => Ok(station()?),
        What::Remains(places) => {
            let found = remains(places)?;
            print(&json::render(&found))?;
            if found.is_empty() { Ok(()) } else { Err(Failure::No) }
        }
    }
}

/// Does jobs until it is told to stop. Its sockets live as long as it does, also while nobody is at
/// the other end of standard input.
fn station() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        // The first process of a container does not end by a signal that it has no handler for.
        let mut stop = signal(SignalKind::terminate())?;
        tokio::select! {
            result = serve() => result,
            _ = stop.recv() => Ok(()),
        }
    });
    // The thread that reads standard input would be waited for.
    runtime.shutdown_background();
    done
}

async fn serve() -> anyhow::Result<()> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    let mut resident = Resident::default();
    while let Some(line) = lines.next_line().await? {
        let Numbered { number, content } = serde_json::from_str::<Numbered<Job>>(&line)
            .with_context(|| format!("not a job: {line}"))?;
        let reply: Numbered<Reply> = Numbered { number, content: resident.work(content).await };
        let mut text = serde_json::to_string(&reply)?;
        text.push('\n');
        out.write_all(text.as_bytes()).await?;
        out.flush().await?;
    }
    // What listens goes on answering.
    std::future::pending().await
}

/// Everything of sluice that this node still has, in words.
fn remains(places: &RemainsArguments) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    for (what, directory) in [("pins", &places.bpffs), ("notes", &places.state_dir)] {
        for name in names_in(directory)? {
            found.push(format!("{what}: {}", directory.join(name).display()));
        }
    }
    for name in names_in(&places.cni_bin_dir)?.iter().filter(|name| name.starts_with("sluice")) {
        found.push(format!("CNI plugin: {}", places.cni_bin_dir.join(name).display()));
    }
    for name in names_in(&places.cni_conf_dir)? {
        let path = places.cni_conf_dir.join(name);
        let text = fs::read(&path).with_context(|| path.display().to_string())?;
        if String::from_utf8_lossy(&text).contains("sluice") {
            found.push(format!("CNI configuration: {}", path.display()));
        }
    }
    for interface in &nix::net::if_::if_nameindex().context("cannot list the interfaces")? {
        let name = interface.name().to_string_lossy();
        let programs = attach::own_tcx(interface.index());
        let programs = programs.with_context(|| format!("cannot ask for programs on {name}"))?;
        found.extend(programs.into_iter().map(|program| format!("program on {name}: {program}")));
    }
    Ok(found)
}

/// Sorted; none where there is no such directory.
fn names_in(directory: &Path) -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| directory.display().to_string())?,
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
