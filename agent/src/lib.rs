//! The library of the `sluice` binary.

pub mod cluster;
pub mod datapath;
pub mod engine;

/// The compiled tc programs.
pub static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf"));
