//! The policies that every configuration enforces, each in its own language.

use std::fmt::Write as _;
use std::net::IpAddr;

use sluice_benches::worlds::{distinct_peers, local_address, one_pod, peer_address};
use sluice_policy::model::{PortMatch, Ports, Protocol, World};

use crate::node::PEER_KIND;

/// Isolated pods, each with policies of its own, each with peers of its own, on port 443 of TCP and UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    pub(crate) pods: u32,
    /// Per pod.
    pub(crate) policies: u32,
    /// Per policy.
    pub(crate) peers: u32,
}

impl Scale {
    /// Peers of the first pod.
    pub(crate) const fn peers_of_one(self) -> u32 {
        self.policies * self.peers
    }

    /// As Kubernetes objects say it. A single policy has one selector for all its peers, others one for
    /// each.
    pub(crate) fn world(self) -> World {
        let mut world = match self {
            Self { pods: 1, policies: 1, peers } => one_pod(peers, PEER_KIND),
            Self { pods, policies, peers } => distinct_peers(pods, policies, peers, PEER_KIND),
        };
        for policy in world.policies.values_mut() {
            for rule in policy.ingress.iter_mut().flatten() {
                let port = |protocol| PortMatch::Range { protocol, first: 443, last: 443 };
                rule.ports = Ports::Of(vec![port(Protocol::Tcp), port(Protocol::Udp)]);
            }
        }
        world
    }

    /// Addresses of a policy's peers; policies are numbered over all pods.
    fn addresses(self, policy: u32) -> impl Iterator<Item = IpAddr> {
        (policy * self.peers..(policy + 1) * self.peers).map(|n| peer_address(PEER_KIND, n))
    }

    /// The numbers of a pod's policies.
    fn policies_of(self, pod: u32) -> std::ops::Range<u32> {
        pod * self.policies..(pod + 1) * self.policies
    }

    /// nftables: a chain per pod, found by its address in a map; the peers of a policy are a set.
    pub(crate) fn nftables_sets(self) -> String {
        let mut text = "table inet sluice {\n".to_owned();
        for policy in 0..self.pods * self.policies {
            let peers = joined(self.addresses(policy));
            _ = writeln!(text, "set policy{policy} {{ type ipv4_addr; elements = {{ {peers} }} }}");
        }
        for pod in 0..self.pods {
            _ = writeln!(text, "chain pod{pod} {{");
            for policy in self.policies_of(pod) {
                _ = writeln!(text, "ip saddr @policy{policy} th dport 443 accept");
            }
            text += "drop\n}\n";
        }
        text + &self.nftables_dispatch() + "}\n"
    }

    /// The same with a rule for each peer.
    pub(crate) fn nftables_linear(self) -> String {
        let mut text = "table inet sluice {\n".to_owned();
        for pod in 0..self.pods {
            _ = writeln!(text, "chain pod{pod} {{");
            for address in self.policies_of(pod).flat_map(|policy| self.addresses(policy)) {
                _ = writeln!(text, "ip saddr {address} th dport 443 accept");
            }
            text += "drop\n}\n";
        }
        text + &self.nftables_dispatch() + "}\n"
    }

    fn nftables_dispatch(self) -> String {
        let pods: Vec<_> =
            (0..self.pods).map(|pod| format!("{} : jump pod{pod}", local_address(pod))).collect();
        format!(
            "map pods {{ type ipv4_addr : verdict; elements = {{ {} }} }}
chain forward {{
type filter hook forward priority 0; policy accept;
ct state established,related accept
ip daddr vmap @pods
}}
",
            pods.join(", ")
        )
    }

    /// One more policy for the first pod, as [`Self::nftables_sets`] would have it.
    pub(crate) fn nftables_one_more(self) -> String {
        let policy = self.pods * self.policies;
        let peers = joined(self.addresses(policy));
        format!(
            "add set inet sluice policy{policy} {{ type ipv4_addr; elements = {{ {peers} }}; }}
insert rule inet sluice pod0 ip saddr @policy{policy} th dport 443 accept
"
        )
    }

    /// ipset: the peers of each policy are a set.
    pub(crate) fn ipset(self) -> String {
        (0..self.pods * self.policies).map(|policy| self.ipset_of(policy)).collect()
    }

    /// One policy's set.
    fn ipset_of(self, policy: u32) -> String {
        let most = self.peers.max(1024) * 2;
        let mut text = format!("create policy{policy} hash:ip maxelem {most}\n");
        for address in self.addresses(policy) {
            _ = writeln!(text, "add policy{policy} {address}");
        }
        text
    }

    /// iptables: a chain per pod, in which each policy is a match of its set.
    pub(crate) fn iptables(self) -> String {
        let mut text = "*filter\n".to_owned();
        for pod in 0..self.pods {
            _ = writeln!(text, ":POD{pod} - [0:0]");
        }
        text += "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT\n";
        for pod in 0..self.pods {
            _ = writeln!(text, "-A FORWARD -d {} -j POD{pod}", local_address(pod));
            self.policies_of(pod).for_each(|policy| text += &iptables_rules(pod, policy));
            _ = writeln!(text, "-A POD{pod} -j DROP");
        }
        text + "COMMIT\n"
    }

    /// One more policy for the first pod: its set, and its rules.
    pub(crate) fn ipset_one_more(self) -> (String, String) {
        let policy = self.pods * self.policies;
        let rules = iptables_rules(0, policy).replace("-A POD0", "-I POD0");
        (self.ipset_of(policy), format!("*filter\n{rules}COMMIT\n"))
    }
}

fn iptables_rules(pod: u32, policy: u32) -> String {
    let rule = |protocol| {
        let peers = format!("-m set --match-set policy{policy} src");
        format!("-A POD{pod} {peers} -p {protocol} --dport 443 -j ACCEPT\n")
    };
    rule("tcp") + &rule("udp")
}

fn joined(addresses: impl Iterator<Item = IpAddr>) -> String {
    addresses.map(|address| address.to_string()).collect::<Vec<_>>().join(", ")
}
