//! Oracle = kernel: random worlds in kernel tables, random packets through the real programs, and the
//! same answer as from the specification. Needs root.
//!
//! `SLUICE_PACKETS` sets how many packets (20,000 where unset), `SLUICE_SEED` the first seed.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use sluice::engine::kernel::{Check, Kernel};
use sluice::engine::packet::{self, echo, sctp, tcp, udp};
use sluice_common::abi::{Address, Direction};
use sluice_common::parse::{protocol, sctp_chunk, tcp_flag};
use sluice_policy::model::{Question, World};
use sluice_policy::oracle::judge;
use sluice_tests::{needs_root, number, random};

const QUESTIONS_PER_WORLD: usize = 50;

#[test]
fn kernel_answers_as_the_oracle_does() {
    needs_root();
    let wanted = number("SLUICE_PACKETS", 20_000);
    let first_seed = number("SLUICE_SEED", 1);
    let started = Instant::now();
    let mut kernel = Kernel::new().expect("the programs load");
    let mut ports = (1..=u16::MAX).cycle();
    let (mut packets, mut allowed) = (0, 0);
    let mut seed = first_seed;
    while packets < wanted {
        let world = random::world(seed);
        kernel.load(&world).expect("the tables take a small world");
        for question in random::questions(&world, seed, QUESTIONS_PER_WORLD) {
            let port = ports.next().expect("a cycle has no end");
            let Some(frame) = frame(&kernel, &world, &question, port) else { continue };
            let Question { pod, direction, from_own_host, .. } = &question;
            let check =
                Check { pod, direction: *direction, frame: &frame, from_own_host: *from_own_host };
            if is_own_address(&kernel, &question) {
                // It comes in only after it went out.
                let sent = Check { direction: Direction::Egress, from_own_host: false, ..check };
                kernel.run(&sent).unwrap_or_else(|e| panic!("seed {seed}: {e:#}"));
            }
            let answer = kernel.run(&check).unwrap_or_else(|e| panic!("seed {seed}: {e:#}"));
            let expected = judge(&world, &question);
            assert_eq!(answer, expected, "seed {seed}, {question:?}, world {world:#?}");
            packets += 1;
            allowed += u64::from(expected.allowed);
        }
        seed += 1;
    }
    let rate = packets as f64 / started.elapsed().as_secs_f64();
    println!("{packets} packets, {allowed} allowed, {} worlds, {rate:.0}/s", seed - first_seed);
    assert!(allowed * 10 > packets && allowed * 10 < packets * 9, "{allowed} of {packets}");
}

/// The packet that a question is about; `None` where there is none: the pod has no address of that
/// family, or the address cannot stand in a packet.
fn frame(kernel: &Kernel, world: &World, question: &Question, port: u16) -> Option<Vec<u8>> {
    let remote = question.remote;
    let (source, destination) = match question.direction {
        Direction::Ingress if is_own_address(kernel, question) => (remote, remote),
        Direction::Ingress => (remote, any_of_family(remote)),
        Direction::Egress => (own_address(kernel, world, question)?, remote),
    };
    let cannot_send = source.is_multicast() || source == IpAddr::V4(Ipv4Addr::BROADCAST);
    if cannot_send {
        return None;
    }
    let payload = match question.protocol {
        protocol::TCP => tcp(port, question.port, tcp_flag::SYN),
        protocol::UDP => udp(port, question.port, &[]),
        protocol::SCTP => sctp(port, question.port, sctp_chunk::INIT),
        _ => echo((question.port >> 8) as u8, port),
    };
    Some(packet::frame(source, destination, question.protocol, &payload))
}

/// The pod is asked about a packet between it and itself.
fn is_own_address(kernel: &Kernel, question: &Question) -> bool {
    let remote = Address::from(question.remote);
    kernel.endpoint(&question.pod).is_some_and(|endpoint| endpoint.owns(&remote))
}

/// The address that the pod sends from, as its endpoint has it.
fn own_address(kernel: &Kernel, world: &World, question: &Question) -> Option<IpAddr> {
    let Some(endpoint) = kernel.endpoint(&question.pod) else {
        // Not in the tables: whatever it sends, nobody looks.
        let mut addresses = world.pods.get(&question.pod)?.addresses.iter();
        return addresses.find(|a| a.is_ipv4() == question.remote.is_ipv4()).copied();
    };
    let address = if question.remote.is_ipv4() { endpoint.v4 } else { endpoint.v6 };
    (address != Address::UNSPECIFIED).then(|| address.into())
}

/// Of what comes from others the programs do not look at the destination: the veth's other end is
/// the pod's.
fn any_of_family(remote: IpAddr) -> IpAddr {
    match remote {
        IpAddr::V4(_) => Ipv4Addr::new(10, 99, 0, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd00, 0x99, 0, 0, 0, 0, 0, 1).into(),
    }
}
