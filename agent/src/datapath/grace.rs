//! Grace periods: waiting until every program run that has begun has ended. Programs are RCU readers, so
//! that is the kernel's `synchronize_rcu`, which two syscalls end in.
//!
//! `membarrier` (`MEMBARRIER_CMD_GLOBAL`) is made for it, and refused on a node with `nohz_full` CPUs,
//! whose RCU does without ticks and not less reliably: there it is a table of tables, which the kernel
//! does not return from writing before no program can still use what was in it (`maybe_wait_bpf_programs`,
//! since Linux 4.20; after what programs that sleep may use, too, since 6.7).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::thread::{self, JoinHandle};

use sluice_policy::diff::Op;

use super::syscall::{Command, ElementAttributes, bpf};

/// Which packets may be on their way, and what of the tables they may still look at.
///
/// A wait takes a few ticks of the kernel's clock, more than all else about a change. So one begins
/// behind each change, in a thread of its own, and the next change that has to wait, if any, waits for
/// the rest of it.
#[derive(Debug)]
pub(super) struct Readers {
    /// No packet on its way began before this generation.
    oldest: u32,
    /// An interface was led elsewhere: packets may be on their way with its former slot.
    slots: bool,
    /// Elements were removed from hashes: the next one that is added would have the memory of what
    /// packets may look at.
    memory: bool,
    /// A wait that began after all of that.
    waiting: Option<JoinHandle<io::Result<()>>>,
    /// One that began before some of it. While it lasts no other begins, so that there is never more than
    /// one thread, however fast changes come.
    outdated: Option<JoinHandle<io::Result<()>>>,
}

impl Readers {
    /// Nothing is known of what was done to the tables before.
    pub(super) const fn unknown() -> Self {
        Self { oldest: 0, slots: true, memory: true, waiting: None, outdated: None }
    }

    /// An interface was led elsewhere.
    pub(super) fn left_slot(&mut self) {
        self.slots = true;
        self.outdate();
    }

    /// An element of a hash was removed.
    pub(super) fn left_memory(&mut self) {
        self.memory = true;
        self.outdate();
    }

    /// The generation was flipped.
    pub(super) fn left_generation(&mut self) {
        self.outdate();
    }

    fn outdate(&mut self) {
        if let Some(waiting) = self.waiting.take() {
            self.outdated = Some(waiting);
        }
    }

    /// True if the operation, at this generation, must wait.
    pub(super) fn are_disturbed_by(&self, op: &Op, generation: u32) -> bool {
        let by_value = self.oldest < generation && op.disturbs(self.oldest);
        let by_slot = self.slots && matches!(op, Op::Endpoint(..) | Op::Hairpin(..));
        let by_memory = self.memory && matches!(op, Op::Peer(..) | Op::Vip(..) | Op::Hairpin(..));
        by_value || by_slot || by_memory
    }

    /// Begins to wait for the packets that are on their way, where anything depends on them.
    pub(super) fn begin_to_wait(&mut self, generation: u32) {
        let is_behind = self.oldest < generation || self.slots || self.memory;
        let is_busy = self.outdated.as_ref().is_some_and(|waiting| !waiting.is_finished());
        if is_behind && self.waiting.is_none() && !is_busy {
            let thread = thread::Builder::new().name("grace-period".to_owned());
            // Without a thread, who must wait does so.
            self.waiting = thread.spawn(grace_period).ok();
        }
    }

    /// Notes the end of a wait that has ended.
    pub(super) fn look(&mut self, generation: u32) {
        if let Some(ended) = self.waiting.take_if(|waiting| waiting.is_finished())
            && matches!(ended.join(), Ok(Ok(())))
        {
            self.have_ended(generation);
        }
    }

    /// Waits until every packet that has begun has ended. `generation` is the present one.
    pub(super) fn wait(&mut self, generation: u32) -> io::Result<()> {
        let begun = self.waiting.take().map(JoinHandle::join);
        if !matches!(begun, Some(Ok(Ok(())))) {
            grace_period()?;
        }
        self.have_ended(generation);
        Ok(())
    }

    const fn have_ended(&mut self, generation: u32) {
        (self.oldest, self.slots, self.memory) = (generation, false, false);
    }
}

/// Waits until every program run that began before this call has ended.
///
/// # Errors
/// Those of `bpf(2)`, where the kernel grants neither.
fn grace_period() -> io::Result<()> {
    membarrier().or_else(|_| written_table())
}

fn membarrier() -> io::Result<()> {
    /// `MEMBARRIER_CMD_GLOBAL` of `linux/membarrier.h`.
    const GLOBAL: libc::c_int = 1;
    // SAFETY: the call takes three integers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, GLOBAL, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Writes the element of a table of tables, and forgets both.
fn written_table() -> io::Result<()> {
    /// Kinds of tables, from `linux/bpf.h`.
    const ARRAY: u32 = 2;
    const ARRAY_OF_MAPS: u32 = 12;
    let inner = array(ARRAY, 0)?;
    let inner_fd = inner.as_raw_fd().cast_unsigned();
    let outer = array(ARRAY_OF_MAPS, inner_fd)?;
    let index = 0_u32;
    let mut attributes = ElementAttributes {
        map_fd: outer.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: std::ptr::from_ref(&index) as u64,
        value: std::ptr::from_ref(&inner_fd) as u64,
        flags: 0,
    };
    // SAFETY: the kernel reads a key and a value of 4 bytes each, which live until it returns.
    unsafe { bpf(Command::UpdateElement, &mut attributes) }.map(drop)
}

/// The part of `union bpf_attr` for [`Command::CreateMap`].
#[repr(C)]
#[derive(Debug)]
struct CreateAttributes {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// An array of one element of 4 bytes; `inner` is what an array of tables holds.
fn array(map_type: u32, inner: u32) -> io::Result<OwnedFd> {
    let mut attributes = CreateAttributes {
        map_type,
        key_size: 4,
        value_size: 4,
        max_entries: 1,
        map_flags: 0,
        inner_map_fd: inner,
    };
    // SAFETY: the kernel reads these six numbers.
    let fd = unsafe { bpf(Command::CreateMap, &mut attributes) }?;
    // SAFETY: it is a new file descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}
