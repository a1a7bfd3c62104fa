//! `metadata`, common to all kinds.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use sluice_policy::model::Labels;

use super::labels::{self, SyntaxError};
use super::{At, Problems};

/// Where objects without a namespace live.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What is wrong with `metadata`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetaError {
    /// There is no name.
    #[error("must be set")]
    NameMissing,
    /// A name or label that the API server refuses.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
}

/// The part of `metadata` that policy looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Namespace; [`DEFAULT_NAMESPACE`] where none is given (meaningless for cluster-scoped kinds).
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// Creation time in seconds, 0 where unknown.
    pub created: i64,
    /// It is on its way out.
    pub deleting: bool,
    /// Name of the object that made it and cares for it.
    pub controller: Option<String>,
}

/// Reads `metadata`.
///
/// # Errors
/// Everything that the API server would refuse.
pub fn convert(meta: &ObjectMeta) -> Result<Meta, Vec<At<MetaError>>> {
    let (value, faults) = readable(meta);
    if faults.is_empty() { Ok(value) } else { Err(faults) }
}

/// Reads `metadata` as it is, with everything in it that the API server would refuse today. Labels
/// that it would refuse count as they are: a selector compares them with what it names.
pub fn readable(meta: &ObjectMeta) -> (Meta, Vec<At<MetaError>>) {
    let mut problems = Problems::default();
    let name = meta.name.clone().unwrap_or_default();
    if name.is_empty() {
        problems.add("metadata.name", MetaError::NameMissing);
    } else {
        problems.keep("metadata.name", labels::dns_name(&name));
    }
    let namespace = match meta.namespace.as_deref() {
        None | Some("") => DEFAULT_NAMESPACE,
        Some(namespace) => namespace,
    };
    problems.keep("metadata.namespace", labels::dns_label(namespace));
    let labels = read_labels("metadata.labels", meta.labels.as_ref(), &mut problems);
    let controller = meta.owner_references.iter().flatten().find(|o| o.controller == Some(true));
    let value = Meta {
        namespace: namespace.to_owned(),
        name,
        labels,
        created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        deleting: meta.deletion_timestamp.is_some(),
        controller: controller.map(|owner| owner.name.clone()),
    };
    (value, problems.0)
}

fn read_labels(
    field: &str,
    labels: Option<&BTreeMap<String, String>>,
    problems: &mut Problems<MetaError>,
) -> Labels {
    for (key, value) in labels.into_iter().flatten() {
        let field = format!("{field}.{key}");
        problems.keep(&field, labels::label_key(key));
        problems.keep(&field, labels::label_value(value));
    }
    labels.into_iter().flatten().collect()
}

/// Reads the `metadata` of a pod template, which has labels only.
///
/// # Errors
/// Labels that the API server would refuse.
pub fn template_labels(
    field: &str,
    meta: Option<&ObjectMeta>,
) -> Result<Labels, Vec<At<MetaError>>> {
    let mut problems = Problems::default();
    let labels = read_labels(field, meta.and_then(|m| m.labels.as_ref()), &mut problems);
    problems.into_result(labels)
}
