//! Properties of the policy core over small random worlds.

mod compile;
mod diff;
mod worlds;
