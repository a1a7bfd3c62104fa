//! How many agents may be about to say the same.
//!
//! What is wrong with an object of the cluster every agent finds, and each says it (`events`): thousands
//! of requests, all but one in vain. Those that have a pod in the object's namespace are to be heard
//! first, and nobody is to be heard together with too many others. An agent cannot know where the others
//! are, but it knows all pods, and an agent that has reason to speak has one.

use std::collections::BTreeMap;

use crate::manifest::kinds::Kind;

/// How many pods there are, of all nodes.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// By namespace.
    pods: BTreeMap<Box<str>, u32>,
    all: u32,
}

impl Crowd {
    /// An object is there that was not.
    pub(super) fn enter(&mut self, kind: Kind, name: &str) {
        let Some(namespace) = namespace_of_pod(kind, name) else { return };
        self.all += 1;
        match self.pods.get_mut(namespace) {
            Some(pods) => *pods += 1,
            None => {
                self.pods.insert(namespace.into(), 1);
            }
        }
    }

    /// An object that was there is gone.
    pub(super) fn leave(&mut self, kind: Kind, name: &str) {
        let Some(namespace) = namespace_of_pod(kind, name) else { return };
        let Some(pods) = self.pods.get_mut(namespace) else { return };
        self.all -= 1;
        *pods -= 1;
        if *pods == 0 {
            self.pods.remove(namespace);
        }
    }

    /// Pods of a namespace.
    pub(super) fn of(&self, namespace: &str) -> u32 {
        self.pods.get(namespace).copied().unwrap_or_default()
    }

    /// Pods of all namespaces.
    pub(super) const fn all(&self) -> u32 {
        self.all
    }
}

fn namespace_of_pod(kind: Kind, name: &str) -> Option<&str> {
    if kind != Kind::Pod {
        return None;
    }
    name.split_once('/').map(|(namespace, _)| namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_counted_by_namespace_and_nothing_is_kept_of_one_that_is_empty() {
        let mut crowd = Crowd::default();
        for name in ["x/a", "x/b", "y/a"] {
            crowd.enter(Kind::Pod, name);
        }
        crowd.enter(Kind::Service, "x/web");
        assert_eq!((crowd.of("x"), crowd.of("y"), crowd.of("z"), crowd.all()), (2, 1, 0, 3));
        crowd.leave(Kind::Service, "x/web");
        crowd.leave(Kind::Pod, "x/a");
        crowd.leave(Kind::Pod, "y/a");
        assert_eq!((crowd.of("x"), crowd.of("y"), crowd.all()), (1, 0, 1));
        assert_eq!(crowd.pods.len(), 1);
    }
}
