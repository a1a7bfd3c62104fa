//! Integration tests.

pub mod apiserver;
pub mod case;
pub mod cni;
pub mod e2e;
pub mod hostile;
pub mod http;
pub mod lab;
pub mod model;
pub mod node;
pub mod packet;
pub mod random;
pub mod scene;
pub mod sequence;
pub mod simulated;
pub mod traffic;
pub mod translate;
pub mod truth;
pub mod wire;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Fails with a message where the test does not run as root. `cargo xtask test` does.
///
/// # Panics
/// Without root.
pub fn needs_root() {
    assert!(nix::unistd::geteuid().is_root(), "this test needs root: run `cargo xtask test`");
}

/// A number from an environment variable, or another.
///
/// # Panics
/// Where the variable is no number.
pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect(variable))
}

/// Keeps the calling thread to one of the CPUs that it may use.
///
/// # Panics
/// Where the kernel does not let it.
pub fn keep_to_one_cpu() {
    let this = Pid::from_raw(0);
    let allowed = sched_getaffinity(this).expect("readable");
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu) == Ok(true));
    let mut one = CpuSet::new();
    one.set(first.expect("a CPU")).expect("in range");
    sched_setaffinity(this, &one).expect("set");
}
