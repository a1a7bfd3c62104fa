//! What the tc programs add to a packet, by `BPF_PROG_TEST_RUN`: nanoseconds over an empty program.
//!
//! Each round measures an empty program and the case one after the other, so that what disturbs the
//! machine disturbs both; the result is the median over the rounds. A packet that is repeated would
//! be new only once: for new flows a small program gives each repetition another port and another
//! peer and then calls the program under test, or the empty one, which it is compared with.
//!
//! `cargo xtask bench` runs this. Needs root.

mod records;
mod scene;

use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use sluice_benches::packet;
use sluice_benches::raw::Program;
use sluice_common::abi::Direction;

use crate::scene::Scene;

const PEERS: [u32; 4] = [1, 100, 10_000, 100_000];
const ROUNDS: usize = 11;
/// Repetitions of one packet in a round.
const REPEAT: u32 = 500_000;
/// New flows in a round: each has a port of its own, so fewer than there are ports.
const NEW_FLOWS: u32 = 50_000;

/// The mask of 64 peers that stay in the processor's cache, however many there are.
const FEW: u32 = 63;

const PASS: i32 = -1;
const DROP: i32 = 2;

fn main() -> anyhow::Result<()> {
    let json = arguments()?;
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0).context("CPU 0")?;
    let this_process = nix::unistd::Pid::from_raw(0);
    nix::sched::sched_setaffinity(this_process, &cpus).context("cannot stay on one CPU")?;

    let mut results = Vec::new();
    for peers in PEERS {
        measure(peers, &mut results).with_context(|| format!("with {peers} peers"))?;
    }
    records::measure(&mut results).context("with records of drops")?;
    if let Some(path) = json {
        std::fs::write(&path, Value::from(results).to_string())
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// The file to write, from `--json FILE`. Cargo adds `--bench`.
fn arguments() -> anyhow::Result<Option<PathBuf>> {
    let mut words = std::env::args_os().skip(1);
    let mut json = None;
    while let Some(word) = words.next() {
        if word == "--json" {
            json = Some(PathBuf::from(words.next().context("--json needs a file")?));
        } else {
            ensure!(word == "--bench", "unknown argument `{}`", word.display());
        }
    }
    Ok(json)
}

/// Nanoseconds of one round: the empty program, the case.
type Round = (f64, f64);

/// Prints what a case came to, and keeps it.
fn report(results: &mut Vec<Value>, case: &str, peers: u32, rounds: &[Round]) {
    let base = median(rounds.iter().map(|(empty, _)| *empty));
    let over = median(rounds.iter().map(|(empty, case)| case - empty));
    let least = rounds.iter().map(|(empty, case)| case - empty).fold(f64::INFINITY, f64::min);
    println!(
        "{case:14} {peers:>7} peers {:>8.1} ns, {over:>8.1} over empty, at least {least:>8.1}",
        base + over
    );
    results.push(json!({"case": case, "peers": peers, "ns": base + over, "over_empty": over}));
}

fn measure(peers: u32, results: &mut Vec<Value>) -> anyhow::Result<()> {
    let mut scene = Scene::new(peers)?;
    let empty = Program::empty()?;
    let mut report = |case: &str, rounds: &[Round]| report(results, case, peers, rounds);

    let syn = scene.peer_packet(packet::SYN, scene::OPEN_PORT);
    let rounds = rounds(|| Ok((empty.run(&syn, REPEAT, PASS)?, empty.run(&syn, REPEAT, PASS)?)))?;
    report("empty", &rounds);
    let data = scene.open_connection()?;
    let ingress = scene.program(Direction::Ingress)?;
    let rounds =
        self::rounds(|| Ok((empty.run(&data, REPEAT, PASS)?, ingress.run(&data, REPEAT, PASS)?)))?;
    report("established", &rounds);
    let denied = scene.peer_packet(packet::SYN, scene::CLOSED_PORT);
    let rounds = self::rounds(|| {
        Ok((empty.run(&denied, REPEAT, PASS)?, ingress.run(&denied, REPEAT, DROP)?))
    })?;
    report("denied", &rounds);
    let mask = scene.peer_mask();
    report("new", &new_flows(&mut scene, &empty, &ingress, mask)?);
    if mask > FEW {
        report("new-of-few", &new_flows(&mut scene, &empty, &ingress, FEW)?);
    }
    Ok(())
}

/// New flows of as many peers as `mask` can tell apart.
fn new_flows(
    scene: &mut Scene,
    empty: &Program,
    ingress: &Program,
    mask: u32,
) -> anyhow::Result<Vec<Round>> {
    let syn = scene.peer_packet(packet::SYN, scene::OPEN_PORT);
    let then_empty = Program::advance_then(empty, scene.first_peer(), mask)?;
    let then_ingress = Program::advance_then(ingress, scene.first_peer(), mask)?;
    rounds(|| {
        scene.forget_flows()?;
        let base = then_empty.run(&syn, NEW_FLOWS, PASS)?;
        let case = then_ingress.run(&syn, NEW_FLOWS, PASS)?;
        // What was measured is what the case says: that many flows are there now.
        scene.expect_flows(NEW_FLOWS)?;
        Ok((base, case))
    })
}

fn rounds(mut round: impl FnMut() -> anyhow::Result<Round>) -> anyhow::Result<Vec<Round>> {
    // The first one warms the caches up and does not count.
    round()?;
    (0..ROUNDS).map(|_| round()).collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
