//! Changes come into force where the kernel refuses `membarrier`, as it does on nodes with `nohz_full`
//! CPUs. Needs root.

use nix::libc;
use sluice_common::abi::Direction::Ingress;
use sluice_common::parse::protocol;
use sluice_common::parse::tcp_flag::SYN;
use sluice_common::reason::Reason;
use sluice_tests::scene::{EPOCH, PEER, POD, Scene};

/// From now on, in this thread, the kernel answers `membarrier` as such a node does.
fn refuse_membarrier() {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const SKIP_UNLESS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        // The syscall's number is the first word of `seccomp_data`.
        step(LOAD, 0, 0, 0),
        step(SKIP_UNLESS, 0, 1, libc::SYS_membarrier as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ERRNO | libc::EINVAL as u32),
        step(ANSWER, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which lives until it returns.
    let result =
        unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call takes three integers and touches no memory of ours.
    let refused = unsafe { libc::syscall(libc::SYS_membarrier, 1, 0, 0) };
    let error = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((refused, error), (-1, Some(libc::EINVAL)));
}

#[test]
fn changes_come_into_force_where_membarrier_is_refused() {
    sluice_tests::needs_root();
    refuse_membarrier();
    let mut scene = Scene::new();
    let tcp = sluice::engine::packet::tcp(40_000, 80, SYN);
    let syn = sluice::engine::packet::frame(PEER.into(), POD.into(), protocol::TCP, &tcp);
    scene.drops(Ingress, &syn, Reason::DefaultDeny);
    // Waits for the packets that have met the interface before it was led to this place.
    scene.replace_pod(EPOCH);
    scene.allow(Ingress, protocol::TCP, 80);
    scene.passes(Ingress, &syn, Reason::Allowed);
    scene.deny(Ingress, protocol::TCP, 80);
    scene.drops(Ingress, &syn, Reason::Revoked);
}
