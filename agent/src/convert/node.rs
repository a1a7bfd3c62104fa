//! Nodes.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as api;

use super::meta::{self, MetaError};
use super::{At, Problems};

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name.
    pub name: String,
    /// Its `InternalIP` addresses.
    pub addresses: Vec<IpAddr>,
}

/// What is wrong with a Node.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Its metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// An address that is none.
    #[error("`{value}` is no IP address")]
    Address {
        /// The value.
        value: String,
    },
}

/// Converts a Node.
///
/// # Errors
/// Everything that is wrong with it.
pub fn convert(node: api::Node) -> Result<Node, Vec<At<NodeError>>> {
    let (value, faults) = readable(node);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

/// Converts what can be converted, and says what cannot.
pub fn readable(node: api::Node) -> (Node, Vec<At<NodeError>>) {
    let api::Node { metadata, spec: _, status } = node;
    let mut problems = Problems::default();
    let meta = problems.keep_value(meta::readable(&metadata));
    let mut addresses = Vec::new();
    let listed = status.and_then(|status| status.addresses).into_iter().flatten();
    for (i, api::NodeAddress { address, type_ }) in listed.enumerate() {
        if type_ == "InternalIP" {
            let parsed =
                super::address::parse(&address).ok_or(NodeError::Address { value: address });
            addresses.extend(problems.keep(&format!("status.addresses[{i}].address"), parsed));
        }
    }
    (Node { name: meta.name, addresses }, problems.0)
}
