//! `cargo xtask e2e`: sluice on a real cluster, from its installation to its removal.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::ensure;

use crate::process::{cargo, program};
use crate::setup::{self, Purpose};
use crate::workspace;

pub(crate) const SUMMARY: &str = "install sluice on a cluster, try everything there, uninstall it";
pub(crate) const HELP: &str = "
Usage: cargo xtask e2e --kubeconfig FILE [OPTIONS]

Applies deploy/sluice.yaml; runs the PolicyTests of tests/cases through real pods and Services; looks
at metrics, status and Events; replaces the agents under traffic; turns on the CNI plugin, and takes the
agents away for some seconds, in which no pod starts; uninstalls, and looks for what is left. Whatever
happens, it removes what it made. Nodes must be able to get the image: push it to a registry and name it
with --image, or import it on each node (`cargo xtask image` makes it).

Options:
  --kubeconfig FILE       the cluster; its user must be allowed to do everything
  --image NAME            image of the agent and of probe pods; otherwise the one of the manifests
  --pull-policy POLICY    Always, IfNotPresent (the default) or Never, with --image
  --manifests DIR         folder with sluice.yaml, remove.yaml and sluice-cni.yaml (without which the
                          plugin is left out); otherwise deploy/
  --case FILE             a file with PolicyTests; repeatable; otherwise those of tests/cases/
  --keep                  leave everything as it is at the end
  -o, --output FORM       table (the default) or json

Exit status: 0 everything is as it is to be, 1 something is not, 2 bad usage or bad input, 3 the
cluster cannot do it.";

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let passed: Vec<OsString> = arguments.raw_args()?.collect();
    // Paths mean what they mean to the caller, not to cargo.
    let here = std::env::current_dir()?;
    let run = program(build()?).args(passed).directory(&here);
    // Ctrl-C reaches the run, which removes what it made.
    ctrlc::set_handler(|| {})?;
    match run.watch()? {
        Some(0) => Ok(()),
        code => std::process::exit(code.unwrap_or(1)),
    }
}

/// Builds what runs it.
pub(crate) fn build() -> anyhow::Result<PathBuf> {
    setup::ensure(Purpose::Build)?;
    let build =
        cargo("build").args(["--locked", "--package", "sluice-tests", "--bin", "sluice-e2e"]);
    ensure!(build.watch()? == Some(0), "the run cannot be built");
    Ok(workspace::target_dir()?.join("debug/sluice-e2e"))
}
