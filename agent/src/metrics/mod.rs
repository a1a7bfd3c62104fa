//! What the agent says of itself over HTTP: metrics, liveness, readiness.
//!
//! * [`http`]: the server;
//! * [`inquiry`]: how it asks the agent's loop, and how it knows that the loop turns;
//! * [`report`]: what the loop answers to a scrape;
//! * [`encode`]: a report as OpenMetrics or Prometheus text;
//! * [`timings`]: how long things took.
//!
//! Nothing is collected before somebody asks. Packets are counted by the programs, in tables that
//! outlive the agent; a scrape reads those tables in the agent's loop, between two changes, so that no
//! slot or rule number comes to mean another meanwhile.

pub mod encode;
pub mod http;
pub mod inquiry;
pub mod report;
pub mod timings;

pub use inquiry::{Asker, Inquiries, Inquiry, inquiries};
pub use report::{Readiness, Report, RuleReport};
pub use timings::Timings;
