//! The kernel side.

pub mod attach;
pub mod pins;
