//! The selectors in force, and which predicates hold for the pods that they select.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::arena::{Arena, id};
use crate::hash::HashMap;
use crate::model::PodSelector;
use crate::predicates::PredicateId;
use crate::selector::{SelectorIndex, Subject};

id! {
    /// Number of a selector in force.
    SelectorId
}

/// A selector, with the predicates that hold for what it selects: its own, and those of the rules that
/// it is one of several selectors of.
#[derive(Debug)]
struct Filed {
    selector: Arc<PodSelector>,
    predicates: BTreeSet<PredicateId>,
}

/// All selectors in force.
#[derive(Debug, Default)]
pub(crate) struct Selectors {
    filed: Arena<SelectorId, Filed>,
    by_selector: HashMap<Arc<PodSelector>, SelectorId>,
    index: SelectorIndex<SelectorId>,
}

impl Selectors {
    /// The predicate holds for what the selector selects.
    pub(crate) fn file(&mut self, selector: &Arc<PodSelector>, predicate: PredicateId) {
        let known = self.by_selector.get(selector).copied();
        let id = known.unwrap_or_else(|| {
            let filed = Filed { selector: Arc::clone(selector), predicates: BTreeSet::new() };
            let id = self.filed.insert(filed);
            self.by_selector.insert(Arc::clone(selector), id);
            self.index.insert(selector, &id);
            id
        });
        self.filed[id].predicates.insert(predicate);
    }

    /// It does so no more.
    pub(crate) fn unfile(&mut self, selector: &PodSelector, predicate: PredicateId) {
        let Some(id) = self.by_selector.get(selector).copied() else { return };
        let predicates = &mut self.filed[id].predicates;
        predicates.remove(&predicate);
        if predicates.is_empty() {
            self.index.remove(selector, &id);
            self.by_selector.remove(selector);
            self.filed.remove(id);
        }
    }

    /// The predicates that hold for what the selector selects; `None` where it is not in force.
    pub(crate) fn predicates_of(&self, selector: &PodSelector) -> Option<&BTreeSet<PredicateId>> {
        self.by_selector.get(selector).map(|id| &self.filed[*id].predicates)
    }

    /// The predicates that hold for a pod, perhaps one of them twice.
    pub(crate) fn of_pod(&self, pod: &Subject<'_>) -> Vec<PredicateId> {
        let mut holding = Vec::new();
        self.index.candidates(pod, |id| {
            let Filed { selector, predicates } = &self.filed[*id];
            if pod.is_selected_by(selector) {
                holding.extend(predicates);
            }
        });
        holding
    }
}
