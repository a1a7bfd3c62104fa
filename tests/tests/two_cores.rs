//! One connection's packets on two CPUs at once: what it costs that both look at the same flow, and that
//! every packet is counted. Prints the cost; it says something on a machine that does nothing else. Needs
//! root and two CPUs.

use std::sync::Barrier;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sluice::datapath::run::{Action, ELSEWHERE};
use sluice::engine::packet::{frame, tcp};
use sluice_common::abi::Direction::{Egress, Ingress};
use sluice_common::parse::protocol;
use sluice_common::parse::tcp_flag::{ACK, SYN};
use sluice_common::reason::Reason;
use sluice_tests::scene::{PEER, POD, SLOT, Scene};

/// Packets on each CPU and in each round.
const PACKETS: u32 = 200_000;
const ROUNDS: usize = 20;

/// Runs the packet on each of these CPUs at the same time; the slowest one's time for a packet.
fn on(scene: &Scene, cpus: &[usize], packet: &[u8]) -> Duration {
    let barrier = Barrier::new(cpus.len());
    let run = |cpu: usize| {
        let mut set = CpuSet::new();
        set.set(cpu).expect("a CPU's number");
        sched_setaffinity(Pid::from_raw(0), &set).expect("there is such a CPU");
        barrier.wait();
        let run = scene.datapath.run_repeatedly(Ingress, packet, ELSEWHERE, PACKETS);
        let (action, time) = run.expect("it runs");
        assert_eq!(action, Action::Pass);
        time
    };
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || run(cpu))).collect();
        let times = threads.into_iter().map(|thread| thread.join().expect("it ended"));
        times.max().expect("at least one CPU")
    })
}

#[test]
fn two_cpus_count_every_packet_of_one_flow() {
    let mut scene = Scene::new();
    scene.allow(Ingress, protocol::TCP, 80);
    let to = |flags| frame(PEER.into(), POD.into(), protocol::TCP, &tcp(40_000, 80, flags));
    let from = frame(POD.into(), PEER.into(), protocol::TCP, &tcp(80, 40_000, SYN | ACK));
    scene.passes(Ingress, &to(SYN), Reason::Allowed);
    scene.passes(Egress, &from, Reason::Established);
    scene.passes(Ingress, &to(ACK), Reason::Established);
    let best = |cpus: &[usize]| (0..ROUNDS).map(|_| on(&scene, cpus, &to(ACK))).min();
    let (one, two) = (best(&[0]).expect("rounds"), best(&[0, 1]).expect("rounds"));
    let ratio = two.as_secs_f64() / one.as_secs_f64();
    println!("a packet takes {one:?} on one CPU, {two:?} on two at once: ratio {ratio:.2}");
    let counted = scene.datapath.maps().snapshot(SLOT).expect("readable");
    let packets = counted[&(Ingress, Reason::Established)].packets;
    assert_eq!(packets, 1 + u64::from(PACKETS) * 3 * ROUNDS as u64, "every packet is counted");
}
