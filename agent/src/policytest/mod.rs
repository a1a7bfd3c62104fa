//! PolicyTests: planned first (every state of the cluster, every end of every probe), then run in one
//! engine or in several. Whatever is wrong with a test is found before anything runs.

pub mod ends;
mod plan;
mod run;

pub use self::plan::{PlannedProbe, PlannedStep, PlannedTest, plan};
pub use self::run::{Progress, Results, StepResults, TestResults, run};
