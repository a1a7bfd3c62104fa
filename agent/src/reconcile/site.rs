//! What the administrator of a node adds to what the source says: further addresses of services, and
//! whether pods may reach the node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use sluice_policy::model::{Change, ServiceName};

/// Set once, at the agent's start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// Addresses that services have beside those of their objects.
    pub aliases: BTreeMap<ServiceName, BTreeSet<IpAddr>>,
    /// Egress of isolated pods to the node's own addresses is let out.
    pub host_egress: bool,
}

impl Site {
    /// Adds the aliases of a service to a change of it.
    pub(super) fn complete(&self, change: &mut Change) {
        let Change::Service(name, Some(service)) = change else { return };
        let Some(aliases) = self.aliases.get(name) else { return };
        let addresses: BTreeSet<IpAddr> =
            service.addresses.iter().chain(aliases).copied().collect();
        service.addresses = Vec::from_iter(addresses);
    }
}

/// One further address of a service, written `NAMESPACE/NAME=ADDRESS`: that of a cache on the node
/// which answers in the service's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The service.
    pub service: ServiceName,
    /// The address.
    pub address: IpAddr,
}

/// Why a text is no [`Alias`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AliasError {
    /// Not of its form.
    #[error("must be NAMESPACE/NAME=ADDRESS, for example kube-system/kube-dns=169.254.20.10")]
    Form,
    /// What stands behind `=`.
    #[error("what stands behind `=` must be an IPv4 or IPv6 address")]
    Address,
}

impl FromStr for Alias {
    type Err = AliasError;

    fn from_str(text: &str) -> Result<Self, AliasError> {
        let (service, address) = text.split_once('=').ok_or(AliasError::Form)?;
        match service.split_once('/') {
            Some((namespace, name))
                if !namespace.is_empty() && !name.is_empty() && !name.contains('/') =>
            {
                let address = address.parse().map_err(|_| AliasError::Address)?;
                let service = ServiceName { namespace: namespace.into(), name: name.into() };
                Ok(Self { service, address })
            }
            _ => Err(AliasError::Form),
        }
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.service, self.address)
    }
}

/// Aliases, by service.
impl FromIterator<Alias> for Site {
    fn from_iter<I: IntoIterator<Item = Alias>>(all: I) -> Self {
        let mut site = Self::default();
        for Alias { service, address } in all {
            site.aliases.entry(service).or_default().insert(address);
        }
        site
    }
}

#[cfg(test)]
mod tests {
    use sluice_policy::model::Service;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_alias_is_an_address_of_its_service_and_of_no_other() {
        let alias: Alias = "kube-system/kube-dns=169.254.20.10".parse().expect("an alias");
        let site: Site = [alias.clone()].into_iter().collect();
        let service = Service { addresses: vec![address("10.96.0.10")], ports: Vec::new() };
        let mut change = Change::Service(alias.service, Some(service.clone()));
        site.complete(&mut change);
        let Change::Service(_, Some(completed)) = change else { panic!("it is still a service") };
        assert_eq!(completed.addresses, [address("10.96.0.10"), address("169.254.20.10")]);
        let other = ServiceName { namespace: "x".into(), name: "kube-dns".into() };
        let mut change = Change::Service(other.clone(), Some(service.clone()));
        site.complete(&mut change);
        assert_eq!(change, Change::Service(other, Some(service)));
    }

    #[test]
    fn what_is_no_alias_is_refused_with_its_form() {
        for text in ["kube-dns", "kube-dns=10.0.0.1", "a/b", "/b=10.0.0.1", "a/b/c=10.0.0.1"] {
            assert_eq!(text.parse::<Alias>(), Err(AliasError::Form), "{text}");
        }
        assert_eq!("a/b=here".parse::<Alias>(), Err(AliasError::Address));
    }
}
