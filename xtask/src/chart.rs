//! `cargo xtask chart`: the Helm chart, and the plain manifests that are made from it.

mod check;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

pub(crate) use self::check::check;
use crate::helm;
use crate::process::{Program, program};
use crate::workspace;

pub(crate) const SUMMARY: &str = "make the plain manifests of deploy/ from the Helm chart";
pub(crate) const HELP: &str = "
Usage: cargo xtask chart

Lints deploy/helm/sluice and writes what it renders to deploy/*.yaml. `cargo xtask test deploy` finds
those that are not up to date. Builds helm where there is none, once, which needs go.";

/// The namespace of the plain manifests.
const NAMESPACE: &str = "kube-system";

/// The Kubernetes that manifests are rendered for.
const KUBERNETES: &str = "1.34";

/// A manifest that is made from the chart.
struct Rendered {
    /// Below deploy/.
    file: &'static str,
    arguments: &'static [&'static str],
    /// For who opens the file.
    about: &'static str,
}

const RENDERED: &[Rendered] = &[
    Rendered {
        file: "sluice.yaml",
        arguments: &[],
        about: "sluice on every node: `kubectl apply -f` this.",
    },
    Rendered {
        file: "sluice-cni.yaml",
        arguments: &["--set", "cni.enabled=true"],
        about: "As sluice.yaml, and pods start only when their policies are in force: a CNI plugin.",
    },
    Rendered {
        file: "remove.yaml",
        arguments: &["--set", "removeFromNodes=true"],
        about: "Before the rest is deleted, apply this and wait until the DaemonSet is rolled out.",
    },
    Rendered {
        file: "rbac.yaml",
        arguments: &["--show-only", "templates/rbac.yaml"],
        about: "The agent's rights alone, for an agent that runs outside of the cluster.",
    },
];

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    if let Some(argument) = arguments.next()? {
        return Err(argument.unexpected().into());
    }
    let Some(helm) = helm::helm()? else { bail!("there is no helm") };
    lint(&helm)?;
    for rendered in RENDERED {
        let place = deploy().join(rendered.file);
        let text = rendered.text(&helm)?;
        fs::write(&place, text).with_context(|| place.display().to_string())?;
        println!("Wrote {}", place.display());
    }
    Ok(())
}

fn deploy() -> PathBuf {
    workspace::root().join("deploy")
}

fn chart() -> PathBuf {
    deploy().join("helm/sluice")
}

fn lint(helm: &Path) -> anyhow::Result<()> {
    program(helm).args(["lint", "--strict"]).arg(chart()).run()
}

/// What the chart makes of some arguments.
fn template(helm: &Path, arguments: &[&str]) -> Program {
    let render = program(helm).args(["template", "sluice"]).arg(chart());
    // Otherwise the one that a helm was built for, or none at all.
    render.args(["--namespace", NAMESPACE, "--kube-version", KUBERNETES]).args(arguments)
}

impl Rendered {
    /// What the file is to say.
    fn text(&self, helm: &Path) -> anyhow::Result<String> {
        let text = template(helm, self.arguments).output()?;
        Ok(format!(
            "# {}\n# Made by `cargo xtask chart` from the chart in helm/sluice: change that instead.\n{text}",
            self.about
        ))
    }
}
