//! The oracle: what the specification says about one question, slow and obvious.
//!
//! Written from the Kubernetes API's documentation (`networking.k8s.io/v1` NetworkPolicy, and the tier
//! rules of `policy.networking.k8s.io` ClusterNetworkPolicy) and from nothing else. It shares no code
//! with the compiler beyond the types of [`crate::model`], not even the matching of selectors and
//! blocks, so that a mistake would have to be made twice to go unseen. Every call looks at the whole
//! world again; nothing is indexed or remembered.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{
    Action, Answer, Backend, Block, DecidedBy, Direction, Labels, Namespaces, Operator, Peer,
    Peers, Pod, PodName, PodSelector, Policy, PolicyName, PortMatch, Ports, Protocol, Question,
    Requirement, Rule, RuleName, Selector, Tier, World,
};

mod services;

pub(crate) use services::{about, is_governed, service};

/// What the specification answers to `question`.
///
/// A pod that the world does not know, or one with host network, is no policy's subject: everything
/// is allowed there.
pub fn judge(world: &World, question: &Question) -> Answer {
    let isolated = !governing(world, question, Tier::NetworkPolicy).is_empty();
    let (allowed, decided_by) = verdict(world, question, isolated);
    Answer { allowed, isolated, decided_by }
}

fn verdict(world: &World, question: &Question, isolated: bool) -> (bool, DecidedBy) {
    // NetworkPolicySpec `ingress`: traffic is allowed "if the traffic source is the pod's local node".
    // `egress` says nothing of the kind (SEMANTICS 40 and 42).
    if question.from_own_host && question.direction == Direction::Ingress {
        return (true, DecidedBy::Host);
    }
    let is_own = is_own_address(world, question);
    match service(world, question) {
        Some((_, backends)) if !is_own && is_governed(world, question) => {
            services::through_service(world, question, isolated, &backends)
        }
        _ => direct(world, question, isolated),
    }
}

/// What is answered about one of the places that the question's service leads to.
pub(crate) fn judge_backend(world: &World, question: &Question, backend: &Backend) -> Answer {
    let isolated = !governing(world, question, Tier::NetworkPolicy).is_empty();
    let (allowed, decided_by) = direct(world, &about(question, backend), isolated);
    Answer { allowed, isolated, decided_by }
}

/// The verdict on an address that nothing translates.
fn direct(world: &World, question: &Question, isolated: bool) -> (bool, DecidedBy) {
    // "A Pod cannot block access to itself" (Network Policies, introduction).
    if is_own_address(world, question) {
        return (true, DecidedBy::OwnAddress);
    }
    if services::is_own_host(world, question) && is_governed(world, question) {
        return (true, DecidedBy::Host);
    }
    // ClusterNetworkPolicy `tier`: Admin comes before NetworkPolicy, Baseline after it. A `Pass` skips
    // the rest of its tier.
    if let Some(decided) = first_match(world, question, Tier::Admin) {
        return decided;
    }
    // NetworkPolicy `podSelector`: a pod that any policy selects gets what the union of the policies
    // allows and nothing else; Baseline is not asked about it.
    if isolated {
        return match first_allow(world, question) {
            Some(rule) => (true, DecidedBy::Rule(rule)),
            None => (false, DecidedBy::DefaultDeny),
        };
    }
    if let Some(decided) = first_match(world, question, Tier::Baseline) {
        return decided;
    }
    // "By default, a pod is non-isolated": all connections are allowed.
    (true, DecidedBy::DefaultAllow)
}

pub(crate) fn is_own_address(world: &World, question: &Question) -> bool {
    holder(world, question.remote).is_some_and(|(name, _)| *name == question.pod)
}

/// The first matching rule of a tier in which order decides: by priority, then the policy's name, then
/// the rule's place. `None` where no rule matches or the one that does says `pass`.
fn first_match(world: &World, question: &Question, tier: Tier) -> Option<(bool, DecidedBy)> {
    for (name, policy) in governing(world, question, tier) {
        for (index, rule) in rules(policy, question.direction).iter().enumerate() {
            if rule_matches(world, question, rule) {
                let decided_by = DecidedBy::Rule(rule_name(name, question.direction, index));
                return match rule.action {
                    Action::Allow => Some((true, decided_by)),
                    Action::Deny => Some((false, decided_by)),
                    Action::Pass => None,
                };
            }
        }
    }
    None
}

/// NetworkPolicySpec `ingress` and `egress`: traffic is allowed "if the traffic matches at least one"
/// rule across all policies that select the pod. Which of several is reported is our choice: the first
/// by policy name, then rule index.
fn first_allow(world: &World, question: &Question) -> Option<RuleName> {
    for (name, policy) in governing(world, question, Tier::NetworkPolicy) {
        for (index, rule) in rules(policy, question.direction).iter().enumerate() {
            if rule_matches(world, question, rule) {
                return Some(rule_name(name, question.direction, index));
            }
        }
    }
    None
}

/// The policies of a tier that apply to the question's pod in its direction, in the order of
/// evaluation.
pub(crate) fn governing<'w>(
    world: &'w World,
    question: &Question,
    tier: Tier,
) -> Vec<(&'w PolicyName, &'w Policy)> {
    let mut found: Vec<_> = world
        .policies
        .iter()
        .filter(|(_, policy)| policy.tier == tier)
        .filter(|(_, policy)| applies(policy, question.direction))
        .filter(|(_, policy)| is_subject(world, &policy.subject, &question.pod))
        .collect();
    found.sort_by_key(|(name, policy)| (policy.priority, *name));
    found
}

const fn applies(policy: &Policy, direction: Direction) -> bool {
    match direction {
        Direction::Ingress => policy.ingress.is_some(),
        Direction::Egress => policy.egress.is_some(),
    }
}

fn is_subject(world: &World, subject: &PodSelector, name: &PodName) -> bool {
    world.pods.get(name).is_some_and(|pod| selects_pod(world, subject, name, pod))
}

/// The rules of a direction; none where the policy does not apply to it.
pub(crate) fn rules(policy: &Policy, direction: Direction) -> &[Rule] {
    match direction {
        Direction::Ingress => policy.ingress.as_deref().unwrap_or_default(),
        Direction::Egress => policy.egress.as_deref().unwrap_or_default(),
    }
}

pub(crate) fn rule_name(policy: &PolicyName, direction: Direction, index: usize) -> RuleName {
    RuleName { policy: policy.clone(), direction, index }
}

/// NetworkPolicyIngressRule: "the traffic must match both ports and from"; egress likewise.
pub(crate) fn rule_matches(world: &World, question: &Question, rule: &Rule) -> bool {
    peers_match(world, question, &rule.peers) && ports_match(world, question, &rule.ports)
}

/// `from` and `to`: "Items in this list are combined using a logical OR operation. If this field is
/// empty or missing, this rule matches all" (the model says `Any` for that).
pub(crate) fn peers_match(world: &World, question: &Question, peers: &Peers) -> bool {
    match peers {
        Peers::Any => true,
        Peers::Of(list) => list.iter().any(|peer| peer_matches(world, question.remote, peer)),
    }
}

fn peer_matches(world: &World, remote: IpAddr, peer: &Peer) -> bool {
    match peer {
        // An address is matched through the pod that has it now: no pod, no match (SEMANTICS 8). One
        // that has finished is no pod to a peer's selector, even where its address lingers.
        Peer::Pods(selector) => holder(world, remote)
            .is_some_and(|(name, pod)| !pod.finished && selects_pod(world, selector, name, pod)),
        // IPBlock: "a particular CIDR"; it says nothing of what is there, so pods match too.
        Peer::Block(block) => in_block(block, remote),
    }
}

/// The pod that has an address. Of two that claim it the one that is not being deleted, then the
/// younger, then the greater name (the other one is gone, and its end is not known yet). Pods with host
/// network have no address of their own.
pub(crate) fn holder(world: &World, address: IpAddr) -> Option<(&PodName, &Pod)> {
    let address = address.to_canonical();
    world
        .pods
        .iter()
        .filter(|(_, pod)| !pod.host_network)
        .filter(|(_, pod)| pod.addresses.iter().any(|own| own.to_canonical() == address))
        .max_by_key(|(name, pod)| (!pod.deleting, pod.created, *name))
}

/// NetworkPolicyPeer: `podSelector` and `namespaceSelector` both have to match; a pod with host network
/// is no pod to a selector, since its address is its node's (Network Policies, "NetworkPolicy and
/// hostNetwork pods").
pub(crate) fn selects_pod(
    world: &World,
    selector: &PodSelector,
    name: &PodName,
    pod: &Pod,
) -> bool {
    !pod.host_network
        && selects_namespace(world, &selector.namespaces, &name.namespace)
        && labels_match(&selector.pods, &pod.labels)
}

pub(crate) fn selects_namespace(world: &World, choice: &Namespaces, namespace: &str) -> bool {
    match choice {
        Namespaces::Named(name) => name == namespace,
        Namespaces::Matching(selector) => match world.namespaces.get(namespace) {
            Some(labels) => labels_match(selector, labels),
            // Every namespace has this label; of one that is not declared nothing else is known.
            None => {
                let name = ("kubernetes.io/metadata.name".to_owned(), namespace.to_owned());
                labels_match(selector, &Labels::from([name]))
            }
        },
    }
}

/// LabelSelector: "The result of matchLabels and matchExpressions are ANDed. An empty label selector
/// matches all objects."
pub(crate) fn labels_match(selector: &Selector, labels: &Labels) -> bool {
    selector.requirements.iter().all(|requirement| requirement_holds(requirement, labels))
}

/// LabelSelectorRequirement `operator`. `NotIn` also holds where the key is missing (SEMANTICS 9).
pub(crate) fn requirement_holds(requirement: &Requirement, labels: &Labels) -> bool {
    let value = labels.get(&requirement.key);
    match &requirement.operator {
        Operator::In(values) => value.is_some_and(|value| values.contains(value)),
        Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
        Operator::Exists => value.is_some(),
        Operator::DoesNotExist => value.is_none(),
    }
}

/// IPBlock: the CIDR without its `except`s. An except takes an address out of *this* block; it denies
/// nothing that another peer allows (SEMANTICS 27).
fn in_block(block: &Block, address: IpAddr) -> bool {
    in_cidr(block.cidr(), address) && !block.except().iter().any(|except| in_cidr(*except, address))
}

/// A CIDR contains the addresses that share its first bits, of its own family only (SEMANTICS 31). An
/// IPv4-mapped address stands in no packet; it is the IPv4 address, and no IPv6 CIDR has it.
pub(crate) fn in_cidr(cidr: IpNet, address: IpAddr) -> bool {
    let length = u32::from(cidr.prefix_len());
    match (cidr.addr(), address.to_canonical()) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            (base.to_bits() ^ address.to_bits()).leading_zeros() >= length
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            (base.to_bits() ^ address.to_bits()).leading_zeros() >= length
        }
        _ => false,
    }
}

/// `ports`: "Each item in this list is combined using a logical OR. If this field is empty or missing,
/// this rule matches all ports" (the model says `Any` for that; it is the only form that lets ICMP
/// pass, SEMANTICS 49).
pub(crate) fn ports_match(world: &World, question: &Question, ports: &Ports) -> bool {
    match ports {
        Ports::Any => true,
        Ports::Of(list) => list.iter().any(|port| port_matches(world, question, port)),
    }
}

fn port_matches(world: &World, question: &Question, port: &PortMatch) -> bool {
    match port {
        PortMatch::Protocol(protocol) => question.protocol == protocol.number(),
        PortMatch::Range { protocol, first, last } => {
            question.protocol == protocol.number() && (*first..=*last).contains(&question.port)
        }
        PortMatch::Named { protocol, name } => {
            question.protocol == protocol.number()
                && named_port(world, question, *protocol, name) == Some(question.port)
        }
    }
}

/// NetworkPolicyPort `port`: "a numerical or named port on a pod". The pod is the connection's
/// destination: the subject for ingress, the peer for egress (SEMANTICS 21 to 24).
pub(crate) fn named_port(
    world: &World,
    question: &Question,
    protocol: Protocol,
    name: &str,
) -> Option<u16> {
    let (_, pod) = destination(world, question)?;
    pod.ports
        .iter()
        .find(|port| port.name == name && port.protocol == protocol)
        .map(|port| port.port)
}

/// The pod that a connection goes to, if it goes to one.
pub(crate) fn destination<'w>(
    world: &'w World,
    question: &Question,
) -> Option<(&'w PodName, &'w Pod)> {
    match question.direction {
        Direction::Ingress => world.pods.get_key_value(&question.pod),
        Direction::Egress => holder(world, question.remote),
    }
}

#[cfg(test)]
mod tests;
