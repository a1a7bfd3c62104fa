//! Names of things in a namespace `x`, whose pods are told apart by their label `app`.

use std::net::IpAddr;

use sluice_policy::model::{Namespaces, Operator, PodName, PodSelector, Requirement, Selector};

pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("the test's own address is valid")
}

pub(crate) fn pod_name(name: &str) -> PodName {
    PodName { namespace: "x".to_owned(), name: name.to_owned() }
}

pub(crate) fn app(value: &str) -> PodSelector {
    let operator = Operator::In([value.to_owned()].into());
    let requirement = Requirement { key: "app".to_owned(), operator };
    let pods = Selector { requirements: [requirement].into() };
    PodSelector { namespaces: Namespaces::Named("x".to_owned()), pods }
}
