//! The tc programs of sluice.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    /// Placeholder.
    #[classifier]
    pub(crate) fn sluice_ingress(_ctx: TcContext) -> i32 {
        -1
    }

    #[panic_handler]
    fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
        loop {}
    }

    // SAFETY: read by the kernel at load; never written.
    #[unsafe(link_section = "license")]
    #[unsafe(no_mangle)]
    static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
}
