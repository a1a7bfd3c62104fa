//! How much each table holds. The agent's capacity check works with the same numbers.

/// Entries of `peers`: pod addresses in the cluster that a policy of this node can tell apart.
pub const PEERS: u32 = 262_144;
/// Entries of `cidrs`.
pub const CIDRS: u32 = 131_072;
/// Entries of `vips`: services' addresses, times their ports.
pub const VIPS: u32 = 131_072;
/// Entries of `hairpins` that one endpoint can have.
pub const HAIRPINS_EACH: u32 = 256;
/// Entries of `hairpins`.
pub const HAIRPINS: u32 = HAIRPINS_EACH * super::ENDPOINT_MAX;
/// Entries of `hairpin_notes`: packets on their way from a pod back to it.
pub const HAIRPIN_NOTES: u32 = 4_096;
/// Entries of `decisions`: one for each class of a set, and one for each of its port prefixes. A hundred
/// pods with ten policies of their own, each with a hundred peers of its own that it allows one TCP and
/// one UDP port, need 300,100. The kernel takes memory for an entry when it is added.
pub const DECISIONS: u32 = 524_288;
/// Elements of `flows`; a power of two: 32 MiB.
pub const FLOW_BUCKETS: u32 = 32_768;
/// Flows that fit `flows`, if they fell into its buckets evenly; [`crate::bucket`] says how many do.
pub const FLOWS: u32 = FLOW_BUCKETS * super::FLOW_WAYS as u32;
/// Bytes of `events`: about 3,000 records. A power of two and a multiple of the page size.
pub const EVENT_BYTES: u32 = 262_144;
