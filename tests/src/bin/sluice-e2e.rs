//! `sluice-e2e`: sluice on a real cluster, from its installation to its removal. `cargo xtask e2e`
//! builds and runs it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use sluice_tests::e2e::cases;
use sluice_tests::e2e::install::default_folder;
use sluice_tests::e2e::run::{NoRun, Settings, run};
use sluice_tests::e2e::stage::Image;

/// Installs sluice on a cluster, tries everything there, and uninstalls it
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask e2e",
    after_help = "\
Exit status:
  0  everything is as it is to be
  1  something is not
  2  bad usage or bad input
  3  the cluster cannot do it"
)]
struct Arguments {
    /// The cluster; its user must be allowed to do everything
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Folder with sluice.yaml, sluice-cni.yaml and remove.yaml; otherwise the repository's deploy/
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// Image of the agent and of probe pods; otherwise the one that the manifests say
    #[arg(long, value_name = "NAME")]
    image: Option<String>,
    /// When nodes pull --image
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent")]
    pull_policy: PullPolicy,
    /// A file with PolicyTests; repeatable; otherwise those of tests/cases/
    #[arg(long, value_name = "FILE")]
    case: Vec<PathBuf>,
    /// Leave everything as it is at the end
    #[arg(long)]
    keep: bool,
    /// Form of the answer
    #[arg(long, short, value_enum, default_value_t)]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A summary, and what differs
    #[default]
    Table,
    /// Everything, as JSON
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match settings(&arguments).map_err(NoRun::Input).and_then(|settings| {
        let runtime = tokio::runtime::Runtime::new();
        let runtime = runtime.map_err(|error| NoRun::Cluster(error.into()))?;
        let report = runtime.block_on(run(&arguments.kubeconfig, &settings));
        // What is attached to a pod is not waited for.
        runtime.shutdown_background();
        report
    }) {
        Ok(report) => {
            match arguments.output {
                Output::Table => print!("{}", report.text()),
                Output::Json => print!("{}", sluice::report::json::render(&report)),
            }
            ExitCode::from(u8::from(!report.is_good()))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(match error {
                NoRun::Input(_) => 2,
                NoRun::Cluster(_) => 3,
            })
        }
    }
}

fn settings(arguments: &Arguments) -> anyhow::Result<Settings> {
    let cases = match arguments.case.as_slice() {
        [] => cases::files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("cases"))?,
        given => given.to_vec(),
    };
    let pull_policy = format!("{:?}", arguments.pull_policy);
    let image = arguments.image.clone().map(|name| Image { name, pull_policy });
    let manifests = arguments.manifests.clone().unwrap_or_else(default_folder);
    Ok(Settings { manifests, image, cases, keep: arguments.keep })
}
