//! Benches, and what they share.

pub mod worlds;
