//! Results beside the budgets, as a table and as JSON.

use serde_json::json;

use super::{Datapath, Results, Userspace};

/// Budgets of the datapath, in nanoseconds over an empty program.
const DATAPATH_BUDGETS: &[(&str, f64)] =
    &[("established", 60.0), ("new", 400.0), ("denied", 150.0)];

/// Budgets in user space, in milliseconds.
const USERSPACE_BUDGETS: &[(&str, f64)] = &[
    ("compile/first-load-100x10x100", 100.0),
    ("compile/first-load-100x10x100-selectors", 100.0),
    ("diff/one-peer-100x10x100", 5.0),
    ("diff/one-peer-100x10x100-selectors", 5.0),
];

/// Cases that may cost only so many times another: case, other, times.
const RATIO_BUDGETS: &[(&str, &str, f64)] =
    &[("event/one-pod-at-100000", "event/one-pod-at-1000", 1.5)];

/// Prints the tables.
pub(super) fn print(results: &Results) {
    if !results.datapath.is_empty() {
        print_datapath(&results.datapath);
    }
    if !results.userspace.is_empty() {
        print_userspace(&results.userspace);
    }
    if !results.forwarding.traffic.is_empty() {
        results.forwarding.print();
    }
}

fn print_datapath(datapath: &[Datapath]) {
    println!("\nDatapath, ns per packet");
    println!("{:12} {:>8} {:>8} {:>10} {:>8}", "case", "peers", "ns", "over empty", "budget");
    for Datapath { case, peers, ns, over_empty } in datapath {
        let budget = budget_of(DATAPATH_BUDGETS, case);
        let verdict = judged(*over_empty, budget);
        println!("{case:12} {peers:>8} {ns:>8.1} {over_empty:>10.1} {verdict}");
    }
}

fn print_userspace(userspace: &[Userspace]) {
    println!("\nUser space, ms");
    println!("{:48} {:>10} {:>8}", "case", "ms", "budget");
    for Userspace { case, ms } in userspace {
        println!("{case:48} {ms:>10.4} {}", judged(*ms, budget_of(USERSPACE_BUDGETS, case)));
    }
    for (case, other, times) in RATIO_BUDGETS {
        if let (Some(case_ms), Some(other_ms)) = (ms_of(userspace, case), ms_of(userspace, other)) {
            let ratio = case_ms / other_ms;
            let name = format!("{case} / {other}");
            println!("{name:48} {ratio:>9.2}x {}", judged(ratio, Some(*times)));
        }
    }
}

/// The JSON that other programs read; the fields are a contract.
pub(super) fn json(results: &Results) -> anyhow::Result<String> {
    let Results { datapath, userspace, forwarding } = results;
    let datapath: Vec<_> = datapath
        .iter()
        .map(|result| {
            json!({"case": result.case, "peers": result.peers, "ns": result.ns,
                   "over_empty": result.over_empty})
        })
        .collect();
    let userspace: Vec<_> =
        userspace.iter().map(|result| json!({"case": result.case, "ms": result.ms})).collect();
    let all = json!({"datapath": datapath, "userspace": userspace,
                     "forwarding": forwarding.traffic, "changes": forwarding.changes});
    Ok(serde_json::to_string_pretty(&all)? + "\n")
}

fn budget_of(budgets: &[(&str, f64)], case: &str) -> Option<f64> {
    budgets.iter().find(|(name, _)| *name == case).map(|(_, budget)| *budget)
}

fn ms_of(userspace: &[Userspace], case: &str) -> Option<f64> {
    userspace.iter().find(|result| result.case == case).map(|result| result.ms)
}

/// The budget's column, and whether it is met.
fn judged(value: f64, budget: Option<f64>) -> String {
    match budget {
        Some(budget) if value <= budget => format!("{budget:>8} met"),
        Some(budget) => format!("{budget:>8} NOT MET"),
        None => format!("{:>8}", "-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::forwarding::Forwarding;

    #[test]
    fn json_has_the_fields_of_the_contract() {
        let new = Datapath { case: "new".into(), peers: 100, ns: 250.5, over_empty: 215.0 };
        let traffic = json!({"config": "ipset", "case": "udp-new/p50/1x1x1", "value": 9.5,
                             "unit": "µs", "ratio_to_none": 1.2});
        let change = json!({"config": "ipset", "case": "one-pod", "value": 2.0, "unit": "ms",
                            "ratio_to_sluice": 1.5});
        let results = Results {
            datapath: vec![new],
            userspace: vec![Userspace { case: "compile/x".into(), ms: 1.25 }],
            forwarding: Forwarding {
                traffic: vec![traffic.clone()],
                changes: vec![change.clone()],
            },
        };
        let text = json(&results).expect("numbers are finite");
        let value: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
        assert_eq!(
            value,
            json!({
                "datapath": [{"case": "new", "peers": 100, "ns": 250.5, "over_empty": 215.0}],
                "userspace": [{"case": "compile/x", "ms": 1.25}],
                "forwarding": [traffic],
                "changes": [change],
            })
        );
    }

    #[test]
    fn a_budget_is_met_up_to_its_edge() {
        assert!(judged(60.0, Some(60.0)).ends_with(" met"));
        assert!(judged(60.1, Some(60.0)).ends_with(" NOT MET"));
        assert_eq!(judged(1.0, None).trim(), "-");
    }
}
