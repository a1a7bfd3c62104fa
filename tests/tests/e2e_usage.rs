//! `sluice-e2e` where it cannot begin. The run itself needs a cluster: `cargo xtask test e2e`.

use std::process::Command;

const KUBECONFIG: &str = "\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: \"https://127.0.0.1:1\"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
";

const MANIFESTS: &str = "\
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: sluice, namespace: kube-system}
spec: {template: {spec: {containers: [{name: agent, image: example.com/sluice}]}}}
";

/// Exit code and standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice-e2e")).args(arguments).output();
    let output = output.expect("it can be run");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn what_is_given_wrongly_is_bad_input_and_a_cluster_that_is_away_is_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (kubeconfig, manifests, case) = (path("kubeconfig"), path(""), path("case.yaml"));
    std::fs::write(&kubeconfig, KUBECONFIG).expect("written");
    for name in ["sluice.yaml", "remove.yaml"] {
        std::fs::write(path(name), MANIFESTS).expect("written");
    }
    std::fs::write(&case, "kind: PolicyTest").expect("written");
    let missing = path("nowhere");
    let given = ["--kubeconfig", &kubeconfig, "--manifests", &manifests];
    for (arguments, code, part) in [
        (vec![], 2, "--kubeconfig"),
        (vec!["--kubeconfig", &missing, "--manifests", &manifests], 2, &missing[..]),
        (vec!["--kubeconfig", &kubeconfig, "--manifests", &missing], 2, "sluice.yaml"),
        ([&given[..], &["--case", &case]].concat(), 2, "case.yaml"),
        (given.to_vec(), 3, "https://127.0.0.1:1"),
    ] {
        let (got, errors) = run(&arguments);
        assert_eq!(got, Some(code), "{arguments:?}: {errors}");
        assert!(errors.contains(part), "{arguments:?}: {errors}");
    }
}
