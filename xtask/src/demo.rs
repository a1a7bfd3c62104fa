//! `cargo xtask demo`: what sluice does, on this machine, step by step.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use lexopt::Arg;
use serde_json::Value;

use crate::process::{Program, program};
use crate::setup::{self, Purpose};
use crate::{build, machine, workspace};

pub(crate) const SUMMARY: &str = "show on this machine what sluice does, in a lab of namespaces";
pub(crate) const HELP: &str = "
Usage: cargo xtask demo [--keep]

Installs what is missing, builds in release, then: a lab of network namespaces with a real agent, the
manifests of deploy/examples, who reaches whom before and after the policies are applied, an allowed
and a blocked connection, and what was counted. Takes the lab down at the end.

Options:
  --keep   leave the lab up, to go on by hand";

const LAB: &str = "demo";
const FRONTEND: &str = "shop/frontend-0";
const DATABASE: &str = "shop/db-0";
/// The drop reason of what no policy allows.
const DENIED: &str = "default-deny";
/// What `timeout` exits with where the time was up.
const TIMED_OUT: i32 = 124;
/// The ports of the shop: frontend, API, database.
const PORTS: &[&str] = &["80", "8080", "5432"];

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let mut keep = false;
    while let Some(argument) = arguments.next()? {
        match argument {
            Arg::Long("keep") => keep = true,
            other => return Err(other.unexpected().into()),
        }
    }
    // Ctrl-C reaches the program that runs right now; the demo itself goes on to clean up.
    ctrlc::set_handler(|| {}).context("cannot handle Ctrl-C")?;
    setup::ensure(Purpose::Run)?;
    machine::ready()?;
    let target = workspace::target_dir()?;
    let binary = build::release(&target)?;
    // From here on, paths are short ones, as a person would type them.
    env::set_current_dir(workspace::root()).context("cannot go to the workspace")?;
    let mut demo = Demo::begin(&shortened(&binary), shortened(&target.join("xtask-demo")))?;
    demo.show()?;
    if keep {
        demo.keep();
    }
    Ok(())
}

/// How an attempt to connect ended.
#[derive(Debug, PartialEq, Eq)]
enum Attempt {
    Connected,
    /// Neither an answer nor an error came before the time was up.
    NoAnswer,
    /// Something else, which says nothing about policy: refused, no route, no such lab.
    Failed(Option<i32>),
}

/// A running lab; taken down when this is dropped.
struct Demo {
    binary: PathBuf,
    /// The manifests that the lab watches.
    manifests: PathBuf,
    /// What `sluice lab up` said.
    lab: Value,
    keep: bool,
}

impl Demo {
    fn begin(binary: &Path, manifests: PathBuf) -> anyhow::Result<Self> {
        if manifests.exists() {
            fs::remove_dir_all(&manifests).with_context(|| manifests.display().to_string())?;
        }
        fs::create_dir_all(&manifests).with_context(|| manifests.display().to_string())?;
        let binary = binary.to_owned();
        let mut demo = Self { binary, manifests, lab: Value::Null, keep: false };
        demo.copy("workloads.yaml")?;
        say("A small shop: frontend, API, database, DNS, monitoring. Each pod becomes a network \
             namespace, the node too; in the node's one runs the real agent. There is no policy yet.");
        // One that an earlier demo left, by --keep.
        demo.sluice(&["lab", "down", LAB]).by_root().succeeds();
        let up = demo.sluice(&["lab", "up", "--name", LAB, "--watch", "--detach", "-o", "json"]);
        let up = up.arg(&demo.manifests).by_root();
        println!("$ {}", up.line());
        let output = up.output()?;
        demo.lab = serde_json::from_str(&output).context("output of `sluice lab up`")?;
        Ok(demo)
    }

    fn show(&self) -> anyhow::Result<()> {
        say("Who reaches whom? Real connections between all pods, in a lab of their own:");
        self.matrix()?;

        say(
            "Now the shop's policies: nothing is allowed but the way of a purchase (frontend to API \
             to database), DNS, and monitoring's look at the metrics. The agent sees the new file.",
        );
        self.copy("policies.yaml")?;
        self.wait_until_closed()?;
        self.matrix()?;

        self.allowed_connection()?;
        self.blocked_connection()?;
        say("Why?");
        let question = ["--from", FRONTEND, "--to", DATABASE, "--port", "5432"];
        self.sluice(&["explain"]).arg(&self.manifests).args(question).run()?;

        say("What the agent enforces, and what it has dropped and why:");
        self.sluice(&["status"]).args(self.node()?).by_root().run()?;
        say("And the kernel tables' own view of the frontend:");
        self.sluice(&["inspect", FRONTEND]).args(self.node()?).by_root().run()
    }

    fn allowed_connection(&self) -> anyhow::Result<()> {
        say("The frontend may ask the API …");
        let attempt = self.connect(FRONTEND, "shop/api-0", 8080, true)?;
        ensure!(attempt == Attempt::Connected, "this must pass: {attempt:?}");
        println!("  it is connected");
        Ok(())
    }

    /// Nothing answers, and the frontend's own program says that it dropped the packets.
    fn blocked_connection(&self) -> anyhow::Result<()> {
        say("… but not the database, past the API:");
        let before = self.dropped(FRONTEND)?;
        let attempt = self.connect(FRONTEND, DATABASE, 5432, true)?;
        let dropped = self.dropped(FRONTEND)?.saturating_sub(before);
        ensure!(attempt == Attempt::NoAnswer, "this must get no answer: {attempt:?}");
        ensure!(dropped > 0, "there was no answer, but sluice did not drop anything");
        println!(
            "  no answer: {dropped} packets more dropped on the frontend's way out ({DENIED})"
        );
        Ok(())
    }

    fn keep(&mut self) {
        self.keep = true;
        let binary = self.binary.display();
        println!("\nThe lab stays. Edit the manifests in {}, or try:", self.manifests.display());
        println!("  {binary} lab exec --name {LAB} {FRONTEND} -- bash");
        println!("  {binary} lab down {LAB}");
    }

    fn sluice(&self, arguments: &[&str]) -> Program {
        program(&self.binary).args(arguments)
    }

    fn matrix(&self) -> anyhow::Result<()> {
        let ports = PORTS.iter().flat_map(|port| ["--port", port]);
        let matrix = self.sluice(&["matrix", "--engine", "lab", "--protocol", "TCP"]);
        matrix.args(ports).arg(&self.manifests).by_root().run()
    }

    fn copy(&self, name: &str) -> anyhow::Result<()> {
        let from = Path::new("deploy/examples").join(name);
        println!("$ cp {} {}", from.display(), self.manifests.display());
        fs::copy(&from, self.manifests.join(name)).with_context(|| from.display().to_string())?;
        Ok(())
    }

    /// The lab's agents read a new file within a second or two.
    fn wait_until_closed(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.connect(FRONTEND, DATABASE, 5432, false)? == Attempt::Connected {
            ensure!(Instant::now() < deadline, "the policies are not in force after 20 s");
        }
        Ok(())
    }

    /// A TCP connection from pod to pod, as a person would try it.
    fn connect(&self, from: &str, to: &str, port: u16, show: bool) -> anyhow::Result<Attempt> {
        let address = self.address(to)?;
        let connect = format!("exec 3<>/dev/tcp/{address}/{port}");
        let exec = self.sluice(&["lab", "exec", "--name", LAB, from, "--"]);
        let exec = exec.args(["timeout", "2", "bash", "-c", &connect]).by_root();
        if show {
            println!("$ {}    # {to}", exec.line());
        }
        Ok(match exec.exit_code()? {
            Some(0) => Attempt::Connected,
            Some(TIMED_OUT) => Attempt::NoAnswer,
            code => Attempt::Failed(code),
        })
    }

    /// How many packets the kernel has dropped on `pod`'s way out because no policy allows them.
    fn dropped(&self, pod: &str) -> anyhow::Result<u64> {
        let inspect = self.sluice(&["inspect", pod, "-o", "json"]).args(self.node()?).by_root();
        let views: Value = serde_json::from_str(&inspect.output()?)
            .with_context(|| format!("output of `sluice inspect {pod}`"))?;
        let counters = views[0]["counters"].as_array().context("the pod has no counters")?;
        let denied =
            |counter: &&Value| counter["direction"] == "egress" && counter["reason"] == DENIED;
        Ok(counters.iter().filter(denied).filter_map(|counter| counter["packets"].as_u64()).sum())
    }

    fn address(&self, pod: &str) -> anyhow::Result<&str> {
        let endpoints = self.lab["endpoints"].as_array().context("the lab has no endpoints")?;
        let endpoint = endpoints.iter().find(|endpoint| endpoint["pod"] == pod);
        endpoint
            .and_then(|endpoint| endpoint["addresses"][0].as_str())
            .with_context(|| format!("the lab has no pod {pod} with an address"))
    }

    /// The options by which `sluice` finds the only node's agent and its pins.
    fn node(&self) -> anyhow::Result<[&str; 4]> {
        let node = &self.lab["nodes"][0];
        let path = |field: &str| {
            node[field].as_str().with_context(|| format!("the lab's node has no {field}"))
        };
        Ok(["--bpffs", path("bpffs")?, "--state-dir", path("state_dir")?])
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        if self.keep {
            return;
        }
        println!("\n# Everything is taken down.");
        let down = self.sluice(&["lab", "down", LAB]).by_root().run();
        if let Err(error) = down {
            eprintln!("error: the lab may still be there: {error:#}");
        }
    }
}

/// Relative to the workspace's root where it is in it.
fn shortened(path: &Path) -> PathBuf {
    path.strip_prefix(workspace::root()).unwrap_or(path).to_owned()
}

fn say(sentence: &str) {
    println!("\n# {sentence}");
}
