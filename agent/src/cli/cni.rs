//! `sluice cni`: the CNI plugin on a node, put there and taken away.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::agent::DEFAULT_STATE_DIR;
use super::{Failure, print};
use crate::cni::conflist::{self, Present};
use crate::cni::install::{self, InstallError, Outcome};
use crate::cni::spec::{DEFAULT_TIMEOUT_SECONDS, TIMEOUT_SECONDS_MAX};

/// Where runtimes look for plugins while nobody says otherwise.
pub const DEFAULT_BIN_DIR: &str = "/opt/cni/bin";

/// Has pods start only when their policies are in force.
///
/// The plugin stands behind the others in the node's network configuration. A pod that it is asked for
/// starts when the agent of the node says that its policies are in the kernel; until then, and where no
/// agent answers, it does not start, and the kubelet tries again.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  sluice cni install
  sluice agent --cni-conf-dir /etc/cni/net.d     keep the entry there while the agent runs
  sluice cni uninstall")]
pub struct CniArguments {
    /// What to do.
    #[command(subcommand)]
    command: CniCommand,
}

#[derive(Debug, Subcommand)]
enum CniCommand {
    /// Copy the plugin, and add its entry to the network configuration, if that is one it can be in
    Install(InstallArguments),
    /// Remove the entry, and then the plugin
    Uninstall(Directories),
}

/// Where container runtimes look.
#[derive(Debug, Args)]
struct Directories {
    /// Directory of network configurations; the first file in it is the one that counts
    #[arg(long, value_name = "DIR", env = "SLUICE_CNI_CONF_DIR", default_value = "/etc/cni/net.d")]
    cni_conf_dir: PathBuf,
    /// Directory of plugins
    #[arg(long, value_name = "DIR", env = "SLUICE_CNI_BIN_DIR", default_value = DEFAULT_BIN_DIR)]
    cni_bin_dir: PathBuf,
}

#[derive(Debug, Args)]
struct InstallArguments {
    #[command(flatten)]
    directories: Directories,
    #[command(flatten)]
    entry: EntryArguments,
}

/// What the plugin's entry in the network configuration says.
#[derive(Debug, Args)]
pub struct EntryArguments {
    /// State directory of the agent as the node sees it, whatever it is called where the agent runs
    #[arg(
        long,
        value_name = "DIR",
        env = "SLUICE_CNI_STATE_DIR",
        default_value = DEFAULT_STATE_DIR
    )]
    cni_state_dir: PathBuf,
    /// Seconds that a pod's start waits for its policies before it fails
    #[arg(
        long,
        value_name = "SECONDS",
        env = "SLUICE_CNI_TIMEOUT",
        default_value_t = DEFAULT_TIMEOUT_SECONDS,
        value_parser = clap::value_parser!(u64).range(1..=TIMEOUT_SECONDS_MAX)
    )]
    cni_timeout: u64,
}

impl EntryArguments {
    /// The entry, as text.
    pub fn entry(&self) -> String {
        conflist::entry(&self.cni_state_dir, self.cni_timeout)
    }
}

/// Installs or removes.
///
/// # Errors
/// [`Failure::Usage`] for a network configuration that the entry cannot be taken out of;
/// [`Failure::Cannot`] where a file cannot be written.
pub fn run(arguments: &CniArguments) -> Result<(), Failure> {
    match &arguments.command {
        CniCommand::Install(arguments) => install(arguments),
        CniCommand::Uninstall(directories) => uninstall(directories),
    }
}

fn install(arguments: &InstallArguments) -> Result<(), Failure> {
    let Directories { cni_conf_dir, cni_bin_dir } = &arguments.directories;
    // The configuration names the plugin: it must be there first.
    let plugin = install::binary(cni_bin_dir).map_err(failure)?;
    let entry = arguments.entry.entry();
    let outcome = install::add(cni_conf_dir, &entry, Present::IsReplaced);
    let plugin = plugin.display();
    // Without the entry, pods start as they did before. The agent, which starts behind this, must not be
    // kept from enforcing for it; where it is to keep the entry, it goes on trying and says why not.
    if let Err(error @ (InstallError::Configuration { .. } | InstallError::Ambiguous { .. })) =
        &outcome
    {
        eprintln!("sluice: warning: {error}");
        return print(&format!("{plugin} is in place, and no network configuration names it\n"));
    }
    let text = match outcome.map_err(failure)? {
        Outcome::Written(path) => format!("{plugin} is in place and named in {}\n", path.display()),
        Outcome::Unchanged(path) => {
            format!("{plugin} is in place and was named in {}\n", path.display())
        }
        Outcome::Missing => format!(
            "{plugin} is in place; there is no network configuration in {} yet, to which an agent with \
             --cni-conf-dir adds it when there is one\n",
            cni_conf_dir.display()
        ),
    };
    print(&text)
}

fn uninstall(directories: &Directories) -> Result<(), Failure> {
    let Directories { cni_conf_dir, cni_bin_dir } = directories;
    // A configuration must never name a plugin that is not there.
    for path in install::remove(cni_conf_dir).map_err(failure)? {
        print(&format!("{} is without the plugin\n", path.display()))?;
    }
    install::remove_binary(cni_bin_dir).map_err(failure)?;
    // An agent that keeps the entry may have added it meanwhile; without the plugin it adds none.
    install::remove(cni_conf_dir).map(drop).map_err(failure)
}

fn failure(error: InstallError) -> Failure {
    match error {
        InstallError::Io { .. } => Failure::Cannot(error.into()),
        InstallError::Configuration { .. } | InstallError::Ambiguous { .. } => {
            Failure::usage(error)
        }
    }
}
