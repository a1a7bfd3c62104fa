//! Desired ↔ kernel: what the source and the node say is compiled, compared with what the kernel
//! holds, and written in an order that is safe at every step.
//!
//! 1. The notes for the next agent ([`crate::state`]).
//! 2. The live connections of pods that become isolated ([`crate::endpoint::learn`]).
//! 3. Tables: staged, flipped in one write, cleaned up ([`sluice_policy::diff`]).
//! 4. Interfaces that are to be enforced: led to their slot, then given the programs; and again the
//!    connections that have been opened until then.
//! 5. Interfaces that are not any more: programs taken off, then led nowhere. By now their endpoint is
//!    absent or not isolated in the tables, so nothing that policy forbids passes in between.
//! 6. Only then places that were given up are free for others.
//!
//! A pod that the source no longer has, or whose namespace is not mounted any more, is enforced as long
//! as its interface is there (`place`).
//!
//! Nothing is written before the source's first full list is through. A step that fails leaves what
//! was enforced in force, and all of it is done again, compared with the kernel read afresh.

mod admission;
mod follow;
pub mod kernel;
mod place;
mod report;
pub mod site;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use sluice_common::abi::{Direction, SLOT_NONE};
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::Compiler;
use sluice_policy::diff::{KernelState, Op, diff};
use sluice_policy::model::{Change, Pod, PodName};
use sluice_policy::tables::Touched;

use self::kernel::Kernel;
use self::place::Held;
use self::site::Site;
use crate::endpoint::admitted::Admitted;
use crate::endpoint::learn::Isolating;
use crate::endpoint::links::IfIndex;
use crate::endpoint::slots::{CROWD_SLOT, Slots};
use crate::endpoint::{Assignment, LocalPod, Scan, Unenforced};
use crate::state::State;
use crate::status::TableStatus;

/// Interfaces that are to be enforced, with the slot that each is to be led to, by pod.
type Wanted = BTreeMap<PodName, Vec<(IfIndex, u32)>>;

/// Brings the kernel to what should be, for one node.
#[derive(Debug)]
pub struct Reconciler<K> {
    kernel: K,
    node: String,
    state_dir: PathBuf,
    compiler: Compiler,
    slots: Slots,
    /// What the kernel holds; `None` where that must be read first.
    mirror: Option<KernelState>,
    /// Keys that may differ between the compiler's tables and the mirror.
    touched: Touched,
    /// The interfaces that are led to a slot and carry the programs.
    leading: BTreeMap<IfIndex, u32>,
    /// Of these, the ones that may have been made anew under their index: without the programs.
    doubtful: BTreeSet<IfIndex>,
    stored: Option<State>,
    notes_failure: Option<String>,
    local: BTreeMap<PodName, LocalPod>,
    scan: Scan,
    /// Local pods or the scan have changed since [`Self::assignment`] was made.
    unplaced: bool,
    assignment: Assignment,
    /// Pods whose object is gone, by the name that they go by since.
    gone: BTreeSet<PodName>,
    /// What is enforced beside the source's pods.
    held: BTreeMap<PodName, Held>,
    /// Why a pod that was found is not enforced.
    refused: BTreeMap<PodName, Unenforced>,
    adopted: bool,
    corrections: u64,
    /// How full the tables are that packets fill, when that was last counted.
    of_packets: Option<(Instant, Vec<TableStatus>)>,
    site: Site,
    /// The objects of local pods, as the source says them.
    objects: BTreeMap<PodName, Pod>,
    admitted: Admitted,
    /// Epochs of the incarnations whose packets the programs follow.
    followed: BTreeSet<u32>,
    /// Epochs of those that are to be followed, whose connections were learned and whose interfaces
    /// have refused since.
    learned_early: BTreeSet<u32>,
    learned: u64,
}

impl<K: Kernel> Reconciler<K> {
    /// Begins from what a former agent noted and left in the kernel; writes nothing yet.
    pub fn new(
        kernel: K,
        node: String,
        state_dir: PathBuf,
        notes: Option<State>,
        slots: Slots,
    ) -> Self {
        let names = notes.as_ref().map(|notes| notes.names.clone()).unwrap_or_default();
        let gone = notes.as_ref().map(|notes| notes.gone.clone()).unwrap_or_default();
        let admitted = Admitted::load(&state_dir);
        let mut reconciler = Self {
            kernel,
            node,
            state_dir,
            compiler: Compiler::new(Capacity::default(), names),
            slots,
            mirror: None,
            touched: Touched::default(),
            leading: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            stored: notes,
            notes_failure: None,
            local: BTreeMap::new(),
            scan: Scan::default(),
            unplaced: true,
            assignment: Assignment::new(),
            gone: BTreeSet::new(),
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            adopted: false,
            corrections: 0,
            of_packets: None,
            site: Site::default(),
            objects: BTreeMap::new(),
            admitted,
            followed: BTreeSet::new(),
            learned_early: BTreeSet::new(),
            learned: 0,
        };
        reconciler.take_up(gone);
        reconciler
    }

    /// The same, with what the node's administrator adds to the source.
    #[must_use]
    pub fn with_site(self, site: Site) -> Self {
        Self { site, ..self }
    }

    /// Takes in what the source sent. Nothing is written yet.
    pub fn change(&mut self, changes: Vec<Change>) {
        let (mut taken, mut further) = (Vec::new(), Vec::new());
        for mut change in changes {
            self.site.complete(&mut change);
            self.complete_pod(&mut change);
            if let Change::Pod(name, pod) = &change {
                if self.local.contains_key(name) && !taken.is_empty() {
                    // A pod that parts from its object here goes on with the last labels that it had,
                    // which may be among these.
                    self.touched.merge(self.compiler.apply(std::mem::take(&mut taken)));
                }
                self.take_in_pod(name, pod.as_ref(), &mut further);
            }
            taken.push(change);
        }
        taken.extend(further);
        self.touched.merge(self.compiler.apply(taken));
    }

    /// Takes in what discovery found. Nothing is written yet.
    ///
    /// An interface that was removed and made again under its index looks the same, but has lost its
    /// programs: so all are looked at again, whether anything is new or not.
    pub fn found(&mut self, scan: Scan) {
        if self.site.host_egress {
            let own_host = Change::OwnHost(scan.host.clone());
            self.touched.merge(self.compiler.apply([own_host]));
        }
        self.scan = scan;
        self.unplaced = true;
        self.doubtful.extend(self.leading.keys());
    }

    /// Brings the kernel to the present state of everything that was taken in. To be called only
    /// after the source's first full list.
    ///
    /// # Errors
    /// The kernel or the notes could not be written: what was enforced still is, and the next call
    /// begins by reading the kernel.
    pub fn reconcile(&mut self) -> anyhow::Result<()> {
        let fresh = self.place_pods();
        self.store_notes();
        for slot in &fresh {
            self.kernel.reset_counters(*slot)?;
        }
        let wanted = self.wanted();
        let mut isolating = self.isolating(&wanted, &fresh)?;
        let is_new = |pod: &&Isolating| !self.learned_early.contains(&pod.epoch);
        let new: Vec<Isolating> = isolating.iter().filter(is_new).cloned().collect();
        self.learn(&new)?;
        self.write_tables()?;
        self.write_interfaces(&wanted)?;
        let (followed, early) =
            (self.led(&wanted), isolating.iter().map(|pod| pod.epoch).collect());
        isolating.retain(|pod| followed.contains(&pod.epoch));
        self.learn(&isolating)?;
        (self.followed, self.learned_early) = (followed, early);
        Ok(())
    }

    /// Decides anew who is closed for want of room, reads the kernel back, corrects what differs and
    /// returns the number of corrections.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub fn heal(&mut self) -> anyhow::Result<u64> {
        let before = self.corrections;
        self.touched.merge(self.compiler.reconsider());
        // Which finds out whether the programs are there.
        self.doubtful.extend(self.leading.keys());
        self.reconcile()?;
        self.mirror = None;
        let mut corrections = self.write_tables()?;
        let led = self.kernel.slots()?;
        for (&ifindex, &slot) in &self.leading {
            if led.get(&ifindex) != Some(&slot) {
                self.kernel.lead(ifindex, slot)?;
                corrections += 1;
            }
        }
        // One that refuses the programs is led all the same: former ones may be on it.
        let wanted: BTreeSet<IfIndex> =
            self.wanted().into_values().flatten().map(|(ifindex, _)| ifindex).collect();
        let is_known = |ifindex| self.leading.contains_key(ifindex) || wanted.contains(ifindex);
        for &ifindex in led.keys().filter(|ifindex| !is_known(ifindex)) {
            self.kernel.lead(ifindex, SLOT_NONE)?;
            corrections += 1;
        }
        self.corrections += corrections;
        self.count_packets_tables()?;
        Ok(self.corrections - before)
    }

    /// Too dear for every scrape: what is told then is of the last time.
    fn count_packets_tables(&mut self) -> anyhow::Result<()> {
        let counted = self.kernel.of_packets().context("cannot count the tables of packets")?;
        self.of_packets = Some((Instant::now(), counted));
        Ok(())
    }

    /// Notes for the next agent. To be without costs it no safety, only counters and names: so a full
    /// disk holds nothing up. Notes that are not of now are worse than none.
    fn store_notes(&mut self) {
        let (names, gone) = (self.compiler.names(), self.notes_of_gone());
        if self.stored.as_ref().is_some_and(|stored| stored.is_of(names, &self.slots, &gone)) {
            return;
        }
        let notes = State::of(names, &self.slots, gone);
        let failure = match notes.store(&self.state_dir) {
            Ok(()) => {
                self.stored = Some(notes);
                None
            }
            Err(error) => {
                self.stored = None;
                let removed = State::remove(&self.state_dir);
                let removed = removed.err().map(|error| format!("; {error}")).unwrap_or_default();
                let consequence = "a new agent would count from zero";
                Some(format!("cannot note what the tables mean: {error}{removed}; {consequence}"))
            }
        };
        if let Some(failure) = failure.as_ref().filter(|_| failure != self.notes_failure) {
            tracing::error!("{failure}");
        }
        self.notes_failure = failure;
    }

    /// Why the next agent would have no notes.
    pub fn notes_failure(&self) -> Option<&str> {
        self.notes_failure.as_deref()
    }

    /// Local pods have changed since they were placed last.
    pub const fn is_unplaced(&self) -> bool {
        self.unplaced
    }

    /// Brings the tables to the compiler's; returns the number of writes that were needed.
    fn write_tables(&mut self) -> anyhow::Result<u64> {
        let known = self.mirror.take();
        let touched = std::mem::take(&mut self.touched);
        let ops = match &known {
            Some(mirror) => diff(mirror, self.compiler.tables(), Some(&touched)),
            None => Vec::new(),
        };
        let (mut mirror, ops) = match known {
            Some(mirror) => (mirror, ops),
            None => {
                let read = self.kernel.read().context("cannot read the tables")?;
                let mut ops: Vec<Op> = touched.rules.iter().map(|r| Op::ResetRule(*r)).collect();
                ops.extend(diff(&read, self.compiler.tables(), None));
                (read, ops)
            }
        };
        // Until all of it is written the mirror stays unknown, and the next attempt compares all.
        self.kernel.apply(&ops).context("cannot write the tables")?;
        for op in &ops {
            mirror.apply(op);
        }
        self.mirror = Some(mirror);
        let is_write = |op: &&Op| !matches!(op, Op::Flip(_) | Op::ResetRule(_));
        Ok(ops.iter().filter(is_write).count() as u64)
    }

    /// Leads interfaces to their slots and attaches, then detaches what is not to be enforced.
    fn write_interfaces(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        self.refused.retain(|_, why| matches!(why, Unenforced::NoPlace(_)));
        let mut stale: BTreeSet<IfIndex> = self.leading.keys().copied().collect();
        if !self.adopted {
            stale.extend(self.kernel.left_behind()?);
            stale.extend(self.kernel.slots()?.into_keys());
        }
        let mut all_led = true;
        for (pod, interfaces) in wanted {
            for (ifindex, slot) in interfaces {
                stale.remove(ifindex);
                let done = match (self.leading.get(ifindex), self.doubtful.contains(ifindex)) {
                    (Some(led), false) if led == slot => continue,
                    (Some(led), true) if led == slot => {
                        let ensured = self.kernel.ensure_attached(*ifindex);
                        ensured.map(|needed| self.corrections += u64::from(needed))
                    }
                    _ => self
                        .kernel
                        .lead(*ifindex, *slot)
                        .inspect_err(|_| all_led = false)
                        .and_then(|()| self.kernel.attach(*ifindex)),
                };
                match done {
                    Ok(()) => {
                        self.leading.insert(*ifindex, *slot);
                        self.doubtful.remove(ifindex);
                    }
                    Err(error) => {
                        let reason = Unenforced::Attach(format!("{error:#}"));
                        self.refused.insert(pod.clone(), reason);
                    }
                }
            }
        }
        for ifindex in stale {
            self.kernel.detach(ifindex)?;
            self.kernel.lead(ifindex, SLOT_NONE)?;
            self.leading.remove(&ifindex);
            self.doubtful.remove(&ifindex);
        }
        // What an interface that refuses may still have of a former agent goes on without its pins.
        if !self.adopted {
            self.kernel.settle()?;
            self.adopted = true;
            self.count_packets_tables()?;
        }
        // An interface that could not be led elsewhere may be led to a place that was given up.
        if all_led {
            self.slots.recycle();
        }
        Ok(())
    }

    /// Those of the pods that some policy isolates.
    fn wanted(&self) -> Wanted {
        let mut wanted = Wanted::new();
        for (pod, endpoint) in &self.compiler.world().endpoints {
            let interfaces = match (self.assignment.get(pod), self.held.get(pod)) {
                (Some(Ok(interfaces)), _) => interfaces,
                (_, Some(held)) => &held.interfaces,
                _ => continue,
            };
            if self.is_crowded(pod) {
                let led = interfaces.iter().map(|i| (i.ifindex, CROWD_SLOT)).collect();
                wanted.insert(pod.clone(), led);
            } else if self.is_governed(endpoint.slot, Direction::Ingress)
                || self.is_governed(endpoint.slot, Direction::Egress)
            {
                let led = interfaces.iter().map(|i| (i.ifindex, endpoint.slot)).collect();
                wanted.insert(pod.clone(), led);
            }
        }
        wanted
    }

    fn is_governed(&self, slot: u32, direction: Direction) -> bool {
        let endpoint = self.compiler.tables().endpoints.get(&slot);
        endpoint.is_some_and(|endpoint| endpoint.is_governed(direction))
    }
}
