//! `sluice probe`: the far hand of an end-to-end run, in a pod of its own. Hidden: its lines are a
//! matter between two binaries of one version.

mod node;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::signal::unix::{SignalKind, signal};

pub use self::node::Network;
use self::node::{NetworksArguments, RemainsArguments};
use super::{Failure, print};
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
    /// Print the network configurations of this node, as JSON: text, mode and owner by the file's name
    Networks(NetworksArguments),
}

/// Runs the command.
///
/// # Errors
/// [`Failure::No`] where something is left; [`Failure::Cannot`] where that cannot be known.
pub fn run(arguments: &ProbeArguments) -> Result<(), Failure> {
    match &arguments.what {
        What::Station => Ok(station()?),
        What::Remains(places) => {
            let found = node::remains(places)?;
            print(&json::render(&found))?;
            if found.is_empty() { Ok(()) } else { Err(Failure::No) }
        }
        What::Networks(places) => print(&json::render(&node::networks(places)?)),
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
