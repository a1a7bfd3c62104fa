//! Every manifest in `tests/cases/bad` is refused for the reason that its first line gives:
//! `# error: field=PATH reason contains=TEXT`, where `-` stands for anything.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/cases/bad");
    let entries = std::fs::read_dir(&directory).expect("the bad cases are in the repository");
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.expect("a readable directory").path()).collect();
    files.sort();
    assert!(files.len() > 15, "only {} bad cases found", files.len());
    files
}

fn sluice(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .output()
        .expect("the binary was built for this test")
}

/// What the first line of a case says: field and reason.
fn expectation(file: &Path) -> (String, String) {
    let text = std::fs::read_to_string(file).expect("a readable case");
    let line = text.lines().next().unwrap_or_default();
    let parsed = line
        .strip_prefix("# error: field=")
        .and_then(|rest| rest.split_once(" reason contains="))
        .unwrap_or_else(|| panic!("{}: first line is no expectation: {line}", file.display()));
    (parsed.0.to_owned(), parsed.1.to_owned())
}

#[test]
fn every_bad_manifest_is_refused_for_its_reason() {
    for file in cases() {
        let (field, reason) = expectation(&file);
        let path = file.to_str().expect("a UTF-8 path");
        let output = sluice(&["test", path, "--engine", "model"]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{path}: {errors}");
        assert!(output.stdout.is_empty(), "{path}: bad input gives no answer");
        let place = format!("{path}:");
        let found = errors.lines().any(|line| {
            line.contains(&place)
                && line.contains(": document ")
                && (field == "-" || line.contains(&format!(": {field}: ")))
                && (reason == "-" || line.contains(&reason))
        });
        assert!(found, "{path}: no error about {field} with `{reason}` in:\n{errors}");
    }
}

fn refused(name: &str, text: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("a writable directory");
    let output = sluice(&["matrix", path.to_str().expect("a UTF-8 path")]);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{errors}");
    errors.replace(path.to_str().expect("a UTF-8 path"), name)
}

#[test]
fn all_errors_of_the_input_are_reported_at_once() {
    let errors = refused(
        "three.yaml",
        "kind: Pod\n---\na: [\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: A}\nspec: {container: []}\n",
    );
    assert_eq!(
        errors,
        "sluice: 3 errors in the input:\n  \
         three.yaml:1: document 1: apiVersion: must be set\n  \
         three.yaml:3: document 2: unclosed bracket '[' (column 4)\n  \
         three.yaml:8: document 3: Pod default/A: spec.container: unknown field\n"
    );
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for i in 1..12 {
        let aliases = vec![format!("*a{}", i - 1); 10].join(",");
        bomb.push_str(&format!("a{i}: &a{i} [{aliases}]\n"));
    }
    assert!(refused("bomb.yaml", &bomb).contains("bomb.yaml:"));
}

#[test]
fn an_input_that_is_too_large_is_refused_before_it_is_parsed() {
    let huge = "# a comment\n".repeat(6 << 20);
    let errors = refused("huge.yaml", &huge);
    assert_eq!(
        errors,
        "sluice: huge.yaml: larger than 64 MiB, the most that is read of one input\n"
    );
}

#[test]
fn what_is_not_there_or_not_text_is_named() {
    let output = sluice(&["test", "no-such-file.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "sluice: no-such-file.yaml: No such file or directory (os error 2)\n"
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().to_str().expect("a UTF-8 path").to_owned();
    let output = sluice(&["test", &path]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("no *.yaml, *.yml or *.json file"), "{errors}");
    let binary = directory.path().join("x.yaml");
    std::fs::write(&binary, [b'a', b':', 0xff, 0xfe]).expect("a writable directory");
    let output = sluice(&["test", &path]);
    assert_eq!(output.status.code(), Some(2));
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("not UTF-8 text (byte 2)"), "{errors}");
}

#[test]
fn mistakes_in_a_test_are_found_before_anything_runs() {
    let text = "\
apiVersion: v1
kind: Pod
metadata: {namespace: x, name: web}
---
apiVersion: sluice.dev/v1alpha1
kind: PolicyTest
metadata: {name: t}
steps:
- probes:
  - {from: x/wed, to: x/web, port: 80}
  - {from: svc/x/y, to: node/n, port: 80}
  - {from: x/web, to: x/web, protocol: ICMP, port: 80}
  - {from: x/web, to: 'fd00::1', family: IPv4, port: 80}
  - {from: x/web, to: x/web}
- delete: [{kind: Pod, namespace: x, name: other}]
  probes: [{from: x/web, to: 10.0.0.1, port: 80, expect: maybe}]
";
    let run = |text: &str| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("t.yaml");
        std::fs::write(&path, text).expect("a writable directory");
        let path = path.to_str().expect("a UTF-8 path").to_owned();
        let output = sluice(&["test", &path]);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).replace(&path, "t.yaml")
    };
    assert_eq!(
        run(text),
        "sluice: 4 errors in the input:\n  \
         t.yaml:11: document 2: PolicyTest t: steps[0].probes[1].from: a service cannot connect\n  \
         t.yaml:12: document 2: PolicyTest t: steps[0].probes[2].port: ICMP has no ports\n  \
         t.yaml:14: document 2: PolicyTest t: steps[0].probes[4].port: must be set\n  \
         t.yaml:16: document 2: PolicyTest t: steps[1].probes[0].expect: unknown verdict `maybe`: must be allow or deny\n"
    );
    let without_syntax_errors: String = text
        .lines()
        .filter(|line| !["svc/x/y", "ICMP", "to: x/web}"].iter().any(|t| line.contains(t)))
        .map(|line| line.replace(", expect: maybe", "") + "\n")
        .collect();
    assert_eq!(
        run(&without_syntax_errors),
        "sluice: 3 errors in the input:\n  \
         t.yaml:10: document 2: PolicyTest t: steps[0].probes[0].from: no pod or workload `x/wed`; did you mean x/web?\n  \
         t.yaml:11: document 2: PolicyTest t: steps[0].probes[1].to: fd00::1 is no IPv4 address\n  \
         t.yaml:12: document 2: PolicyTest t: steps[1].delete[0]: there is no Pod x/other\n"
    );
}
