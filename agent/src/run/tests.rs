use std::path::PathBuf;

use sluice_policy::model::Change;
use tokio::sync::watch;

use super::*;
use crate::endpoint::admitted::Attachment;
use crate::endpoint::slots::Slots;
use crate::metrics::Readiness;
use crate::reconcile::tests::{Recorder, name, pod, policy, scan};
use crate::run::admit::Admission;

struct Setup {
    _state_dir: tempfile::TempDir,
    agent: Agent<Recorder>,
}

impl Setup {
    /// An agent of which the source has told these first.
    fn new(changes: Vec<Change>) -> Self {
        let state_dir = tempfile::tempdir().expect("a temporary directory");
        let path = state_dir.path().to_path_buf();
        let kernel = Recorder::default();
        let reconciler = Reconciler::new(kernel, "n".into(), path, None, Slots::default());
        let source = Source {
            name: "test".into(),
            events: mpsc::channel(1).1,
            refresh: mpsc::channel(1).0,
            troubles: watch::Sender::new(Troubles::default()),
        };
        let links = Links::open().expect("a netlink socket");
        let mut agent = Agent::new(reconciler, source, links, Vec::<PathBuf>::new(), "n".into());
        agent.take(Event::Changes(changes));
        agent.take(Event::Synced);
        Self { _state_dir: state_dir, agent }
    }

    /// The node has these interfaces now; see [`scan`].
    fn find(&mut self, interfaces: &[(u32, u8)]) {
        self.agent.reconciler.found(scan(interfaces));
        self.agent.scanned = true;
        self.agent.changed = true;
        self.agent.reconcile();
    }

    fn take(&mut self, event: Event) {
        self.agent.take(event);
        self.agent.reconcile();
    }

    fn watch(&mut self, kind: &str, error: Option<&str>) {
        let (kind, error) = (kind.into(), error.map(str::to_owned));
        let connected = error.is_none();
        self.take(Event::Watch(WatchStatus { kind, connected, synced: true, error }));
    }

    fn readiness(&mut self) -> Readiness {
        let (reply, mut answer) = oneshot::channel();
        self.agent.inform(crate::metrics::Inquiry::Readiness { reply });
        answer.try_recv().expect("answered")
    }

    /// What the plugin is told of the pod `x/a` at once.
    async fn admit(&mut self) -> Response {
        let attachment =
            Attachment { container: "c".into(), addresses: vec![[10, 0, 0, 1].into()] };
        let (namespace, name) = ("x".into(), "a".into());
        let admission = Admission { namespace, name, uid: None, attachment, timeout_ms: 0 };
        let (reply, mut answer) = oneshot::channel();
        self.agent.admit(admission, reply).await;
        self.find(&[(5, 1)]);
        self.agent.answer_admitting();
        answer.try_recv().expect("answered")
    }
}

#[tokio::test]
async fn no_new_pod_starts_while_pods_are_watched_and_policies_are_not() {
    let mut setup = Setup::new(vec![pod("a", 1)]);
    setup.watch("Pod", None);
    setup.watch("NetworkPolicy", None);
    let may_start = Response::Admitted { state: EnforcementState::NotIsolated };
    assert_eq!(setup.admit().await, may_start);

    setup.watch("NetworkPolicy", Some("connection refused"));
    match setup.admit().await {
        Response::Error { message } => {
            assert!(message.contains("NetworkPolicy is not watched: connection ref"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    // In an outage, pods that were known start again with what was known.
    setup.watch("Pod", Some("connection refused"));
    assert_eq!(setup.admit().await, may_start);
    setup.watch("Pod", None);
    setup.watch("NetworkPolicy", None);
    assert_eq!(setup.admit().await, may_start);
}

#[tokio::test]
async fn a_pod_that_no_policy_isolates_keeps_no_agent_from_being_ready() {
    let mut setup = Setup::new(vec![pod("a", 1)]);
    setup.find(&[]);
    assert_eq!(setup.readiness(), Readiness::default());
    setup.take(Event::Changes(vec![policy()]));
    let reason = "x/a: no network namespace under --netns-dir has any of its addresses";
    assert_eq!(setup.readiness().missing, [reason]);
    setup.find(&[(5, 1)]);
    assert_eq!(setup.readiness(), Readiness::default());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_cannot_be_enforced_holds_up_readiness_for_a_minute_and_is_noted_then() {
    let mut setup = Setup::new(vec![pod("a", 1), policy()]);
    setup.find(&[]);
    tokio::time::advance(lacking::HOLD - Duration::from_millis(1)).await;
    // Looked for again and again.
    setup.find(&[]);
    assert_eq!(setup.readiness().missing.len(), 1);
    tokio::time::advance(Duration::from_millis(1)).await;
    let Readiness { missing, notes } = setup.readiness();
    assert_eq!(missing, Vec::<String>::new());
    assert!(notes[0].starts_with("x/a: not enforced for more than 60 s: no network"), "{notes:?}");
    assert_eq!(setup.agent.reconciler.endpoint(&name("a")).state, EnforcementState::NotEnforced);
    // Another time it is given as long.
    setup.find(&[(5, 1)]);
    assert_eq!(setup.readiness(), Readiness::default());
    setup.take(Event::Changes(vec![pod("b", 2)]));
    assert_eq!(setup.readiness().missing.len(), 1);
}
