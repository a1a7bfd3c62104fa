//! Commands of `bpf(2)` that aya has no call for.

use std::io;

/// Their numbers, from `linux/bpf.h`.
#[derive(Clone, Copy)]
pub(super) enum Command {
    CreateMap = 0,
    LookupElement = 1,
    UpdateElement = 2,
    LookupBatch = 24,
    UpdateBatch = 26,
}

/// The part of `union bpf_attr` for [`Command::LookupElement`] and [`Command::UpdateElement`]. Pointers
/// are integers there.
#[repr(C)]
#[derive(Debug)]
pub(super) struct ElementAttributes {
    pub(super) map_fd: u32,
    pub(super) padding: u32,
    pub(super) key: u64,
    pub(super) value: u64,
    pub(super) flags: u64,
}

/// Calls `bpf(2)`, and returns what it does.
///
/// # Safety
/// `A` is the part of `union bpf_attr` that the command takes, and its pointers lead to memory that
/// the kernel may read and write what the command says.
pub(super) unsafe fn bpf<A>(command: Command, attributes: &mut A) -> io::Result<libc::c_long> {
    let attributes: *mut A = attributes;
    // SAFETY: as the caller promises; the kernel reads and writes no more than the size given.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, attributes, size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
