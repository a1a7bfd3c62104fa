//! The chained CNI plugin: a pod starts only after its policies are in the kernel.
//!
//! * [`spec`]: what the CNI specification says of calls, configurations, results and errors;
//! * [`plugin`]: the verbs, as questions to the agent of the node;
//! * [`conflist`]: our entry in the text of somebody's configuration;
//! * [`install`]: the plugin's file, and that entry on disk;
//! * [`watch`]: the agent keeping the entry there.
//!
//! The plugin is the `sluice` binary under the name [`NAME`]. It changes nothing of a pod's network. It
//! fails closed: where the agent does not say that the pod is enforced, the pod does not start, and the
//! kubelet tries again.

pub mod conflist;
pub mod install;
pub mod plugin;
pub mod spec;
pub mod watch;

/// Name of the plugin: of its file, and the `type` of its entry.
pub const NAME: &str = "sluice-cni";
