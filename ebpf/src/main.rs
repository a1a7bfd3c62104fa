//! The tc programs of sluice.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
mod maps;

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::macros::classifier;
    use aya_ebpf::programs::TcContext;

    use crate::maps;

    #[unsafe(no_mangle)]
    static TICK_RATE: aya_ebpf::Global<u32> = aya_ebpf::Global::new(250);
    #[unsafe(no_mangle)]
    static TRACE_SLOT: aya_ebpf::Global<u32> = aya_ebpf::Global::new(0);

    /// Placeholder.
    #[classifier]
    pub(crate) fn sluice_ingress(_ctx: TcContext) -> i32 {
        if TICK_RATE.load() == TRACE_SLOT.load() {
            return 2;
        }
        let _ = maps::CONTROL.get(0);
        let _ = maps::PEERS.get_ptr(&sluice_common::abi::Address::UNSPECIFIED);
        let _ = maps::FLOWS.get_ptr(&sluice_common::abi::FlowKey::default());
        let _ = maps::ENDPOINT_SLOTS_HIGH.get_ptr(&1);
        let _ = maps::CIDRS.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(
            1,
            sluice_common::abi::CidrKey::default(),
        ));
        let _ = maps::DECISIONS.get(&aya_ebpf::btf_maps::lpm_trie::Key::new(
            1,
            sluice_common::abi::DecisionKey::default(),
        ));
        let _ = maps::EVENTS.output(&sluice_common::abi::Event::default(), 0);
        let _ = maps::ENDPOINT_SLOTS.get(0);
        let _ = maps::ENDPOINTS.get(0);
        let _ = maps::COUNTERS.get(0);
        let _ = maps::RULE_HITS.get(0);
        let _ = maps::EVENT_BUDGETS.get(0);
        -1
    }
    /// Placeholder.
    #[classifier]
    pub(crate) fn sluice_egress(_ctx: TcContext) -> i32 {
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
