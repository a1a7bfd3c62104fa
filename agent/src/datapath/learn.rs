//! Flows of connections that were open before anybody followed them.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sluice_common::abi::{Flow, FlowKey};

use super::load::tick_rate;
use super::maps::{KernelMaps, MapFault};

impl KernelMaps {
    /// Adds the flows that are not there yet, as seen just now, and returns how many those were. One that
    /// the programs add meanwhile and this hides is judged once more; nothing else comes of it.
    ///
    /// # Errors
    /// [`MapFault`].
    pub fn learn(
        &mut self,
        flows: impl IntoIterator<Item = (FlowKey, Flow)>,
    ) -> Result<u64, MapFault> {
        let last_seen = jiffies().map_err(MapFault::Clock)?;
        let mut learned = 0;
        for (key, flow) in flows {
            if self.flow(&key)?.is_none() {
                self.set_flow(&key, &Flow { last_seen, ..flow })?;
                learned += 1;
            }
        }
        Ok(learned)
    }
}

/// The kernel's counter of ticks, to about a second: it begins 300 s before its lower 32 bits wrap
/// (`INITIAL_JIFFIES` of `linux/jiffies.h`), and goes with the monotonic clock, neither in suspend.
fn jiffies() -> io::Result<u64> {
    let rate = u64::from(tick_rate()?);
    let since_boot = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    let ticks = since_boot.as_secs() * rate + u64::from(since_boot.subsec_millis()) * rate / 1000;
    Ok((1 << 32) - 300 * rate + ticks)
}
