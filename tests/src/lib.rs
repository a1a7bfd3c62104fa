//! Integration tests.

pub mod case;
pub mod node;
pub mod random;
