//! What the specification says about addresses that the cluster translates, and about the pod's own
//! node.
//!
//! Network Policies, "Behavior of ipBlock selectors": "cluster ingress and egress mechanisms often
//! require rewriting the source or destination IP of packets"; where that happens before the policy
//! is asked is the implementation's. Here a service is what it leads to (SEMANTICS 34 to 39).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{direct, governing};
use crate::model::{Backend, DecidedBy, Direction, Question, RuleName, ServiceName, Tier, World};

/// The services that have the address and port of the question, and where they lead, in the family of
/// the address; `None` where it is no service's. Only what a pod sends meets a service's address.
pub(crate) fn service(
    world: &World,
    question: &Question,
) -> Option<(Vec<ServiceName>, BTreeSet<Backend>)> {
    let remote = question.remote.to_canonical();
    let (mut names, mut backends) = (Vec::new(), BTreeSet::new());
    for (name, service) in &world.services {
        if !service.addresses.iter().any(|address| address.to_canonical() == remote) {
            continue;
        }
        for port in &service.ports {
            if port.port == question.port && port.protocol.number() == question.protocol {
                names.push(name.clone());
                let all = port.backends.iter();
                let all = all.map(|b| Backend { address: b.address.to_canonical(), port: b.port });
                backends.extend(all.filter(|b| b.address.is_ipv4() == remote.is_ipv4()));
            }
        }
    }
    names.dedup();
    (question.direction == Direction::Egress && !names.is_empty()).then_some((names, backends))
}

/// The question about a backend, as the pod would ask it directly.
pub(crate) fn about(question: &Question, backend: &Backend) -> Question {
    Question { remote: backend.address, port: backend.port, ..question.clone() }
}

/// The verdict on a service: that on all its backends, where they agree. Of several rules that decide,
/// the last in the order of evaluation is reported.
pub(super) fn through_service(
    world: &World,
    question: &Question,
    isolated: bool,
    backends: &BTreeSet<Backend>,
) -> (bool, DecidedBy) {
    let judged = backends.iter().map(|backend| direct(world, &about(question, backend), isolated));
    let (allowed, denied): (Vec<_>, Vec<_>) = judged.partition(|(allowed, _)| *allowed);
    if !allowed.is_empty() && !denied.is_empty() {
        return (false, DecidedBy::MixedBackends);
    }
    let all = allowed.into_iter().chain(denied);
    all.max_by_key(|(_, decided_by)| place(world, decided_by))
        .unwrap_or((false, DecidedBy::DefaultDeny))
}

/// A place in the order of evaluation: a rule's by tier, priority, name and index. What comes before
/// all rules (the node, the pod itself) and behind them has its place there.
fn place(world: &World, decided_by: &DecidedBy) -> (usize, i64, Option<RuleName>) {
    let rule = match decided_by {
        DecidedBy::Host => return (0, 0, None),
        DecidedBy::OwnAddress => return (1, 0, None),
        DecidedBy::Rule(rule) => rule,
        // Behind the rules of its tier.
        DecidedBy::DefaultDeny => return (3, i64::MAX, None),
        DecidedBy::DefaultAllow | DecidedBy::MixedBackends => return (5, 0, None),
    };
    let policy = world.policies.get(&rule.policy);
    let tier = match policy.map(|policy| policy.tier) {
        Some(Tier::Admin) => 2,
        Some(Tier::NetworkPolicy) | None => 3,
        Some(Tier::Baseline) => 4,
    };
    (tier, policy.map_or(0, |policy| policy.priority), Some(rule.clone()))
}

/// True for egress to an address of the pod's own node, where that is let out (SEMANTICS 42). An
/// address that a pod has which has not finished is the pod's.
pub(super) fn is_own_host(world: &World, question: &Question) -> bool {
    let remote = question.remote.to_canonical();
    question.direction == Direction::Egress
        && world.own_host.iter().any(|address: &IpAddr| address.to_canonical() == remote)
        && super::holder(world, remote).is_none_or(|(_, pod)| pod.finished)
}

/// True if any policy applies to the question's pod in its direction.
pub(crate) fn is_governed(world: &World, question: &Question) -> bool {
    let tiers = [Tier::Admin, Tier::NetworkPolicy, Tier::Baseline];
    tiers.into_iter().any(|tier| !governing(world, question, tier).is_empty())
}
