//! What reconciling needs of the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_common::abi::{Counter, RuleId};
use sluice_policy::diff::{KernelState, Op};

use crate::datapath::counters::Snapshot;
use crate::endpoint::learn::Isolating;
use crate::endpoint::links::IfIndex;
use crate::status::TableStatus;

/// The kernel side. Implemented by [`crate::datapath::enforcer`], and by a recorder in tests.
///
/// Every method fails only if the kernel refuses; what was enforced before is still enforced then.
pub trait Kernel {
    /// Reads the tables back.
    ///
    /// # Errors
    /// As above.
    fn read(&mut self) -> anyhow::Result<KernelState>;

    /// Does the operations in their order.
    ///
    /// # Errors
    /// As above; those before the one that failed are done.
    fn apply(&mut self, ops: &[Op]) -> anyhow::Result<()>;

    /// Zeroes the counters of a slot.
    ///
    /// # Errors
    /// As above.
    fn reset_counters(&mut self, slot: u32) -> anyhow::Result<()>;

    /// What is counted for a slot.
    ///
    /// # Errors
    /// As above.
    fn counted(&mut self, slot: u32) -> anyhow::Result<Snapshot>;

    /// What the rules have decided on, by number, up to and with `last`; numbers beyond the table are
    /// left out.
    ///
    /// # Errors
    /// As above.
    fn rule_hits(&mut self, last: RuleId) -> anyhow::Result<Vec<Counter>>;

    /// How full the tables are that packets fill. Great tables take tens of milliseconds to count.
    ///
    /// # Errors
    /// As above.
    fn of_packets(&mut self) -> anyhow::Result<Vec<TableStatus>>;

    /// Which interfaces are led to which slot.
    ///
    /// # Errors
    /// As above.
    fn slots(&mut self) -> anyhow::Result<BTreeMap<IfIndex, u32>>;

    /// Leads an interface to a slot; [`sluice_common::abi::SLOT_NONE`]: nowhere.
    ///
    /// # Errors
    /// As above.
    fn lead(&mut self, ifindex: IfIndex, slot: u32) -> anyhow::Result<()>;

    /// Puts the programs on an interface, in place of older ones of ours.
    ///
    /// # Errors
    /// As above.
    fn attach(&mut self, ifindex: IfIndex) -> anyhow::Result<()>;

    /// Puts the programs on an interface where they are not, and says whether that was needed.
    ///
    /// # Errors
    /// As above.
    fn ensure_attached(&mut self, ifindex: IfIndex) -> anyhow::Result<bool>;

    /// Takes the programs off an interface. It may be gone.
    ///
    /// # Errors
    /// As above.
    fn detach(&mut self, ifindex: IfIndex) -> anyhow::Result<()>;

    /// Interfaces that a former agent has left programs on, alive or not.
    ///
    /// # Errors
    /// As above.
    fn left_behind(&mut self) -> anyhow::Result<BTreeSet<IfIndex>>;

    /// Programs of others on the same hooks of an interface.
    ///
    /// # Errors
    /// As above.
    fn foreign(&mut self, ifindex: IfIndex) -> anyhow::Result<Vec<String>>;

    /// Takes the live connections of pods into the flows, except those that are there already, and says
    /// how many were new. `node` are the node's own addresses. A pod whose connections cannot be told is
    /// logged and passed over: what is not known is judged by policy.
    ///
    /// # Errors
    /// As above.
    fn learn(&mut self, pods: &[Isolating], node: &BTreeSet<IpAddr>) -> anyhow::Result<u64>;

    /// All that should be enforced and does not refuse is, with the present programs and tables: what was
    /// kept of a former agent's for the meantime can go.
    ///
    /// # Errors
    /// As above.
    fn settle(&mut self) -> anyhow::Result<()>;
}
