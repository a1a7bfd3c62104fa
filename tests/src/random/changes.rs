//! What can happen to a world.

use std::net::IpAddr;

use sluice_policy::model::{Change, Pod, PodName, World};

use super::{Dice, pods, policies, services};

/// One to six changes in order, as a source would send them: a pod that goes takes its endpoint along,
/// and a pod that is made anew gets a new one.
pub fn changes(world: &World, seed: u64) -> Vec<Change> {
    let mut dice = Dice::new(seed);
    let mut now = world.clone();
    let mut all = Vec::new();
    for _ in 0..=dice.up_to(5) {
        for change in change(&mut dice, &now) {
            now.apply(change.clone());
            all.push(change);
        }
    }
    all
}

fn change(dice: &mut Dice, world: &World) -> Vec<Change> {
    match dice.up_to(15) {
        0 => vec![namespace(dice)],
        1 | 2 => relabel_pod(dice, world),
        3 => move_address(dice, world),
        4 => remove_pod(dice, world),
        5 => recreate_pod(dice, world),
        6 => toggle_endpoint(dice, world),
        7 => remove_policy(dice, world),
        8 => edit_policy(dice, world),
        9..=11 => {
            let gone = dice.chance(25);
            let service = (!gone).then(|| services::service(dice, world));
            vec![Change::Service(services::name(dice), service)]
        }
        12 => vec![Change::OwnHost(services::own_host(dice))],
        _ => {
            let (name, policy) = policies::policy(dice);
            vec![Change::Policy(name, Some(policy))]
        }
    }
}

fn namespace(dice: &mut Dice) -> Change {
    let name = pods::namespace_name(dice);
    let labels = dice.chance(80).then(|| pods::namespace_labels(dice, &name));
    Change::Namespace(name, labels)
}

fn any_pod(dice: &mut Dice, world: &World) -> Option<(PodName, Pod)> {
    let all: Vec<_> = world.pods.iter().collect();
    (!all.is_empty()).then(|| {
        let (name, pod) = *dice.pick(&all);
        (name.clone(), pod.clone())
    })
}

fn relabel_pod(dice: &mut Dice, world: &World) -> Vec<Change> {
    let Some((name, mut pod)) = any_pod(dice, world) else { return Vec::new() };
    pod.labels = pods::labels(dice);
    vec![Change::Pod(name, Some(pod))]
}

/// A pod comes to claim another's addresses, as when an address is used again (SEMANTICS 14, 15).
fn move_address(dice: &mut Dice, world: &World) -> Vec<Change> {
    let Some((name, mut pod)) = any_pod(dice, world) else { return Vec::new() };
    let Some((_, other)) = any_pod(dice, world) else { return Vec::new() };
    let from: Vec<IpAddr> = other.addresses;
    pod.addresses = from;
    pod.created = dice.up_to(3) as i64;
    pod.deleting = dice.chance(20);
    vec![Change::Pod(name, Some(pod))]
}

fn remove_pod(dice: &mut Dice, world: &World) -> Vec<Change> {
    let Some((name, _)) = any_pod(dice, world) else { return Vec::new() };
    let mut changes = Vec::new();
    if world.endpoints.contains_key(&name) {
        changes.push(Change::Endpoint(name.clone(), None));
    }
    changes.push(Change::Pod(name, None));
    changes
}

fn recreate_pod(dice: &mut Dice, world: &World) -> Vec<Change> {
    let Some((name, _)) = any_pod(dice, world) else { return Vec::new() };
    let pod = pods::pod(dice);
    let mut changes = Vec::new();
    let was_endpoint = world.endpoints.contains_key(&name);
    if was_endpoint {
        changes.push(Change::Endpoint(name.clone(), None));
    }
    let is_endpoint = was_endpoint && !pod.host_network && !pod.addresses.is_empty();
    changes.push(Change::Pod(name.clone(), Some(pod)));
    if is_endpoint {
        changes.push(Change::Endpoint(name, Some(pods::next_endpoint(dice, world))));
    }
    changes
}

fn toggle_endpoint(dice: &mut Dice, world: &World) -> Vec<Change> {
    let candidates = pods::candidates(world);
    if candidates.is_empty() {
        return Vec::new();
    }
    let name = dice.pick(&candidates).clone();
    let present = world.endpoints.contains_key(&name);
    let endpoint = (!present).then(|| pods::next_endpoint(dice, world));
    vec![Change::Endpoint(name, endpoint)]
}

fn remove_policy(dice: &mut Dice, world: &World) -> Vec<Change> {
    let all: Vec<_> = world.policies.keys().collect();
    if all.is_empty() {
        return Vec::new();
    }
    vec![Change::Policy((*dice.pick(&all)).clone(), None)]
}

/// Other rules for the same policy, its subject unchanged.
fn edit_policy(dice: &mut Dice, world: &World) -> Vec<Change> {
    let all: Vec<_> = world.policies.iter().collect();
    if all.is_empty() {
        return Vec::new();
    }
    let (name, policy) = *dice.pick(&all);
    let mut policy = policy.clone();
    policies::edit(dice, &mut policy);
    vec![Change::Policy(name.clone(), Some(policy))]
}
