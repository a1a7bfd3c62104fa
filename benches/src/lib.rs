//! Benches, and what they share.

pub mod packet;
pub mod raw;
pub mod worlds;
