//! What records of drops cost a denied packet, and that none is lost without being counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use sluice::datapath::LoadOptions;
use sluice::datapath::events::Events;
use sluice_benches::packet;
use sluice_benches::raw::Program;
use sluice_common::abi::Direction;

use crate::scene::{CLOSED_PORT, Scene};
use crate::{DROP, PASS, REPEAT, Round};

/// Denied packets of which each may be recorded: while nobody reads the records, so that the ring is
/// full, and while another CPU reads them.
pub(crate) fn measure(results: &mut Vec<Value>) -> anyhow::Result<()> {
    // The rate at which an endpoint's drops are recorded keeps nearly every record back; the case
    // `denied` is with it.
    let options = LoadOptions { event_rate: u32::MAX, ..LoadOptions::default() };
    let mut scene = Scene::with(1, &options)?;
    let denied = Denied::new(&scene)?;
    crate::report(results, "denied-unread", 1, &crate::rounds(|| denied.round())?);

    let mut events = scene.take_events()?;
    while events.next_event().is_some() {}
    let lost_before = scene.lost_records()?;
    let has_ended = AtomicBool::new(false);
    let (rounds, read) = thread::scope(|scope| {
        let reader = scope.spawn(|| read(&mut events, &has_ended));
        let rounds = crate::rounds(|| denied.round());
        has_ended.store(true, Ordering::Release);
        let read = reader.join().expect("the reader does not panic")?;
        anyhow::Ok((rounds?, read))
    })?;
    crate::report(results, "denied-read", 1, &rounds);

    let lost = scene.lost_records()? - lost_before;
    // The first round does not count as one.
    let sent = (rounds.len() as u64 + 1) * u64::from(REPEAT);
    println!("{:14} {read} records of {sent} packets read, {lost} lost and counted", "");
    ensure!(read + lost == sent, "a record is neither read nor counted as lost");
    Ok(())
}

/// A packet that is denied, and what it is run by.
struct Denied {
    empty: Program,
    ingress: Program,
    packet: Vec<u8>,
}

impl Denied {
    fn new(scene: &Scene) -> anyhow::Result<Self> {
        Ok(Self {
            empty: Program::empty()?,
            ingress: scene.program(Direction::Ingress)?,
            packet: scene.peer_packet(packet::SYN, CLOSED_PORT),
        })
    }

    fn round(&self) -> anyhow::Result<Round> {
        let empty = self.empty.run(&self.packet, REPEAT, PASS)?;
        Ok((empty, self.ingress.run(&self.packet, REPEAT, DROP)?))
    }
}

/// Reads records on a CPU of its own until all that will come are there. How many they were.
fn read(events: &mut Events, has_ended: &AtomicBool) -> anyhow::Result<u64> {
    let mut cpus = nix::sched::CpuSet::new();
    cpus.set(1).context("CPU 1")?;
    let this_thread = nix::unistd::Pid::from_raw(0);
    nix::sched::sched_setaffinity(this_thread, &cpus).context("a reader needs a second CPU")?;
    let mut count = 0;
    loop {
        let is_last = has_ended.load(Ordering::Acquire);
        while events.next_event().is_some() {
            count += 1;
        }
        if is_last {
            return Ok(count);
        }
        thread::yield_now();
    }
}
