//! The numbers of policy sets, classes and rules, and what they stand for.
//!
//! Numbers are small and dense (rule numbers index a kernel array). They carry no meaning beyond the
//! tables: because every change is atomic ([`sluice_common::abi::Versioned`]), a number may come to
//! mean something else from one generation to the next. Keeping them stable, also over a restart (the
//! agent stores this value), only saves writes and keeps rule counters.

use std::collections::BTreeMap;

use sluice_common::abi::{ClassId, RuleId, SetId};

use crate::model::RuleName;

/// What every number in the tables stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Policy sets: a description of the policies in it, in order. Equal descriptions are equal sets.
    pub sets: BTreeMap<SetId, String>,
    /// Peer classes: a description of the predicates that hold. Equal descriptions are equal classes.
    pub classes: BTreeMap<ClassId, String>,
    /// Rules.
    pub rules: BTreeMap<RuleId, RuleName>,
}
