mod capacity;
mod learning;
mod notes;
mod parting;
mod refused;

use std::net::IpAddr;

use sluice_policy::model::{
    Action, NamedPort, Namespaces, Peers, Pod, PodSelector, Policy, PolicyKind, PolicyName,
    PortMatch, Ports, Protocol, Rule, Selector, Tier,
};

use sluice_common::abi::{Counter, RuleId};

use super::*;
use crate::datapath::counters::Snapshot;
use crate::endpoint::Interface;
use crate::endpoint::learn::Isolating;
use crate::endpoint::netns::NetnsId;
use crate::endpoint::slots::Lingering;
use crate::status::{EndpointStatus, EnforcementState};

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
pub(crate) struct Recorder {
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

    fn of_packets(&mut self) -> anyhow::Result<Vec<TableStatus>> {
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

    fn ensure_attached(&mut self, ifindex: IfIndex) -> anyhow::Result<bool> {
        anyhow::ensure!(!self.refuses.contains(&ifindex), "no such device");
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

pub(crate) fn name(name: &str) -> PodName {
    PodName { namespace: "x".into(), name: name.into() }
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

pub(crate) fn pod(of: &str, last: u8) -> Change {
    let pod = Pod { node: "n".into(), addresses: vec![address(last)], ..Pod::default() };
    Change::Pod(name(of), Some(pod))
}

fn policy_name() -> PolicyName {
    PolicyName { kind: PolicyKind::NetworkPolicy, namespace: Some("x".into()), name: "p".into() }
}

/// Isolates every pod of the namespace.
pub(crate) fn policy() -> Change {
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
pub(crate) fn scan(interfaces: &[(IfIndex, u8)]) -> Scan {
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

/// What is listed: names, states, and causes where there are any.
fn listed(setup: &Setup) -> Vec<(String, EnforcementState, Option<String>)> {
    let endpoints = setup.reconciler.endpoints().into_iter();
    endpoints.map(|EndpointStatus { pod, state, cause, .. }| (pod, state, cause)).collect()
}

fn enforced(pod: &str) -> (String, EnforcementState, Option<String>) {
    (pod.into(), EnforcementState::Enforced, None)
}

#[test]
fn a_pod_whose_object_is_gone_is_enforced_until_its_interface_is_gone() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), pod("b", 2), policy()]);
    setup.reconciler.found(scan(&[(5, 1), (6, 2)]));
    setup.reconcile();
    setup.reconciler.change(vec![Change::Pod(name("a"), None)]);
    let done = setup.reconcile();
    assert!(!done.iter().any(|d| matches!(d, Done::Detach(_) | Done::Lead(..))), "{done:?}");
    let gone = ("x/a (gone 0)".to_owned(), EnforcementState::Enforced, Some("object-gone".into()));
    assert_eq!(listed(&setup), [gone, enforced("x/b")]);
    // Policies go on to select it, until there is none.
    setup.reconciler.change(vec![Change::Policy(policy_name(), None)]);
    assert!(setup.reconcile().contains(&Done::Detach(5)));
    setup.reconciler.change(vec![policy()]);
    assert!(setup.reconcile().contains(&Done::Attach(5)));
    setup.reconciler.found(scan(&[(6, 2)]));
    assert!(setup.reconcile().contains(&Done::Lead(5, SLOT_NONE)));
    assert_eq!(listed(&setup), [enforced("x/b")]);
    assert_eq!(setup.reconciler.compiler.world().pods.len(), 1);
}

#[test]
fn a_pod_created_again_under_its_name_leaves_the_old_one_enforced_where_it_still_runs() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1), policy()]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    let again = |node: &str| {
        let addresses = vec![address(2)];
        Change::Pod(
            name("a"),
            Some(Pod { node: node.into(), addresses, created: 7, ..Pod::default() }),
        )
    };
    // On another node, as of a StatefulSet, then here.
    for (node, interfaces, next) in
        [("m", &[(5, 1)][..], None), ("n", &[(5, 1), (6, 2)], Some(Done::Attach(6)))]
    {
        setup.reconciler.change(vec![again(node)]);
        setup.reconciler.found(scan(interfaces));
        let done = setup.reconcile();
        assert!(!done.contains(&Done::Detach(5)), "{done:?}");
        assert!(next.is_none_or(|next| done.contains(&next)), "{done:?}");
        assert_eq!(setup.reconciler.kernel.slots.get(&5), Some(&1));
    }
    assert_eq!(listed(&setup)[0], enforced("x/a"));
    // The same interface and address: it is the new one's.
    setup.reconciler.change(vec![Change::Pod(name("a"), None), pod("heir", 1)]);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    assert_eq!(listed(&setup), [enforced("x/heir")]);
}

#[test]
fn a_pod_that_went_while_no_agent_ran_is_closed_until_its_interface_is_gone() {
    let mut before = Setup::new(Recorder::default());
    before.reconciler.change(vec![pod("a", 1), policy()]);
    before.reconciler.found(scan(&[(5, 1)]));
    before.reconcile();
    let Reconciler { kernel, slots, stored, .. } = before.reconciler;
    let next = |notes: Option<State>, slots: Slots, kernel: &Recorder| {
        let state_dir = tempfile::tempdir().expect("a temporary directory");
        let kernel = Recorder {
            state: kernel.state.clone(),
            slots: kernel.slots.clone(),
            ..Recorder::default()
        };
        let path = state_dir.path().to_path_buf();
        let reconciler = Reconciler::new(kernel, "n".into(), path, notes, slots);
        Setup { _state_dir: state_dir, reconciler }
    };
    let mut setup = next(stored, slots.clone(), &kernel);
    // No policy at all any more, and no object.
    setup.reconciler.found(scan(&[(5, 1)]));
    let done = setup.reconcile();
    assert!(!done.contains(&Done::Detach(5)), "{done:?}");
    let closed = |name: &str| {
        (format!("(closed)/{name}"), EnforcementState::Closed, Some("object-unknown".to_owned()))
    };
    assert_eq!(listed(&setup), [closed("x/a")]);
    let endpoint = setup.reconciler.compiler.tables().endpoints[&1];
    assert!(endpoint.is_governed(Direction::Ingress) && endpoint.is_governed(Direction::Egress));
    // Without notes, it is what the kernel leads an interface to.
    let left = Lingering { epoch: 3, addresses: [address(1)].into(), interfaces: [5].into() };
    let slots = Slots::restore(BTreeMap::new(), [(1, left)].into(), 4);
    let mut setup = next(None, slots, &kernel);
    setup.reconciler.found(scan(&[(5, 1)]));
    setup.reconcile();
    setup.reconcile();
    assert_eq!(listed(&setup), [closed("veth5")]);
    setup.reconciler.found(scan(&[]));
    assert!(setup.reconcile().contains(&Done::Detach(5)));
    assert_eq!(listed(&setup), []);
    assert!(setup.reconciler.compiler.world().policies.is_empty());
}

#[test]
fn two_namespaces_with_an_address_are_closed_until_one_is_gone() {
    let mut setup = Setup::new(Recorder::default());
    setup.reconciler.change(vec![pod("a", 1)]);
    setup.reconciler.found(scan(&[(5, 1), (6, 1)]));
    let done = setup.reconcile();
    assert!(done.contains(&Done::Attach(5)) && done.contains(&Done::Attach(6)), "{done:?}");
    let nobodys = |name: &str| {
        let cause = Some("interface-of-nobody".to_owned());
        (format!("(closed)/{name}"), EnforcementState::Closed, cause)
    };
    let contested =
        ("x/a".to_owned(), EnforcementState::Closed, Some("address-contested".to_owned()));
    assert_eq!(listed(&setup), [nobodys("veth5"), nobodys("veth6"), contested]);
    assert!(setup.reconciler.missing().contains_key(&name("a")));
    setup.reconciler.found(scan(&[(6, 1)]));
    setup.reconcile();
    assert_eq!(listed(&setup), [("x/a".to_owned(), EnforcementState::NotIsolated, None)]);
    assert_eq!(setup.reconciler.kernel.slots, [].into());
}
