use super::*;

fn interface(ifindex: IfIndex, inode: u64, addresses: &[&str]) -> Interface {
    Interface {
        ifindex,
        name: format!("veth{ifindex}"),
        netns: NetnsId { device: 4, inode },
        netns_path: PathBuf::from(format!("/run/netns/{inode}")),
        addresses: addresses.iter().map(|a| a.parse().expect("an address")).collect(),
    }
}

fn scan(interfaces: impl IntoIterator<Item = Interface>) -> Scan {
    let interfaces: BTreeMap<IfIndex, Interface> =
        interfaces.into_iter().map(|i| (i.ifindex, i)).collect();
    let veths = interfaces.iter().map(|(index, i)| (*index, i.name.clone())).collect();
    Scan { interfaces, veths, ..Scan::default() }
}

fn local(created: i64, addresses: &[&str]) -> LocalPod {
    let addresses = addresses.iter().map(|a| a.parse().expect("an address")).collect();
    LocalPod { addresses, created, deleting: false }
}

fn pods(pods: &[(&str, i64, &[&str])]) -> BTreeMap<PodName, LocalPod> {
    pods.iter().map(|(name, created, addresses)| (pod(name), local(*created, addresses))).collect()
}

fn pod(name: &str) -> PodName {
    PodName { namespace: "x".into(), name: name.into() }
}

/// Places of pods that were created at 0, each with one address on one interface of a namespace.
fn places(found: &[(&str, &str, IfIndex, u64)]) -> BTreeMap<PodName, Place> {
    let place = |(slot, (name, address, ifindex, inode)): (usize, &(&str, &str, IfIndex, u64))| {
        let incarnation = Incarnation {
            created: 0,
            addresses: [address.parse().expect("an address")].into(),
            interfaces: [(*ifindex, *inode)].into(),
        };
        (pod(name), Place { slot: slot as u32 + 1, epoch: slot as u32 + 1, incarnation })
    };
    found.iter().enumerate().map(place).collect()
}

fn first(scan: &Scan, pods: &BTreeMap<PodName, LocalPod>) -> Found {
    assign(scan, pods, &BTreeMap::new())
}

fn indexes(found: &Found, name: &str) -> Vec<IfIndex> {
    let interfaces = found.assignment[&pod(name)].as_ref();
    interfaces.unwrap_or_else(|why| panic!("{name}: {why}")).iter().map(|i| i.ifindex).collect()
}

fn contested(found: &Found, name: &str) -> bool {
    matches!(found.assignment[&pod(name)], Err(NotFound::Contested(_)))
}

#[test]
fn every_interface_that_carries_an_address_of_the_pod_is_its() {
    let scan = scan([
        interface(7, 1, &["10.0.0.1"]),
        interface(8, 1, &["fd00::1"]),
        interface(9, 1, &["192.168.0.1"]),
        interface(10, 2, &["10.0.0.2"]),
    ]);
    let found = first(&scan, &pods(&[("a", 0, &["10.0.0.1", "fd00::1"])]));
    assert_eq!(indexes(&found, "a"), [7, 8]);
    assert_eq!(found.closed, BTreeMap::new());
}

#[test]
fn an_address_in_two_namespaces_at_first_sight_is_nobodys_and_both_are_closed() {
    let twice = scan([interface(7, 9, &["10.0.0.1"]), interface(8, 3, &["10.0.0.1", "10.0.0.2"])]);
    let found = first(&twice, &pods(&[("a", 0, &["10.0.0.1"])]));
    assert!(contested(&found, "a"));
    assert_eq!(found.closed, [(7, pod("a")), (8, pod("a"))].into());
    // The second is also where another pod's address is.
    let both = pods(&[("a", 0, &["10.0.0.1"]), ("b", 0, &["10.0.0.2"])]);
    let found = first(&twice, &both);
    assert!(contested(&found, "a") && contested(&found, "b"));
    assert_eq!(found.closed.keys().copied().collect::<Vec<_>>(), [7, 8]);
}

#[test]
fn a_neighbours_address_in_a_pods_own_namespace_moves_nothing() {
    let both = pods(&[("a", 0, &["10.0.0.1"]), ("b", 0, &["10.0.0.2"])]);
    let before = places(&[("a", "10.0.0.1", 7, 1), ("b", "10.0.0.2", 8, 2)]);
    let added = scan([interface(7, 1, &["10.0.0.1"]), interface(8, 2, &["10.0.0.1", "10.0.0.2"])]);
    let found = assign(&added, &both, &before);
    assert_eq!((indexes(&found, "a"), indexes(&found, "b")), (vec![7], vec![8]));
    assert_eq!(found.closed, BTreeMap::new());
    // Nor does it while the neighbour is still to come: it waits for its own.
    let before = places(&[("b", "10.0.0.2", 8, 2)]);
    let early = scan([interface(8, 2, &["10.0.0.1", "10.0.0.2"])]);
    let found = assign(&early, &both, &before);
    assert_eq!(found.assignment[&pod("a")], Err(NotFound::NetnsOf(pod("b"))));
    assert_eq!(indexes(&found, "b"), [8]);
    let found = assign(&added, &both, &before);
    assert_eq!((indexes(&found, "a"), indexes(&found, "b")), (vec![7], vec![8]));
}

#[test]
fn a_pod_that_takes_its_own_address_away_keeps_its_interface() {
    let one = pods(&[("a", 0, &["10.0.0.1"])]);
    let before = places(&[("a", "10.0.0.1", 7, 1)]);
    for left in [&[][..], &["192.168.0.1"][..]] {
        let found = assign(&scan([interface(7, 1, left)]), &one, &before);
        assert_eq!(indexes(&found, "a"), [7]);
    }
    // The index is another namespace's by now.
    let found = assign(&scan([interface(7, 5, &["192.168.0.1"])]), &one, &before);
    assert_eq!(found.assignment[&pod("a")], Err(NotFound::NoInterface));
}

#[test]
fn a_second_namespace_with_the_address_of_a_pod_that_is_known_is_closed() {
    let one = pods(&[("a", 0, &["10.0.0.1"])]);
    let before = places(&[("a", "10.0.0.1", 7, 1)]);
    let found = assign(
        &scan([interface(7, 1, &["10.0.0.1"]), interface(8, 2, &["10.0.0.1"])]),
        &one,
        &before,
    );
    assert_eq!(indexes(&found, "a"), [7]);
    assert_eq!(found.closed, [(8, pod("a"))].into());
    // Once the first is gone, the other is where the pod is.
    let found = assign(&scan([interface(8, 2, &["10.0.0.1"])]), &one, &before);
    assert_eq!(indexes(&found, "a"), [8]);
    assert_eq!(found.closed, BTreeMap::new());
}

#[test]
fn the_namespace_of_a_pod_that_is_gone_is_anothers_only_with_its_address_and_no_other() {
    let before = places(&[("gone", "10.0.0.1", 7, 1)]);
    let one = scan([interface(7, 1, &["10.0.0.1", "10.0.0.2"])]);
    let found = assign(&one, &pods(&[("b", 0, &["10.0.0.2"])]), &before);
    assert_eq!(found.assignment[&pod("b")], Err(NotFound::NoInterface));
    let heir = pods(&[("b", 0, &["10.0.0.1"])]);
    assert_eq!(indexes(&assign(&one, &heir, &before), "b"), [7]);
    let two = scan([interface(7, 1, &["10.0.0.1"]), interface(8, 2, &["10.0.0.1"])]);
    let found = assign(&two, &heir, &before);
    assert_eq!((indexes(&found, "b"), found.closed), (vec![8], BTreeMap::new()));
}

#[test]
fn the_younger_of_two_pods_has_the_address() {
    let scan = scan([interface(7, 1, &["10.0.0.1"])]);
    let found = first(&scan, &pods(&[("a", 5, &["10.0.0.1"]), ("b", 4, &["10.0.0.1"])]));
    assert_eq!(indexes(&found, "a"), [7]);
    assert_eq!(found.assignment[&pod("b")], Err(NotFound::AddressOf(pod("a"))));
}

/// The API tells of the younger one's end later than of the address that an older one has inherited.
#[test]
fn an_address_of_a_pod_that_is_being_deleted_is_any_other_pods_that_has_it() {
    let scan = scan([interface(7, 1, &["10.0.0.1"]), interface(8, 2, &["10.0.0.2"])]);
    let mut both = pods(&[("a", 5, &["10.0.0.1"]), ("b", 4, &["10.0.0.1"])]);
    let leave = |pods: &mut BTreeMap<PodName, LocalPod>, name| {
        pods.get_mut(&pod(name)).expect("a pod").deleting = true;
    };
    leave(&mut both, "a");
    let found = first(&scan, &both);
    assert_eq!(indexes(&found, "b"), [7]);
    assert_eq!(found.assignment[&pod("a")], Err(NotFound::AddressOf(pod("b"))));
    // Of two that are being deleted, the younger again; and alone, it has its own.
    leave(&mut both, "b");
    assert_eq!(indexes(&first(&scan, &both), "a"), [7]);
    both.remove(&pod("b"));
    assert_eq!(indexes(&first(&scan, &both), "a"), [7]);
}

#[test]
fn what_cannot_be_found_says_why() {
    let mut scan = scan([]);
    scan.elsewhere.insert("10.0.0.3".parse().expect("an address"), PathBuf::from("/n/c"));
    let found =
        first(&scan, &pods(&[("a", 0, &[]), ("b", 0, &["10.0.0.2"]), ("c", 0, &["10.0.0.3"])]));
    assert_eq!(found.assignment[&pod("a")], Err(NotFound::NoAddress));
    assert_eq!(found.assignment[&pod("b")], Err(NotFound::NoInterface));
    assert_eq!(found.assignment[&pod("c")], Err(NotFound::NoHostSide(PathBuf::from("/n/c"))));
}
