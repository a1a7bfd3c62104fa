//! Integration tests.

pub mod case;
pub mod random;
