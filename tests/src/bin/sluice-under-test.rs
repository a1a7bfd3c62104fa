//! The `sluice` binary, built together with the tests that run it.

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
