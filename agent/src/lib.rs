//! The library of the `sluice` binary.

pub mod cli;
pub mod cluster;
pub mod cni;
pub mod control;
pub mod convert;
pub mod datapath;
mod draft;
pub mod endpoint;
pub mod engine;
pub mod inspect;
pub mod lab;
mod lock;
pub mod manifest;
mod memory;
pub mod metrics;
mod netlink;
pub mod policytest;
pub mod reconcile;
pub mod report;
pub mod run;
pub mod source;
pub mod state;
pub mod status;

/// The compiled tc programs.
pub static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf"));
