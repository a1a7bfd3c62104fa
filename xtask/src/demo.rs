//! `cargo xtask demo`.

use anyhow::bail;

pub(crate) const SUMMARY: &str = "run the demoes, beside the budgets";
pub(crate) const HELP: &str = "";

pub(crate) fn main(_arguments: lexopt::Parser) -> anyhow::Result<()> {
    bail!("not yet")
}
