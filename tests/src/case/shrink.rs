//! Making a failing case smaller.

use std::collections::BTreeSet;

use sluice_policy::model::{Change, Peers, Pod, Policy, Ports, Rule, Service, World};

use super::Case;

/// Takes away whatever can go while the case still fails, until nothing more can.
pub fn shrink(case: Case, fails: impl Fn(&Case) -> bool) -> Case {
    let mut best = case;
    while let Some(smaller) = smaller(&best).into_iter().find(|candidate| fails(candidate)) {
        best = smaller;
    }
    best
}

/// The case with one thing less, in every way that there is; large things first.
fn smaller(case: &Case) -> Vec<Case> {
    let mut all = Vec::new();
    for at in 0..case.changes.len() {
        let mut candidate = case.clone();
        candidate.changes.remove(at);
        all.push(candidate);
    }
    let worlds = smaller_worlds(&case.world).into_iter();
    all.extend(worlds.map(|world| Case { world, ..case.clone() }));
    for (at, change) in case.changes.iter().enumerate() {
        let Change::Policy(name, Some(policy)) = change else { continue };
        for policy in smaller_policies(policy) {
            let mut candidate = case.clone();
            candidate.changes[at] = Change::Policy(name.clone(), Some(policy));
            all.push(candidate);
        }
    }
    all
}

fn smaller_worlds(world: &World) -> Vec<World> {
    let mut all = Vec::new();
    let mut without = |change| {
        let mut candidate = world.clone();
        candidate.apply(change);
        all.push(candidate);
    };
    for name in world.policies.keys() {
        without(Change::Policy(name.clone(), None));
    }
    for (name, service) in &world.services {
        without(Change::Service(name.clone(), None));
        for smaller in smaller_services(service) {
            without(Change::Service(name.clone(), Some(smaller)));
        }
    }
    if !world.own_host.is_empty() {
        without(Change::OwnHost(BTreeSet::new()));
    }
    for name in world.endpoints.keys() {
        without(Change::Endpoint(name.clone(), None));
    }
    for name in world.pods.keys().filter(|name| !world.endpoints.contains_key(name)) {
        without(Change::Pod(name.clone(), None));
    }
    for name in world.namespaces.keys() {
        without(Change::Namespace(name.clone(), None));
    }
    for (name, pod) in &world.pods {
        for at in 0..pod.ports.len() {
            let mut pod = pod.clone();
            pod.ports.remove(at);
            without(Change::Pod(name.clone(), Some(pod)));
        }
        for at in 0..pod.addresses.len() {
            let mut pod = pod.clone();
            pod.addresses.remove(at);
            without(Change::Pod(name.clone(), Some(pod)));
        }
        for (key, _) in pod.labels.iter() {
            let pod = Pod { labels: pod.labels.without(key), ..pod.clone() };
            without(Change::Pod(name.clone(), Some(pod)));
        }
    }
    for (name, policy) in &world.policies {
        for policy in smaller_policies(policy) {
            without(Change::Policy(name.clone(), Some(policy)));
        }
    }
    all
}

/// One address, port or backend less.
fn smaller_services(service: &Service) -> Vec<Service> {
    let mut all = Vec::new();
    for at in 0..service.addresses.len() {
        let mut smaller = service.clone();
        smaller.addresses.remove(at);
        all.push(smaller);
    }
    for at in 0..service.ports.len() {
        let mut smaller = service.clone();
        smaller.ports.remove(at);
        all.push(smaller);
        for backend in 0..service.ports[at].backends.len() {
            let mut smaller = service.clone();
            smaller.ports[at].backends.remove(backend);
            all.push(smaller);
        }
    }
    all
}

fn smaller_policies(policy: &Policy) -> Vec<Policy> {
    let mut all = Vec::new();
    for at in 0..policy.subject.pods.requirements.len() {
        let mut candidate = policy.clone();
        let kept = policy.subject.pods.requirements.iter().enumerate().filter(|(i, _)| *i != at);
        candidate.subject.pods.requirements = kept.map(|(_, r)| r.clone()).collect();
        all.push(candidate);
    }
    if policy.ingress.is_some() && policy.egress.is_some() {
        all.push(Policy { ingress: None, ..policy.clone() });
        all.push(Policy { egress: None, ..policy.clone() });
    }
    for rules in smaller_rules(policy.ingress.as_deref().unwrap_or_default()) {
        all.push(Policy { ingress: Some(rules), ..policy.clone() });
    }
    for rules in smaller_rules(policy.egress.as_deref().unwrap_or_default()) {
        all.push(Policy { egress: Some(rules), ..policy.clone() });
    }
    all
}

fn smaller_rules(rules: &[Rule]) -> Vec<Vec<Rule>> {
    let mut all = Vec::new();
    for at in 0..rules.len() {
        all.push(without(rules, at));
    }
    for (at, rule) in rules.iter().enumerate() {
        for smaller in smaller_rule(rule) {
            let mut candidate = rules.to_vec();
            candidate[at] = smaller;
            all.push(candidate);
        }
    }
    all
}

fn smaller_rule(rule: &Rule) -> Vec<Rule> {
    let mut all = Vec::new();
    if let Peers::Of(peers) = &rule.peers {
        for at in 0..peers.len() {
            all.push(Rule { peers: Peers::Of(without(peers, at)), ..rule.clone() });
        }
        all.push(Rule { peers: Peers::Any, ..rule.clone() });
    }
    if let Ports::Of(ports) = &rule.ports {
        for at in 0..ports.len() {
            all.push(Rule { ports: Ports::Of(without(ports, at)), ..rule.clone() });
        }
        all.push(Rule { ports: Ports::Any, ..rule.clone() });
    }
    all
}

fn without<T: Clone>(list: &[T], at: usize) -> Vec<T> {
    let kept = list.iter().enumerate().filter(|(i, _)| *i != at);
    kept.map(|(_, item)| item.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    /// What is left is all that the failure needs: here a policy with one egress rule and a pod.
    #[test]
    fn only_what_the_failure_needs_is_left() {
        let seed = (0..).find(|seed| has_egress_rule(&random::world(*seed))).expect("one of them");
        let world = random::world(seed);
        let question = random::questions(&world, seed, 1).remove(0);
        let changes = random::changes(&world, seed);
        let case = shrink(Case { world, changes, question }, |case| has_egress_rule(&case.world));
        assert_eq!(case.changes, []);
        assert_eq!(case.world.pods.len() + case.world.namespaces.len(), 0);
        assert_eq!(case.world.policies.len(), 1);
        let policy = case.world.policies.values().next().expect("one");
        assert_eq!(
            (policy.ingress.as_deref(), policy.egress.as_ref().map(Vec::len)),
            (None, Some(1))
        );
    }

    fn has_egress_rule(world: &World) -> bool {
        world.policies.values().any(|p| p.egress.as_ref().is_some_and(|rules| !rules.is_empty()))
    }
}
