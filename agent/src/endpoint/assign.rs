//! Which interface is which pod's.
//!
//! A pod can be root in its own namespace and add any address there, also a neighbour's, or take its
//! own away. So an address alone moves nothing:
//!
//! * A pod keeps the interfaces that it was found on, for as long as they are there and its object says
//!   nothing else ([`Incarnation`]).
//! * A namespace that is one pod's is no other's, whatever addresses are in it. That of a pod whose
//!   object is gone is another's only if that one has its address and no other namespace has it.
//! * So is that of a pod whose addresses are all another pod's that has a better claim.
//! * A pod that is looked for the first time gets the one namespace with an address of its own. Where
//!   there are two, or where two pods find the same one, nobody gets any: which is whose cannot be
//!   known, and a guess could be steered from inside.
//! * What carries a local pod's address and is nobody's is closed ([`Found::closed`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use sluice_policy::model::PodName;

use super::discover::{Interface, Scan};
use super::links::IfIndex;
use super::netns::NetnsId;
use super::slots::{Incarnation, Place};

/// A pod that the source says runs on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Creation time in seconds.
    pub created: i64,
    /// It is being deleted.
    pub deleting: bool,
}

/// Why a local pod has no interface to enforce it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotFound {
    /// The source gives no address yet.
    NoAddress,
    /// No namespace has any of its addresses.
    NoInterface,
    /// A namespace has its address on an interface that is no veth.
    NoHostSide(PathBuf),
    /// Another pod with a better claim has its address.
    AddressOf(PodName),
    /// Which of these namespaces is its own cannot be told.
    Contested(BTreeSet<PathBuf>),
    /// The only namespace that has its address is another pod's.
    NetnsOf(PodName),
}

impl fmt::Display for NotFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAddress => f.write_str("it has no address yet"),
            Self::NoInterface => {
                f.write_str("no network namespace under --netns-dir has any of its addresses")
            }
            Self::NoHostSide(path) => write!(
                f,
                "its address is in {}, on an interface that is no veth (a macvlan or ipvlan, say), so that \
                 nothing of it is on the host",
                path.display()
            ),
            Self::AddressOf(pod) => write!(f, "its address now belongs to pod {pod}"),
            Self::Contested(paths) => {
                let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
                write!(
                    f,
                    "which network namespace is its own cannot be told, since an address is in two or \
                     two pods' are in one: {}; closed until one of them is gone",
                    paths.join(", ")
                )
            }
            Self::NetnsOf(pod) => write!(
                f,
                "its address is only in the network namespace of pod {pod}, which does not own it"
            ),
        }
    }
}

/// Interfaces of every local pod (by index), or why it has none.
pub type Assignment = BTreeMap<PodName, Result<Vec<Interface>, NotFound>>;

/// What [`assign`] has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// For every local pod.
    pub assignment: Assignment,
    /// Interfaces that carry a local pod's address and are nobody's, with that pod: to be closed.
    pub closed: BTreeMap<IfIndex, PodName>,
}

/// Assigns the scan's interfaces to pods. `places` says where pods were found before, and where those
/// are whose objects are gone.
///
/// Of two pods with one address the one has it that is not being deleted, then the younger, then that
/// with the greater name, as in the policy model.
pub fn assign(
    scan: &Scan,
    pods: &BTreeMap<PodName, LocalPod>,
    places: &BTreeMap<PodName, Place>,
) -> Found {
    let mut search = Search::new(scan, pods, places);
    let mut found = Found::default();
    let mut outlived = Vec::new();
    for (name, pod) in pods {
        let own = search.own(name, pod);
        let kept = kept(scan, pod, places.get(name));
        let result = match (own.is_empty(), kept.is_empty()) {
            (true, _) => {
                outlived.push((name, kept));
                let owner = pod.addresses.iter().find_map(|address| search.owners.get(address));
                Err(owner.map_or(NotFound::NoAddress, |pod| NotFound::AddressOf((*pod).clone())))
            }
            (false, true) => search.first_time(name, &own),
            (false, false) => Ok(search.with_further(kept, &own)),
        };
        found.assignment.insert(name.clone(), result);
    }
    let taken: BTreeSet<NetnsId> =
        found.assignment.values().flatten().flatten().map(|i| i.netns).collect();
    for (name, mut kept) in outlived {
        kept.retain(|interface| !taken.contains(&interface.netns));
        if !kept.is_empty() {
            found.assignment.insert(name.clone(), Ok(kept));
        }
    }
    search.taken.extend(taken);
    found.closed = search.nobodys();
    found
}

/// The interfaces that a pod was found on before and that are still there.
fn kept(scan: &Scan, pod: &LocalPod, before: Option<&Place>) -> Vec<Interface> {
    before
        .map(|place| &place.incarnation)
        .filter(|before| before.goes_on_in(pod.created, &pod.addresses))
        .map(|before| before.still_there(scan))
        .unwrap_or_default()
}

struct Search<'a> {
    scan: &'a Scan,
    /// The interfaces that carry an address.
    by_address: BTreeMap<IpAddr, Vec<IfIndex>>,
    owners: BTreeMap<IpAddr, &'a PodName>,
    /// Namespaces that local pods were found in before.
    held: BTreeMap<NetnsId, &'a PodName>,
    /// Namespaces of pods whose objects are gone, with the addresses that they had.
    left: BTreeMap<NetnsId, &'a BTreeSet<IpAddr>>,
    /// How many of the pods that are looked for the first time find a namespace.
    claims: BTreeMap<NetnsId, usize>,
    /// Namespaces that are somebody's.
    taken: BTreeSet<NetnsId>,
}

impl<'a> Search<'a> {
    fn new(
        scan: &'a Scan,
        pods: &'a BTreeMap<PodName, LocalPod>,
        places: &'a BTreeMap<PodName, Place>,
    ) -> Self {
        let mut by_age: Vec<(&PodName, &LocalPod)> = pods.iter().collect();
        by_age.sort_by_key(|(name, pod)| std::cmp::Reverse((!pod.deleting, pod.created, *name)));
        let mut search = Self {
            scan,
            by_address: BTreeMap::new(),
            owners: BTreeMap::new(),
            held: BTreeMap::new(),
            left: BTreeMap::new(),
            claims: BTreeMap::new(),
            taken: BTreeSet::new(),
        };
        for interface in scan.interfaces.values() {
            for address in &interface.addresses {
                search.by_address.entry(*address).or_default().push(interface.ifindex);
            }
        }
        for &(name, pod) in &by_age {
            for address in &pod.addresses {
                search.owners.entry(*address).or_insert(name);
            }
        }
        for (name, place) in places {
            let owns = |pod: &&LocalPod| !search.own(name, pod).is_empty();
            let kept = pods.get(name).filter(owns).map(|pod| kept(scan, pod, Some(place)));
            match kept.filter(|kept| !kept.is_empty()) {
                Some(kept) => search.held.extend(kept.iter().map(|i| (i.netns, name))),
                None => {
                    let Incarnation { addresses, .. } = &place.incarnation;
                    let left = place.incarnation.still_there(scan);
                    search.left.extend(left.iter().map(|i| (i.netns, addresses)));
                }
            }
        }
        // Closed before as nobody's: looked at afresh.
        search.left.retain(|_, addresses| !addresses.is_empty());
        search.taken.extend(search.left.keys());
        for (name, pod) in &by_age {
            let own = search.own(name, pod);
            if kept(scan, pod, places.get(*name)).is_empty() {
                for netns in search.candidates(&own) {
                    *search.claims.entry(netns).or_default() += 1;
                }
            }
        }
        search
    }

    /// The pod's addresses that no other pod has a better claim to.
    fn own(&self, name: &PodName, pod: &LocalPod) -> BTreeSet<IpAddr> {
        pod.addresses.iter().copied().filter(|a| self.owners.get(a) == Some(&name)).collect()
    }

    /// The interfaces with any of these addresses, by index.
    fn carrying(&self, own: &BTreeSet<IpAddr>) -> impl Iterator<Item = &'a Interface> + use<'a> {
        let found = own.iter().filter_map(|address| self.by_address.get(address)).flatten();
        let indexes: BTreeSet<IfIndex> = found.copied().collect();
        let scan = self.scan;
        indexes.into_iter().filter_map(move |ifindex| scan.interfaces.get(&ifindex))
    }

    /// The namespaces that can be the pod's with these addresses.
    fn candidates(&self, own: &BTreeSet<IpAddr>) -> BTreeSet<NetnsId> {
        let all: BTreeSet<NetnsId> = self.carrying(own).map(|interface| interface.netns).collect();
        let free = all.iter().filter(|n| !self.held.contains_key(n) && !self.left.contains_key(n));
        let free: BTreeSet<NetnsId> = free.copied().collect();
        if !free.is_empty() {
            return free;
        }
        let inherited = |n: &NetnsId| self.left.get(n).is_some_and(|had| !had.is_disjoint(own));
        all.into_iter().filter(inherited).collect()
    }

    fn first_time(
        &self,
        name: &PodName,
        own: &BTreeSet<IpAddr>,
    ) -> Result<Vec<Interface>, NotFound> {
        let candidates = self.candidates(own);
        let mut all = candidates.iter();
        match (all.next(), all.next()) {
            (Some(netns), None) if self.claims.get(netns) == Some(&1) => {
                Ok(self.carrying(own).filter(|i| i.netns == *netns).cloned().collect())
            }
            (Some(_), _) => {
                let contested = self.carrying(own).filter(|i| candidates.contains(&i.netns));
                Err(NotFound::Contested(contested.map(|i| i.netns_path.clone()).collect()))
            }
            (None, _) => Err(self.why_nowhere(name, own)),
        }
    }

    fn why_nowhere(&self, name: &PodName, own: &BTreeSet<IpAddr>) -> NotFound {
        let other = self.carrying(own).find_map(|i| self.held.get(&i.netns));
        if let Some(other) = other.filter(|other| **other != name) {
            return NotFound::NetnsOf((*other).clone());
        }
        let elsewhere = own.iter().find_map(|address| self.scan.elsewhere.get(address));
        elsewhere.map_or(NotFound::NoInterface, |path| NotFound::NoHostSide(path.clone()))
    }

    /// What a pod keeps, with interfaces of the same namespace that carry its addresses by now.
    fn with_further(&self, kept: Vec<Interface>, own: &BTreeSet<IpAddr>) -> Vec<Interface> {
        let own_netns: BTreeSet<NetnsId> = kept.iter().map(|interface| interface.netns).collect();
        let further = self.carrying(own).filter(|i| own_netns.contains(&i.netns)).cloned();
        let all: BTreeMap<IfIndex, Interface> =
            further.chain(kept).map(|interface| (interface.ifindex, interface)).collect();
        all.into_values().collect()
    }

    /// Interfaces that carry a local pod's address in a namespace that is nobody's.
    fn nobodys(&self) -> BTreeMap<IfIndex, PodName> {
        let free = self.scan.interfaces.values().filter(|i| !self.taken.contains(&i.netns));
        let of = |interface: &Interface| {
            let owner = interface.addresses.iter().find_map(|address| self.owners.get(address))?;
            Some((interface.ifindex, (*owner).clone()))
        };
        free.filter_map(of).collect()
    }
}

#[cfg(test)]
mod tests;
