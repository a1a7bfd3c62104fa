//! Rules in words.

use std::fmt::Display;

use crate::model::{
    Action, Block, Direction, Namespaces, Operator, Peer, Peers, PodSelector, PortMatch, Ports,
    Requirement, Rule, Selector,
};

/// How many items of a list are spelled out.
const SPELLED_OUT: usize = 4;

/// What a rule does: `allows TCP 443 to 10.0.0.0/8 except 10.1.0.0/16`.
pub fn rule_in_words(rule: &Rule, direction: Direction) -> String {
    let verb = match rule.action {
        Action::Allow => "allows",
        Action::Deny => "denies",
        Action::Pass => "leaves to the next tier",
    };
    let peers = match &rule.peers {
        Peers::Any => "anyone".to_owned(),
        Peers::Of(peers) if peers.is_empty() => "nobody".to_owned(),
        Peers::Of(peers) => list(&peers.iter().map(peer).collect::<Vec<_>>()),
    };
    format!("{verb} {} {} {peers}", ports(&rule.ports), preposition(direction))
}

/// `from` for ingress, `to` for egress.
pub(super) const fn preposition(direction: Direction) -> &'static str {
    match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    }
}

/// `TCP 80`, `ICMP`.
pub(super) fn packet(protocol: u8, port: u16) -> String {
    match protocol {
        6 => format!("TCP {port}"),
        17 => format!("UDP {port}"),
        132 => format!("SCTP {port}"),
        1 => "ICMP".to_owned(),
        58 => "ICMPv6".to_owned(),
        other => format!("IP protocol {other}"),
    }
}

/// `a`, `a and b`, `a, b and c`, `a, b, c, d and 7 more`.
pub(super) fn list<T: Display>(items: &[T]) -> String {
    let mut shown: Vec<String> = items.iter().take(SPELLED_OUT).map(ToString::to_string).collect();
    if items.len() > shown.len() {
        shown.push(format!("{} more", items.len() - SPELLED_OUT));
    }
    match shown.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

fn ports(ports: &Ports) -> String {
    match ports {
        Ports::Any => "all traffic".to_owned(),
        Ports::Of(ports) if ports.is_empty() => "nothing".to_owned(),
        Ports::Of(ports) => list(&ports.iter().map(port).collect::<Vec<_>>()),
    }
}

pub(super) fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::Protocol(protocol) => format!("every {protocol} port"),
        PortMatch::Range { protocol, first, last } if first == last => {
            format!("{protocol} {first}")
        }
        PortMatch::Range { protocol, first, last } => format!("{protocol} {first}-{last}"),
        PortMatch::Named { protocol, name } => format!("{protocol} `{name}`"),
    }
}

fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods(selector) => pods_in_words(selector),
        Peer::Block(block) => self::block(block),
    }
}

/// The pods that a selector chooses: `pods with app=web in namespace x`.
pub fn pods_in_words(selector: &PodSelector) -> String {
    let pods = if selector.pods.requirements.is_empty() {
        "every pod".to_owned()
    } else {
        format!("pods with {}", self::selector(&selector.pods))
    };
    format!("{pods} {}", namespaces(&selector.namespaces))
}

pub(super) fn namespaces(choice: &Namespaces) -> String {
    match choice {
        Namespaces::Named(name) => format!("in namespace {name}"),
        Namespaces::Matching(all) if all.requirements.is_empty() => "in any namespace".to_owned(),
        Namespaces::Matching(some) => format!("in namespaces with {}", selector(some)),
    }
}

fn block(block: &Block) -> String {
    let except: Vec<_> = block.except().iter().collect();
    match except[..] {
        [] => block.cidr().to_string(),
        _ => format!("{} except {}", block.cidr(), list(&except)),
    }
}

/// As `kubectl --selector` writes it.
fn selector(selector: &Selector) -> String {
    selector.requirements.iter().map(requirement).collect::<Vec<_>>().join(",")
}

pub(super) fn requirement(requirement: &Requirement) -> String {
    let key = &requirement.key;
    match &requirement.operator {
        Operator::In(values) if values.len() == 1 => {
            format!("{key}={}", values.iter().cloned().collect::<String>())
        }
        Operator::In(values) => format!("{key} in ({})", comma(values.iter())),
        Operator::NotIn(values) => format!("{key} notin ({})", comma(values.iter())),
        Operator::Exists => key.clone(),
        Operator::DoesNotExist => format!("!{key}"),
    }
}

fn comma<'v>(values: impl Iterator<Item = &'v String>) -> String {
    values.cloned().collect::<Vec<_>>().join(",")
}
