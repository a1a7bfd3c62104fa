use std::net::IpAddr;

use sluice_policy::model::{
    Namespaces, Pod, PodSelector, Policy, PolicyKind, PolicyName, Selector, Tier,
};

use sluice_common::abi::{Counter, RuleId};

use super::*;
use crate::datapath::counters::Snapshot;
use crate::endpoint::learn::Isolating;
use crate::endpoint::netns::NetnsId;

/// What was done to the kernel, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Done {
    Staged,
    Flipped,
    Lead(IfIndex, u32),
    Attach(IfIndex),
    Detach(IfIndex),
    Settle,
}

/// A kernel that remembers, and fails where it is told to.
#[derive(Debug, Default)]
struct Recorder {
    done: Vec<Done>,
    state: KernelState,
    slots: BTreeMap<IfIndex, u32>,
    left_behind: BTreeSet<IfIndex>,
    refuses: BTreeSet<IfIndex>,
    fails_after: Option<usize>,
    /// Whose connections were asked for, and what was done before that.
    learned: Vec<(Vec<String>, Vec<Done>)>,
}

impl Kernel for Recorder {
    fn read(&mut self) -> anyhow::Result<KernelState> {
        Ok(self.state.clone())
    }

    fn apply(&mut self, ops: &[Op]) -> anyhow::Result<()> {
        for op in ops {
            match &mut self.fails_after {
                Some(0) => anyhow::bail!("the kernel says no"),
                Some(left) => *left -= 1,
                None => {}
            }
            let done = if matches!(op, Op::Flip(_)) { Done::Flipped } else { Done::Staged };
            if self.done.last() != Some(&done) {
                self.done.push(done);
            }
            self.state.apply(op);
        }
        Ok(())
    }

    fn reset_counters(&mut self, _slot: u32) -> anyhow::Result<()> {
        Ok(())
    }

    fn counted(&mut self, _slot: u32) -> anyhow::Result<Snapshot> {
        Ok(Snapshot::new())
    }

    fn rule_hits(&mut self, _last: RuleId) -> anyhow::Result<Vec<Counter>> {
        Ok(Vec::new())
    }

    fn slots(&mut self) -> anyhow::Result<BTreeMap<IfIndex, u32>> {
        Ok(self.slots.clone())
    }

    fn lead(&mut self, ifindex: IfIndex, slot: u32) -> anyhow::Result<()> {
        self.done.push(Done::Lead(ifindex, slot));
        if slot == SLOT_NONE {
            self.slots.remove(&ifindex);
        } else {
            self.slots.insert(ifindex, slot);
        }
        Ok(())
    }

    fn attach(&mut self, ifindex: IfIndex) -> anyhow::Result<()> {
        anyhow::ensure!(!self.refuses.contains(&ifindex), "no such device");
        self.done.push(Done::Attach(ifindex));
        Ok(())
    }

    fn ensure_attached(&mut self, _ifindex: IfIndex) -> anyhow::Result<bool> {
        Ok(false)
    }

    fn detach(&mut self, ifindex: IfIndex) -> anyhow::Result<()> {
        self.done.push(Done::Detach(ifindex));
        Ok(())
    }

    fn left_behind(&mut self) -> anyhow::Result<BTreeSet<IfIndex>> {
        Ok(self.left_behind.clone())
    }

    fn foreign(&mut self, _ifindex: IfIndex) -> anyhow::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn learn(&mut self, pods: &[Isolating], _node: &BTreeSet<IpAddr>) -> anyhow::Result<u64> {
        let pods = pods.iter().map(|pod| pod.pod.clone()).collect();
        self.learned.push((pods, self.done.clone()));
        Ok(1)
    }

    fn settle(&mut self) -> anyhow::Result<()> {
        self.done.push(Done::Settle);
        Ok(())
    }
}

struct Setup {
    _state_dir: tempfile::TempDir,
    reconciler: Reconciler<Recorder>,
}

impl Setup {
    fn new(kernel: Recorder) -> Self {
        let state_dir = tempfile::tempdir().expect("a temporary directory");
        let path = state_dir.path().to_path_buf();
        let reconciler = Reconciler::new(kernel, "n".into(), path, None, Slots::default());
        Self { _state_dir: state_dir, reconciler }
    }

    /// Reconciles and returns what was done to the kernel.
    fn reconcile(&mut self) -> Vec<Done> {
        self.reconciler.reconcile().expect("reconciled");
        std::mem::take(&mut self.reconciler.kernel.done)
    }
}

fn name(name: &str) -> PodName {
    PodName { namespace: "x".into(), name: name.into() }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn pod(of: &str, last: u8) -> Change {
    let pod = Pod { node: "n".into(), addresses: vec![address(last)], ..Pod::default() };
    Change::Pod(name(of), Some(pod))
}

fn policy_name() -> PolicyName {
    PolicyName { kind: PolicyKind::NetworkPolicy, namespace: Some("x".into()), name: "p".into() }
}

/// Isolates every pod of the namespace.
fn policy() -> Change {
    let subject =
        PodSelector { namespaces: Namespaces::Named("x".into()), pods: Selector::default() };
    let policy = Policy {
        tier: Tier::NetworkPolicy,
        priority: 0,
        subject,
        ingress: Some(Vec::new()),
        egress: None,
    };
    Change::Policy(policy_name(), Some(policy))
}

/// Interfaces with the last byte of their address.
fn scan(interfaces: &[(IfIndex, u8)]) -> Scan {
    let mut scan = Scan::default();
    for (ifindex, last) in interfaces {
        let interface = Interface {
            ifindex: *ifindex,
            name: format!("veth{ifindex}"),
            netns: NetnsId { device: 4, inode: u64::from(*ifindex) },
            netns_path: PathBuf::from("/run/netns/x"),
            addresses: [address(*last)].into(),
        };
        scan.veths.insert(*ifindex, interface.name.clone());
        scan.interfaces.insert(*ifindex, interface);
    }
    scan
}

#[test]
fn tables_are_flipped_before_an_interface_is_led_and_attached() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    assert_eq!(
        setup.reconcile(),
        [Done::Staged, Done::Flipped, Done::Lead(5, 1), Done::Attach(5), Done::Settle]
    );
    assert_eq!(setup.reconcile(), [], "nothing new, nothing written");
}

#[test]
fn a_finished_pod_is_none_that_should_be_enforced() {
    let mut setup = Setup::new(Recorder::default());
    let finished = Pod { node: "n".into(), finished: true, ..Pod::default() };
    setup.reconciler.change(vec![Change::Pod(name("job"), Some(finished)), pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    let pods: Vec<String> = setup.reconciler.endpoints().into_iter().map(|e| e.pod).collect();
    assert_eq!(pods, ["x/a"]);
}

#[test]
fn an_interface_is_detached_after_its_pod_is_not_isolated_in_the_tables() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    setup.reconciler.change(vec![Change::Policy(policy_name(), None)]);
    let done = setup.reconcile();
    assert_eq!(done[..2], [Done::Staged, Done::Flipped]);
    assert_eq!(done[done.len() - 2..], [Done::Detach(5), Done::Lead(5, SLOT_NONE)]);
}

#[test]
fn pods_that_no_policy_isolates_have_nothing_attached() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1)]);
    setup.reconciler.found(scan(&[(5, 1)]));
    let done = setup.reconcile();
    assert!(!done.iter().any(|d| matches!(d, Done::Attach(_) | Done::Lead(..))), "{done:?}");
}

#[test]
fn what_a_former_agent_left_is_adopted_or_taken_off() {
    let kernel = Recorder { left_behind: [5, 6].into(), ..Recorder::default() };
    let mut setup = Setup::new(kernel);
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1), (6, 2)]));
    let done = setup.reconcile();
    assert!(!done.contains(&Done::Detach(5)), "{done:?}");
    let attached = done.iter().position(|d| *d == Done::Attach(5));
    let detached = done.iter().position(|d| *d == Done::Detach(6));
    assert!(attached.is_some() && attached < detached, "{done:?}");
    assert_eq!(done.last(), Some(&Done::Settle));
}

#[test]
fn a_slot_is_given_to_another_interface_only_after_the_old_one_is_led_nowhere() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    // Gone, and at once another pod on another interface.
    setup.reconciler.change(vec![Change::Pod(name("a"), None), pod("b", 2)]);
    setup.reconciler.found(scan(&[(7, 2)]));
    let done = setup.reconcile();
    assert!(done.contains(&Done::Lead(7, 2)), "{done:?}");
    assert!(done.contains(&Done::Lead(5, SLOT_NONE)), "{done:?}");
    setup.reconciler.change(vec![pod("c", 3)]);
    setup.reconciler.found(scan(&[(7, 2), (8, 3)]));
    assert!(setup.reconcile().contains(&Done::Lead(8, 1)));
}

#[test]
fn an_interface_that_refuses_is_reported_and_tried_again_and_others_go_on() {
    let kernel = Recorder { refuses: [5].into(), ..Recorder::default() };
    let mut setup = Setup::new(kernel);
    setup.reconciler.change(vec![pod("a", 1), pod("b", 2), policy()]);
    setup.reconciler.found(scan(&[(5, 1), (6, 2)]));
    let done = setup.reconcile();
    assert!(done.contains(&Done::Attach(6)), "{done:?}");
    assert!(!done.contains(&Done::Settle), "{done:?}");
    assert_eq!(setup.reconciler.missing()[&name("a")], "no such device");
    setup.reconciler.kernel.refuses.clear();
    let done = setup.reconcile();
    assert!(done.contains(&Done::Attach(5)), "{done:?}");
    assert!(done.contains(&Done::Settle), "{done:?}");
    assert!(setup.reconciler.missing().is_empty());
}

#[test]
fn writes_that_failed_half_way_are_finished_from_what_the_kernel_holds() {
    let mut whole = Setup::new(Recorder::default());
    whole.reconciler.change(vec![pod("a", 1), policy()]);
    whole.reconciler.found(scan(&[(5, 1)]));
    whole.reconcile();
    let good = whole.reconciler.kernel.state.view();
    for fails_after in 0..3 {
        let kernel = Recorder { fails_after: Some(fails_after), ..Recorder::default() };
        let mut setup = Setup::new(kernel);
        setup.reconciler.change(vec![pod("a", 1), policy()]);
        setup.reconciler.found(scan(&[(5, 1)]));
        if setup.reconciler.reconcile().is_err() {
            assert!(!setup.reconciler.kernel.done.contains(&Done::Attach(5)));
        }
        setup.reconciler.kernel.fails_after = None;
        setup.reconciler.reconcile().expect("reconciled");
        assert_eq!(setup.reconciler.kernel.state.view(), good);
        assert!(setup.reconciler.kernel.done.contains(&Done::Attach(5)));
    }
}

#[test]
fn healing_counts_what_it_corrects() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    assert_eq!(setup.reconciler.heal().expect("healed"), 0);
    setup.reconciler.kernel.state.decisions.clear();
    setup.reconciler.kernel.slots.clear();
    setup.reconciler.kernel.slots.insert(9, 4);
    let decisions = setup.reconciler.compiler.tables().decisions.len() as u64;
    assert_eq!(setup.reconciler.heal().expect("healed"), decisions + 2);
    assert_eq!(setup.reconciler.kernel.slots, [(5, 1)].into());
    assert_eq!(setup.reconciler.heal().expect("healed"), 0);
    assert_eq!(setup.reconciler.corrections(), decisions + 2);
}

#[test]
fn pods_of_other_nodes_and_with_host_network_are_not_looked_for() {
    let mut setup = Setup::new(Recorder::default());
    let on = |node: &str, host_network: bool| Pod {
        node: node.into(),
        host_network,
        addresses: vec![address(1)],
        ..Pod::default()
    };
    setup.reconciler.change(vec![
        Change::Pod(name("elsewhere"), Some(on("m", false))),
        Change::Pod(name("host"), Some(on("n", true))),
        Change::Pod(name("nowhere"), Some(on("", false))),
    ]);
    setup.reconcile();
    assert_eq!(setup.reconciler.endpoints(), []);
}

#[test]
fn connections_are_learned_before_the_flip_and_again_when_the_programs_are_there() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), pod("b", 2)]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    setup.reconciler.change(vec![policy()]);
    let done = setup.reconcile();
    assert!(done.contains(&Done::Attach(5)), "{done:?}");
    let pods = vec!["x/a".to_owned()];
    assert_eq!(setup.reconciler.kernel.learned, [(pods.clone(), Vec::new()), (pods, done)]);
    assert_eq!(setup.reconciler.learned(), 2);
}

#[test]
fn connections_are_learned_once_for_as_long_as_a_pod_is_isolated() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    setup.reconciler.kernel.learned.clear();
    setup.reconciler.change(vec![pod("b", 2)]);
    setup.reconcile();
    assert_eq!(setup.reconciler.kernel.learned, []);
    setup.reconciler.change(vec![Change::Policy(policy_name(), None)]);
    setup.reconcile();
    setup.reconciler.change(vec![policy()]);
    setup.reconcile();
    assert_eq!(setup.reconciler.kernel.learned.len(), 2, "nobody followed it in between");
}

#[test]
fn an_agent_that_takes_over_learns_only_of_pods_that_nobody_followed() {
    let mut first = Setup::new(Recorder::default());
    first.reconciler.change(vec![pod("a", 1), policy()]);
    first.reconciler.found(scan(&[(5, 1)]));
    first.reconcile();
    let Recorder { state, slots, .. } = std::mem::take(&mut first.reconciler.kernel);
    let places = first.reconciler.slots.places().clone();
    let kernel = Recorder { state, slots, left_behind: [5].into(), ..Recorder::default() };
    let mut second = Setup::new(kernel);
    let next_epoch = first.reconciler.slots.next_epoch();
    second.reconciler.slots = Slots::restore(places, BTreeMap::new(), next_epoch);
    second.reconciler.change(vec![pod("a", 1), pod("b", 2), policy()]);
    second.reconciler.found(scan(&[(5, 1), (6, 2)]));
    second.reconcile();
    let learned: Vec<_> = second.reconciler.kernel.learned.iter().map(|(pods, _)| pods).collect();
    assert_eq!(learned, [&["x/b"], &["x/b"]]);
}
