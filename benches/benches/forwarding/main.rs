//! What enforcement costs a node that forwards, beside what else does it: nftables with sets and with a
//! rule for each peer, ipset with iptables, an empty tc program, connection tracking alone, nothing.
//!
//! Every configuration has namespaces of its own, and all of them stand at the same time: a round
//! measures a case in one after the other, so that what disturbs the machine disturbs all. A result is
//! the median over the rounds, and a ratio the median of each round's ratio.
//!
//! `cargo xtask bench` runs this. Needs root.

mod change;
mod config;
mod netns;
mod node;
mod policies;
mod sluice_tables;
mod traffic;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::config::{Config, InForce};
use crate::node::Node;
use crate::policies::Scale;
use crate::traffic::{CASES, Traffic};

/// What is measured at.
const SCALES: [Scale; 8] = [
    scale(1, 1, 1),
    scale(1, 1, 100),
    scale(1, 1, 10_000),
    scale(1, 1, 100_000),
    scale(1, 100, 10),
    scale(1, 1_000, 10),
    scale(30, 10, 100),
    scale(110, 10, 50),
];
/// The same in a hurry.
const QUICK: [Scale; 2] = [scale(1, 1, 100), scale(30, 10, 100)];

const ROUNDS: usize = 5;
const QUICK_ROUNDS: usize = 3;
/// Changes are slower to measure, and vary less.
const CHANGE_ROUNDS: usize = 3;

const fn scale(pods: u32, policies: u32, peers: u32) -> Scale {
    Scale { pods, policies, peers }
}

fn main() -> anyhow::Result<()> {
    let Arguments { json, is_quick } = arguments()?;
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(0).context("CPU 0")?;
    nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus)
        .context("cannot stay on one CPU")?;
    let (scales, rounds) =
        if is_quick { (&QUICK[..], QUICK_ROUNDS) } else { (&SCALES[..], ROUNDS) };
    let mut forwarding = Vec::new();
    for scale in scales {
        println!("forwarding: {scale:?}");
        measure(*scale, rounds, &mut forwarding).with_context(|| format!("{scale:?}"))?;
    }
    println!("changes");
    let changes = changes(if is_quick { 1 } else { CHANGE_ROUNDS })?;
    let results = json!({"forwarding": forwarding, "changes": changes});
    match json {
        Some(path) => {
            std::fs::write(&path, results.to_string()).with_context(|| path.display().to_string())
        }
        None => {
            println!("{results:#}");
            Ok(())
        }
    }
}

struct Arguments {
    /// The file to write.
    json: Option<PathBuf>,
    is_quick: bool,
}

/// From `[--json FILE] [--quick]`. Cargo adds `--bench`.
fn arguments() -> anyhow::Result<Arguments> {
    let mut found = Arguments { json: None, is_quick: false };
    let mut words = std::env::args_os().skip(1);
    while let Some(word) = words.next() {
        if word == "--json" {
            found.json = Some(PathBuf::from(words.next().context("--json needs a file")?));
        } else if word == "--quick" {
            found.is_quick = true;
        } else {
            ensure!(word == "--bench", "unknown argument `{}`", word.display());
        }
    }
    Ok(found)
}

/// A configuration in force, and the traffic through it.
struct Stand {
    config: Config,
    traffic: Traffic,
    /// Ends after the sockets and before the namespaces.
    _in_force: InForce,
    node: Node,
}

impl Stand {
    fn new(config: Config, scale: Scale) -> anyhow::Result<Self> {
        let node = Node::new(scale.pods)?;
        let in_force = config.install(&node, scale)?;
        let traffic = Traffic::new(&node, scale.peers_of_one())
            .with_context(|| format!("traffic through {}", config.name()))?;
        Ok(Self { config, traffic, _in_force: in_force, node })
    }
}

/// What a number is of: the case, what of it is measured, the unit.
type Quantity = (usize, &'static str, &'static str);

/// A quantity's values in each configuration, by rounds.
type Values = BTreeMap<Quantity, Vec<Vec<f64>>>;

fn measure(scale: Scale, rounds: usize, results: &mut Vec<Value>) -> anyhow::Result<()> {
    let mut stands: Vec<_> =
        Config::ALL.iter().map(|config| Stand::new(*config, scale)).collect::<Result<_, _>>()?;
    let mut values = Values::new();
    // The first round warms caches and connections up and does not count.
    for round in 0..=rounds {
        for (number, case) in CASES.iter().enumerate() {
            for (index, Stand { node, config, traffic, .. }) in stands.iter_mut().enumerate() {
                let measured = node.client.inside(|| traffic.measure(case));
                let measured = measured.with_context(|| format!("through {}", config.name()))?;
                for part in measured.into_iter().filter(|_| round > 0) {
                    let of_all = values.entry((number, part.what, part.unit)).or_default();
                    of_all.resize(Config::ALL.len(), Vec::new());
                    of_all[index].push(part.value);
                }
            }
        }
    }
    for ((number, what, unit), of_all) in &values {
        let Scale { pods, policies, peers } = scale;
        let case = format!("{}/{what}/{pods}x{policies}x{peers}", CASES[*number]);
        for (stand, own) in stands.iter().zip(of_all) {
            let ratios = own.iter().zip(&of_all[0]).map(|(value, none)| value / none);
            results.push(json!({
                "config": stand.config.name(), "case": case, "value": median(own.iter().copied()),
                "unit": unit, "ratio_to_none": median(ratios), "traffic": CASES[*number],
                "quantity": what, "pods": pods, "policies": policies, "peers": peers,
            }));
        }
    }
    Ok(())
}

fn changes(rounds: usize) -> anyhow::Result<Vec<Value>> {
    let mut costs = vec![Vec::new(); change::WAYS.len()];
    for _ in 0..rounds {
        for (way, own) in change::WAYS.iter().zip(&mut costs) {
            own.push((way.measure)().with_context(|| way.name)?);
        }
    }
    let mut results = Vec::new();
    for (index, case) in change::CASES.iter().enumerate() {
        for (way, own) in change::WAYS.iter().zip(&costs) {
            let ratios = own.iter().zip(&costs[0]).map(|(own, first)| own[index] / first[index]);
            results.push(json!({
                "config": way.name, "case": case, "unit": "ms",
                "value": median(own.iter().map(|costs| costs[index])),
                "ratio_to_sluice": median(ratios),
            }));
        }
    }
    Ok(results)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
