//! The `sluice` binary: arguments and wiring.

fn main() {}
