//! Why a pod's policies are not in force: a word for metrics, a sentence for people.

use std::fmt;

use super::NotFound;
use super::slots::NoPlace;

/// Why a pod's policies are not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unenforced {
    /// It was not looked for yet, or is not attached yet.
    Pending,
    /// No interface was found for it.
    NotFound(NotFound),
    /// All places in the tables are taken.
    NoPlace(NoPlace),
    /// The kernel did not take the programs, or the interface's way to its slot.
    Attach(String),
    /// Its object cannot be converted, so that not even its addresses are sure.
    InvalidObject(String),
}

impl Unenforced {
    /// Every value that [`Self::label`] can have.
    pub const LABELS: [&str; 9] = [
        "pending",
        "no-address",
        "address-not-found",
        "no-host-interface",
        "address-taken",
        "address-contested",
        "no-slot",
        "attach-failed",
        "invalid-object",
    ];

    /// The metric label.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::NotFound(NotFound::NoAddress) => "no-address",
            Self::NotFound(NotFound::NoInterface) => "address-not-found",
            Self::NotFound(NotFound::NoHostSide(_)) => "no-host-interface",
            Self::NotFound(NotFound::AddressOf(_)) => "address-taken",
            Self::NotFound(NotFound::Contested(_) | NotFound::NetnsOf(_)) => "address-contested",
            Self::NoPlace(_) => "no-slot",
            Self::Attach(_) => "attach-failed",
            Self::InvalidObject(_) => "invalid-object",
        }
    }
}

impl fmt::Display for Unenforced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pending => f.write_str("it is not attached yet"),
            Self::NotFound(reason) => reason.fmt(f),
            Self::NoPlace(reason) => reason.fmt(f),
            Self::Attach(reason) => f.write_str(reason),
            Self::InvalidObject(reason) => {
                write!(f, "its object cannot be converted: {reason}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_listed() {
        let pod = sluice_policy::model::PodName { namespace: "x".into(), name: "a".into() };
        let all = [
            Unenforced::Pending,
            Unenforced::NotFound(NotFound::NoAddress),
            Unenforced::NotFound(NotFound::NoInterface),
            Unenforced::NotFound(NotFound::NoHostSide("/n".into())),
            Unenforced::NotFound(NotFound::AddressOf(pod.clone())),
            Unenforced::NotFound(NotFound::Contested(["/n".into()].into())),
            Unenforced::NotFound(NotFound::NetnsOf(pod)),
            Unenforced::NoPlace(NoPlace),
            Unenforced::Attach("no such device".into()),
            Unenforced::InvalidObject("bad".into()),
        ];
        let mut labels = Vec::from(all.map(|reason| reason.label()));
        labels.dedup();
        assert_eq!(labels, Unenforced::LABELS);
    }
}
