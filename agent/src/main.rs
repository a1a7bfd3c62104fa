//! The `sluice` binary: arguments and wiring.

fn main() -> std::process::ExitCode {
    sluice::cli::main()
}
