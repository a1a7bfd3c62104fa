//! Workloads: kinds that become pods from a template.

use k8s_openapi::api::apps::v1 as apps;
use k8s_openapi::api::batch::v1 as batch;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;
use sluice_policy::model::{Labels, Selector};

use super::meta::{self, MetaError};
use super::pod::{self, Containers};
use super::port::PortError;
use super::selector::{self, SelectorError};
use super::{At, Problems};

/// Replicas that are made at most: a third behaves like the second.
pub const REPLICA_LIMIT: usize = 2;

/// A workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// How many pods it becomes.
    pub replicas: Replicas,
    /// Which pods it takes for its own, where it says so.
    pub selector: Option<Selector>,
    /// It was made by another workload.
    pub controlled: bool,
    /// Creation time in seconds, 0 where unknown.
    pub created: i64,
    /// Labels of its pods.
    pub labels: Labels,
    /// Node that its template names.
    pub node: String,
    /// Containers of its pods.
    pub containers: Containers,
    /// `spec` of its pods, as JSON.
    pub pod_spec: Value,
}

/// How many pods a workload becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicas {
    /// So many, at most [`REPLICA_LIMIT`].
    Count(usize),
    /// One on each node, at most [`REPLICA_LIMIT`].
    PerNode,
}

/// What is wrong with a workload.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// Metadata, its own or its template's.
    #[error(transparent)]
    Meta(#[from] MetaError),
    /// Its selector.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A container port.
    #[error(transparent)]
    Port(#[from] PortError),
    /// There is no `spec`.
    #[error("must be set")]
    SpecMissing,
    /// A negative number of replicas.
    #[error("{value} is no number of replicas")]
    Replicas {
        /// The value.
        value: i32,
    },
}

/// What the kinds have in common.
struct Parts {
    metadata: ObjectMeta,
    replicas: Option<i32>,
    /// Where the number of replicas stands.
    replicas_field: &'static str,
    selector: Option<LabelSelector>,
    template: PodTemplateSpec,
    /// Where the template stands.
    template_field: &'static str,
    per_node: bool,
}

type Converted = Result<Workload, Vec<At<WorkloadError>>>;

fn spec_missing() -> Converted {
    Err(vec![At::new("spec", WorkloadError::SpecMissing)])
}

/// Converts a Deployment.
///
/// # Errors
/// Everything that is wrong with it.
pub fn deployment(object: apps::Deployment) -> Converted {
    let apps::Deployment { metadata, spec, status: _ } = object;
    let Some(spec) = spec else { return spec_missing() };
    let (selector, template) = (Some(spec.selector), spec.template);
    replicated(metadata, spec.replicas, selector, template)
}

/// Converts a StatefulSet.
///
/// # Errors
/// Everything that is wrong with it.
pub fn stateful_set(object: apps::StatefulSet) -> Converted {
    let apps::StatefulSet { metadata, spec, status: _ } = object;
    let Some(spec) = spec else { return spec_missing() };
    replicated(metadata, spec.replicas, Some(spec.selector), spec.template)
}

/// Converts a ReplicaSet.
///
/// # Errors
/// Everything that is wrong with it.
pub fn replica_set(object: apps::ReplicaSet) -> Converted {
    let apps::ReplicaSet { metadata, spec, status: _ } = object;
    let Some(spec) = spec else { return spec_missing() };
    let template = spec.template.unwrap_or_default();
    replicated(metadata, spec.replicas, Some(spec.selector), template)
}

/// Converts a DaemonSet.
///
/// # Errors
/// Everything that is wrong with it.
pub fn daemon_set(object: apps::DaemonSet) -> Converted {
    let apps::DaemonSet { metadata, spec, status: _ } = object;
    let Some(spec) = spec else { return spec_missing() };
    let (selector, template) = (Some(spec.selector), spec.template);
    convert(Parts { per_node: true, ..replicated_parts(metadata, None, selector, template) })
}

/// Converts a Job.
///
/// # Errors
/// Everything that is wrong with it.
pub fn job(object: batch::Job) -> Converted {
    let batch::Job { metadata, spec, status: _ } = object;
    let Some(spec) = spec else { return spec_missing() };
    convert(Parts {
        replicas_field: "spec.parallelism",
        ..replicated_parts(metadata, spec.parallelism, spec.selector, spec.template)
    })
}

/// Converts a CronJob.
///
/// # Errors
/// Everything that is wrong with it.
pub fn cron_job(object: batch::CronJob) -> Converted {
    let batch::CronJob { metadata, spec, status: _ } = object;
    let Some(spec) = spec else { return spec_missing() };
    let Some(job) = spec.job_template.spec else { return spec_missing() };
    convert(Parts {
        replicas_field: "spec.jobTemplate.spec.parallelism",
        template_field: "spec.jobTemplate.spec.template",
        ..replicated_parts(metadata, job.parallelism, job.selector, job.template)
    })
}

fn replicated(
    metadata: ObjectMeta,
    replicas: Option<i32>,
    selector: Option<LabelSelector>,
    template: PodTemplateSpec,
) -> Converted {
    convert(replicated_parts(metadata, replicas, selector, template))
}

fn replicated_parts(
    metadata: ObjectMeta,
    replicas: Option<i32>,
    selector: Option<LabelSelector>,
    template: PodTemplateSpec,
) -> Parts {
    Parts {
        metadata,
        replicas,
        replicas_field: "spec.replicas",
        selector,
        template,
        template_field: "spec.template",
        per_node: false,
    }
}

fn convert(parts: Parts) -> Converted {
    let Parts { metadata, replicas, replicas_field, selector, template, template_field, per_node } =
        parts;
    let PodTemplateSpec { metadata: template_meta, spec } = template;
    let mut problems = Problems::default();
    let meta = problems.keep_all(meta::convert(&metadata)).unwrap_or_default();
    let selector = selector.map(|s| problems.keep_all(selector::convert("spec.selector", Some(s))));
    let labels_field = format!("{template_field}.metadata.labels");
    let labels = problems.keep_all(meta::template_labels(&labels_field, template_meta.as_ref()));
    let spec_field = format!("{template_field}.spec");
    let containers = problems.keep_all(pod::containers(&spec_field, spec.as_ref()));
    let wanted = replicas.unwrap_or(1);
    let count = usize::try_from(wanted).unwrap_or_else(|_| {
        problems.add(replicas_field, WorkloadError::Replicas { value: wanted });
        0
    });
    let node = spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
    let pod_spec = serde_json::to_value(spec.unwrap_or_default())
        .expect("API types have string keys only, so they are JSON");
    problems.into_result(Workload {
        namespace: meta.namespace,
        name: meta.name,
        replicas: match per_node {
            true => Replicas::PerNode,
            false => Replicas::Count(count.min(REPLICA_LIMIT)),
        },
        selector: selector.flatten(),
        controlled: meta.controller.is_some(),
        created: meta.created,
        labels: labels.unwrap_or_default(),
        node,
        containers: containers.unwrap_or_default(),
        pod_spec,
    })
}
