//! Services that lead to pods, to nodes, elsewhere and nowhere, and the node's own addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_policy::model::{Backend, Change, Service, ServiceName, ServicePort, World};

use super::pods::{self, PORTS};
use super::{Dice, addresses};

/// Ports of services: few, so that they meet those that rules name.
const SERVICE_PORTS: [u16; 3] = [53, 80, 443];

pub(super) fn name(dice: &mut Dice) -> ServiceName {
    ServiceName { namespace: pods::namespace_name(dice), name: format!("s{}", dice.up_to(2)) }
}

pub(super) fn add_service(dice: &mut Dice, world: &mut World) {
    let change = Change::Service(name(dice), Some(service(dice, world)));
    world.apply(change);
}

/// Most have one address per family. Some share it with another by mistake, some have a pod's.
pub(super) fn service(dice: &mut Dice, world: &World) -> Service {
    let mut addresses = BTreeSet::new();
    for v6 in [false, true] {
        if dice.chance(75) {
            addresses.insert(address(dice, v6));
        }
    }
    if dice.chance(8) {
        addresses.insert(addresses::any(dice));
    }
    let mut ports = BTreeMap::new();
    for _ in 0..=dice.up_to(1) {
        let key = (pods::protocol(dice), *dice.pick(&SERVICE_PORTS));
        ports.insert(key, backends(dice, world));
    }
    let ports = ports.into_iter().map(|((protocol, port), backends)| ServicePort {
        protocol,
        port,
        backends,
    });
    Service { addresses: addresses.into_iter().collect(), ports: ports.collect() }
}

/// An address that is mostly a service's alone.
pub(super) fn address(dice: &mut Dice, v6: bool) -> IpAddr {
    let host = 1 + dice.up_to(4) as u16;
    if v6 {
        return Ipv6Addr::new(0xfd00, 0x10, 0x96, 0, 0, 0, 0, host).into();
    }
    Ipv4Addr::new(10, 96, 0, host as u8).into()
}

/// The pods that share a label, on one port; or anything.
fn backends(dice: &mut Dice, world: &World) -> Vec<Backend> {
    let port = *dice.pick(&PORTS);
    let mut backends = BTreeSet::new();
    if dice.chance(60) {
        let label = (pods::label_key(dice), pods::label_value(dice));
        let chosen = world.pods.values().filter(|pod| pod.labels.get(&label.0) == Some(&label.1));
        let chosen = chosen.flat_map(|pod| &pod.addresses);
        backends.extend(chosen.map(|address| Backend { address: *address, port }));
    }
    for _ in 0..dice.up_to(3) {
        let pod = dice.chance(60);
        let v6 = dice.chance(50);
        let address = if pod { addresses::of_pod(dice, v6) } else { addresses::any(dice) };
        let port = if dice.chance(80) { port } else { *dice.pick(&PORTS) };
        backends.insert(Backend { address, port });
    }
    backends.into_iter().collect()
}

/// The node's own addresses, where egress to them is let out: mostly none.
pub(super) fn own_host(dice: &mut Dice) -> BTreeSet<IpAddr> {
    if dice.chance(70) {
        return BTreeSet::new();
    }
    [
        addresses::of_node(dice, false),
        addresses::of_node(dice, true),
        addresses::of_pod(dice, false),
    ]
    .into_iter()
    .collect()
}
