//! Running programs: each one is printed before it runs.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use crate::machine;
use crate::workspace::{self, TOOLCHAIN};

/// Where Debian keeps the LLVM that bpf-linker is built against.
pub(crate) const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// A program to run in the workspace's root.
pub(crate) struct Program {
    command: Command,
    /// What was set on top of the inherited environment, for the printed line and for sudo.
    environment: Vec<(OsString, OsString)>,
}

/// `program`, found in [`search_path`].
pub(crate) fn program(program: impl Into<OsString>) -> Program {
    let mut command = Command::new(program.into());
    command.current_dir(workspace::root()).env("PATH", search_path());
    // Set by the cargo that runs xtask, with the libraries of its own toolchain.
    command.env_remove("LD_LIBRARY_PATH");
    Program { command, environment: Vec::new() }
}

/// Cargo of the project's toolchain.
pub(crate) fn cargo(subcommand: &str) -> Program {
    program("cargo").arg(format!("+{TOOLCHAIN}")).arg(subcommand)
}

/// The places where programs are looked for: LLVM, the caller's own, cargo's, the system's.
fn search_path() -> OsString {
    let mut places = vec![PathBuf::from(LLVM_PREFIX).join("bin")];
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places.extend(cargo_home().map(|home| home.join("bin")));
    // Where a user who is not root has no `sbin` in the path, nft and bpftool would not be found.
    places.extend(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from));
    env::join_paths(places).unwrap_or_else(|_| env::var_os("PATH").unwrap_or_default())
}

/// `$CARGO_HOME`, or where it is by default.
fn cargo_home() -> Option<PathBuf> {
    let home = || env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(home)
}

/// The file that running `name` would run.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|place| place.join(name)).find(|path| path.is_file())
}

/// Where Go is installed when it is not in the path.
const GO: &str = "/usr/local/go/bin/go";

/// The Go tool, where there is one.
pub(crate) fn go() -> Option<PathBuf> {
    find("go").or_else(|| Some(PathBuf::from(GO)).filter(|go| go.is_file()))
}

impl Program {
    /// Adds an argument.
    pub(crate) fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    /// Adds arguments.
    pub(crate) fn args<A: Into<OsString>>(self, arguments: impl IntoIterator<Item = A>) -> Self {
        arguments.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        let (name, value) = (name.into(), value.into());
        self.command.env(&name, &value);
        self.environment.push((name, value));
        self
    }

    /// Runs it in `directory` instead of the workspace's root.
    pub(crate) fn directory(mut self, directory: &Path) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// The same program as root: as it is where we are root, by sudo otherwise.
    pub(crate) fn by_root(self) -> Self {
        if machine::is_root() {
            return self;
        }
        let path = search_path();
        let mut sudo = program(machine::sudo()[0]).args(&machine::sudo()[1..]);
        sudo = sudo.arg("env").arg(assignment("PATH", &path));
        sudo = sudo.args(self.environment.iter().map(|(name, value)| assignment(name, value)));
        sudo = sudo.arg(self.command.get_program()).args(self.command.get_args());
        match self.command.get_current_dir() {
            Some(directory) => sudo.directory(directory),
            None => sudo,
        }
    }

    /// Runs it and waits; an error where it fails. Its output is the caller's, its input is empty.
    pub(crate) fn run(mut self) -> anyhow::Result<()> {
        let line = self.line();
        println!("$ {line}");
        let status = self.command.stdin(Stdio::null()).status();
        let status = status.with_context(|| format!("cannot run `{line}`"))?;
        if !status.success() {
            bail!("`{line}` failed: {status}");
        }
        Ok(())
    }

    /// As [`Self::run`], with its output into a file.
    pub(crate) fn run_into(mut self, output: File) -> anyhow::Result<()> {
        let errors = output.try_clone().context("cannot share a file with a program")?;
        self.command.stdout(output).stderr(errors);
        self.run()
    }

    /// Runs it as [`Self::run`] does, but prints it on standard error: standard output is the program's
    /// own. The code that it exits with, none where a signal ended it.
    pub(crate) fn watch(mut self) -> anyhow::Result<Option<i32>> {
        let line = self.line();
        eprintln!("$ {line}");
        let status = self.command.stdin(Stdio::null()).status();
        Ok(status.with_context(|| format!("cannot run `{line}`"))?.code())
    }

    /// Runs it without printing it: true where it ends well.
    pub(crate) fn succeeds(self) -> bool {
        self.exit_code().is_ok_and(|code| code == Some(0))
    }

    /// Runs it without printing it: the code that it exits with, none where a signal ended it.
    pub(crate) fn exit_code(mut self) -> anyhow::Result<Option<i32>> {
        let line = self.line();
        let command = self.command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(command.status().with_context(|| format!("cannot run `{line}`"))?.code())
    }

    /// Runs it without printing it; its standard output, where it ends well.
    pub(crate) fn output(mut self) -> anyhow::Result<String> {
        let line = self.line();
        let command = self.command.stdin(Stdio::null()).stderr(Stdio::inherit());
        let output = command.output().with_context(|| format!("cannot run `{line}`"))?;
        if !output.status.success() {
            bail!("`{line}` failed: {}", output.status);
        }
        String::from_utf8(output.stdout).with_context(|| format!("output of `{line}`"))
    }

    /// Runs it without printing it: its standard output where it ends well, its standard error where it
    /// does not.
    pub(crate) fn attempt(mut self) -> anyhow::Result<Result<String, String>> {
        let line = self.line();
        let output = self.command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot run `{line}`"))?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
        let succeeded = output.status.success();
        Ok(if succeeded { Ok(text(output.stdout)) } else { Err(text(output.stderr)) })
    }

    /// What a person would type in the workspace's root.
    pub(crate) fn line(&self) -> String {
        let set = self.environment.iter().map(|(name, value)| assignment(name, value));
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let words = set.chain(words.map(OsString::from));
        words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
    }
}

fn assignment(name: impl AsRef<OsStr>, value: &OsStr) -> OsString {
    let mut text = name.as_ref().to_owned();
    text.push("=");
    text.push(value);
    text
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%*".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}
