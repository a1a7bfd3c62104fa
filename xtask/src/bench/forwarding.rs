//! The forwarding bench: its run, and its tables.

use std::path::Path;

use anyhow::Context as _;
use serde_json::Value;

/// What the bench wrote: results as they go into the JSON of `cargo xtask bench`.
pub(super) struct Forwarding {
    /// `{"config","case","value","unit","ratio_to_none",…}`, in the order of the table's rows.
    pub(super) traffic: Vec<Value>,
    /// `{"config","case","value","unit","ratio_to_sluice"}`, likewise.
    pub(super) changes: Vec<Value>,
}

/// Runs the bench.
///
/// # Errors
/// The bench's, who has said why.
pub(super) fn run(scratch: &Path, is_quick: bool) -> anyhow::Result<Forwarding> {
    let path = scratch.join("forwarding.json");
    let mut bench = super::bench_by_root("forwarding")?.args(["--", "--json"]).arg(&path);
    if is_quick {
        bench = bench.arg("--quick");
    }
    bench.run()?;
    let results = super::read(&path)?;
    let list = |name: &str| {
        let list = results[name].as_array().cloned();
        list.with_context(|| format!("the forwarding bench wrote no list `{name}`"))
    };
    Ok(Forwarding { traffic: list("forwarding")?, changes: list("changes")? })
}

impl Forwarding {
    /// Prints the tables: a row per case, and per configuration its value and its ratio.
    pub(super) fn print(&self) {
        println!("\nForwarding through a node, and as a ratio to a node without any policy");
        println!("(CASE/QUANTITY/isolated pods x policies of each x peers of each)");
        print_table(&self.traffic, "none", "ratio_to_none");
        println!("\nA change until it is in force, and as a ratio to sluice");
        print_table(&self.changes, "sluice", "ratio_to_sluice");
    }
}

fn print_table(results: &[Value], base: &str, ratio: &str) {
    let configs = distinct(results, "config");
    print!("{:32} {:9}", "case", "unit");
    configs.iter().for_each(|config| print!(" {config:>17}"));
    println!();
    for case in distinct(results, "case") {
        let of_case = || results.iter().filter(|result| result["case"] == case);
        let unit = of_case().next().and_then(|result| result["unit"].as_str());
        print!("{case:32} {:9}", unit.unwrap_or_default());
        for config in &configs {
            let cell = of_case().find(|result| result["config"] == *config).map(|result| {
                let value = significant(result["value"].as_f64().unwrap_or(f64::NAN));
                match result[ratio].as_f64() {
                    Some(ratio) if *config != base => format!("{value} {ratio:>7.2}x"),
                    _ => value,
                }
            });
            print!(" {:>17}", cell.unwrap_or_else(|| "-".to_owned()));
        }
        println!();
    }
}

/// The texts of a field, in the order in which they come first.
fn distinct<'a>(results: &'a [Value], field: &str) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for text in results.iter().filter_map(|result| result[field].as_str()) {
        if !found.contains(&text) {
            found.push(text);
        }
    }
    found
}

/// With as many decimals as tell something.
fn significant(value: f64) -> String {
    match value.abs() {
        0.0..10.0 => format!("{value:.2}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_the_digits_that_tell_something() {
        assert_eq!(significant(0.123), "0.12");
        assert_eq!(significant(12.34), "12.3");
        assert_eq!(significant(48_123.4), "48123");
    }
}
