//! A virtual machine, and what it prints.

use std::fs::{self, File};
use std::path::Path;

use anyhow::{Context as _, anyhow};

use super::fetch::Fetched;
use super::image::MARK;
use crate::process::program;

/// Seconds that a virtual machine gets.
const PATIENCE: u32 = 5400;

/// What a test program did.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) program: String,
    /// Tests that passed.
    pub(super) passed: u32,
    /// Names of those that did not.
    pub(super) failures: Vec<String>,
    /// None where it has not ended.
    pub(super) status: Option<i32>,
}

/// What a virtual machine did.
pub(super) struct Report {
    /// As the kernel says it.
    pub(super) version: Option<String>,
    pub(super) outcomes: Vec<Outcome>,
    /// An error where not everything was run.
    pub(super) ended: anyhow::Result<()>,
}

/// Boots the image and waits for the machine's end; `tests`: how many programs it runs.
pub(super) fn boot(
    kernel: &Fetched,
    image: &Path,
    scratch: &Path,
    tests: usize,
) -> anyhow::Result<Report> {
    let log = scratch.join("console.log");
    let console = File::create(&log).with_context(|| log.display().to_string())?;
    println!("its console: {}", log.display());
    let run = program("timeout")
        .arg(PATIENCE.to_string())
        .args(["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none"])
        // Without cmpxchg16b, which qemu 7.2 emulates wrongly: it leaves another word in the flags, and
        // Linux 6.12 dies of that in its allocator. Page tables of five levels only cost time.
        .args(["-accel", "tcg,thread=multi", "-cpu", "max,-cx16,-la57"])
        .args(["-smp", "2", "-m", "3G", "-nic", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(image)
        .args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1 mitigations=off"])
        .run_into(console);
    let bytes = fs::read(&log).with_context(|| log.display().to_string())?;
    let text = String::from_utf8_lossy(&bytes);
    let mut report = read(&text);
    report.ended = match run {
        Ok(()) if report.outcomes.len() == tests => Ok(()),
        Ok(()) => Err(anyhow!("the machine ended early: {}", last_words(&text))),
        Err(error) => Err(error),
    };
    Ok(report)
}

/// Reads a console: the script's marks, and the lines of Rust's test harness.
fn read(console: &str) -> Report {
    let mut report = Report { version: None, outcomes: Vec::new(), ended: Ok(()) };
    for line in console.lines() {
        if let Some((_, said)) = line.split_once(MARK) {
            report.note(said.trim());
        } else if let Some(outcome) = report.outcomes.last_mut() {
            outcome.note(line.trim());
        }
    }
    report
}

impl Report {
    /// A line of the script.
    fn note(&mut self, said: &str) {
        let words: Vec<_> = said.split_whitespace().collect();
        match words[..] {
            ["kernel", version] => self.version = Some(version.to_owned()),
            ["begin", program] => self.outcomes.push(Outcome {
                program: program.to_owned(),
                passed: 0,
                failures: Vec::new(),
                status: None,
            }),
            ["end", _, status] => {
                if let Some(outcome) = self.outcomes.last_mut() {
                    outcome.status = status.parse().ok();
                }
            }
            _ => {}
        }
    }
}

impl Outcome {
    /// A line of the test program.
    fn note(&mut self, line: &str) {
        // `test NAME ... ok`; what a test prints may stand in between.
        if let Some(rest) = line.strip_prefix("test ").filter(|rest| rest.ends_with("FAILED"))
            && let Some((name, _)) = rest.split_once(" ... ")
        {
            self.failures.push(name.to_owned());
        }
        let passed = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(" passed"));
        if let Some((before, _)) = passed {
            self.passed = before.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
        }
    }
}

fn last_words(console: &str) -> &str {
    let mut lines = console.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.next_back().unwrap_or("it printed nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read() {
        let console = "Booting\r\n\x1b[2J@@ kernel 6.1.0-50-cloud-amd64\r
@@ begin control\r
running 2 tests\r
test arp_passes ... ok\r
test dhcp_passes ... FAILED\r
test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out\r
@@ end control 101\r
@@ begin flows\r
test one ... ok\r
";
        let report = read(console);
        assert_eq!(report.version.as_deref(), Some("6.1.0-50-cloud-amd64"));
        let control = Outcome {
            program: "control".into(),
            passed: 1,
            failures: vec!["dhcp_passes".into()],
            status: Some(101),
        };
        let flows =
            Outcome { program: "flows".into(), passed: 0, failures: Vec::new(), status: None };
        assert_eq!(report.outcomes, [control, flows]);
    }
}
