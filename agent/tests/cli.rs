//! What the binary prints and how it ends, in the engines that need no root.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

const SHOP: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec:
  containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec:
  containers: [{name: c, ports: [{containerPort: 5432}]}]
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: http}], from: [{podSelector: {matchLabels: {app: db}}}]}]
";

fn test(probes: &str) -> String {
    format!(
        "{SHOP}---\napiVersion: sluice.dev/v1alpha1\nkind: PolicyTest\nmetadata: {{name: t}}\nsteps:\n- name: first\n  probes:\n{probes}"
    )
}

fn sluice(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built for this test");
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A command that refuses its arguments does not read its input.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("the binary ends")
}

/// Exit status, standard output, standard error.
fn run(arguments: &[&str], input: &str) -> (Option<i32>, String, String) {
    let output = sluice(arguments, input);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8 output");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json_of(arguments: &[&str], input: &str) -> (Option<i32>, Value) {
    let (status, out, err) = run(arguments, input);
    (status, serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}")))
}

const GOOD: &str = "  - {from: shop/db, to: shop/web, port: 8080, expect: allow}\n";
const WRONG: &str = "  - {from: 203.0.113.9, to: shop/web, port: 8080, expect: allow}\n";

#[test]
fn a_test_that_holds_prints_its_summary_only() {
    for engine in ["model", "tables"] {
        let (status, out, err) = run(&["test", "-", "--engine", engine], &test(GOOD));
        assert_eq!(out, format!("1 test, 1 probe in engine `{engine}`: 1 as expected\n"));
        assert_eq!((status, err.as_str()), (Some(0), ""));
    }
}

#[test]
fn a_test_that_does_not_hold_prints_what_differs_and_ends_with_1() {
    let input = test(&format!("{GOOD}{WRONG}"));
    let (status, out, err) = run(&["test", "-"], &input);
    assert_eq!((status, err.as_str()), (Some(1), ""));
    let expected = "\
t (<stdin>), step 1: first
 PROBE                                 EXPECTED  GOT   EGRESS  INGRESS
 203.0.113.9 → shop/web TCP 8080 IPv4  allow     deny  -       deny (default-deny)

1 test, 2 probes in engine `tables`: 1 as expected, 1 mismatched
";
    assert_eq!(out, expected);
}

#[test]
fn json_has_the_documented_form() {
    let input = test(&format!(
        "{GOOD}{WRONG}  - {{from: node/node-1, to: 'fd00:10:244::3', protocol: ICMP}}\n"
    ));
    let (status, report) = json_of(&["test", "-", "-o", "json"], &input);
    assert_eq!(status, Some(1));
    let side = |verdict: &str, isolated: bool, decided_by: &str| json!({"verdict": verdict, "isolated": isolated, "decided_by": decided_by});
    let expected = json!({
        "engine": "tables",
        "tests": [{"name": "t", "file": "<stdin>", "steps": [{"name": "first", "probes": [
            {"from": "shop/db", "to": "shop/web", "protocol": "TCP", "port": 8080, "family": "IPv4",
             "expect": "allow", "verdict": "allow",
             "egress": side("allow", false, "default-allow"),
             "ingress": side("allow", true, "NetworkPolicy shop/web ingress[0]")},
            {"from": "203.0.113.9", "to": "shop/web", "protocol": "TCP", "port": 8080,
             "family": "IPv4", "expect": "allow", "verdict": "deny",
             "ingress": side("deny", true, "default-deny")},
            {"from": "node/node-1", "to": "fd00:10:244::3", "protocol": "ICMP", "family": "IPv6",
             "verdict": "allow", "ingress": side("allow", true, "host")},
        ]}]}],
        "warnings": [],
        "summary": {"tests": 1, "probes": 3, "as_expected": 1, "mismatched": 1, "unreachable": 0},
    });
    assert_eq!(report, expected);
}

#[test]
fn junit_has_a_case_for_each_probe() {
    let (status, out, _) = run(&["test", "-", "-o", "junit"], &test(&format!("{GOOD}{WRONG}")));
    assert_eq!(status, Some(1));
    for part in [
        r#"<testsuite name="t (&lt;stdin&gt;)" tests="2" skipped="0" errors="0" failures="1">"#,
        r#"<testcase name="step 1 (first): shop/db → shop/web TCP 8080 IPv4" classname="t"/>"#,
        r#"<failure message="expected allow, got deny">ingress: deny by default-deny</failure>"#,
    ] {
        assert!(out.contains(part), "no {part} in {out}");
    }
}

#[test]
fn a_service_is_judged_by_its_backend() {
    let probes = "  - {from: shop/db, to: svc/shop/web, port: 80, expect: allow}
  - {from: shop/web, to: svc/shop/web, port: 80, expect: allow}
  - {from: node/node-1, to: svc/shop/web, port: 80, expect: allow}
  - {from: 203.0.113.9, to: svc/shop/web, port: 80, expect: deny}\n";
    let (status, report) = json_of(&["test", "-", "-o", "json"], &test(probes));
    assert_eq!(status, Some(0), "{report}");
    // To itself through its service.
    let own = &report["tests"][0]["steps"][0]["probes"][1];
    assert_eq!(own["ingress"]["decided_by"], "self", "{own}");
}

#[test]
fn a_service_without_a_backend_is_unreachable() {
    let input = test("  - {from: shop/db, to: svc/shop/none, port: 80, expect: deny}\n")
        + "---\napiVersion: v1\nkind: Service\nmetadata: {name: none, namespace: shop}\nspec: {selector: {app: none}, ports: [{port: 80}]}\n";
    let (status, report) = json_of(&["test", "-", "-o", "json"], &input);
    assert_eq!(status, Some(1));
    assert_eq!(report["summary"]["unreachable"], 1, "{report}");
}

#[test]
fn an_established_connection_is_opened_in_the_step_before() {
    let steps = "
- apply:
  - apiVersion: networking.k8s.io/v1
    kind: NetworkPolicy
    metadata: {name: web, namespace: shop}
    spec: {podSelector: {matchLabels: {app: web}}}
  probes:
  - {from: shop/db, to: shop/web, port: 8080, established: true, expect: deny}
- delete: [{kind: NetworkPolicy, namespace: shop, name: web}]
  probes:
  - {from: shop/db, to: shop/web, port: 8080, expect: allow}
  - {from: 203.0.113.9, to: shop/web, port: 8080, established: true}
";
    let (_, report) = json_of(&["test", "-", "-o", "json"], &test(&format!("{GOOD}{steps}")));
    let verdict = |step: usize, probe: usize| {
        report["tests"][0]["steps"][step]["probes"][probe]["verdict"].clone()
    };
    assert_eq!(verdict(1, 0), "deny", "cut: its allow is gone");
    assert_eq!(verdict(2, 0), "allow");
    assert_eq!(verdict(2, 1), "unreachable", "it never was open");
}

#[test]
fn the_matrix_shows_who_reaches_whom() {
    let (status, out, _) = run(&["matrix", "-", "--port", "8080"], SHOP);
    assert_eq!(status, Some(0));
    let expected = "           shop/db  shop/web
 shop/db      .         .
 shop/web     .         .

from row to column, TCP 8080

. allowed   X denied   ? no answer
";
    assert_eq!(out, expected);
    let (status, report) = json_of(&["matrix", "-", "-o", "json"], SHOP);
    assert_eq!(status, Some(0));
    assert_eq!(report["ports"], json!([5432, 8080]));
    assert_eq!(report["pods"], json!(["shop/db", "shop/web"]));
    assert_eq!(report["verdicts"].as_array().map(Vec::len), Some(8));
    let expected = json!({"from": "shop/db", "to": "shop/web", "protocol": "TCP", "port": 5432,
        "verdict": "deny"});
    assert_eq!(report["verdicts"][2], expected);
}

#[test]
fn a_denied_probe_is_explained_and_that_is_no_failure() {
    let arguments =
        ["explain", "-", "--from", "203.0.113.9", "--to", "svc/shop/web", "--port", "80"];
    let (status, out, _) = run(&arguments, SHOP);
    assert_eq!(status, Some(0));
    assert!(out.starts_with("203.0.113.9 → svc/shop/web TCP 80 IPv4: deny\n"), "{out}");
    assert!(out.contains("NetworkPolicy shop/web ingress[0]"), "{out}");
    let (_, report) = json_of(&[&arguments[..], &["-o", "json"]].concat(), SHOP);
    assert_eq!(report["verdict"], "deny");
    assert_eq!(report["ingress"]["decided_by"], "default-deny");
    assert_eq!(report["backend"], json!({"address": "10.244.0.3", "port": 8080}));
}

#[test]
fn usage_errors_end_with_2() {
    for arguments in [
        &["test"][..],
        &["test", "-", "--engine", "none"],
        &["test", "-"],
        &["matrix", "-", "--port", "0"],
        &["matrix", "-", "--protocol", "tcp"],
        &["explain", "-", "--from", "shop/db", "--to", "shop/web"],
        &["explain", "-", "--from", "shop", "--to", "shop/web", "--port", "1"],
        &["explain", "-", "--from", "shop/db", "--to", "svc/shop/web", "--port", "81"],
        &["no-such-command"],
    ] {
        let (status, out, err) = run(arguments, SHOP);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{arguments:?}: {err}");
        assert!(!err.is_empty(), "{arguments:?}");
        assert!(!err.contains("panicked"), "{arguments:?}: {err}");
    }
}

#[test]
fn every_command_has_help_with_examples() {
    let (status, out, _) = run(&["--help"], "");
    assert_eq!(status, Some(0));
    for command in ["agent", "test", "matrix", "explain", "lab", "inspect", "status", "completions"]
    {
        assert!(out.contains(&format!("  {command} ")), "no {command} in {out}");
        let (status, help, _) = run(&[command, "--help"], "");
        assert_eq!(status, Some(0));
        assert!(help.contains("Examples:\n  sluice "), "no examples in the help of {command}");
    }
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (status, out, _) = run(&["completions", shell], "");
        assert_eq!(status, Some(0));
        assert!(out.contains("explain") && out.contains("matrix"), "{shell}: {out}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary was built for this test");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the binary ends");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_negative_port_is_a_port_that_is_wrong() {
    let arguments = ["explain", "-", "--from", "shop/db", "--to", "shop/web", "--port", "-1"];
    let (status, out, err) = run(&arguments, SHOP);
    assert_eq!((status, out.as_str()), (Some(2), ""));
    assert_eq!(err, "sluice: --port: -1 is no port: must be between 1 and 65535\n");
}
