//! Desired ↔ kernel.

pub mod kernel;
