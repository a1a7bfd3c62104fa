//! Namespaces, pods and endpoints.

use sluice_policy::model::{
    Change, Labels, LocalEndpoint, NamedPort, Pod, PodName, Protocol, World,
};

use super::{Dice, addresses};

const NAMESPACES: [&str; 3] = ["n0", "n1", "n2"];
const KEYS: [&str; 3] = ["app", "tier", "zone"];
const VALUES: [&str; 3] = ["a", "b", "c"];
const PORT_NAMES: [&str; 3] = ["web", "dns", "metrics"];
/// Ports that named ports, ranges and questions are made of.
pub(super) const PORTS: [u16; 14] =
    [1, 2, 53, 79, 80, 81, 443, 8080, 8081, 32000, 32767, 32768, 65534, 65535];

/// The label that every namespace has.
pub(super) const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(super) fn namespace_name(dice: &mut Dice) -> String {
    (*dice.pick(&NAMESPACES)).to_owned()
}

pub(super) fn label_key(dice: &mut Dice) -> String {
    (*dice.pick(&KEYS)).to_owned()
}

pub(super) fn label_value(dice: &mut Dice) -> String {
    (*dice.pick(&VALUES)).to_owned()
}

pub(super) fn port_name(dice: &mut Dice) -> String {
    (*dice.pick(&PORT_NAMES)).to_owned()
}

pub(super) fn protocol(dice: &mut Dice) -> Protocol {
    *dice.pick(&[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Sctp])
}

pub(super) fn labels(dice: &mut Dice) -> Labels {
    (0..dice.up_to(3)).map(|_| (label_key(dice), label_value(dice))).collect()
}

/// Declares a namespace; those that are never declared have their name as label.
pub(super) fn add_namespace(dice: &mut Dice, world: &mut World) {
    let name = namespace_name(dice);
    let labels = namespace_labels(dice, &name);
    world.apply(Change::Namespace(name, Some(labels)));
}

pub(super) fn namespace_labels(dice: &mut Dice, name: &str) -> Labels {
    labels(dice).with(NAME_LABEL, name)
}

pub(super) fn add_pod(dice: &mut Dice, world: &mut World) {
    let name = PodName { namespace: namespace_name(dice), name: format!("p{}", dice.up_to(5)) };
    let pod = pod(dice);
    world.apply(Change::Pod(name, Some(pod)));
}

/// A pod: most are dual-stack, some have one family, some have finished, some use their node's network.
pub(super) fn pod(dice: &mut Dice) -> Pod {
    let host_network = dice.chance(10);
    let families: &[bool] = match dice.up_to(9) {
        0 => &[],
        1 | 2 => &[false],
        3 => &[true],
        4 => &[true, false],
        _ => &[false, true],
    };
    let address = if host_network { addresses::of_node } else { addresses::of_pod };
    Pod {
        labels: labels(dice),
        addresses: families.iter().map(|v6| address(dice, *v6)).collect(),
        finished: false,
        node: "node-1".to_owned(),
        host_network,
        ports: named_ports(dice),
        created: dice.up_to(2) as i64,
        deleting: dice.chance(10),
    }
}

fn named_ports(dice: &mut Dice) -> Vec<NamedPort> {
    let mut ports: Vec<NamedPort> = Vec::new();
    for _ in 0..dice.up_to(3) {
        let port =
            NamedPort { name: port_name(dice), protocol: protocol(dice), port: *dice.pick(&PORTS) };
        if !ports.iter().any(|p| p.name == port.name && p.protocol == port.protocol) {
            ports.push(port);
        }
    }
    ports
}

/// Makes most pods endpoints of this node, and at least one if there is any that can be.
pub(super) fn add_endpoints(dice: &mut Dice, world: &mut World) {
    let names: Vec<PodName> = candidates(world);
    for (i, name) in names.into_iter().enumerate() {
        if i == 0 || dice.chance(80) {
            let endpoint = next_endpoint(dice, world);
            world.apply(Change::Endpoint(name, Some(endpoint)));
        }
    }
}

/// Pods that can be endpoints: those with a network of their own that they are seen in.
pub(super) fn candidates(world: &World) -> Vec<PodName> {
    let seen = world.pods.iter().filter(|(_, pod)| !pod.host_network && !pod.addresses.is_empty());
    seen.map(|(name, _)| name.clone()).collect()
}

/// An endpoint with a slot that no other has, and an epoch that none is likely to have had.
pub(super) fn next_endpoint(dice: &mut Dice, world: &World) -> LocalEndpoint {
    let taken = |slot: &u32| world.endpoints.values().any(|e| e.slot == *slot);
    let slot = (1..).find(|slot| !taken(slot)).expect("a world has few endpoints");
    LocalEndpoint { slot, epoch: dice.bits() as u32, flags: 0 }
}
