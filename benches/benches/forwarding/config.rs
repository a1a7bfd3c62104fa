//! What stands in the packets' way.

use std::os::fd::OwnedFd;

use anyhow::Context as _;
use aya::programs::TcAttachType;
use sluice_benches::raw::{Hook, Program};
use sluice_common::abi::Direction;

use crate::node::Node;
use crate::policies::Scale;
use crate::sluice_tables::Sluice;

/// A way to enforce the policies, or something to compare it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Config {
    /// Nothing: the node forwards.
    None,
    /// A tc program that does nothing on both hooks of every pod.
    EmptyTc,
    /// The kernel tracks connections, as it does wherever kube-proxy translates services.
    Conntrack,
    /// sluice.
    Sluice,
    /// sluice where the kernel tracks connections as well.
    SluiceConntrack,
    /// nftables: a chain per pod, peers in sets.
    NftSets,
    /// nftables: a chain per pod, a rule for each peer.
    NftLinear,
    /// iptables: a chain per pod, peers in ipsets.
    Ipset,
}

impl Config {
    /// All, in the order in which they are shown.
    pub(crate) const ALL: [Self; 8] = [
        Self::None,
        Self::EmptyTc,
        Self::Sluice,
        Self::Conntrack,
        Self::SluiceConntrack,
        Self::NftSets,
        Self::NftLinear,
        Self::Ipset,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::EmptyTc => "empty-tc",
            Self::Conntrack => "conntrack",
            Self::Sluice => "sluice",
            Self::SluiceConntrack => "sluice+conntrack",
            Self::NftSets => "nft-sets",
            Self::NftLinear => "nft-linear",
            Self::Ipset => "ipset",
        }
    }

    /// Puts it into force on a node, for as long as the result and the node live.
    pub(crate) fn install(self, node: &Node, scale: Scale) -> anyhow::Result<InForce> {
        let nft = |rules: &str| node.node.run("nft", &["-f", "-"], rules);
        let mut in_force = InForce { _sluice: None, _links: Vec::new() };
        let installed = match self {
            Self::None => Ok(()),
            Self::EmptyTc => empty(node).map(|links| in_force._links = links),
            Self::Conntrack => nft(TRACKING),
            Self::Sluice => sluice(node, scale).map(|s| in_force._sluice = Some(s)),
            Self::SluiceConntrack => {
                nft(TRACKING).and_then(|()| sluice(node, scale)).map(|s| in_force._sluice = Some(s))
            }
            Self::NftSets => nft(&scale.nftables_sets()),
            Self::NftLinear => nft(&scale.nftables_linear()),
            Self::Ipset => node
                .node
                .run("ipset", &["restore"], &scale.ipset())
                .and_then(|()| node.node.run("iptables-restore", &["-w"], &scale.iptables())),
        };
        installed.with_context(|| format!("{} with {scale:?}", self.name()))?;
        Ok(in_force)
    }
}

/// Makes the kernel track what is forwarded.
const TRACKING: &str = "table inet sluice {
chain forward {
type filter hook forward priority 0; policy accept;
ct state established,related accept
}
}
";

/// What must live as long as a configuration is to be in force.
pub(crate) struct InForce {
    _sluice: Option<Sluice>,
    _links: Vec<OwnedFd>,
}

fn empty(node: &Node) -> anyhow::Result<Vec<OwnedFd>> {
    let program = Program::empty()?;
    let interfaces = node.interfaces()?;
    node.node.inside(|| {
        let hooks = interfaces.iter().flat_map(|(ifindex, _)| {
            [Hook::Ingress, Hook::Egress].map(|hook| program.attach(*ifindex, hook))
        });
        hooks.collect()
    })
}

fn sluice(node: &Node, scale: Scale) -> anyhow::Result<Sluice> {
    let mut sluice = Sluice::load()?;
    sluice.enforce_all(&scale.world())?;
    for (ifindex, pod) in node.interfaces()? {
        // Slots begin at 1.
        sluice.datapath.maps().set_slot(ifindex, pod + 1)?;
        for (direction, hook) in
            [(Direction::Ingress, TcAttachType::Egress), (Direction::Egress, TcAttachType::Ingress)]
        {
            let program = sluice.datapath.program_mut(direction)?;
            node.node.inside(|| Ok(program.attach(ifindex, hook)?))?;
        }
    }
    Ok(sluice)
}
