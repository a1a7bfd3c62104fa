//! Reading the packet: directly where its bytes are linear, through the kernel where they are not.

use core::arch::asm;
use core::ffi::c_void;
use core::mem::offset_of;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use sluice_common::parse::Bytes;

/// The packet under the program.
pub(crate) struct Skb {
    context: TcContext,
    data: usize,
    data_end: usize,
}

/// No header begins beyond this offset: tags, one IPv6 header and eight extension headers of 2 KiB
/// are less. The verifier wants the bound in sight where the packet is read.
const OFFSET_MASK: usize = 0x7fff;

impl Skb {
    #[inline(always)]
    pub(crate) fn new(context: TcContext) -> Self {
        let (data, data_end) = (context.data(), context.data_end());
        Self { context, data, data_end }
    }

    /// For the trace.
    #[inline(always)]
    pub(crate) const fn context(&self) -> &TcContext {
        &self.context
    }

    /// The interface whose hook this is.
    #[inline(always)]
    pub(crate) fn interface(&self) -> u32 {
        // SAFETY: `raw` is the context that the kernel gave to the program; it outlives the call.
        unsafe { (*self.raw()).ifindex }
    }

    /// True for a packet that no interface of the node received: its own host stack made it.
    #[inline(always)]
    pub(crate) fn is_from_own_host(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.raw()).ingress_ifindex == 0 }
    }

    /// True for a packet that the node received from the interface whose hook this is.
    #[inline(always)]
    pub(crate) fn is_from_own_interface(&self) -> bool {
        // SAFETY: as above.
        let (received_by, hook) = unsafe {
            let raw = &*self.raw();
            (raw.ingress_ifindex, raw.ifindex)
        };
        received_by == hook
    }

    /// The context, as the kernel's functions take it.
    #[inline(always)]
    pub(crate) fn as_ptr(&self) -> *mut c_void {
        self.context.as_ptr()
    }

    /// A number that goes with the packet through the node.
    #[inline(always)]
    pub(crate) fn tc_index(&self) -> u32 {
        self.field::<{ offset_of!(__sk_buff, tc_index) }>()
    }

    /// Another that does, which belongs to the node's administrator.
    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        self.field::<{ offset_of!(__sk_buff, mark) }>()
    }

    /// See [`Self::tc_index`].
    #[inline(always)]
    pub(crate) fn set_tc_index(&self, value: u32) {
        self.set_field::<{ offset_of!(__sk_buff, tc_index) }>(value);
    }

    /// See [`Self::mark`].
    #[inline(always)]
    pub(crate) fn set_mark(&self, value: u32) {
        self.set_field::<{ offset_of!(__sk_buff, mark) }>(value);
    }

    /// A field of the context. The verifier wants its place in the instruction; where there is a choice
    /// of fields, the compiler would add it to the pointer first.
    #[inline(always)]
    fn field<const OFFSET: usize>(&self) -> u32 {
        let value: u64;
        // SAFETY: a word of the context, which outlives the call; the verifier refuses the program
        // unless it may be read.
        unsafe {
            asm!(
                "{0} = *(u32 *)({1} + {2})",
                out(reg) value,
                in(reg) self.raw(),
                const OFFSET,
                options(readonly, nostack)
            );
        }
        value as u32
    }

    /// See [`Self::field`].
    #[inline(always)]
    fn set_field<const OFFSET: usize>(&self, value: u32) {
        // SAFETY: a word of the context, to which nothing holds a reference; the verifier refuses the
        // program unless it may be written.
        unsafe {
            asm!(
                "*(u32 *)({1} + {2}) = {0}",
                in(reg) u64::from(value),
                in(reg) self.raw(),
                const OFFSET,
                options(nostack)
            );
        }
    }

    #[inline(always)]
    fn raw(&self) -> *const __sk_buff {
        self.as_ptr().cast()
    }

    /// Address of `length` bytes at `offset` in the linear part, if it holds them.
    #[inline(always)]
    fn linear(&self, offset: u32, length: usize) -> Option<usize> {
        let mut start = offset as usize;
        // The verifier follows one register from here through the check to the loads. The compiler
        // must not split it, nor drop the mask because it knows better: so it does not see how the
        // value comes about.
        // SAFETY: arithmetic on registers only.
        unsafe {
            asm!(
                "{start} &= {mask}",
                "{start} += {data}",
                start = inout(reg) start,
                data = in(reg) self.data,
                mask = const OFFSET_MASK,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        (start + length <= self.data_end).then_some(start)
    }
}

impl Bytes for Skb {
    #[inline(always)]
    fn length(&self) -> u32 {
        self.context.len()
    }

    #[inline(always)]
    fn words<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        let Some(start) = self.linear(offset, 4 * N) else {
            return self.context.load(offset as usize).ok();
        };
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = load_word(start + 4 * index);
        }
        Some(words)
    }

    #[inline(always)]
    fn half(&self, offset: u32) -> Option<u16> {
        let Some(start) = self.linear(offset, 2) else {
            return self.context.load(offset as usize).ok().map(u16::from_be);
        };
        Some(u16::from_be(load_half(start)))
    }

    #[inline(always)]
    fn blur(&self, value: u32) -> u32 {
        let mut value = u64::from(value);
        let key = u64::from(self.length());
        // SAFETY: arithmetic on registers only. The verifier does not see that the second undoes the
        // first.
        unsafe {
            asm!(
                "{value} ^= {key}",
                "{value} ^= {key}",
                value = inout(reg) value,
                key = in(reg) key,
                options(pure, nomem, nostack, preserves_flags),
            );
        }
        value as u32
    }
}

/// One load of four bytes. Plain Rust would have to assume an alignment that packets do not have, and
/// would otherwise load byte by byte, at four times the instructions.
#[inline(always)]
fn load_word(address: usize) -> u32 {
    let word: u64;
    // SAFETY: the verifier refuses the program unless the address was checked to be in the packet.
    unsafe {
        asm!("{0} = *(u32 *)({1} + 0)", out(reg) word, in(reg) address, options(readonly, nostack));
    }
    word as u32
}

/// One load of two bytes; see [`load_word`].
#[inline(always)]
fn load_half(address: usize) -> u16 {
    let half: u64;
    // SAFETY: as in `load_word`.
    unsafe {
        asm!("{0} = *(u16 *)({1} + 0)", out(reg) half, in(reg) address, options(readonly, nostack));
    }
    half as u16
}
