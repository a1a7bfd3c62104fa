//! Development commands of sluice; `cargo xtask` lists them. One file per command.

mod bench;
mod build;
mod chart;
mod demo;
mod e2e;
mod fuzz;
mod helm;
mod image;
mod kernels;
mod kubernetes;
mod layout;
mod licences;
mod lint;
mod machine;
mod named;
mod process;
mod setup;
mod test;
mod two_nodes;
mod workspace;

use std::process::ExitCode;

use anyhow::bail;
use lexopt::Arg;

/// A subcommand.
struct Command {
    name: &'static str,
    /// One line for the list.
    summary: &'static str,
    /// What `--help` adds to the summary.
    help: &'static str,
    run: fn(lexopt::Parser) -> anyhow::Result<()>,
}

const COMMANDS: &[Command] = &[
    Command { name: "setup", summary: setup::SUMMARY, help: setup::HELP, run: setup::main },
    Command { name: "build", summary: build::SUMMARY, help: build::HELP, run: build::main },
    Command { name: "test", summary: test::SUMMARY, help: test::HELP, run: test::main },
    Command { name: "lint", summary: lint::SUMMARY, help: lint::HELP, run: lint::main },
    Command { name: "bench", summary: bench::SUMMARY, help: bench::HELP, run: bench::main },
    Command { name: "fuzz", summary: fuzz::SUMMARY, help: fuzz::HELP, run: fuzz::main },
    Command { name: "image", summary: image::SUMMARY, help: image::HELP, run: image::main },
    Command { name: "chart", summary: chart::SUMMARY, help: chart::HELP, run: chart::main },
    Command { name: "kernels", summary: kernels::SUMMARY, help: kernels::HELP, run: kernels::main },
    Command { name: "e2e", summary: e2e::SUMMARY, help: e2e::HELP, run: e2e::main },
    Command { name: "demo", summary: demo::SUMMARY, help: demo::HELP, run: demo::main },
];

fn main() -> ExitCode {
    if let Some(status) = fuzz::compile_as_wrapper() {
        return status;
    }
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> anyhow::Result<()> {
    // `cargo xtask test --help` must not start anything, so help is looked for first.
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let wants_help = words.iter().any(|word| word == "--help" || word == "-h");
    let mut arguments = lexopt::Parser::from_args(words);
    let name = match arguments.next()? {
        Some(Arg::Value(name)) => name,
        None | Some(Arg::Long("help") | Arg::Short('h')) => {
            print_list();
            return Ok(());
        }
        Some(other) => return Err(other.unexpected().into()),
    };
    let Some(command) = COMMANDS.iter().find(|command| name == command.name) else {
        print_list();
        bail!("there is no command `{}`", name.display());
    };
    if wants_help {
        println!("{}\n\n{}", command.summary, command.help.trim());
        return Ok(());
    }
    (command.run)(arguments)
}

fn print_list() {
    println!("Usage: cargo xtask COMMAND [OPTIONS]\n");
    for command in COMMANDS {
        println!("  {:7} {}", command.name, command.summary);
    }
    println!("\n`cargo xtask COMMAND --help` says more about one of them.");
}
