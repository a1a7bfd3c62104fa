//! Addresses that pods have before their objects say so.
//!
//! The CNI plugin tells which addresses a pod has just got. The kubelet writes them into the pod's
//! object only when the pod runs, and until then the object may still name those of a sandbox before.
//! So what the plugin has said counts for as long as the object says what it said then; when that
//! changes, the object counts again.
//!
//! Of two pods with one address the one that got it last has it: the runtime gives an address away
//! only when its former owner has lost it.
//!
//! Noted on disk, so that a pod which starts while agents change is not left open in between.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluice_policy::model::PodName;

use crate::draft;

/// Name of the file in the state directory.
const FILE: &str = "admitted.json";

/// A container of a pod (its sandbox), and the addresses that it got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// The runtime's name for the container.
    pub container: String,
    /// Its addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
}

/// A pod's attachment, and what its object said when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    namespace: String,
    name: String,
    attachment: Attachment,
    said: Vec<IpAddr>,
}

/// Pods with addresses that their objects do not say yet.
#[derive(Debug, Default)]
pub struct Admitted {
    /// None: nothing is noted on disk.
    path: Option<PathBuf>,
    pods: BTreeMap<PodName, Entry>,
}

impl Admitted {
    /// As a former agent noted them. Notes that cannot be read are none: the objects say the addresses
    /// soon.
    pub fn load(state_dir: &Path) -> Self {
        let path = state_dir.join(FILE);
        let entries: Vec<Entry> = match fs::read(&path).map(|text| serde_json::from_slice(&text)) {
            Ok(Ok(entries)) => entries,
            Ok(Err(error)) => {
                tracing::warn!(path = %path.display(), %error, "going on without notes of new pods");
                Vec::new()
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    let path = path.display();
                    tracing::warn!(%path, %error, "going on without notes of new pods");
                }
                Vec::new()
            }
        };
        let name = |e: &Entry| PodName { namespace: e.namespace.clone(), name: e.name.clone() };
        let pods = entries.into_iter().map(|entry| (name(&entry), entry)).collect();
        Self { path: Some(path), pods }
    }

    /// A pod got an attachment while its object says `said`. Returns the pods that have lost their
    /// addresses by it.
    pub fn admit(
        &mut self,
        pod: &PodName,
        attachment: Attachment,
        said: Vec<IpAddr>,
    ) -> Vec<PodName> {
        let is_robbed = |(name, entry): &(&PodName, &Entry)| {
            let lost = |address| attachment.addresses.contains(address);
            *name != pod && entry.attachment.addresses.iter().any(lost)
        };
        let robbed: Vec<PodName> =
            self.pods.iter().filter(is_robbed).map(|(name, _)| name.clone()).collect();
        self.pods.retain(|name, _| !robbed.contains(name));
        let PodName { namespace, name } = pod.clone();
        self.pods.insert(pod.clone(), Entry { namespace, name, attachment, said });
        self.store();
        robbed
    }

    /// The addresses of a pod whose object says `said` now.
    pub fn addresses(&mut self, pod: &PodName, said: &[IpAddr]) -> Vec<IpAddr> {
        let Some(entry) = self.pods.get(pod) else { return said.to_vec() };
        if said.is_empty() || said == entry.said {
            return entry.attachment.addresses.clone();
        }
        self.forget(pod);
        said.to_vec()
    }

    /// The pod is gone, or does not run here any more.
    pub fn forget(&mut self, pod: &PodName) {
        if self.pods.remove(pod).is_some() {
            self.store();
        }
    }

    /// Containers for which `is_gone` holds are gone. Returns their pods.
    pub fn withdraw(&mut self, is_gone: impl Fn(&str) -> bool) -> Vec<PodName> {
        let gone = |(_, entry): &(&PodName, &Entry)| is_gone(&entry.attachment.container);
        let pods: Vec<PodName> =
            self.pods.iter().filter(gone).map(|(pod, _)| pod.clone()).collect();
        if !pods.is_empty() {
            self.pods.retain(|pod, _| !pods.contains(pod));
            self.store();
        }
        pods
    }

    /// Failure costs a pod that starts while agents change its first moments, and nothing else: it is
    /// logged.
    fn store(&self) {
        let Some(path) = &self.path else { return };
        let entries: Vec<&Entry> = self.pods.values().collect();
        let written = draft::replace(path, |file| {
            let mut text = io::BufWriter::new(file);
            serde_json::to_writer(&mut text, &entries)?;
            text.flush()
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "cannot note the addresses of new pods");
        }
    }
}

/// Removes the notes, and what a killed agent may have begun. Nothing to remove is fine.
///
/// # Errors
/// A file cannot be removed.
pub fn remove(state_dir: &Path) -> io::Result<()> {
    draft::remove_both(&state_dir.join(FILE)).map_err(|(_, error)| error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodName {
        PodName { namespace: "x".into(), name: name.into() }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn attachment(container: &str, last: u8) -> Attachment {
        Attachment { container: container.into(), addresses: vec![address(last)] }
    }

    #[test]
    fn what_the_plugin_says_counts_until_the_object_says_something_new() {
        let mut admitted = Admitted::default();
        assert!(admitted.addresses(&pod("a"), &[]).is_empty());
        // The object names the address of the sandbox before.
        admitted.admit(&pod("a"), attachment("c", 1), vec![address(9)]);
        assert_eq!(admitted.addresses(&pod("a"), &[address(9)]), [address(1)]);
        assert_eq!(admitted.addresses(&pod("a"), &[]), [address(1)]);
        assert_eq!(admitted.addresses(&pod("a"), &[address(1)]), [address(1)]);
        assert!(admitted.addresses(&pod("a"), &[]).is_empty(), "it has spoken");
    }

    #[test]
    fn an_address_is_of_the_pod_that_got_it_last() {
        let mut admitted = Admitted::default();
        assert!(admitted.admit(&pod("a"), attachment("c", 1), Vec::new()).is_empty());
        assert_eq!(admitted.admit(&pod("b"), attachment("d", 1), Vec::new()), [pod("a")]);
        assert!(admitted.addresses(&pod("a"), &[]).is_empty());
        assert_eq!(admitted.addresses(&pod("b"), &[]), [address(1)]);
    }

    #[test]
    fn what_was_said_goes_with_its_container() {
        let mut admitted = Admitted::default();
        admitted.admit(&pod("a"), attachment("c", 1), Vec::new());
        admitted.admit(&pod("a"), attachment("d", 2), Vec::new());
        assert_eq!(admitted.withdraw(|container| container == "c"), [], "an older one of the pod");
        assert_eq!(admitted.addresses(&pod("a"), &[]), [address(2)]);
        assert_eq!(admitted.withdraw(|container| container == "d"), [pod("a")]);
        assert!(admitted.addresses(&pod("a"), &[]).is_empty());
    }

    #[test]
    fn the_next_agent_knows_what_was_said_and_torn_notes_are_none() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut first = Admitted::load(directory.path());
        first.admit(&pod("a"), attachment("c", 1), Vec::new());
        first.admit(&pod("b"), attachment("d", 2), Vec::new());
        first.forget(&pod("b"));
        let mut next = Admitted::load(directory.path());
        assert_eq!(next.addresses(&pod("a"), &[]), [address(1)]);
        assert!(next.addresses(&pod("b"), &[]).is_empty());
        fs::write(directory.path().join(FILE), "[{").expect("written");
        assert!(Admitted::load(directory.path()).addresses(&pod("a"), &[]).is_empty());
        // An agent that was killed while it wrote leaves its draft.
        fs::write(draft::of(&directory.path().join(FILE)), "[").expect("written");
        next.forget(&pod("a"));
        assert_eq!(fs::read(directory.path().join(FILE)).expect("read"), b"[]");
        fs::write(draft::of(&directory.path().join(FILE)), "[").expect("written");
        remove(directory.path()).expect("removed");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
        remove(directory.path()).expect("removing nothing is fine");
    }
}
