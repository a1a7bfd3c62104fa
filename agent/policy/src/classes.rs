//! Peer classes: sets of predicates that hold together for some address.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sluice_common::abi::{ClassId, UNCLASSIFIED};

use crate::arena::{Arena, id};
use crate::asked::PortName;
use crate::describe;
use crate::hash::HashMap;
use crate::predicates::{Predicate, PredicateId, Predicates};
use crate::sets::SetIndex;

id! {
    /// Number of a class inside the compiler. 0 is the class without predicates.
    ClassIndex
}

impl ClassIndex {
    /// No predicate holds.
    pub(crate) const NONE: Self = Self(0);
}

/// A class that some address has.
#[derive(Debug, Default)]
pub(crate) struct Class {
    /// Sorted, each once.
    pub(crate) predicates: Arc<[PredicateId]>,
    /// What pods of the class call their ports, as far as egress rules ask.
    pub(crate) ports: BTreeMap<PortName, u16>,
    /// Number of addresses in `peers`: pods', and this node's.
    pub(crate) pods: usize,
    /// Number of addresses that services lead to.
    pub(crate) backends: usize,
    /// The sets whose blocks give it to addresses.
    pub(crate) sets: BTreeSet<SetIndex>,
    /// The sets that have decisions for it.
    pub(crate) decided_in: BTreeSet<SetIndex>,
    /// Its number in the tables, once it has one.
    pub(crate) number: Option<ClassId>,
}

impl Class {
    /// True if it is in the tables.
    pub(crate) fn is_used(&self) -> bool {
        self.pods > 0 || !self.sets.is_empty()
    }

    /// True if some address has it, be it in the tables or not.
    pub(crate) fn is_alive(&self) -> bool {
        self.is_used() || self.backends > 0
    }
}

/// All classes in use.
#[derive(Debug)]
pub(crate) struct Classes {
    classes: Arena<ClassIndex, Class>,
    by_predicates: HashMap<Arc<[PredicateId]>, ClassIndex>,
    /// Classes whose use by pods or sets may have begun or ended in this change.
    pub(crate) moved: BTreeSet<ClassIndex>,
}

impl Default for Classes {
    fn default() -> Self {
        let mut classes = Arena::default();
        let none = Class { number: Some(UNCLASSIFIED), ..Class::default() };
        let index = classes.insert(none);
        debug_assert_eq!(index, ClassIndex::NONE);
        Self {
            classes,
            by_predicates: HashMap::from_iter([(Arc::default(), index)]),
            moved: BTreeSet::new(),
        }
    }
}

impl Classes {
    pub(crate) fn get(&self, index: ClassIndex) -> &Class {
        &self.classes[index]
    }

    pub(crate) fn get_mut(&mut self, index: ClassIndex) -> &mut Class {
        &mut self.classes[index]
    }

    /// The class of addresses for which exactly these predicates (sorted, each once) hold.
    pub(crate) fn with(&mut self, predicates: Vec<PredicateId>, all: &Predicates) -> ClassIndex {
        if let Some(index) = self.by_predicates.get(&*predicates) {
            return *index;
        }
        let named = predicates.iter().filter_map(|id| match &all.get(*id).what {
            Predicate::Port(port) => Some(((port.protocol, port.name.clone()), port.port)),
            Predicate::Pods(_)
            | Predicate::Selectors(_)
            | Predicate::Block(_)
            | Predicate::Blocks(_)
            | Predicate::OwnHost => None,
        });
        let ports = named.collect();
        let predicates: Arc<[PredicateId]> = predicates.into();
        let class = Class { predicates: Arc::clone(&predicates), ports, ..Class::default() };
        let index = self.classes.insert(class);
        self.by_predicates.insert(predicates, index);
        self.moved.insert(index);
        index
    }

    /// Drops a class that nothing uses.
    pub(crate) fn remove(&mut self, index: ClassIndex) {
        if let Some(class) = self.classes.remove(index) {
            self.by_predicates.remove(&class.predicates);
        }
    }

    /// What the class is, for people and for keeping its number over a restart.
    pub(crate) fn description(&self, index: ClassIndex, all: &Predicates) -> String {
        let predicates = &self.classes[index].predicates;
        let mut parts: Vec<String> =
            predicates.iter().map(|id| describe::predicate(&all.get(*id).what)).collect();
        parts.sort_unstable();
        parts.join(" & ")
    }
}
