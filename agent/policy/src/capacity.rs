//! What fits the kernel tables, and what is closed where it does not.
//!
//! A set that does not fit is closed as a whole: its endpoints keep its number, which has no entries,
//! and the kernel drops what it has no decision for. Its policies then ask nothing of any table. Of
//! the open sets the one goes first that needs most of the table in question (then the greater name),
//! so that few endpoints suffer, and the same ones in every run.
//!
//! What fits again, opens: at once where a change of its own policies or the room that others give back
//! tells so, else when all is weighed again ([`crate::compile::Compiler::reconsider`]), as at every
//! heal. Until then a set may stay closed that a compilation from nothing would open, for instance
//! because pods are gone that its rules selected, and the other way round.

use std::fmt;

use sluice_common::abi::{ENDPOINT_MAX, RULE_MAX, capacity};

use crate::model::{Direction, PodName};

/// Room in the kernel tables, in entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of `peers`.
    pub peers: usize,
    /// Entries of `vips`.
    pub vips: usize,
    /// Entries of `hairpins` that one endpoint can have. One that needs more has none.
    pub hairpins_each: usize,
    /// Entries of `cidrs`.
    pub cidrs: usize,
    /// Entries of `decisions`.
    pub decisions: usize,
    /// Elements of `rule_hits`, of which number 0 is no rule's.
    pub rules: usize,
    /// The last slot of `endpoints`.
    pub endpoints: usize,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            peers: capacity::PEERS as usize,
            vips: capacity::VIPS as usize,
            hairpins_each: capacity::HAIRPINS_EACH as usize,
            cidrs: capacity::CIDRS as usize,
            decisions: capacity::DECISIONS as usize,
            rules: RULE_MAX as usize,
            endpoints: ENDPOINT_MAX as usize - 1,
        }
    }
}

/// A table that can be full.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// `peers`.
    Peers,
    /// `vips`.
    Vips,
    /// `hairpins`.
    Hairpins,
    /// `cidrs`.
    Cidrs,
    /// `decisions`.
    Decisions,
    /// `rule_hits`.
    Rules,
    /// `endpoints`.
    Endpoints,
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Peers => "peers",
            Self::Vips => "vips",
            Self::Hairpins => "hairpins",
            Self::Cidrs => "cidrs",
            Self::Decisions => "decisions",
            Self::Rules => "rule_hits",
            Self::Endpoints => "endpoints",
        })
    }
}

/// A table that is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shortage {
    /// Which.
    pub table: Table,
    /// Entries that it would need for everything that was open when this was found.
    pub needed: usize,
    /// Entries that it has.
    pub capacity: usize,
}

/// An endpoint that a shortage concerns.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overflow {
    /// The pod.
    pub pod: PodName,
    /// The direction that is closed. For [`Table::Endpoints`]: the pod has no slot and cannot be
    /// enforced at all; both directions are listed. For [`Table::Hairpins`]: nothing is closed but the
    /// pod's way to itself through services.
    pub direction: Direction,
    /// Why.
    pub shortage: Shortage,
}

impl fmt::Display for Overflow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = crate::model::direction_label(self.direction);
        let Shortage { table, needed, capacity } = self.shortage;
        write!(f, "{} {direction}: table {table} needs {needed}, has {capacity}", self.pod)
    }
}
