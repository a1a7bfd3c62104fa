//! Running the programs on packets made by hand (`BPF_PROG_TEST_RUN`), without an interface of their
//! own.

use std::time::Duration;

use aya::programs::{ProgramError, TestRun as _, TestRunOptions};
use sluice_common::abi::Direction;

use super::load::{Datapath, LoadError};

/// The interface that every machine has: the loopback. Packets of a test run appear on it, so its
/// element of `endpoint_slots` says whose packets they are.
pub const LOOPBACK: u32 = 1;

/// Any interface but none: the packet came from somewhere.
pub const ELSEWHERE: u32 = LOOPBACK;

/// What a program made of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on.
    Pass,
    /// It is dropped.
    Drop,
    /// Something that the programs never answer.
    Other(i32),
}

/// Why a packet could not be run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The program is not there.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The kernel did not run it.
    #[error("cannot run a packet of {length} bytes: {source}")]
    Run {
        /// The packet's length; the kernel takes none below 14.
        length: usize,
        /// Why.
        source: ProgramError,
    },
}

impl Datapath {
    /// Runs a direction's program on an Ethernet frame, as if it went through [`LOOPBACK`].
    /// `from_interface` is the interface that the node received it on, 0 for a packet of its own host
    /// stack.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run(
        &self,
        direction: Direction,
        frame: &[u8],
        from_interface: u32,
    ) -> Result<Action, RunError> {
        self.run_repeatedly(direction, frame, from_interface, 1).map(|(action, _)| action)
    }

    /// The same packet `repeat` times: the last answer, and the mean time of a run.
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run_repeatedly(
        &self,
        direction: Direction,
        frame: &[u8],
        from_interface: u32,
        repeat: u32,
    ) -> Result<(Action, Duration), RunError> {
        let context = context(from_interface, 0);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::default()
        };
        let result = self
            .program(direction)?
            .test_run(options)
            .map_err(|source| RunError::Run { length: frame.len(), source })?;
        Ok((action(result.return_value), result.duration))
    }

    /// One packet that comes with a stamp, and the stamp that it leaves with (0: none), by programs
    /// that keep it in the mark ([`super::LoadOptions::stamp_in_mark`]).
    ///
    /// # Errors
    /// [`RunError`].
    pub fn run_stamped(
        &self,
        direction: Direction,
        frame: &[u8],
        from_interface: u32,
        stamp: u32,
    ) -> Result<(Action, u32), RunError> {
        let context = context(from_interface, stamp);
        // The whole `struct __sk_buff`, with room for what newer kernels add.
        let mut after = [0; 256];
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        };
        let result = self
            .program(direction)?
            .test_run(options)
            .map_err(|source| RunError::Run { length: frame.len(), source })?;
        let mark = [after[MARK], after[MARK + 1], after[MARK + 2], after[MARK + 3]];
        Ok((action(result.return_value), u32::from_ne_bytes(mark)))
    }
}

/// `TC_ACT_*` are signed numbers in an unsigned field.
const fn action(value: u32) -> Action {
    match value.cast_signed() {
        -1 => Action::Pass,
        2 => Action::Drop,
        other => Action::Other(other),
    }
}

/// Place of `mark` in `struct __sk_buff`.
const MARK: usize = 8;

/// The beginning of a `struct __sk_buff` (`linux/bpf.h`); the kernel takes the rest as zeros.
fn context(from_interface: u32, mark: u32) -> [u8; 44] {
    const INGRESS_IFINDEX: usize = 36;
    const IFINDEX: usize = 40;
    let mut context = [0; 44];
    context[MARK..][..4].copy_from_slice(&mark.to_ne_bytes());
    context[INGRESS_IFINDEX..][..4].copy_from_slice(&from_interface.to_ne_bytes());
    context[IFINDEX..][..4].copy_from_slice(&LOOPBACK.to_ne_bytes());
    context
}
