//! A case of a property test: what to print of it when it fails, and how to make it smaller first.

mod shrink;

use std::fmt;

use sluice_policy::explain::{pods_in_words, rule_in_words};
use sluice_policy::model::{
    Change, Direction, Pod, PodName, Policy, PolicyName, Question, Service, ServiceName, World,
    direction_label,
};

pub use shrink::shrink;

/// A world, what then happened to it, and a question about the result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// What is compiled from nothing.
    pub world: World,
    /// What is applied to it afterwards, at once.
    pub changes: Vec<Change>,
    /// What is asked.
    pub question: Question,
}

impl Case {
    /// The world that the question is about.
    pub fn result(&self) -> World {
        let mut world = self.world.clone();
        for change in &self.changes {
            world.apply(change.clone());
        }
        world
    }
}

/// One object a line, rules in words.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, labels) in &self.world.namespaces {
            writeln!(f, "namespace {name} {labels:?}")?;
        }
        for (name, pod) in &self.world.pods {
            write_pod(f, name, pod)?;
        }
        for (name, endpoint) in &self.world.endpoints {
            writeln!(f, "endpoint {name} in slot {}", endpoint.slot)?;
        }
        for (name, policy) in &self.world.policies {
            write_policy(f, name, policy)?;
        }
        for (name, service) in &self.world.services {
            write_service(f, name, service)?;
        }
        if !self.world.own_host.is_empty() {
            writeln!(f, "own node {:?}", self.world.own_host)?;
        }
        for change in &self.changes {
            write_change(f, change)?;
        }
        let Question { pod, direction, remote, protocol, port, from_own_host } = &self.question;
        let direction = direction_label(*direction);
        write!(
            f,
            "asked: {direction} of {pod}, remote {remote}, protocol {protocol}, port {port}"
        )?;
        if *from_own_host { write!(f, ", from its own host") } else { Ok(()) }
    }
}

fn write_pod(f: &mut fmt::Formatter<'_>, name: &PodName, pod: &Pod) -> fmt::Result {
    let Pod { labels, addresses, finished, node: _, host_network, ports, created, deleting } = pod;
    write!(f, "pod {name} {labels:?} {addresses:?} created {created}")?;
    if *deleting {
        write!(f, " deleting")?;
    }
    if *host_network {
        write!(f, " host-network")?;
    }
    if *finished {
        write!(f, " finished")?;
    }
    for port in ports {
        write!(f, " `{}`={} {}", port.name, port.protocol, port.port)?;
    }
    writeln!(f)
}

fn write_policy(f: &mut fmt::Formatter<'_>, name: &PolicyName, policy: &Policy) -> fmt::Result {
    let subject = pods_in_words(&policy.subject);
    writeln!(f, "{name} ({:?}, priority {}) for {subject}", policy.tier, policy.priority)?;
    for direction in [Direction::Ingress, Direction::Egress] {
        let Some(rules) = policy.rules(direction) else { continue };
        let label = direction_label(direction);
        if rules.is_empty() {
            writeln!(f, "  {label}: no rules")?;
        }
        for (i, rule) in rules.iter().enumerate() {
            writeln!(f, "  {label}[{i}] {}", rule_in_words(rule, direction))?;
        }
    }
    Ok(())
}

fn write_service(f: &mut fmt::Formatter<'_>, name: &ServiceName, service: &Service) -> fmt::Result {
    write!(f, "service {name} {:?}", service.addresses)?;
    for port in &service.ports {
        write!(f, " {} {} to", port.protocol, port.port)?;
        for backend in &port.backends {
            write!(f, " {} port {}", backend.address, backend.port)?;
        }
    }
    writeln!(f)
}

fn write_change(f: &mut fmt::Formatter<'_>, change: &Change) -> fmt::Result {
    write!(f, "then: ")?;
    match change {
        Change::Pod(name, Some(pod)) => write_pod(f, name, pod),
        Change::Policy(name, Some(policy)) => write_policy(f, name, policy),
        Change::Service(name, Some(service)) => write_service(f, name, service),
        other => writeln!(f, "{other:?}"),
    }
}
