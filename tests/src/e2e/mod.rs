//! The end-to-end run: sluice on a real cluster, from its installation to its removal.
//!
//! * `run`: the order of it; `report`: what it says at the end;
//! * `install`, `remains`: the manifests, and what is left on the nodes without them;
//! * `cases`, `engine`, `stage`, `placed`: the PolicyTests of `tests/cases/` through real pods;
//! * `checks`, `rollout`, `learning`, `starts`, `plugin`, `scene`: what is no PolicyTest;
//! * `api`, `agents`, `histogram`, `pods`, `station`, `shared`: the cluster, as all of them use it.

pub mod agents;
pub mod api;
pub mod cases;
pub mod checks;
pub mod engine;
pub mod histogram;
pub mod install;
pub mod learning;
pub mod placed;
pub mod plugin;
pub mod pods;
pub mod remains;
pub mod report;
pub mod rollout;
pub mod run;
pub mod scene;
pub mod shared;
pub mod stage;
pub mod starts;
pub mod station;
