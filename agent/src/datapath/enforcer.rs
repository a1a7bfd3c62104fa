//! Programs, tables, hooks and pins together: the kernel side of [`crate::reconcile`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;

use sluice_common::abi::{Counter, Lifetimes, RuleId};
use sluice_policy::diff::{KernelState, Op};
use sluice_policy::model::direction_label;

use super::attach::{Attacher, Backend, DIRECTIONS, foreign_tcx};
use super::counters::Snapshot;
use super::load::{Datapath, LoadError, LoadOptions};
use super::maps::KernelMaps;
use super::pins::{Pins, PinsError};
use crate::endpoint::learn::{self, Isolating};
use crate::endpoint::links::IfIndex;
use crate::reconcile::kernel::Kernel;
use crate::status::TableStatus;

/// Why the kernel side could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory of the pins.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// Programs or tables.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// The kernel side of one agent.
pub struct Enforcer {
    datapath: Datapath,
    attacher: Attacher,
    pins: Pins,
    /// Tables of another layout are pinned, and in force until all links have the new programs.
    replacing: bool,
}

impl Enforcer {
    /// Loads the programs with the tables that are pinned, or with new ones where there are none.
    ///
    /// Pinned tables of another layout, of which some are missing, or whose generations are used up,
    /// cannot be adopted. New ones are made beside them, and the old programs enforce with the old
    /// tables until every link has been given the new programs; only flows are forgotten. See [`Kernel::settle`].
    ///
    /// # Errors
    /// [`OpenError`]: what was enforced still is.
    pub fn open(
        pins: Pins,
        backend: Backend,
        trace_slot: Option<NonZeroU32>,
        lifetimes: Lifetimes,
    ) -> Result<Self, OpenError> {
        let pinned = Some(pins.maps());
        let options = LoadOptions { pins: pinned, trace_slot, lifetimes, ..LoadOptions::default() };
        let (datapath, replacing) = match Datapath::load(&options) {
            Ok(datapath) => (datapath, false),
            Err(
                error @ (LoadError::ForeignAbi { .. }
                | LoadError::Exhausted { .. }
                | LoadError::ForeignTable { .. }
                | LoadError::MissingTable { .. }),
            ) => {
                tracing::info!(%error, "replacing tables that cannot be adopted");
                let beside = LoadOptions { pins: Some(pins.new_maps()?), ..options };
                (Datapath::load(&beside)?, true)
            }
            Err(error) => return Err(error.into()),
        };
        let attacher = Attacher::new(backend, pins.links());
        Ok(Self { datapath, attacher, pins, replacing })
    }

    /// Programs and tables.
    pub const fn datapath(&mut self) -> &mut Datapath {
        &mut self.datapath
    }
}

/// Takes everything out of the kernel that an agent left with these pins, and removes them.
///
/// # Errors
/// [`PinsError`]: what could not be removed is still there, and asking again goes on with it.
pub fn uninstall(pins: Pins, backend: Backend) -> anyhow::Result<()> {
    let attacher = Attacher::new(backend, pins.links());
    let mut interfaces = attacher.pinned()?;
    // clsact filters have no pins; the table says where they are.
    if let Ok(maps) = KernelMaps::open(&pins.maps()) {
        interfaces.extend(maps.slots()?.into_keys());
    }
    for ifindex in interfaces {
        attacher.detach(ifindex)?;
    }
    Ok(pins.remove()?)
}

impl Kernel for Enforcer {
    fn read(&mut self) -> anyhow::Result<KernelState> {
        Ok(self.datapath.maps().state()?)
    }

    fn apply(&mut self, ops: &[Op]) -> anyhow::Result<()> {
        Ok(self.datapath.maps().apply(ops)?)
    }

    fn reset_counters(&mut self, slot: u32) -> anyhow::Result<()> {
        Ok(self.datapath.maps().reset_slot(slot)?)
    }

    fn counted(&mut self, slot: u32) -> anyhow::Result<Snapshot> {
        Ok(self.datapath.maps().snapshot(slot)?)
    }

    fn rule_hits(&mut self, last: RuleId) -> anyhow::Result<Vec<Counter>> {
        Ok(self.datapath.maps().rule_hits(last)?)
    }

    fn of_packets(&mut self) -> anyhow::Result<Vec<TableStatus>> {
        Ok(self.datapath.maps().occupancy()?)
    }

    fn slots(&mut self) -> anyhow::Result<BTreeMap<IfIndex, u32>> {
        Ok(self.datapath.maps().slots()?)
    }

    fn lead(&mut self, ifindex: IfIndex, slot: u32) -> anyhow::Result<()> {
        Ok(self.datapath.maps().set_slot(ifindex, slot)?)
    }

    fn attach(&mut self, ifindex: IfIndex) -> anyhow::Result<()> {
        for direction in DIRECTIONS {
            let program = self.datapath.program_mut(direction)?;
            self.attacher.attach(program, ifindex, direction)?;
        }
        Ok(())
    }

    fn ensure_attached(&mut self, ifindex: IfIndex) -> anyhow::Result<bool> {
        let mut needed = false;
        for direction in DIRECTIONS {
            let program = self.datapath.program_mut(direction)?;
            needed |= self.attacher.ensure(program, ifindex, direction)?;
        }
        Ok(needed)
    }

    fn detach(&mut self, ifindex: IfIndex) -> anyhow::Result<()> {
        Ok(self.attacher.detach(ifindex)?)
    }

    fn left_behind(&mut self) -> anyhow::Result<BTreeSet<IfIndex>> {
        Ok(self.attacher.pinned()?)
    }

    fn foreign(&mut self, ifindex: IfIndex) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        for (direction, programs) in foreign_tcx(ifindex)? {
            let label = direction_label(direction);
            found.extend(programs.into_iter().map(|program| format!("{label}: {program}")));
        }
        Ok(found)
    }

    fn learn(&mut self, pods: &[Isolating], node: &BTreeSet<IpAddr>) -> anyhow::Result<u64> {
        let mut flows = Vec::new();
        for (pod, found) in pods.iter().zip(learn::connections(pods, node)) {
            match found {
                Ok(connections) => flows.extend(connections.iter().map(|c| c.flow(pod.epoch))),
                Err(error) => tracing::warn!(
                    pod = %pod.pod,
                    %error,
                    "cannot learn its live connections: each is judged by its next packet"
                ),
            }
        }
        Ok(self.datapath.maps().learn(flows)?)
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        if self.replacing {
            self.pins.promote()?;
            self.replacing = false;
        }
        Ok(())
    }
}
