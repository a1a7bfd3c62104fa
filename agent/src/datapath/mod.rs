//! The kernel side as the agent sees it: the only rooms that know aya.
//!
//! * [`load`]: the object, its maps (new or pinned) and its two programs;
//! * [`maps`]: typed access to the tables; `apply`: the applier of ordered operations; `batch`: many
//!   elements at once;
//! * [`attach`]: the programs on the hooks of pods' interfaces;
//! * [`clsact`]: the same below Linux 6.6;
//! * `flows`: the flow table;
//! * `generation`, `grace`: what makes a change visible at once, and waits for those who do not see it;
//! * [`pins`]: the directory that keeps all of it in force while no agent runs;
//! * [`enforcer`]: these together, as [`crate::reconcile`] needs them;
//! * [`counters`]: what became of packets;
//! * [`events`]: records of drops;
//! * `learn`: flows of connections that were open before anybody followed them;
//! * [`run`]: the programs on packets made by hand.

mod apply;
pub mod attach;
mod batch;
pub mod clsact;
pub mod counters;
pub mod enforcer;
pub mod events;
mod flows;
mod generation;
mod grace;
mod learn;
pub mod load;
pub mod maps;
mod occupancy;
pub mod pins;
pub mod run;
mod syscall;

pub use load::{Datapath, LoadError, LoadOptions};
pub use maps::{KernelMaps, MapFault};
