//! Pods of this node: what the source says of them, and what the CNI plugin has said before.

use std::net::{IpAddr, Ipv4Addr};

use sluice_common::abi::Direction;
use sluice_policy::model::{Change, PodName, Question, Tier};
use sluice_policy::oracle;

use super::{Kernel, Reconciler};
use crate::endpoint::admitted::Attachment;

impl<K: Kernel> Reconciler<K> {
    /// Gives a pod on its way to the compiler the addresses that are known otherwise.
    pub(super) fn complete_pod(&mut self, change: &mut Change) {
        let Change::Pod(name, pod) = change else { return };
        match pod {
            Some(pod) if self.is_local(pod) => {
                self.objects.insert(name.clone(), pod.clone());
                pod.addresses = self.admitted.addresses(name, &pod.addresses);
            }
            // One that was not known may have been admitted already.
            _ => {
                if self.objects.remove(name).is_some() {
                    self.admitted.forget(name);
                }
            }
        }
    }

    /// A pod has got an attachment. Nothing is written yet.
    pub fn admit(&mut self, pod: &PodName, attachment: Attachment) {
        let said = self.objects.get(pod).map(|pod| pod.addresses.clone()).unwrap_or_default();
        let robbed = self.admitted.admit(pod, attachment, said);
        self.retake(robbed.iter().chain([pod]));
    }

    /// Attachments whose container `is_gone` are gone. Nothing is written yet.
    pub fn withdraw(&mut self, is_gone: impl Fn(&str) -> bool) {
        let pods = self.admitted.withdraw(is_gone);
        self.retake(&pods);
    }

    /// Has pods be what their objects say, and what is known besides.
    fn retake<'a>(&mut self, pods: impl IntoIterator<Item = &'a PodName>) {
        let objects = pods.into_iter().filter_map(|pod| {
            let object = self.objects.get(pod)?.clone();
            Some(Change::Pod(pod.clone(), Some(object)))
        });
        self.change(objects.collect());
    }

    /// The addresses of a pod of this node; none where the source does not know it.
    pub fn local_addresses(&self, pod: &PodName) -> Option<&[IpAddr]> {
        self.local.get(pod).map(|pod| pod.addresses.as_slice())
    }

    /// True for a local pod that no policy selects, whether it is enforced or not.
    pub fn is_free(&self, pod: &PodName) -> bool {
        let world = self.compiler.world();
        let is_isolated = |direction| {
            // Of the answer only that counts which does not depend on who is at the other end.
            let remote = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
            let pod = pod.clone();
            let (protocol, port) = (0, 0);
            let question =
                Question { pod, direction, remote, protocol, port, from_own_host: false };
            oracle::judge(world, &question).isolated
        };
        // What the other tiers select, the oracle does not say without a peer.
        let is_plain = world.policies.values().all(|policy| policy.tier == Tier::NetworkPolicy);
        is_plain && !is_isolated(Direction::Ingress) && !is_isolated(Direction::Egress)
    }
}
