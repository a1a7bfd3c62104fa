//! `sluice lab`: its commands, and that nothing is left of a lab however it ends. Needs root.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::lab::Description;
use sluice_tests::lab::{
    PATIENCE, POLICIES, THREE_PODS, netns_of, remains, unique, wait_until_nothing_remains,
};
use sluice_tests::needs_root;

const SLUICE: &str = env!("CARGO_BIN_EXE_sluice-under-test");

/// A lab in a process of its own.
struct LabProcess {
    name: String,
    child: Child,
    description: Description,
    _manifests: tempfile::TempDir,
}

fn manifests_directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("all.yaml");
    fs::write(&file, [THREE_PODS, POLICIES].concat()).expect("written");
    (directory, file)
}

fn start(name: &str) -> LabProcess {
    needs_root();
    let name = unique(name);
    let (directory, file) = manifests_directory();
    let mut child = Command::new(SLUICE)
        .args(["lab", "up", "--name", &name, "-o", "json"])
        .arg(&file)
        .stdout(Stdio::piped())
        .spawn()
        .expect("sluice runs");
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    let mut text = String::new();
    // The output ends with the closing brace, but the process goes on.
    for line in &mut lines {
        let line = line.expect("a line");
        text += &line;
        if line == "}" {
            break;
        }
    }
    let description = serde_json::from_str(&text).expect("a description");
    LabProcess { name, child, description, _manifests: directory }
}

impl LabProcess {
    fn signal(&mut self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("signalled");
        self.child.wait().expect("ended")
    }
}

impl Drop for LabProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sluice(arguments: &[&str]) -> Output {
    Command::new(SLUICE).args(arguments).output().expect("sluice runs")
}

#[test]
fn nothing_is_left_of_a_lab_that_is_killed() {
    let mut lab = start("killed");
    assert!(Path::new("/run/netns").join(netns_of(&lab.description, "x/a")).exists());
    assert!(lab.description.pins.exists());
    let agents: Vec<u32> = lab.description.nodes.iter().filter_map(|node| node.agent_pid).collect();
    assert_eq!(agents.len(), 2);
    lab.signal(Signal::SIGKILL);
    wait_until_nothing_remains(&lab.name);
    for agent in agents {
        // One that has ended and that init has not noticed yet has no program any more.
        let program = fs::read_link(format!("/proc/{agent}/exe"));
        assert!(program.is_err(), "agent {agent} is left: {program:?}");
    }
}

#[test]
fn nothing_is_left_of_a_lab_that_is_interrupted() {
    let mut lab = start("interrupted");
    let status = lab.signal(Signal::SIGINT);
    assert_eq!(remains(&lab.name), Vec::<String>::new());
    assert!(status.success(), "{status}");
}

/// False for a process that is gone, or dead and not yet waited for.
fn holds_files(process: i32) -> bool {
    let files = fs::read_dir(format!("/proc/{process}/fd"));
    files.is_ok_and(|mut files| files.next().is_some())
}

#[test]
fn what_is_left_when_the_reaper_is_killed_too_goes_with_the_next_command() {
    let mut lab = start("reaper");
    let reaper = remains(&lab.name)
        .iter()
        .find_map(|line| {
            let pid = line.strip_prefix("process ")?;
            line.contains(" lab reap ").then(|| pid.split(':').next())?
        })
        .and_then(|pid| pid.parse().ok())
        .expect("the reaper runs");
    kill(Pid::from_raw(reaper), Signal::SIGKILL).expect("killed");
    lab.signal(Signal::SIGKILL);
    // The lab lives as long as its reaper holds the lock, and that has yet to take note of its end.
    let begin = Instant::now();
    while holds_files(reaper) {
        assert!(begin.elapsed() < PATIENCE, "the reaper does not end");
        thread::sleep(Duration::from_millis(10));
    }
    assert_ne!(remains(&lab.name), Vec::<String>::new());
    let listed = sluice(&["lab", "list"]);
    assert!(listed.status.success(), "{listed:?}");
    wait_until_nothing_remains(&lab.name);
}

#[test]
fn a_detached_lab_can_be_listed_entered_and_taken_down() {
    needs_root();
    let name = unique("detached");
    let (_directory, file) = manifests_directory();
    let file = file.to_str().expect("a path");
    let up = sluice(&["lab", "up", file, "--name", &name, "--detach", "-o", "json"]);
    assert!(up.status.success(), "{up:?}");
    let description: Description = serde_json::from_slice(&up.stdout).expect("a description");
    assert_eq!((description.lab.as_str(), description.endpoints.len()), (name.as_str(), 3));

    let again = sluice(&["lab", "up", file, "--name", &name, "--detach"]);
    assert_eq!(again.status.code(), Some(2), "{again:?}");
    assert!(String::from_utf8_lossy(&again.stderr).contains("is up"), "{again:?}");

    let listed = sluice(&["lab", "list", "-o", "json"]);
    let listed: Vec<Description> = serde_json::from_slice(&listed.stdout).expect("a list");
    assert!(listed.contains(&description));

    let address = description.endpoints[0].addresses[0].to_string();
    let exec = ["lab", "exec", "--name", &name, "x/a", "--", "ip", "-o", "addr", "show", "eth0"];
    let output = sluice(&exec);
    assert!(String::from_utf8_lossy(&output.stdout).contains(&address), "{output:?}");
    let nobody = sluice(&["lab", "exec", "--name", &name, "x/z", "--", "true"]);
    assert_eq!(nobody.status.code(), Some(2), "{nobody:?}");
    // As in a shell: 127 for no such command, 126 for one that cannot be run.
    for (program, status) in [("no-such-command", 127), ("/", 126)] {
        let output = sluice(&["lab", "exec", "--name", &name, "x/a", "--", program]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
    }

    assert!(sluice(&["lab", "down", &name]).status.success());
    assert_eq!(remains(&name), Vec::<String>::new());
    assert!(sluice(&["lab", "down", &name]).status.success(), "down is down");
}

#[test]
fn bad_manifests_and_bad_names_are_bad_usage_and_leave_nothing() {
    needs_root();
    let (directory, file) = manifests_directory();
    let bad = directory.path().join("bad.yaml");
    fs::write(&bad, "{apiVersion: v1, kind: Pod, metadata: {name: A B}}").expect("written");
    let name = unique("bad");
    let bad = bad.to_str().expect("a path");
    let output = sluice(&["lab", "up", bad, "--name", &name, "--detach"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.yaml"), "{output:?}");
    assert_eq!(remains(&name), Vec::<String>::new());
    let file = file.to_str().expect("a path");
    let output = sluice(&["lab", "up", file, "--name", "../up", "--detach"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_watched_lab_follows_its_manifests() {
    needs_root();
    let name = unique("watch");
    let (_directory, file) = manifests_directory();
    let mut child = Command::new(SLUICE)
        .args(["lab", "up", "--watch", "--name", &name])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sluice runs");
    let errors = BufReader::new(child.stderr.take().expect("its errors"));
    let state = Path::new("/run/sluice/labs").join(&name).join("lab.json");
    let begin = Instant::now();
    let endpoints = || {
        let mut text = String::new();
        fs::File::open(&state).ok()?.read_to_string(&mut text).ok()?;
        let notes: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(notes["description"]["endpoints"].as_array()?.len())
    };
    while endpoints() != Some(3) {
        assert!(begin.elapsed() < PATIENCE, "the lab does not come up");
        thread::sleep(Duration::from_millis(50));
    }
    let fewer =
        THREE_PODS.replacen("kind: Pod, metadata: {name: a,", "kind: Pod, metadata: {name: aa,", 1);
    let more = THREE_PODS.split("---").nth(2).expect("a pod");
    fs::write(&file, format!("{fewer}\n---\n{more}")).expect("written");
    while endpoints() != Some(4) {
        assert!(begin.elapsed() < PATIENCE, "the lab does not follow");
        thread::sleep(Duration::from_millis(50));
    }
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("signalled");
    assert!(child.wait().expect("ended").success());
    let said: Vec<String> = errors.lines().map_while(Result::ok).collect();
    assert!(said.iter().any(|line| line.contains("follows")), "{said:?}");
    assert_eq!(remains(&name), Vec::<String>::new());
}
