//! Which host-side interface is which pod.
//!
//! * [`netns`]: the network namespaces of this node, from the files that container runtimes leave;
//! * [`links`]: the node's interfaces and the addresses inside the namespaces, by netlink;
//! * [`discover`]: both together, as one scan of the node;
//! * [`assign()`]: the scan matched against the pods that the source says run here;
//! * [`admitted`]: the addresses of pods whose objects do not say them yet;
//! * [`learn`]: the connections that a pod has already when it becomes isolated;
//! * [`slots`]: the place that each pod has in the kernel tables;
//! * [`unenforced`]: why a pod is not enforced.
//!
//! Discovery enters no namespace: the kernel answers for another one by its number (nsid). Only sockets
//! must be asked for from inside, which [`learn`] does on a thread of its own.

pub mod admitted;
mod assign;
pub mod discover;
pub mod learn;
pub mod links;
pub mod netns;
pub mod slots;
pub mod unenforced;

pub use assign::{Assignment, Found, LocalPod, NotFound, assign};
pub use discover::{Interface, Scan};
pub use unenforced::Unenforced;
