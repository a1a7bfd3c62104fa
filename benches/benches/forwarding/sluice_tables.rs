//! sluice itself: the compiler, and its tables in the kernel.

use anyhow::{Context as _, ensure};
use sluice::datapath::{Datapath, LoadOptions};
use sluice_policy::capacity::Capacity;
use sluice_policy::compile::Compiler;
use sluice_policy::diff::{KernelState, diff};
use sluice_policy::model::{Change, World};
use sluice_policy::names::Names;

/// What an agent holds of it.
pub(crate) struct Sluice {
    pub(crate) datapath: Datapath,
    compiler: Compiler,
    kernel: KernelState,
}

impl Sluice {
    /// The programs, over tables without anything in them.
    pub(crate) fn load() -> anyhow::Result<Self> {
        Ok(Self {
            datapath: Datapath::load(&LoadOptions::default())
                .context("cannot load the programs")?,
            compiler: Compiler::new(Capacity::default(), Names::default()),
            kernel: KernelState { generation: 1, ..KernelState::default() },
        })
    }

    /// Takes in a whole world.
    pub(crate) fn enforce_all(&mut self, world: &World) -> anyhow::Result<()> {
        self.enforce(World::default().changes_to(world))
    }

    /// Compiles changes and writes what they change into the kernel.
    pub(crate) fn enforce(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
    ) -> anyhow::Result<()> {
        let touched = self.compiler.apply(changes);
        ensure!(self.compiler.overflows().is_empty(), "the bench's world does not fit");
        let ops = diff(&self.kernel, self.compiler.tables(), Some(&touched));
        ensure!(!ops.is_empty(), "the change changes nothing");
        self.datapath.maps().apply(&ops)?;
        ops.iter().for_each(|op| self.kernel.apply(op));
        Ok(())
    }
}
