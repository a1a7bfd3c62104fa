//! `cargo xtask kernels`: the programs on older kernels than this machine's, in virtual machines.
//!
//! `fetch` gets a kernel from the machine's own Debian mirror, `image` puts it together with test
//! programs into what it boots, `guest` boots that in qemu and reads what it prints.

mod fetch;
mod guest;
mod image;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use self::guest::Outcome;
use crate::named::Named;
use crate::setup::{self, Purpose};
use crate::test::programs;
use crate::workspace;

pub(crate) const SUMMARY: &str = "load and test the programs on older kernels, in qemu";
pub(crate) const HELP: &str = "
Usage: cargo xtask kernels [NAME]...

Boots Debian's kernels for clouds in qemu, without KVM, and runs there the test programs that need
nothing but a kernel: the packet tests (BPF_PROG_TEST_RUN) where the kernel can run them, and tests
of real packets through veths and clsact or tcx hooks. Times mean nothing there.
Without a NAME, all of them:
  bullseye   Linux 5.10
  bookworm   Linux 6.1
  trixie     Linux 6.12
Kernels come from the mirror that this machine's apt uses and are kept in ~/.cache/sluice/kernels.
What was printed is left in the target directory, in xtask-kernels/.";

/// A kernel to test on.
struct Kernel {
    /// The Debian release that it comes with.
    release: &'static str,
    /// What is run on it.
    tests: &'static [Test],
}

/// A test program, and those of its tests that are not run in a virtual machine.
struct Test {
    program: &'static str,
    /// Beginnings of names.
    without: &'static [&'static str],
}

const fn whole(program: &'static str) -> Test {
    Test { program, without: &[] }
}

/// Real packets through real hooks; nothing that is judged comes by `BPF_PROG_TEST_RUN`.
const LIVE: [Test; 6] = [
    whole("clsact"),
    whole("hostile_lab"),
    whole("own_host"),
    whole("paged"),
    whole("path_mtu"),
    whole("vlan_metadata"),
];

/// Packets by `BPF_PROG_TEST_RUN`, with an interface that they came from: Linux 5.10 takes none there
/// and calls it an invalid argument.
const RUN: [Test; 13] = [
    whole("control"),
    whole("events"),
    // Hundreds of thousands of packets, or of flows: too many to emulate.
    Test { program: "flows", without: &["silent_flows"] },
    whole("fragments"),
    whole("hairpin"),
    whole("hostile_packets"),
    whole("icmp_errors"),
    whole("kernel_fuzz"),
    whole("kernel_vs_oracle"),
    whole("own_address"),
    whole("short_way"),
    whole("table_reads"),
    // What is on record is another kernel's.
    Test { program: "verifier", without: &["programs_are_verified_within_bounds"] },
];

const KERNELS: &[Kernel] = &[
    Kernel { release: "bullseye", tests: &LIVE },
    Kernel { release: "bookworm", tests: &joined() },
    Kernel { release: "trixie", tests: &joined() },
];

/// [`LIVE`] and [`RUN`].
const fn joined() -> [Test; LIVE.len() + RUN.len()] {
    let mut all = [const { whole("") }; LIVE.len() + RUN.len()];
    let mut index = 0;
    while index < all.len() {
        let from = if index < LIVE.len() { &LIVE[index] } else { &RUN[index - LIVE.len()] };
        all[index] = Test { program: from.program, without: from.without };
        index += 1;
    }
    all
}

/// What came of a kernel.
struct Ending {
    release: &'static str,
    /// As the kernel says it; none where it did not come so far.
    version: Option<String>,
    outcomes: Vec<Outcome>,
    /// Why there are no outcomes, or not all.
    error: Option<anyhow::Error>,
    took: Duration,
}

pub(crate) fn main(mut arguments: lexopt::Parser) -> anyhow::Result<()> {
    let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.release).collect();
    let named = Named::read(&mut arguments, "kernel", &known)?;
    setup::ensure(Purpose::Emulate)?;
    let built = programs::build_for_root()?;
    let scratch = workspace::target_dir()?.join("xtask-kernels");
    let mut endings = Vec::new();
    for kernel in KERNELS.iter().filter(|kernel| named.has(kernel.release)) {
        println!("\n=== {}", kernel.release);
        let begun = Instant::now();
        let mut ending = Ending {
            release: kernel.release,
            version: None,
            outcomes: Vec::new(),
            error: None,
            took: Duration::ZERO,
        };
        ending.error = test(kernel, &built, &scratch.join(kernel.release), &mut ending).err();
        ending.took = begun.elapsed();
        ending.print();
        endings.push(ending);
    }
    summarise(&endings)
}

fn test(
    kernel: &Kernel,
    built: &[programs::TestProgram],
    scratch: &Path,
    ending: &mut Ending,
) -> anyhow::Result<()> {
    let fetched = fetch::kernel(kernel.release)
        .with_context(|| format!("cannot get the kernel of {}", kernel.release))?;
    let image = image::make(&fetched, kernel.tests, built, scratch)?;
    let report = guest::boot(&fetched, &image, scratch, kernel.tests.len())?;
    ending.version = report.version;
    ending.outcomes = report.outcomes;
    report.ended
}

impl Ending {
    fn is_good(&self) -> bool {
        self.error.is_none() && self.outcomes.iter().all(|outcome| outcome.status == Some(0))
    }

    fn print(&self) {
        for outcome in &self.outcomes {
            let Outcome { program, passed, status, .. } = outcome;
            match status {
                Some(0) => println!("{program:16} ok      {passed:3} passed"),
                Some(status) => println!("{program:16} FAILED  exit status {status}"),
                None => println!("{program:16} FAILED  has not ended"),
            }
            outcome.failures.iter().for_each(|name| println!("{:16} {name}", ""));
        }
        if let Some(error) = &self.error {
            println!("error: {error:#}");
        }
    }
}

/// A line per kernel; an error if one failed.
fn summarise(endings: &[Ending]) -> anyhow::Result<()> {
    println!("\n=== kernels");
    println!(
        "{:10} {:30} {:>8} {:>6} {:>6}  result",
        "release", "kernel", "programs", "tests", "s"
    );
    for ending in endings {
        let tests: u32 = ending.outcomes.iter().map(|outcome| outcome.passed).sum();
        println!(
            "{:10} {:30} {:>8} {tests:>6} {:>6}  {}",
            ending.release,
            ending.version.as_deref().unwrap_or("-"),
            ending.outcomes.len(),
            ending.took.as_secs(),
            if ending.is_good() { "ok" } else { "FAILED" }
        );
    }
    let failed = endings.iter().filter(|ending| !ending.is_good()).count();
    if failed > 0 {
        bail!("{failed} of {} kernels failed", endings.len());
    }
    Ok(())
}
