//! Interfaces, namespace numbers and addresses by rtnetlink.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsRawFd as _;

use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::AddressAttribute;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::{AddressGetRequest, Handle, MulticastGroup};
use sluice_common::abi::Direction;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Interface index in one namespace.
pub type IfIndex = u32;

/// Why the kernel could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum LinksError {
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Socket(#[from] io::Error),
    /// A request failed.
    #[error("cannot ask the kernel for {what}: {error}")]
    Request {
        /// What was asked for.
        what: &'static str,
        /// Its answer.
        error: rtnetlink::Error,
    },
}

/// A veth of this namespace whose peer is in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Index here.
    pub ifindex: IfIndex,
    /// Name here.
    pub name: String,
    /// Number, as seen from here, of the namespace that the peer is in.
    pub peer_nsid: i32,
    /// The peer's index there. Means nothing without [`Self::peer_nsid`].
    pub peer_ifindex: IfIndex,
}

/// A filter of a qdisc.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// The program's name, or [`Self::kind`] where it is no program.
    pub name: String,
    /// Its kind; `bpf` for a program.
    pub kind: String,
    /// The program's number in the kernel.
    pub program: Option<u32>,
    /// Packets meet a lower priority first.
    pub priority: u16,
    /// Which packets it is for: an EtherType in the byte order of the wire.
    pub protocol: u16,
    /// Its handle among those of its priority.
    pub handle: u32,
    /// Packets begin with chain 0.
    pub chain: u32,
}

impl Filter {
    /// What the kernel says of a filter. A dump has an element per priority besides those per filter; it
    /// has no options, and is none.
    pub(crate) fn read(message: &TcMessage) -> Option<Self> {
        let (mut kind, mut options, mut chain) = (None, None, 0);
        for attribute in &message.attributes {
            match attribute {
                TcAttribute::Kind(value) => kind = Some(value.clone()),
                TcAttribute::Options(value) => options = Some(value),
                TcAttribute::Chain(value) => chain = *value,
                _ => {}
            }
        }
        let (mut name, mut program) = (None, None);
        for option in options? {
            match option {
                TcOption::Bpf(TcFilterBpfOption::ProgName(value)) => name = Some(value.clone()),
                TcOption::Bpf(TcFilterBpfOption::ProgId(value)) => program = Some(*value),
                _ => {}
            }
        }
        let kind = kind?;
        let info = message.header.info;
        Some(Self {
            name: name.unwrap_or_else(|| kind.clone()),
            kind,
            program,
            priority: (info >> 16) as u16,
            protocol: info as u16,
            handle: message.header.handle.into(),
            chain,
        })
    }
}

/// A netlink connection, served by a task that ends with this value.
#[derive(Debug)]
pub struct Links {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Links {
    /// Opens the connection, in the network namespace of the calling thread. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`LinksError::Socket`].
    pub fn open() -> Result<Self, LinksError> {
        // Without the strict check the kernel ignores IFA_TARGET_NETNSID and answers for this namespace.
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// All veths with the peer in another namespace. The kernel numbers that namespace while it
    /// answers, so [`Self::nsid`] must be asked afterwards.
    ///
    /// # Errors
    /// [`LinksError::Request`].
    pub async fn host_links(&self) -> Result<Vec<HostLink>, LinksError> {
        let failed = |error| LinksError::Request { what: "its interfaces", error };
        let links: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed)?;
        Ok(links.iter().filter_map(host_link).collect())
    }

    /// Number of a namespace as seen from here. The kernel numbers one by itself only where a link leads
    /// there; one that a macvlan was made in, say, has no number until it is given one here. `None`
    /// where that fails.
    ///
    /// # Errors
    /// [`LinksError::Request`].
    pub async fn nsid(&self, netns: &File) -> Result<Option<i32>, LinksError> {
        if let Some(nsid) = self.given_nsid(netns).await? {
            return Ok(Some(nsid));
        }
        let mut message = NsidMessage::default();
        let any = NsidAttribute::Id(-1);
        message.attributes.extend([NsidAttribute::Fd(netns.as_raw_fd().unsigned_abs()), any]);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNsId(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
        // That it fails, or that somebody else was first, is seen when it is asked for again.
        if let Ok(mut answers) = self.handle.clone().request(request) {
            while answers.next().await.is_some() {}
        }
        self.given_nsid(netns).await
    }

    async fn given_nsid(&self, netns: &File) -> Result<Option<i32>, LinksError> {
        let failed = |error| LinksError::Request { what: "a namespace's number", error };
        let mut message = NsidMessage::default();
        // A descriptor is never negative.
        message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().unsigned_abs()));
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
        request.header.flags = NLM_F_REQUEST;
        let mut answers = self.handle.clone().request(request).map_err(failed)?;
        while let Some(answer) = answers.next().await {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(nsid)) => {
                    return Ok(nsid.attributes.iter().find_map(|attribute| match attribute {
                        NsidAttribute::Id(id) if *id >= 0 => Some(*id),
                        _ => None,
                    }));
                }
                NetlinkPayload::Error(error) => {
                    return Err(failed(rtnetlink::Error::NetlinkError(error)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// The interfaces inside a namespace that are no veths.
    ///
    /// # Errors
    /// [`LinksError::Request`].
    pub async fn other_than_veths(&self, nsid: i32) -> Result<BTreeSet<IfIndex>, LinksError> {
        let failed = |error| LinksError::Request { what: "a namespace's interfaces", error };
        let mut request = self.handle.link().get();
        request.message_mut().attributes.push(LinkAttribute::IfNetnsId(nsid));
        let links: Vec<LinkMessage> = request.execute().try_collect().await.map_err(failed)?;
        let other = links.iter().filter(|link| !is_veth(link));
        Ok(other.map(|link| link.header.index).collect())
    }

    /// The addresses inside a namespace, by the index of the interface there.
    ///
    /// # Errors
    /// [`LinksError::Request`].
    pub async fn addresses(&self, nsid: i32) -> Result<BTreeMap<IfIndex, Vec<IpAddr>>, LinksError> {
        let mut request = self.handle.address().get();
        request.message_mut().attributes.push(AddressAttribute::TargetNetNsId(nsid));
        Self::answered(request, "a namespace's addresses").await
    }

    /// The node's own addresses, by the index of the interface.
    ///
    /// # Errors
    /// [`LinksError::Request`].
    pub async fn own_addresses(&self) -> Result<BTreeMap<IfIndex, Vec<IpAddr>>, LinksError> {
        Self::answered(self.handle.address().get(), "its addresses").await
    }

    async fn answered(
        request: AddressGetRequest,
        what: &'static str,
    ) -> Result<BTreeMap<IfIndex, Vec<IpAddr>>, LinksError> {
        let failed = |error| LinksError::Request { what, error };
        let mut found: BTreeMap<IfIndex, Vec<IpAddr>> = BTreeMap::new();
        let mut answers = request.execute();
        while let Some(message) = answers.try_next().await.map_err(failed)? {
            // IPv4: `Address` is the other end of a point-to-point link, `Local` the own address. IPv6
            // has `Address` alone unless a peer is set.
            let own = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(address) => Some(*address),
                _ => None,
            });
            let any = message.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Address(address) => Some(*address),
                _ => None,
            });
            if let Some(address) = own.or(any) {
                found.entry(message.header.index).or_default().push(address);
            }
        }
        Ok(found)
    }

    /// Filters on the ingress and egress hooks of an interface's clsact qdisc, if it has one: direction
    /// (the pod's) and the program's name, or the filter's kind where it is no program.
    ///
    /// # Errors
    /// [`LinksError::Request`].
    pub async fn filters(&self, ifindex: IfIndex) -> Result<Vec<(Direction, String)>, LinksError> {
        let failed = |error| LinksError::Request { what: "an interface's filters", error };
        let index = i32::try_from(ifindex).unwrap_or_default();
        let mut found = BTreeSet::new();
        for direction in [Direction::Ingress, Direction::Egress] {
            let request = self.handle.traffic_filter(index).get();
            // The pod's ingress is the egress of its host-side interface.
            let request = match direction {
                Direction::Ingress => request.egress(),
                Direction::Egress => request.ingress(),
            };
            let filters: Vec<TcMessage> = request.execute().try_collect().await.map_err(failed)?;
            found.extend(
                filters.iter().filter_map(Filter::read).map(|filter| (direction, filter.name)),
            );
        }
        Ok(found.into_iter().collect())
    }
}

/// Sends a message on `changed` whenever an interface of this namespace changes, until the receiver
/// is gone. Messages that were not taken yet count for later changes as well.
///
/// # Errors
/// [`LinksError::Socket`].
pub fn watch(changed: mpsc::Sender<()>) -> Result<JoinHandle<()>, LinksError> {
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link])?;
    Ok(tokio::spawn(async move {
        let connection = tokio::spawn(connection);
        // The connection ends when its handle does.
        let _handle = handle;
        while messages.next().await.is_some() {
            if let Err(mpsc::error::TrySendError::Closed(())) = changed.try_send(()) {
                break;
            }
        }
        connection.abort();
    }))
}

fn host_link(message: &LinkMessage) -> Option<HostLink> {
    let mut name = None;
    let mut peer_nsid = None;
    let mut peer_ifindex = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::LinkNetNsId(value) => peer_nsid = Some(*value),
            LinkAttribute::Link(value) => peer_ifindex = Some(*value),
            _ => {}
        }
    }
    let link = HostLink {
        ifindex: message.header.index,
        name: name?,
        peer_nsid: peer_nsid?,
        peer_ifindex: peer_ifindex?,
    };
    is_veth(message).then_some(link)
}

fn is_veth(message: &LinkMessage) -> bool {
    message.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Veth)),
        _ => false,
    })
}
