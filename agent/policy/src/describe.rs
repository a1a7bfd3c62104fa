//! Descriptions of sets and predicates, in words that are the same in every run. Different things
//! have different descriptions.

use std::fmt::{self, Write as _};

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
        append(&mut text, format_args!("{joint} {protocol} "));
        word(&mut text, name);
        append(&mut text, format_args!("={port}"));
    }
    text
}

/// One predicate.
pub(crate) fn predicate(predicate: &Predicate) -> String {
    let mut text = String::with_capacity(64);
    match predicate {
        Predicate::Pods(selector) => pods(&mut text, selector),
        Predicate::Block(block) => self::block(&mut text, block),
        Predicate::Selectors(rule) => append(&mut text, format_args!("pods of {rule}")),
        Predicate::Blocks(rule) => append(&mut text, format_args!("blocks of {rule}")),
        Predicate::OwnHost => text.push_str("own node"),
        Predicate::Port(NamedPort { name, protocol, port }) => {
            append(&mut text, format_args!("port {protocol} "));
            word(&mut text, name);
            append(&mut text, format_args!("={port}"));
        }
    }
    text
}

fn pods(text: &mut String, selector: &PodSelector) {
    text.push_str("pods (");
    labels(text, &selector.pods);
    text.push_str(") in ");
    match &selector.namespaces {
        Namespaces::Named(name) => word(text, name),
        Namespaces::Matching(namespaces) => {
            text.push('(');
            labels(text, namespaces);
            text.push(')');
        }
    }
}

fn labels(text: &mut String, selector: &Selector) {
    for (place, requirement) in selector.requirements.iter().enumerate() {
        if place > 0 {
            text.push_str(", ");
        }
        self::requirement(text, requirement);
    }
}

fn requirement(text: &mut String, requirement: &Requirement) {
    if requirement.operator == Operator::DoesNotExist {
        text.push('!');
    }
    word(text, &requirement.key);
    match &requirement.operator {
        Operator::In(values) => words(text, " in", values),
        Operator::NotIn(values) => words(text, " not in", values),
        Operator::Exists | Operator::DoesNotExist => {}
    }
}

fn block(text: &mut String, block: &Block) {
    append(text, format_args!("{}", block.cidr()));
    for except in block.except() {
        append(text, format_args!(" except {except}"));
    }
}

fn words(text: &mut String, verb: &str, values: &Sorted<String>) {
    text.push_str(verb);
    text.push_str(" [");
    for (place, value) in values.iter().enumerate() {
        if place > 0 {
            text.push(' ');
        }
        word(text, value);
    }
    text.push(']');
}

/// A name as it is, or quoted where it could be taken for something else.
fn word(text: &mut String, name: &str) {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if !name.is_empty() && name.chars().all(is_plain) {
        text.push_str(name);
    } else {
        append(text, format_args!("{name:?}"));
    }
}

fn append(text: &mut String, what: fmt::Arguments<'_>) {
    text.write_fmt(what).expect("writing to a string cannot fail");
}
