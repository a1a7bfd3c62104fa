//! Namespaces.

use k8s_openapi::api::core::v1 as api;
use sluice_policy::model::Labels;

use super::labels::{self, SyntaxError};
use super::meta::{self, MetaError};
use super::{At, Problems};

/// The label that every namespace has, whatever its manifest says.
pub const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// Labels, [`NAME_LABEL`] included.
    pub labels: Labels,
}

/// What is wrong with a Namespace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Its metadata.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Its name.
    #[error(transparent)]
    Name(#[from] SyntaxError),
}

/// Converts a Namespace.
///
/// # Errors
/// Everything that the API server would refuse.
pub fn convert(namespace: api::Namespace) -> Result<Namespace, Vec<At<NamespaceError>>> {
    let (value, faults) = readable(namespace);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

/// Converts what can be converted, and says what cannot.
pub fn readable(namespace: api::Namespace) -> (Namespace, Vec<At<NamespaceError>>) {
    let api::Namespace { metadata, spec: _, status: _ } = namespace;
    let mut problems = Problems::default();
    let meta = problems.keep_value(meta::readable(&metadata));
    if !meta.name.is_empty() {
        problems.keep("metadata.name", labels::dns_label(&meta.name));
    }
    let labels = meta.labels.with(NAME_LABEL, &meta.name);
    (Namespace { name: meta.name, labels }, problems.0)
}
