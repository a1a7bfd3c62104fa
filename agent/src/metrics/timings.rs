//! How long things took.

use std::time::Duration;

use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

/// Upper bounds in seconds: 1 ms to a minute, finer where the budgets are.
const FAST: [f64; 12] =
    [0.001, 0.002, 0.005, 0.010, 0.020, 0.050, 0.100, 0.250, 1.0, 4.0, 16.0, 64.0];

/// Upper bounds in seconds: a pod's start, with scheduling and images, and in whole seconds.
const SLOW: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// How long things took, since the agent's start. A copy shares its numbers.
#[derive(Clone, Debug)]
pub struct Timings {
    /// Bringing the kernel to a change: compile, notes, tables, interfaces. Only what succeeded.
    pub apply: Histogram,
    /// From an event's arrival at the source (of a directory: from the look that finds the change) to
    /// the kernel's enforcing it, failures and retries included. What the first full list takes is not
    /// in it.
    pub event_to_enforced: Histogram,
    /// From the pod's creation, as its object says in whole seconds, to its enforcement. Pods that
    /// are older than the agent are not in it, nor those that no policy selected at first.
    pub pod_start_to_enforced: Histogram,
    /// What the CNI plugin's ADD has waited for, by `result`: a state of the pod, or `failed`.
    pub cni_add: CniAdd,
}

/// Histograms by one label.
pub type CniAdd = Family<[(&'static str, &'static str); 1], Histogram, fn() -> Histogram>;

impl Default for Timings {
    fn default() -> Self {
        Self {
            apply: Histogram::new(FAST),
            event_to_enforced: Histogram::new(FAST),
            pod_start_to_enforced: Histogram::new(SLOW),
            cni_add: Family::new_with_constructor(|| Histogram::new(FAST)),
        }
    }
}

impl Timings {
    /// Counts a duration.
    pub fn observe(histogram: &Histogram, took: Duration) {
        histogram.observe(took.as_secs_f64());
    }
}
