//! The pure policy core of sluice: from policy objects to kernel tables.
//!
//! No I/O, no clock, no logging, no `unsafe`; it knows nothing of Kubernetes' API types or of BPF.
//!
//! ```text
//! World (model) ── Compiler ──► Tables ── diff ──► Op… ──► kernel
//!    │    compile: what changed; settle: what follows; fit: what is closed for want of room;
//!    │    emit: into the tables, with numbers
//!    │    sets ─ rules ─ predicates ─ classes, over selector, cidr, ports, program
//!    └── oracle, explain: the same questions, answered straight from the specification
//! ```
#![forbid(unsafe_code)]

pub mod answer;
pub mod capacity;
pub mod compile;
pub mod diff;
pub mod explain;
pub mod lint;
pub mod model;
pub mod names;
pub mod oracle;
pub mod tables;

mod arena;
mod asked;
mod cidr;
mod classes;
mod describe;
mod emit;
mod fit;
mod hash;
mod labels;
mod mixed;
mod owners;
mod ports;
mod predicates;
mod program;
mod rules;
mod selected;
mod selector;
mod services;
mod sets;
mod settle;
mod vips;
