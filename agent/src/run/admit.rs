//! Pods that start only when their policies are in the kernel, as the CNI plugin asks for.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_policy::model::PodName;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Agent, NOT_SYNCED};
use crate::control::Response;
use crate::endpoint::admitted::Attachment;
use crate::manifest::kinds::Kind;
use crate::metrics::Timings;
use crate::reconcile::kernel::Kernel;
use crate::status::EnforcementState;

/// A pod that has its interfaces and waits for its policies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admission {
    /// The pod's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, where the runtime says it: tells it from one before it of the same name.
    pub uid: Option<String>,
    /// The container, and the addresses that it got.
    pub attachment: Attachment,
    /// How long to wait, in milliseconds.
    pub timeout_ms: u64,
}

/// Who waits for it.
#[derive(Debug)]
pub(super) struct Admitting {
    pod: PodName,
    admission: Admission,
    begun: Instant,
    reply: oneshot::Sender<Response>,
}

impl<K: Kernel> Agent<K> {
    /// Takes in what the plugin says of a pod, and looks for it at once.
    pub(super) async fn admit(&mut self, admission: Admission, reply: oneshot::Sender<Response>) {
        let pod = PodName { namespace: admission.namespace.clone(), name: admission.name.clone() };
        self.reconciler.admit(&pod, admission.attachment.clone());
        self.note_change();
        self.scan().await;
        self.admitting.push(Admitting { pod, admission, begun: Instant::now(), reply });
    }

    /// Containers are gone. Their pods are what their objects say.
    pub(super) fn withdraw(&mut self, is_gone: impl Fn(&str) -> bool) -> Response {
        self.reconciler.withdraw(is_gone);
        self.note_change();
        Response::Withdrawn
    }

    /// Answers those whose pods are enforced, and those whose time is over.
    pub(super) fn answer_admitting(&mut self) {
        for admitting in std::mem::take(&mut self.admitting) {
            let Admitting { pod, admission, begun, .. } = &admitting;
            let took = begun.elapsed();
            let (label, response) = match self.admitted(pod, admission) {
                Ok(state) => (state.metric_label(), Response::Admitted { state }),
                Err(_) if took < Duration::from_millis(admission.timeout_ms) => {
                    self.admitting.push(admitting);
                    continue;
                }
                Err(reason) => {
                    tracing::warn!(%pod, %reason, "it may not start");
                    // Its container does not live on.
                    let container = &admission.attachment.container;
                    self.withdraw(|gone| gone == container);
                    let message = format!("not in {} ms: {reason}", admission.timeout_ms);
                    ("failed", Response::Error { message })
                }
            };
            Timings::observe(&self.timings.cni_add.get_or_create(&[("result", label)]), took);
            // Who asked may have gone away.
            let _ = admitting.reply.send(response);
        }
    }

    /// Whether the pod may start, or why not yet.
    fn admitted(&self, pod: &PodName, admission: &Admission) -> Result<EnforcementState, String> {
        if !self.is_ready() {
            return Err(NOT_SYNCED.into());
        }
        if let Some(why) = self.half_watched() {
            return Err(why);
        }
        if let (Some(known), Some(uid)) = (&self.uids, &admission.uid)
            && known.get(pod) != Some(uid)
        {
            return Err(format!("the source has not told of the pod with the UID {uid} yet"));
        }
        let Some(addresses) = self.reconciler.local_addresses(pod) else {
            let invalid = self.objects.invalid_pods.get(pod).map(|invalid| invalid.reason.clone());
            return Err(invalid.unwrap_or_else(|| {
                format!("the source has not told of the pod, or not as one of {}", self.node)
            }));
        };
        if *addresses != admission.attachment.addresses {
            return Err(format!("the source says that it has other addresses: {addresses:?}"));
        }
        if self.changed {
            let failure = self.failure.clone();
            return Err(failure.unwrap_or_else(|| "changes are not written yet".into()));
        }
        let endpoint = self.reconciler.endpoint(pod);
        match endpoint.state {
            EnforcementState::NotEnforced if self.reconciler.is_free(pod) => {
                Ok(EnforcementState::NotIsolated)
            }
            EnforcementState::NotEnforced => Err(endpoint.reason.unwrap_or_default()),
            state => Ok(state),
        }
    }
    /// What is not watched although pods are: a pod that is new by now would be judged by what was known
    /// before it, perhaps without the policy that was made for it. While pods are not watched either, no
    /// new one is known, and one that was known is judged with what was known then.
    fn half_watched(&self) -> Option<String> {
        let pods = self.watches.get(Kind::Pod.as_str())?;
        if pods.error.is_some() {
            return None;
        }
        self.watches.values().find_map(|watch| {
            let error = watch.error.as_ref()?;
            Some(format!("{} is not watched: {error}", watch.kind))
        })
    }
}
