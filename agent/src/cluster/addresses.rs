//! Which address an object has that does not say so itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_policy::model::{PodName, ServiceName};

/// Why a cluster could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// There are more objects than addresses.
    #[error("{what} has no address: all of {pool} are taken; give it one in its manifest")]
    PoolFull {
        /// The object.
        what: String,
        /// The pool.
        pool: &'static str,
    },
}

/// Gives out addresses, dual-stack, and remembers them: an object keeps its address while others
/// come and go, and when it comes back under the same name.
#[derive(Clone, Debug)]
pub struct AddressPlan {
    assigns: bool,
    pods: Pool<PodName>,
    nodes: Pool<String>,
    services: Pool<ServiceName>,
}

impl Default for AddressPlan {
    /// The pools that the documentation of the command line names.
    fn default() -> Self {
        Self {
            assigns: true,
            pods: Pool::new(POD_POOL, Ipv4Addr::new(10, 244, 0, 0), 16, 0xfd00_0010_0244),
            nodes: Pool::new(NODE_POOL, Ipv4Addr::new(172, 30, 0, 0), 24, 0xfd00_0172_0030),
            services: Pool::new(SERVICE_POOL, Ipv4Addr::new(10, 96, 0, 0), 16, 0xfd00_0010_0096),
        }
    }
}

const POD_POOL: &str = "10.244.0.0/16";
const NODE_POOL: &str = "172.30.0.0/24";
const SERVICE_POOL: &str = "10.96.0.0/16";

impl AddressPlan {
    /// A plan that gives out nothing, puts no pod on a node and makes no pods of workloads: for a
    /// cluster that is really there, where objects without an address have none.
    pub fn none() -> Self {
        Self { assigns: false, ..Self::default() }
    }

    /// False for [`Self::none`].
    pub const fn assigns(&self) -> bool {
        self.assigns
    }

    /// Addresses of a pod that says none; `taken` are those that other objects say.
    pub(super) fn pod(
        &mut self,
        name: &PodName,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, ClusterError> {
        if self.assigns {
            self.pods.get(name, &format!("Pod {name}"), taken)
        } else {
            Ok(Vec::new())
        }
    }

    /// Addresses of a node that says none.
    pub(super) fn node(
        &mut self,
        name: &str,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, ClusterError> {
        if !self.assigns {
            return Ok(Vec::new());
        }
        self.nodes.get(&name.to_owned(), &format!("Node {name}"), taken)
    }

    /// Addresses of a service that says none.
    pub(super) fn service(
        &mut self,
        name: &ServiceName,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, ClusterError> {
        if !self.assigns {
            return Ok(Vec::new());
        }
        self.services.get(name, &format!("Service {}/{}", name.namespace, name.name), taken)
    }
}

/// A v4 and a v6 block that are given out side by side: host 5 is 10.244.0.5 and fd00:10:244::5.
#[derive(Clone, Debug)]
struct Pool<K> {
    label: &'static str,
    v4: u32,
    /// First host number that is not in the pool (the last address is left out, as broadcast).
    end: u32,
    /// The first 48 bits.
    v6: u128,
    given: BTreeMap<K, u32>,
    used: BTreeSet<u32>,
    /// No host number below it is free.
    next: u32,
}

/// Host 1 is left to gateways.
const FIRST_HOST: u32 = 2;

impl<K: Ord + Clone> Pool<K> {
    fn new(label: &'static str, v4: Ipv4Addr, bits: u32, v6: u64) -> Self {
        Self {
            label,
            v4: v4.to_bits(),
            end: (1 << (32 - bits)) - 1,
            v6: u128::from(v6) << 80,
            given: BTreeMap::new(),
            used: BTreeSet::new(),
            next: FIRST_HOST,
        }
    }

    fn addresses(&self, host: u32) -> [IpAddr; 2] {
        let v4 = Ipv4Addr::from_bits(self.v4 + host);
        let v6 = Ipv6Addr::from_bits(self.v6 + u128::from(host));
        [v4.into(), v6.into()]
    }

    fn get(
        &mut self,
        key: &K,
        what: &str,
        taken: &BTreeSet<IpAddr>,
    ) -> Result<Vec<IpAddr>, ClusterError> {
        if let Some(&host) = self.given.get(key) {
            return Ok(self.addresses(host).into());
        }
        let free = |host: &u32| {
            !self.used.contains(host) && !self.addresses(*host).iter().any(|a| taken.contains(a))
        };
        let host = (self.next..self.end)
            .find(free)
            .ok_or_else(|| ClusterError::PoolFull { what: what.into(), pool: self.label })?;
        self.next = host + 1;
        self.used.insert(host);
        self.given.insert(key.clone(), host);
        Ok(self.addresses(host).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> PodName {
        PodName { namespace: "x".into(), name: name.into() }
    }

    fn addresses(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|a| a.parse().expect("a literal address")).collect()
    }

    #[test]
    fn families_are_given_out_side_by_side() {
        let mut plan = AddressPlan::default();
        let none = BTreeSet::new();
        assert_eq!(plan.pod(&name("a"), &none), Ok(addresses(&["10.244.0.2", "fd00:10:244::2"])));
        assert_eq!(plan.node("n", &none), Ok(addresses(&["172.30.0.2", "fd00:172:30::2"])));
        let service = ServiceName { namespace: "x".into(), name: "s".into() };
        assert_eq!(plan.service(&service, &none), Ok(addresses(&["10.96.0.2", "fd00:10:96::2"])));
    }

    #[test]
    fn a_name_keeps_its_address_and_nobody_else_gets_it() {
        let mut plan = AddressPlan::default();
        let none = BTreeSet::new();
        let a = plan.pod(&name("a"), &none);
        let b = plan.pod(&name("b"), &none);
        assert_ne!(a, b);
        assert_eq!(plan.pod(&name("a"), &none), a);
    }

    #[test]
    fn an_address_that_an_object_says_is_not_given_to_another() {
        let mut plan = AddressPlan::default();
        let taken = addresses(&["10.244.0.2"]).into_iter().collect();
        let given = plan.pod(&name("a"), &taken);
        assert_eq!(given, Ok(addresses(&["10.244.0.3", "fd00:10:244::3"])));
    }

    #[test]
    fn a_full_pool_names_the_object_that_found_no_address() {
        let mut plan = AddressPlan::default();
        let none = BTreeSet::new();
        for i in FIRST_HOST..255 {
            assert!(plan.node(&format!("n{i}"), &none).is_ok());
        }
        let full = ClusterError::PoolFull { what: "Node last".into(), pool: NODE_POOL };
        assert_eq!(plan.node("last", &none), Err(full));
    }
}
