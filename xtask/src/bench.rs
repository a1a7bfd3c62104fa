//! `cargo xtask bench`.

use anyhow::bail;

pub(crate) const SUMMARY: &str = "run the benches, beside the budgets";
pub(crate) const HELP: &str = "";

pub(crate) fn main(_arguments: lexopt::Parser) -> anyhow::Result<()> {
    bail!("not yet")
}
