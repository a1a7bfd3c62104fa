//! Hash tables for the compiler's inside. They are never iterated: no order of theirs reaches an
//! output.
//!
//! The standard library's hasher takes longer for the short texts here than all else that is done with
//! them. This one has keys of its own in each table, too, and nobody outside sees a hash: so tenants
//! cannot choose names that collide.

/// Keys of its own for each table.
pub(crate) use foldhash::quality::RandomState;

/// As the standard library's.
pub(crate) type HashMap<K, V> = std::collections::HashMap<K, V, RandomState>;

/// As the standard library's.
pub(crate) type HashSet<T> = std::collections::HashSet<T, RandomState>;
