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
//! A pod that the source no longer has is not enforced any more, even if its interface is still there.
//! A pod that it has, but whose namespace is not mounted any more, is, as long as its interface is.
//!
//! Nothing is written before the source's first full list is through. A step that fails leaves what
//! was enforced in force, and all of it is done again, compared with the kernel read afresh.

mod admission;
mod follow;
pub mod kernel;
mod report;
pub mod site;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use anyhow::Context as _;
use sluice_common::abi::{Direction, SLOT_NONE};
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::Compiler;
use sluice_policy::diff::{KernelState, Op, diff};
use sluice_policy::model::{Change, LocalEndpoint, Pod, PodName};
use sluice_policy::tables::Touched;

use self::kernel::Kernel;
use self::site::Site;
use crate::endpoint::admitted::Admitted;
use crate::endpoint::links::IfIndex;
use crate::endpoint::slots::{Incarnation, Place, Slots};
use crate::endpoint::{Assignment, Interface, LocalPod, Scan, Unenforced, assign};
use crate::state::State;

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
    local: BTreeMap<PodName, LocalPod>,
    scan: Scan,
    assignment: Assignment,
    /// Why a pod that was found is not enforced.
    refused: BTreeMap<PodName, Unenforced>,
    adopted: bool,
    corrections: u64,
    site: Site,
    /// The objects of local pods, as the source says them.
    objects: BTreeMap<PodName, Pod>,
    admitted: Admitted,
    /// Epochs of the incarnations whose packets the programs follow.
    followed: BTreeSet<u32>,
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
        let admitted = Admitted::load(&state_dir);
        Self {
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
            local: BTreeMap::new(),
            scan: Scan::default(),
            assignment: Assignment::new(),
            refused: BTreeMap::new(),
            adopted: false,
            corrections: 0,
            site: Site::default(),
            objects: BTreeMap::new(),
            admitted,
            followed: BTreeSet::new(),
            learned: 0,
        }
    }

    /// The same, with what the node's administrator adds to the source.
    #[must_use]
    pub fn with_site(self, site: Site) -> Self {
        Self { site, ..self }
    }

    /// Takes in what the source sent. Nothing is written yet.
    pub fn change(&mut self, mut changes: Vec<Change>) {
        for change in &mut changes {
            self.site.complete(change);
            self.complete_pod(change);
            if let Change::Pod(name, pod) = change {
                match pod {
                    Some(pod) if pod.node == self.node && !pod.host_network && !pod.finished => {
                        let local =
                            LocalPod { addresses: pod.addresses.clone(), created: pod.created };
                        self.local.insert(name.clone(), local);
                    }
                    _ => {
                        self.local.remove(name);
                    }
                }
            }
        }
        self.touched.merge(self.compiler.apply(changes));
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
        self.store_notes()?;
        for slot in &fresh {
            self.kernel.reset_counters(*slot)?;
        }
        let isolating = self.isolating(&fresh)?;
        self.learn(&isolating)?;
        self.write_tables()?;
        self.write_interfaces()?;
        self.learn(&isolating)?;
        self.note_followed();
        Ok(())
    }

    /// Reads the kernel back, corrects what differs and returns the number of corrections.
    ///
    /// # Errors
    /// As [`Self::reconcile`].
    pub fn heal(&mut self) -> anyhow::Result<u64> {
        let before = self.corrections;
        self.reconcile()?;
        self.mirror = None;
        let mut corrections = self.write_tables()?;
        let led = self.kernel.slots()?;
        for (&ifindex, &slot) in &self.leading {
            if led.get(&ifindex) != Some(&slot) {
                self.kernel.lead(ifindex, slot)?;
                corrections += 1;
            }
            corrections += u64::from(self.kernel.ensure_attached(ifindex)?);
        }
        for &ifindex in led.keys().filter(|ifindex| !self.leading.contains_key(ifindex)) {
            self.kernel.lead(ifindex, SLOT_NONE)?;
            corrections += 1;
        }
        self.corrections += corrections;
        Ok(self.corrections - before)
    }

    /// Gives every local pod that has an interface a place, and tells the compiler. Returns the slots
    /// that begin with a new incarnation.
    fn place_pods(&mut self) -> Vec<u32> {
        self.assignment = assign(&self.scan, &self.local);
        self.keep_unmounted();
        let mut changes = Vec::new();
        let mut fresh = Vec::new();
        self.refused.clear();
        let gone: Vec<PodName> = self
            .slots
            .places()
            .keys()
            .chain(self.compiler.world().endpoints.keys())
            .filter(|pod| !matches!(self.assignment.get(pod), Some(Ok(_))))
            .cloned()
            .collect();
        for pod in gone {
            self.slots.release(&pod);
            if self.compiler.world().endpoints.contains_key(&pod) {
                changes.push(Change::Endpoint(pod, None));
            }
        }
        for (pod, found) in &self.assignment {
            let (Ok(interfaces), Some(local)) = (found, self.local.get(pod)) else { continue };
            let incarnation = Incarnation::new(local.created, &local.addresses, interfaces);
            let unused = self.slots.next_epoch();
            let endpoint = match self.slots.assign(pod, incarnation) {
                Ok(place) => {
                    if place.epoch == unused {
                        fresh.push(place.slot);
                    }
                    Some(LocalEndpoint { slot: place.slot, epoch: place.epoch, flags: 0 })
                }
                Err(error) => {
                    self.refused.insert(pod.clone(), Unenforced::NoPlace(error));
                    None
                }
            };
            if self.compiler.world().endpoints.get(pod).copied() != endpoint {
                changes.push(Change::Endpoint(pod.clone(), endpoint));
            }
        }
        if !changes.is_empty() {
            self.touched.merge(self.compiler.apply(changes));
        }
        fresh
    }

    /// A pod whose namespace is not mounted any more, but whose interface is still there, may still
    /// send: it keeps the interfaces that it was found on before. Where the notes are lost too, it
    /// keeps those that the kernel leads to a place with its addresses: only when the source no longer
    /// has the pod, or the interface is gone, is it known to be gone.
    fn keep_unmounted(&mut self) {
        for (pod, found) in &mut self.assignment {
            let (Err(_), Some(local)) = (&found, self.local.get(pod)) else { continue };
            let addresses = BTreeSet::from_iter(local.addresses.clone());
            let known: BTreeMap<IfIndex, u64> = match self.slots.places().get(pod) {
                Some(Place { incarnation, .. }) => {
                    if incarnation.created != local.created || incarnation.addresses != addresses {
                        continue;
                    }
                    incarnation.interfaces.clone()
                }
                None => self.slots.left_for(&addresses).into_iter().map(|i| (i, 0)).collect(),
            };
            let interfaces: Option<Vec<Interface>> = known
                .iter()
                .map(|(ifindex, inode)| {
                    Interface::unmounted(*ifindex, *inode, &addresses, &self.scan)
                })
                .collect();
            if let Some(interfaces) = interfaces.filter(|interfaces| !interfaces.is_empty()) {
                *found = Ok(interfaces);
            }
        }
    }

    fn store_notes(&mut self) -> anyhow::Result<()> {
        let notes = State::of(self.compiler.names(), &self.slots);
        if self.stored.as_ref() != Some(&notes) {
            notes.store(&self.state_dir).context("cannot note the meaning of the tables")?;
            self.stored = Some(notes);
        }
        Ok(())
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
    fn write_interfaces(&mut self) -> anyhow::Result<()> {
        let wanted = self.wanted();
        let mut stale: BTreeSet<IfIndex> = self.leading.keys().copied().collect();
        if !self.adopted {
            stale.extend(self.kernel.left_behind()?);
            stale.extend(self.kernel.slots()?.into_keys());
        }
        let mut complete = true;
        for (pod, interfaces) in &wanted {
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
                        .and_then(|()| self.kernel.attach(*ifindex)),
                };
                match done {
                    Ok(()) => {
                        self.leading.insert(*ifindex, *slot);
                        self.doubtful.remove(ifindex);
                    }
                    Err(error) => {
                        complete = false;
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
        if complete && !self.adopted {
            self.kernel.settle()?;
            self.adopted = true;
        }
        self.slots.recycle();
        Ok(())
    }

    /// Interfaces of the pods that some policy isolates, with the pod's slot.
    fn wanted(&self) -> BTreeMap<PodName, Vec<(IfIndex, u32)>> {
        let mut wanted = BTreeMap::new();
        for (pod, endpoint) in &self.compiler.world().endpoints {
            let Some(Ok(interfaces)) = self.assignment.get(pod) else { continue };
            if self.is_governed(endpoint.slot, Direction::Ingress)
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
