//! Descriptions of sets and predicates, in words that are the same in every run. Different things
//! have different descriptions.

use std::fmt::Write as _;

use crate::model::{
    Block, NamedPort, Namespaces, Operator, PodSelector, Requirement, Selector, Sorted,
    direction_label,
};
use crate::predicates::Predicate;
use crate::sets::SetKey;

/// `ingress of NetworkPolicy y/web, NetworkPolicy y/zone with TCP http=8080`.
pub(crate) fn set(key: &SetKey) -> String {
    let policies: Vec<String> = key.policies.iter().map(ToString::to_string).collect();
    let mut text = format!("{} of {}", direction_label(key.direction), policies.join(", "));
    for (place, ((protocol, name), port)) in key.ports.iter().enumerate() {
        let joint = if place == 0 { " with" } else { "," };
        let name = word(name);
        write!(text, "{joint} {protocol} {name}={port}").expect("writing to a string cannot fail");
    }
    text
}

/// One predicate.
pub(crate) fn predicate(predicate: &Predicate) -> String {
    match predicate {
        Predicate::Pods(selector) => pods(selector),
        Predicate::Block(block) => self::block(block),
        Predicate::Blocks(rule) => format!("blocks of {rule}"),
        Predicate::OwnHost => "own node".to_owned(),
        Predicate::Port(NamedPort { name, protocol, port }) => {
            format!("port {protocol} {}={port}", word(name))
        }
    }
}

fn pods(selector: &PodSelector) -> String {
    let namespaces = match &selector.namespaces {
        Namespaces::Named(name) => format!("in {}", word(name)),
        Namespaces::Matching(namespaces) => format!("in ({})", labels(namespaces)),
    };
    format!("pods ({}) {namespaces}", labels(&selector.pods))
}

fn labels(selector: &Selector) -> String {
    let parts: Vec<String> = selector.requirements.iter().map(requirement).collect();
    parts.join(", ")
}

fn requirement(requirement: &Requirement) -> String {
    let key = word(&requirement.key);
    match &requirement.operator {
        Operator::In(values) => format!("{key} in [{}]", words(values)),
        Operator::NotIn(values) => format!("{key} not in [{}]", words(values)),
        Operator::Exists => key,
        Operator::DoesNotExist => format!("!{key}"),
    }
}

fn block(block: &Block) -> String {
    let mut text = block.cidr().to_string();
    for except in block.except() {
        write!(text, " except {except}").expect("writing to a string cannot fail");
    }
    text
}

fn words(values: &Sorted<String>) -> String {
    values.iter().map(|value| word(value)).collect::<Vec<_>>().join(" ")
}

/// A name as it is, or quoted where it could be taken for something else.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}
