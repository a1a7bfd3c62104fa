//! How much each table holds. The agent's capacity check works with the same numbers.

/// Entries of `peers`: pod addresses in the cluster that a policy of this node can tell apart.
pub const PEERS: u32 = 262_144;
/// Entries of `cidrs`.
pub const CIDRS: u32 = 131_072;
/// Entries of `decisions`.
pub const DECISIONS: u32 = 262_144;
/// Entries of `flows`.
pub const FLOWS: u32 = 262_144;
/// Entries of `openings`.
pub const OPENINGS: u32 = 131_072;
/// Bytes of `events`: about 3,000 records. A power of two and a multiple of the page size.
pub const EVENT_BYTES: u32 = 262_144;
