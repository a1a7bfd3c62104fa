//! What the kernel programs, the agent and the tests share.
//!
//! * [`abi`]: the layout of every kernel table, with its byte order;
//! * [`parse`]: the packet parser, one implementation for the kernel, the fuzzers and the benches;
//! * [`flow`]: connection tracking as a pure transition function;
//! * [`bucket`]: where a flow lies in the table, and which one gives way to another;
//! * [`hash`]: what the tables that packets fill are indexed by;
//! * [`fragment`]: what later fragments are judged by;
//! * [`decide`]: the order of table look-ups that turns a packet into a verdict;
//! * [`reason`]: why a packet passed or was dropped.
//!
//! The crate is `no_std`, does no I/O and reads no clock: packet bytes, tables and time are arguments.
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

pub mod abi;
pub mod bucket;
pub mod decide;
pub mod flow;
pub mod fragment;
pub mod hash;
pub mod parse;
pub mod reason;
