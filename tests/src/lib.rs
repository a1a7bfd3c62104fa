//! Integration tests.

pub mod random;
