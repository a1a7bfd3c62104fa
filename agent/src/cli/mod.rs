//! The command line: one file per command, and what they have in common.

pub mod agent;
pub mod cni;
pub mod completions;
pub mod explain;
pub mod input;
pub mod inspect;
pub mod lab;
mod lifetimes;
pub mod matrix;
pub mod probe;
pub mod progress;
pub mod status;
pub mod test;

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Enforces Kubernetes network policy on any node, beside any CNI
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "\
Examples:
  sluice test policies/ tests/            run every PolicyTest against the policies
  helm template chart/ | sluice test - tests/
  sluice matrix policies/ --port 80       who reaches whom
  sluice explain policies/ --from shop/web --to shop/db --port 5432

Exit status:
  0  all as asked
  1  the answer is no
  2  bad usage or bad input
  3  this machine cannot do it")]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Enforce policies on this node
    Agent(agent::AgentArguments),
    /// Show what is enforced on this node
    Status(status::StatusArguments),
    /// Show what the kernel tables say of a pod
    Inspect(inspect::InspectArguments),
    /// Run PolicyTests against policies
    Test(test::TestArguments),
    /// Show which pod reaches which
    Matrix(matrix::MatrixArguments),
    /// Say whether one connection gets through, and which rule decides it
    Explain(explain::ExplainArguments),
    /// Build a cluster of network namespaces with the real agent
    Lab(lab::LabArguments),
    /// Install the CNI plugin on this node, or remove it
    Cni(cni::CniArguments),
    /// Do what an end-to-end run asks for, in a pod of its own
    #[command(hide = true)]
    Probe(probe::ProbeArguments),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArguments),
}

/// Why a command ends with another exit status than 0.
#[derive(Debug)]
pub enum Failure {
    /// 1: the answer is no. It was printed already.
    No,
    /// 2: bad usage or bad input, one line or more.
    Usage(String),
    /// 3: this machine cannot do it.
    Cannot(anyhow::Error),
    /// 126 or 127, as a shell's: `lab exec` cannot run the command that it was given.
    NotRun {
        /// The command.
        program: String,
        /// Why not.
        error: std::io::Error,
    },
}

impl Failure {
    /// Bad usage or bad input, in words.
    pub fn usage(reason: impl ToString) -> Self {
        Self::Usage(reason.to_string())
    }

    /// What to tell the user; `None` where that was done already.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::No => None,
            Self::Usage(reason) => Some(reason.trim_end().to_owned()),
            Self::Cannot(error) => Some(in_words(error)),
            Self::NotRun { program, error } => Some(format!("cannot run {program}: {error}")),
        }
    }

    fn status(&self) -> u8 {
        match self {
            Self::No => 1,
            Self::Usage(_) => 2,
            Self::Cannot(_) => 3,
            Self::NotRun { error, .. } if error.kind() == std::io::ErrorKind::NotFound => 127,
            Self::NotRun { .. } => 126,
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Cannot(error)
    }
}

/// Refuses where this process is not root.
///
/// # Errors
/// [`Failure::Cannot`], which says who needs it.
pub fn need_root(who: &str) -> Result<(), Failure> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(Failure::Cannot(anyhow::anyhow!("{who} needs root: run it with sudo")))
}

/// An error and its causes, each once: many libraries put the cause into the message as well.
pub fn in_words(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.ends_with(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// What `main` does.
pub fn main() -> ExitCode {
    let called = std::env::args_os().next().map(PathBuf::from);
    if called.as_ref().and_then(|path| path.file_name()) == Some(OsStr::new(crate::cni::NAME)) {
        return crate::cni::plugin::main();
    }
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Agent(arguments) => agent::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Matrix(arguments) => matrix::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Lab(arguments) => lab::run(&arguments),
        Command::Cni(arguments) => cni::run(&arguments),
        Command::Probe(arguments) => probe::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if let Some(reason) = failure.reason() {
                eprintln!("sluice: {reason}");
                if let Some(essence) = essence(&reason) {
                    eprintln!("sluice: {essence}");
                }
            }
            ExitCode::from(failure.status())
        }
    }
}

/// The first line of a reason with a long log in it, such as the verifier's. It is said again at the
/// end: of a container that ends, its cluster shows the last 2048 bytes.
fn essence(reason: &str) -> Option<&str> {
    if reason.len() < 2048 { None } else { reason.lines().next() }
}

/// Writes a command's answer to standard output. A reader that has gone away (`| head`) has seen what
/// it wanted.
///
/// # Errors
/// [`Failure::Cannot`] where standard output takes nothing.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::new(error).context("standard output").into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot talk: {0}")]
    struct Talk(#[from] std::io::Error);

    #[test]
    fn what_a_long_log_is_about_is_said_after_it() {
        let log = "0: (b7) r1 = 0\n".repeat(200);
        let reason = format!("the kernel refuses the program x\n{log}");
        assert_eq!(essence(&reason), Some("the kernel refuses the program x"));
        assert_eq!(essence("not root:\nrun it with sudo"), None);
    }

    #[test]
    fn a_cause_is_said_once() {
        let denied = std::io::Error::from_raw_os_error(13);
        let error = anyhow::Error::new(Talk(denied)).context("status");
        assert_eq!(in_words(&error), "status: cannot talk: Permission denied (os error 13)");
    }
}
