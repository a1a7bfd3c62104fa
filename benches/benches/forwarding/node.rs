//! A node with pods, one of which is asked by a client: the way that every packet of the bench takes.
//!
//! client's namespace — veth — node's namespace, which forwards — veth — server's namespace

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context as _;
use sluice_benches::worlds::{PeerKind, local_address};

use crate::netns::Netns;

/// The node's address on every link.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The client's own address on its link.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 127, 0, 2);
/// All peers are within: the client has every address of it.
const PEERS: &str = "10.128.0.0/14";

/// Whose addresses the client has.
pub(crate) const PEER_KIND: PeerKind = PeerKind::Pods;

/// The namespaces of one configuration.
pub(crate) struct Node {
    pub(crate) node: Netns,
    pub(crate) client: Netns,
    pub(crate) server: Netns,
    /// Where the interfaces of the other pods end.
    _others: Netns,
    pods: u32,
}

impl Node {
    /// With that many pods; the first is the server.
    pub(crate) fn new(pods: u32) -> anyhow::Result<Self> {
        let made = Self {
            node: Netns::new()?,
            client: Netns::new()?,
            server: Netns::new()?,
            _others: Netns::new()?,
            pods,
        };
        for netns in [&made.node, &made.client, &made.server] {
            netns.set("ipv4/conf/all/rp_filter", "0")?;
            netns.set("ipv4/conf/default/rp_filter", "0")?;
        }
        made.node.set("ipv4/ip_forward", "1")?;
        made.link()?;
        // So that no source port is one that the kernel gives to others.
        made.client.set("ipv4/ip_local_port_range", "65100 65500")?;
        Ok(made)
    }

    fn link(&self) -> anyhow::Result<()> {
        let mut batch = String::new();
        let mut pair = |host: &str, netns: &Netns, inside: &str, address: IpAddr| {
            let path = netns.path();
            _ = write!(
                batch,
                "link add {host} type veth peer name {inside} netns {path}
address add {GATEWAY}/32 dev {host}
link set {host} up
route add {address}/32 dev {host}
"
            );
        };
        pair("client", &self.client, "eth0", CLIENT.into());
        for pod in 0..self.pods {
            let (netns, inside) = match pod {
                0 => (&self.server, "eth0".to_owned()),
                _ => (&self._others, format!("eth{pod}")),
            };
            pair(&interface(pod), netns, &inside, local_address(pod));
        }
        _ = writeln!(batch, "route add {PEERS} via {CLIENT} dev client onlink");
        self.node.run("ip", &["-batch", "-"], &batch)?;
        let end = |address: IpAddr| {
            format!(
                "address add {address}/32 dev eth0
link set eth0 up
route add {GATEWAY} dev eth0
route add default via {GATEWAY} dev eth0 src {address}
"
            )
        };
        let mut client = end(CLIENT.into());
        _ = writeln!(client, "route add local {PEERS} dev lo");
        self.client.run("ip", &["-batch", "-"], &client)?;
        self.server.run("ip", &["-batch", "-"], &end(server()))
    }

    /// Index and pod of each pod's interface on the node.
    pub(crate) fn interfaces(&self) -> anyhow::Result<Vec<(u32, u32)>> {
        self.node.inside(|| {
            let index = |pod| {
                let name = interface(pod);
                nix::net::if_::if_nametoindex(name.as_str()).with_context(|| name.clone())
            };
            (0..self.pods).map(|pod| Ok((index(pod)?, pod))).collect()
        })
    }
}

/// The server's address.
pub(crate) fn server() -> IpAddr {
    local_address(0)
}

/// A pod's interface on the node.
fn interface(pod: u32) -> String {
    format!("pod{pod}")
}
