//! Services: addresses that the cluster translates to others on the packet's way.

use std::fmt;
use std::net::IpAddr;

use super::Protocol;

/// `namespace/name` of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Namespace.
    pub namespace: String,
    /// Name within the namespace.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service, as far as policy looks at it. A pod's packet to one of its addresses and ports (a VIP)
/// is seen before the cluster translates it, and is judged by the backends that it can be translated
/// to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Service {
    /// ClusterIPs, external IPs, load-balancer addresses and addresses configured as its aliases;
    /// sorted. Empty for headless and ExternalName services, which nothing translates.
    pub addresses: Vec<IpAddr>,
    /// Its ports; one for each protocol and number.
    pub ports: Vec<ServicePort>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the Service's own addresses, 1 to 65535.
    pub port: u16,
    /// Where kube-proxy can translate it to, sorted, each once, of both families: what is ready, or,
    /// where nothing is, what still serves while it terminates.
    pub backends: Vec<Backend>,
}

/// One place that a Service leads to: a pod's address, or any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Address.
    pub address: IpAddr,
    /// Port there (the resolved `targetPort`).
    pub port: u16,
}
