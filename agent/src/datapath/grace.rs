//! Grace periods: waiting until every program run that has begun has ended. Programs are RCU readers, so
//! that is the kernel's `synchronize_rcu`, which two syscalls end in.
//!
//! `membarrier` (`MEMBARRIER_CMD_GLOBAL`) is made for it, and refused on a node with `nohz_full` CPUs,
//! whose RCU does without ticks and not less reliably: there it is a table of tables, which the kernel
//! does not return from writing before no program can still use what was in it (`maybe_wait_bpf_programs`,
//! since Linux 4.20; after what programs that sleep may use, too, since 6.7).

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use super::syscall::{Command, ElementAttributes, bpf};

/// Waits until every program run that began before this call has ended.
///
/// # Errors
/// Those of `bpf(2)`, where the kernel grants neither.
pub(super) fn grace_period() -> io::Result<()> {
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
