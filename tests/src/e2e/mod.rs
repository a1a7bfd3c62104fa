//! The end-to-end run: sluice on a real cluster, from its installation to its removal.
//!
//! * `run`: the order of it; `report`: what it says at the end;
//! * `install`, `remains`: the manifests, and what is left on the nodes without them;
//! * `cases`, `engine`, `stage`, `placed`: the PolicyTests of `tests/cases/` through real pods;
//! * `checks`, `rollout`, `scene`: what is no PolicyTest;
//! * `api`, `agents`, `pods`, `station`, `shared`: the cluster, as all of them use it.

pub mod agents;
pub mod api;
pub mod cases;
pub mod checks;
pub mod engine;
pub mod install;
pub mod placed;
pub mod pods;
pub mod remains;
pub mod report;
pub mod rollout;
pub mod run;
pub mod scene;
pub mod shared;
pub mod stage;
pub mod station;
