//! The few calls of `bpf(2)` that the benches need beside aya: programs written by hand, a tail call,
//! and test runs and hooks of programs that aya does not know.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, ensure};

use crate::packet;

const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const PROG_LOAD: libc::c_long = 5;
const PROG_TEST_RUN: libc::c_long = 10;
const LINK_CREATE: libc::c_long = 28;
const MAP_TYPE_PROG_ARRAY: u32 = 3;
const PROG_TYPE_SCHED_CLS: u32 = 3;

/// A loaded tc program.
pub struct Program {
    fd: OwnedFd,
    /// The tail call's table, which must live as long as the program that uses it.
    _calls: Option<OwnedFd>,
}

impl Program {
    /// A program of another loader.
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self { fd, _calls: None }
    }

    /// Does nothing and lets the packet pass: the reference.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn empty() -> anyhow::Result<Self> {
        let fd = load(&[asm::mov_imm(0, -1), asm::exit()])?;
        Ok(Self::from_fd(fd))
    }

    /// Gives the packet the next sequence number, the same as source port, and the source address
    /// `first + (sequence & mask)`; then goes on in `next`.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn advance_then(next: &Self, first: Ipv4Addr, mask: u32) -> anyhow::Result<Self> {
        let calls = program_array(&next.fd)?;
        let first = u32::from(first).cast_signed();
        let length = i32::try_from(packet::LENGTH)?;
        let [table, table_high] = asm::load_map(2, calls.as_raw_fd());
        let code = [
            asm::mov(6, 1),
            asm::load32(2, 1, 76), // __sk_buff.data
            asm::load32(3, 1, 80), // __sk_buff.data_end
            asm::mov(4, 2),
            asm::add_imm(4, length),
            asm::jump_if_greater(4, 3, 13), // to the end
            asm::load32(5, 2, packet::SEQUENCE),
            asm::add_imm(5, 1),
            asm::store32(2, packet::SEQUENCE, 5),
            asm::store16(2, packet::SOURCE_PORT, 5),
            asm::and_imm(5, mask.cast_signed()),
            asm::add_imm(5, first),
            asm::to_be32(5),
            asm::store32(2, packet::SOURCE_ADDRESS, 5),
            asm::mov(1, 6),
            table,
            table_high,
            asm::mov_imm(3, 0),
            asm::tail_call(),
            // Here only if the tail call failed, or the packet is too short: a return value that
            // nobody expects.
            asm::mov_imm(0, 77),
            asm::exit(),
        ];
        Ok(Self { fd: load(&code)?, _calls: Some(calls) })
    }

    /// Runs the program `repeat` times on one packet; nanoseconds per run.
    ///
    /// # Errors
    /// Also where the last run returns something else than `expected`.
    pub fn run(&self, packet: &[u8], repeat: u32, expected: i32) -> anyhow::Result<f64> {
        // The packet comes from another interface (not from the host's own stack) to loopback.
        let mut context = [0_u32; 48];
        context[9] = 1; // __sk_buff.ingress_ifindex
        context[10] = 1; // __sk_buff.ifindex
        let mut attributes = TestRun {
            program: self.fd.as_raw_fd().cast_unsigned(),
            data_size_in: u32::try_from(packet.len())?,
            data_in: packet.as_ptr() as u64,
            repeat,
            context_size_in: u32::try_from(size_of_val(&context))?,
            context_in: context.as_ptr() as u64,
            ..TestRun::default()
        };
        bpf(PROG_TEST_RUN, &mut attributes).context("BPF_PROG_TEST_RUN")?;
        let returned = attributes.return_value.cast_signed();
        ensure!(returned == expected, "the program returned {returned}, not {expected}");
        Ok(f64::from(attributes.duration))
    }
}

/// The tcx hooks of an interface, as `enum bpf_attach_type` has them.
#[derive(Clone, Copy, Debug)]
pub enum Hook {
    /// What comes in from the interface.
    Ingress = 46,
    /// What goes out to it.
    Egress = 47,
}

impl Program {
    /// Puts the program on a hook of an interface of this thread's network namespace, for as long as
    /// the result lives.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(&self, interface: u32, hook: Hook) -> anyhow::Result<OwnedFd> {
        let mut attributes = LinkCreate {
            program: self.fd.as_raw_fd().cast_unsigned(),
            interface,
            hook: hook as u32,
            ..LinkCreate::default()
        };
        bpf_fd(LINK_CREATE, &mut attributes)
            .with_context(|| format!("cannot attach a program to interface {interface}"))
    }
}

/// `bpf_attr` of `BPF_LINK_CREATE`, for tcx.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    program: u32,
    interface: u32,
    hook: u32,
    flags: u32,
    /// Where in the order of programs; zeros: last.
    relative: u32,
    padding: u32,
    expected_revision: u64,
}

/// `bpf_attr` of `BPF_PROG_TEST_RUN`.
#[repr(C)]
#[derive(Default)]
struct TestRun {
    program: u32,
    return_value: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    /// Nanoseconds per run, on average.
    duration: u32,
    context_size_in: u32,
    context_size_out: u32,
    context_in: u64,
    context_out: u64,
}

/// `bpf_attr` of `BPF_PROG_LOAD`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    licence: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
}

/// `bpf_attr` of `BPF_MAP_CREATE`.
#[repr(C)]
#[derive(Default)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    entries: u32,
    flags: u32,
}

/// `bpf_attr` of `BPF_MAP_UPDATE_ELEM`.
#[repr(C)]
#[derive(Default)]
struct MapUpdate {
    map: u32,
    reserved: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn load(code: &[asm::Instruction]) -> anyhow::Result<OwnedFd> {
    let mut log = vec![0_u8; 16 * 1024];
    let mut attributes = ProgLoad {
        kind: PROG_TYPE_SCHED_CLS,
        count: u32::try_from(code.len())?,
        instructions: code.as_ptr() as u64,
        licence: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: u32::try_from(log.len())?,
        log: log.as_mut_ptr() as u64,
    };
    let loaded = bpf_fd(PROG_LOAD, &mut attributes);
    loaded.with_context(|| String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned())
}

/// A table of one program to go on in.
fn program_array(program: &OwnedFd) -> anyhow::Result<OwnedFd> {
    let mut attributes = MapCreate {
        kind: MAP_TYPE_PROG_ARRAY,
        key_size: 4,
        value_size: 4,
        entries: 1,
        ..MapCreate::default()
    };
    let map = bpf_fd(MAP_CREATE, &mut attributes).context("cannot make a program array")?;
    let (key, value) = (0_u32, program.as_raw_fd());
    let mut attributes = MapUpdate {
        map: map.as_raw_fd().cast_unsigned(),
        key: &raw const key as u64,
        value: &raw const value as u64,
        ..MapUpdate::default()
    };
    bpf(MAP_UPDATE_ELEM, &mut attributes).context("cannot fill the program array")?;
    Ok(map)
}

fn bpf_fd<T>(command: libc::c_long, attributes: &mut T) -> io::Result<OwnedFd> {
    let fd = RawFd::try_from(bpf(command, attributes)?).map_err(io::Error::other)?;
    // SAFETY: the commands that this is called with return a new file descriptor, owned by nobody.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `T` is the beginning of the command's `bpf_attr`; what it points to must outlive the call.
fn bpf<T>(command: libc::c_long, attributes: &mut T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes `size_of::<T>()` bytes of `attributes`, and what its
    // pointers point to with the sizes beside them, which the callers keep alive.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attributes), size_of::<T>())
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The instructions that [`Program`] is written in.
mod asm {
    use std::os::fd::RawFd;

    #[repr(C)]
    #[derive(Clone, Copy)]
    pub(super) struct Instruction {
        code: u8,
        /// Destination in the low half, source in the high one.
        registers: u8,
        offset: i16,
        immediate: i32,
    }

    const fn instruction(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Instruction {
        Instruction { code, registers: to | from << 4, offset, immediate }
    }

    pub(super) const fn mov(to: u8, from: u8) -> Instruction {
        instruction(0xbf, to, from, 0, 0)
    }
    pub(super) const fn mov_imm(to: u8, value: i32) -> Instruction {
        instruction(0xb7, to, 0, 0, value)
    }
    /// 64 bits wide: also for pointers.
    pub(super) const fn add_imm(to: u8, value: i32) -> Instruction {
        instruction(0x07, to, 0, 0, value)
    }
    pub(super) const fn and_imm(to: u8, value: i32) -> Instruction {
        instruction(0x57, to, 0, 0, value)
    }
    pub(super) const fn to_be32(to: u8) -> Instruction {
        instruction(0xdc, to, 0, 0, 32)
    }
    pub(super) const fn load32(to: u8, from: u8, offset: i16) -> Instruction {
        instruction(0x61, to, from, offset, 0)
    }
    pub(super) const fn store32(to: u8, offset: i16, from: u8) -> Instruction {
        instruction(0x63, to, from, offset, 0)
    }
    pub(super) const fn store16(to: u8, offset: i16, from: u8) -> Instruction {
        instruction(0x6b, to, from, offset, 0)
    }
    pub(super) const fn jump_if_greater(a: u8, b: u8, by: i16) -> Instruction {
        instruction(0x2d, a, b, by, 0)
    }
    /// One instruction of two words.
    pub(super) const fn load_map(to: u8, map: RawFd) -> [Instruction; 2] {
        [instruction(0x18, to, 1, 0, map), instruction(0, 0, 0, 0, 0)]
    }
    /// Context in register 1, table in 2, index in 3.
    pub(super) const fn tail_call() -> Instruction {
        instruction(0x85, 0, 0, 0, 12)
    }
    pub(super) const fn exit() -> Instruction {
        instruction(0x95, 0, 0, 0, 0)
    }
}
