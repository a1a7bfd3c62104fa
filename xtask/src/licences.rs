//! Licences, bans, sources and advisories of the dependencies (`deny.toml`).

use crate::process::program;

/// Runs cargo-deny. Advisories need their database from the network: where it cannot be had, that
/// is said and the rest still counts.
pub(crate) fn check() -> anyhow::Result<()> {
    deny().args(["check", "licenses", "bans", "sources"]).run()?;
    if !deny().args(["fetch", "db"]).succeeds() {
        println!("advisories: NOT checked, the advisory database cannot be fetched from here");
        return Ok(());
    }
    deny().args(["check", "--disable-fetch", "advisories"]).run()
}

fn deny() -> crate::process::Program {
    // Told to look at all features, and not to touch the lock file.
    program("cargo-deny").args(["--all-features", "--locked"])
}
