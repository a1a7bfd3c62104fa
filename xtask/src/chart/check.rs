//! `cargo xtask test deploy`: the chart, the manifests, the alerts and the dashboard.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;

use super::{RENDERED, deploy, lint, template};
use crate::helm;
use crate::process::program;
use crate::workspace;

/// Values that the chart must take.
const TAKEN: &[&str] = &[
    "image.digest=sha256:0000000000000000000000000000000000000000000000000000000000000000",
    "hostEgress=allow",
    "metrics.address=127.0.0.1",
    "metrics.address=[fd00::1]",
    "host.netnsDirs={/run/netns,/run/docker/netns}",
    "serviceAliases[0].service=kube-system/kube-dns,serviceAliases[0].address=169.254.20.10",
    "apiServer.host=10.0.0.1,apiServer.port=6443",
    "cni.enabled=true",
    "cni.enabled=true,removeFromNodes=true",
    "cni.remove=true",
    "cni.confDir=/var/lib/rancher/k3s/agent/etc/cni/net.d",
    "extraCapabilities={SYS_RESOURCE}",
    "podMonitor.enabled=true,prometheusRule.enabled=true",
    "updateStrategy.rollingUpdate.maxUnavailable=1",
];

/// Values that the chart must refuse, and what it must name then.
const REFUSED: &[(&str, &str)] = &[
    ("hostEgres=allow", "hostEgres"),
    ("hostEgress=maybe", "hostEgress"),
    ("image.pullPolicy=Sometimes", "pullPolicy"),
    ("image.digest=sha256:0", "digest"),
    ("metrics.port=70000", "port"),
    ("metrics.port=http", "port"),
    ("metrics.address=localhost", "address"),
    ("metrics.rules=often", "rules"),
    ("host.bpffs=sys/fs/bpf", "bpffs"),
    ("host.stateDir=/run/sluice/", "stateDir"),
    ("host.stateDir=/run/../sluice", "stateDir"),
    ("host.netnsDirs=null", "netnsDirs"),
    ("host.netnsDirs={}", "netnsDirs"),
    ("host=null", "host"),
    ("serviceAliases[0].service=kube-dns,serviceAliases[0].address=::1", "service"),
    ("serviceAliases[0].service=x/y,serviceAliases[0].address=300.1.1.1", "address"),
    ("serviceAliases[0].service=x/y", "address"),
    ("apiServer.host=10.0.0.1", "port"),
    ("apiServer.port=6443", "port"),
    ("cni.enabled=1", "enabled"),
    ("cni.enabled=true,cni.remove=true", "remove"),
    ("cni.binDir=opt/cni/bin", "binDir"),
    ("extraCapabilities={CAP_SYS_RESOURCE}", "extraCapabilities"),
    ("log.format=xml", "format"),
    ("tolerations[0].operator=Any", "operator"),
    ("updateStrategy.rollingUpdate.maxSurge=1", "maxSurge"),
    ("podMonitor.interval=often", "interval"),
];

/// Checks all of deploy/ that needs no cluster. Where helm cannot be had, that is said and the rest
/// still counts.
///
/// # Errors
/// Everything that is not as it should be.
pub(crate) fn check() -> anyhow::Result<()> {
    let mut faults = Vec::new();
    if let Some(helm) = helm::helm()? {
        lint(&helm)?;
        faults.extend(outdated(&helm)?);
        faults.extend(judged_wrongly(&helm)?);
    }
    program("promtool").args(["check", "rules", "deploy/helm/sluice/files/alerts.yaml"]).run()?;
    program("promtool").args(["test", "rules", "deploy/tests/alerts.yaml"]).run()?;
    check_dashboard()?;
    ensure!(faults.is_empty(), "deploy:\n  {}", faults.join("\n  "));
    Ok(())
}

/// Manifests that are not what the chart makes, and a chart of another version.
fn outdated(helm: &Path) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for rendered in RENDERED {
        let place = deploy().join(rendered.file);
        let found = fs::read_to_string(&place).with_context(|| place.display().to_string())?;
        if found != rendered.text(helm)? {
            faults.push(format!("{} is not up to date: run `cargo xtask chart`", place.display()));
        }
    }
    let chart = program(helm).args(["show", "chart"]).arg(super::chart()).output()?;
    for field in ["version", "appVersion"] {
        let wanted = format!("{field}: {}", env!("CARGO_PKG_VERSION"));
        if !chart.lines().any(|line| line == wanted) {
            faults.push(format!("Chart.yaml lacks `{wanted}`, the version of the workspace"));
        }
    }
    Ok(faults)
}

/// Values that the chart takes or refuses and should not.
fn judged_wrongly(helm: &Path) -> anyhow::Result<Vec<String>> {
    let mut faults = Vec::new();
    for values in TAKEN {
        if let Err(refusal) = template(helm, &["--set", values]).attempt()? {
            faults.push(format!("the chart refuses {values}: {refusal}"));
        }
    }
    for (values, named) in REFUSED {
        match template(helm, &["--set", values]).attempt()? {
            Ok(_) => faults.push(format!("the chart takes {values}")),
            Err(refusal) if !refusal.contains("schema") || !refusal.contains(named) => {
                faults.push(format!("of {values} the schema does not say {named}: {refusal}"));
            }
            Err(_) => {}
        }
    }
    println!("values: {} taken, {} refused", TAKEN.len(), REFUSED.len());
    Ok(faults)
}

/// Every expression of the dashboard is one that Prometheus understands: as the rules of a file, they
/// are checked by promtool. That the metrics exist is for the agent's tests.
fn check_dashboard() -> anyhow::Result<()> {
    let path = deploy().join("dashboards/sluice.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let dashboard: Value =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let mut rules = Vec::new();
    for panel in dashboard["panels"].as_array().context("the dashboard has no panels")? {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let title = panel["title"].as_str().unwrap_or_default();
            let Some(expression) = target["expr"].as_str() else {
                bail!("a target of the panel {title} has no expression");
            };
            let expression = expression.replace("$__rate_interval", "5m");
            rules.push(serde_json::json!({
                "record": format!("sluice:panel:{}", rules.len()), "expr": expression,
                "labels": {"panel": title},
            }));
        }
    }
    ensure!(!rules.is_empty(), "{} asks for nothing", path.display());
    let rules = serde_json::json!({"groups": [{"name": "dashboard", "rules": rules}]});
    // JSON is YAML.
    let place = workspace::target_dir()?.join("dashboard-rules.yaml");
    fs::write(&place, rules.to_string()).with_context(|| place.display().to_string())?;
    program("promtool").args(["check", "rules"]).arg(place).run()
}
