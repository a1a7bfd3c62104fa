//! Policies of all three tiers.

use sluice_policy::model::{
    Action, Change, Namespaces, Operator, Peer, Peers, PodSelector, Policy, PolicyKind, PolicyName,
    PortMatch, Ports, Requirement, Rule, Selector, Sorted, Tier, World,
};

use super::pods::{NAME_LABEL, PORTS, label_key, label_value, namespace_name, port_name, protocol};
use super::{Dice, addresses};

pub(super) fn add_policy(dice: &mut Dice, world: &mut World) {
    let (name, policy) = policy(dice);
    world.apply(Change::Policy(name, Some(policy)));
}

pub(super) fn policy(dice: &mut Dice) -> (PolicyName, Policy) {
    let name = format!("q{}", dice.up_to(4));
    let tier = *dice.pick(&[
        Tier::NetworkPolicy,
        Tier::NetworkPolicy,
        Tier::NetworkPolicy,
        Tier::Admin,
        Tier::Baseline,
    ]);
    let (name, subject, priority) = if tier == Tier::NetworkPolicy {
        let namespace = namespace_name(dice);
        let subject =
            PodSelector { namespaces: Namespaces::Named(namespace.clone()), pods: subject(dice) };
        let kind = PolicyKind::NetworkPolicy;
        (PolicyName { kind, namespace: Some(namespace), name }, subject, 0)
    } else {
        let kind = PolicyKind::ClusterNetworkPolicy;
        (PolicyName { kind, namespace: None, name }, cluster_subject(dice), dice.up_to(2) as i64)
    };
    let (ingress, egress) = match dice.up_to(3) {
        0 => (Some(rules(dice, tier)), None),
        1 => (None, Some(rules(dice, tier))),
        _ => (Some(rules(dice, tier)), Some(rules(dice, tier))),
    };
    (name, Policy { tier, priority, subject, ingress, egress })
}

/// Subjects are wide, so that most pods have several policies.
fn subject(dice: &mut Dice) -> Selector {
    if dice.chance(50) { Selector::default() } else { pods(dice) }
}

fn cluster_subject(dice: &mut Dice) -> PodSelector {
    if dice.chance(40) {
        let namespaces = Namespaces::Matching(Selector::default());
        return PodSelector { namespaces, pods: Selector::default() };
    }
    pod_selector(dice)
}

/// Replaces one of the rules, or the whole list of a direction.
pub(super) fn edit(dice: &mut Dice, policy: &mut Policy) {
    let tier = policy.tier;
    let list = if dice.chance(50) { &mut policy.ingress } else { &mut policy.egress };
    match list {
        Some(rules) if !rules.is_empty() && dice.chance(70) => {
            let at = dice.up_to(rules.len() - 1);
            rules[at] = rule(dice, tier);
        }
        _ => *list = Some(rules(dice, tier)),
    }
}

fn rules(dice: &mut Dice, tier: Tier) -> Vec<Rule> {
    let least = usize::from(dice.chance(85));
    (0..least + dice.up_to(3)).map(|_| rule(dice, tier)).collect()
}

fn rule(dice: &mut Dice, tier: Tier) -> Rule {
    let action = match tier {
        Tier::NetworkPolicy => Action::Allow,
        Tier::Admin | Tier::Baseline => {
            *dice.pick(&[Action::Allow, Action::Deny, Action::Deny, Action::Pass])
        }
    };
    Rule { action, peers: peers(dice), ports: ports(dice) }
}

fn peers(dice: &mut Dice) -> Peers {
    if dice.chance(15) {
        return Peers::Any;
    }
    let least = usize::from(dice.chance(95));
    let count = least + dice.up_to(2);
    Peers::Of((0..count).map(|_| peer(dice)).collect())
}

fn peer(dice: &mut Dice) -> Peer {
    if dice.chance(50) {
        Peer::Pods(pod_selector(dice).into())
    } else {
        Peer::Block(addresses::block(dice))
    }
}

fn pod_selector(dice: &mut Dice) -> PodSelector {
    let namespaces = match dice.up_to(3) {
        0 => Namespaces::Named(namespace_name(dice)),
        1 => Namespaces::Matching(Selector::default()),
        2 => Namespaces::Matching(by_namespace_name(dice)),
        _ => Namespaces::Matching(pods(dice)),
    };
    PodSelector { namespaces, pods: pods(dice) }
}

fn by_namespace_name(dice: &mut Dice) -> Selector {
    let names: Sorted<String> = (0..=dice.up_to(1)).map(|_| namespace_name(dice)).collect();
    let operator = if dice.chance(70) { Operator::In(names) } else { Operator::NotIn(names) };
    Selector { requirements: [Requirement { key: NAME_LABEL.to_owned(), operator }].into() }
}

/// A selector over the labels of pods (and namespaces), everything in a third of the cases.
fn pods(dice: &mut Dice) -> Selector {
    let count = *dice.pick(&[0, 1, 1, 1, 2, 0]);
    Selector { requirements: (0..count).map(|_| requirement(dice)).collect() }
}

fn requirement(dice: &mut Dice) -> Requirement {
    let values: Sorted<String> = (0..=dice.up_to(1)).map(|_| label_value(dice)).collect();
    let operator = match dice.up_to(5) {
        0 => Operator::NotIn(values),
        1 => Operator::Exists,
        2 => Operator::DoesNotExist,
        _ => Operator::In(values),
    };
    Requirement { key: label_key(dice), operator }
}

fn ports(dice: &mut Dice) -> Ports {
    if dice.chance(35) {
        return Ports::Any;
    }
    let least = usize::from(dice.chance(95));
    let count = least + dice.up_to(3);
    Ports::Of((0..count).map(|_| port(dice)).collect())
}

fn port(dice: &mut Dice) -> PortMatch {
    let protocol = protocol(dice);
    match dice.up_to(5) {
        0 => PortMatch::Protocol(protocol),
        1 => PortMatch::Named { protocol, name: port_name(dice) },
        2 | 3 => {
            let (a, b) = (*dice.pick(&PORTS), *dice.pick(&PORTS));
            PortMatch::Range { protocol, first: a.min(b), last: a.max(b) }
        }
        _ => {
            let port = *dice.pick(&PORTS);
            PortMatch::Range { protocol, first: port, last: port }
        }
    }
}
