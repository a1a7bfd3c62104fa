//! The pure policy core of sluice: from policy objects to kernel tables.
//!
//! No I/O, no clock, no logging, no `unsafe`; it knows nothing of Kubernetes' API types or of BPF.
//!
//! ```text
//! World (model) ── Compiler (classes, sets, ports, cidr) ──► Tables ── diff ──► Op… ──► kernel
//!    └── oracle, explain: the same questions, answered straight from the specification
//! ```
#![forbid(unsafe_code)]

pub mod diff;
pub mod explain;
pub mod model;
pub mod names;
pub mod oracle;
pub mod tables;
