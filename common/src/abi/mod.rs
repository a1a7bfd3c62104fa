//! Layout of the kernel tables: one file per table.
//!
//! Rules of this module, checked by const asserts beside each type and by a test against the BTF of
//! the compiled object:
//!
//! * `repr(C)`, explicit zeroed padding, no `bool`, `usize`, `Option` or data-carrying `enum`;
//! * addresses and ports are in **network byte order**, everything else in host order, except where
//!   a field says otherwise;
//! * a change of any layout or meaning bumps [`ABI_VERSION`].

mod address;
pub mod capacity;
mod control;
mod counter;
mod decision;
mod endpoint;
mod event;
mod flow;
mod fragment;
mod peer;
mod versioned;
mod vip;

pub use address::Address;
pub use control::{CONTROL_INDEX, Control, Lifetimes};
pub use counter::{Counter, counter_index};
pub use decision::{Decision, DecisionKey, PROTOCOL_ANY, Verdict};
pub use endpoint::{Direction, ENDPOINT_MAX, Endpoint, EndpointFlags, SLOT_NONE, SLOTS_BY_INDEX};
pub use event::{Event, EventBudget, event_budget_index};
pub use flow::{FLOW_WAYS, Flow, FlowBucket, FlowEntry, FlowKey, FlowState};
pub use fragment::{FRAGMENT_SETS, FRAGMENT_WAYS, Fragment, FragmentSet};
pub use peer::{CIDR_KEY_BITS, CidrKey, PeerClass, UNCLASSIFIED, bpf_spin_lock};
pub use versioned::Versioned;
pub use vip::{Hairpin, HairpinKey, HairpinNote, HairpinNoteKey, HairpinWay, VipKey};

/// Version of the table layout and meaning. Pins made by another version are never adopted.
pub const ABI_VERSION: u32 = 7;

/// Number of a policy set: the ordered policies that apply to an endpoint in one direction.
/// [`SET_NONE`] means that nothing isolates the endpoint in that direction.
pub type SetId = u32;
/// The endpoint is not governed by any policy in this direction: everything passes.
pub const SET_NONE: SetId = 0;

/// Number of a peer class: all addresses that the policies in force on this node cannot tell apart.
pub type ClassId = u32;

/// Number of a rule, an index into `rule_hits`; the agent's names file says which rule it is.
pub type RuleId = u32;
/// Elements of `rule_hits`: rule numbers are below it.
pub const RULE_MAX: u32 = 16_384;
/// No rule decided: the tier's default did (`default-allow` or `default-deny`).
pub const RULE_DEFAULT: RuleId = 0;
/// No rule decided: the other end is the pod's own node, and the agent lets such traffic out. It and
/// the following are beyond `rule_hits`, so nothing counts them.
pub const RULE_HOST: RuleId = RULE_MAX;
/// No rule decided: the pod itself is all that the service leads to.
pub const RULE_SELF: RuleId = RULE_MAX + 1;
/// No rule decided: policy says different things to the backends of the service, which is denied.
pub const RULE_MIXED: RuleId = RULE_MAX + 2;
