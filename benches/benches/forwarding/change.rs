//! What a change costs, from its being known until it is in force.

use std::time::Instant;

use anyhow::Context as _;
use sluice_benches::worlds::{another_peer, another_policy, peer_address};
use sluice_policy::model::Change;

use crate::netns::Netns;
use crate::node::PEER_KIND;
use crate::policies::Scale;
use crate::sluice_tables::Sluice;

/// Pods, policies per pod, peers per policy.
const SCALE: Scale = Scale { pods: 100, policies: 10, peers: 100 };

/// The last policy, which is another pod's.
const LAST: u32 = SCALE.pods * SCALE.policies - 1;

/// What is measured: everything at once, one pod that becomes a peer of one policy, one policy more.
pub(crate) const CASES: [&str; 3] = ["first-load", "one-pod", "one-policy"];

/// Milliseconds of each of [`CASES`].
type Costs = [f64; CASES.len()];

/// A way to bring changes into force.
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) measure: fn() -> anyhow::Result<Costs>,
}

pub(crate) const WAYS: [Way; 5] = [
    Way { name: "sluice", measure: sluice },
    Way { name: "nft-sets", measure: nftables_elements },
    Way { name: "nft-sets whole", measure: || nftables_whole(Scale::nftables_sets) },
    Way { name: "nft-linear whole", measure: || nftables_whole(Scale::nftables_linear) },
    Way { name: "ipset", measure: ipset },
];

/// Milliseconds that something takes.
fn timed(work: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// From the objects to the kernel tables.
fn sluice() -> anyhow::Result<Costs> {
    let world = SCALE.world();
    let mut sluice = Sluice::load()?;
    let (name, pod) = another_peer(0, SCALE.pods * SCALE.policies * SCALE.peers);
    let (policy_name, policy) =
        another_policy(&world, 0, LAST).context("the world has policies")?;
    Ok([
        timed(|| sluice.enforce_all(&world))?,
        timed(|| sluice.enforce([Change::Pod(name, Some(pod))]))?,
        timed(|| sluice.enforce([Change::Policy(policy_name, Some(policy))]))?,
    ])
}

/// The elements and rules that differ.
fn nftables_elements() -> anyhow::Result<Costs> {
    let netns = Netns::new()?;
    let nft = |text: &str| netns.run("nft", &["-f", "-"], text);
    let peer = peer_address(PEER_KIND, SCALE.pods * SCALE.policies * SCALE.peers);
    Ok([
        timed(|| nft(&SCALE.nftables_sets()))?,
        timed(|| nft(&format!("add element inet sluice policy0 {{ {peer} }}\n")))?,
        timed(|| nft(&SCALE.nftables_one_more()))?,
    ])
}

/// Everything anew, in one transaction.
fn nftables_whole(rules: fn(Scale) -> String) -> anyhow::Result<Costs> {
    let netns = Netns::new()?;
    let first = || netns.run("nft", &["-f", "-"], &rules(SCALE));
    let again = || {
        let text = format!("delete table inet sluice\n{}", rules(SCALE));
        netns.run("nft", &["-f", "-"], &text)
    };
    Ok([timed(first)?, timed(again)?, timed(again)?])
}

/// The elements and rules that differ.
fn ipset() -> anyhow::Result<Costs> {
    let netns = Netns::new()?;
    let restore = |sets: &str, rules: &str, arguments: &[&str]| {
        netns.run("ipset", &["restore"], sets)?;
        netns.run("iptables-restore", arguments, rules)
    };
    let peer = peer_address(PEER_KIND, SCALE.pods * SCALE.policies * SCALE.peers);
    let (set, rules) = SCALE.ipset_one_more();
    Ok([
        timed(|| restore(&SCALE.ipset(), &SCALE.iptables(), &["-w"]))?,
        timed(|| netns.run("ipset", &["restore"], &format!("add policy0 {peer}\n")))?,
        timed(|| restore(&set, &rules, &["-w", "--noflush"]))?,
    ])
}
