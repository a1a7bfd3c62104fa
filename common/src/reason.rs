//! Why a packet passed or was dropped: one enum, one counter and one metric label per value.

/// Room per endpoint and direction in `counters`.
pub const REASON_MAX: u32 = 32;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $value:literal, $label:literal, $outcome:ident;)+) => {
        /// Every outcome that a packet of a managed endpoint can have.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $($(#[doc = $doc])+ $name = $value,)+
        }

        impl Reason {
            /// All values, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The metric label, and the name in every other output.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// What becomes of a packet with this reason.
            #[inline(always)]
            pub const fn outcome(self) -> Outcome {
                match self { $(Self::$name => Outcome::$outcome,)+ }
            }

            /// From its number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($value => Some(Self::$name),)+ _ => None }
            }
        }
        $(const _: () = assert!($value < REASON_MAX);)+
    };
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It goes on, to the CNI's own programs and then on its way.
    Pass,
    /// It is dropped.
    Drop,
    /// Nothing: the value counts something else than a packet's verdict.
    Note,
}

reasons! {
    /// The direction is not isolated.
    NotIsolated = 0, "not-isolated", Pass;
    /// A rule allows it: the first packet of a flow.
    Allowed = 1, "allowed", Pass;
    /// It belongs to a flow that was judged before.
    Established = 2, "established", Pass;
    /// The node's own host stack sent it (kubelet probes).
    Host = 3, "host", Pass;
    /// The pod talks to itself, by its own address or through a service.
    OwnAddress = 4, "self", Pass;
    /// ARP, IPv6 neighbour discovery, MLD, duplicate address detection, DHCP.
    Control = 5, "control", Pass;
    /// An ICMP error about a flow that was judged before.
    RelatedError = 6, "related-error", Pass;
    /// No rule allows it.
    DefaultDeny = 8, "default-deny", Drop;
    /// A rule denies it.
    Denied = 9, "denied", Drop;
    /// It belongs to a flow that policy has taken back.
    Revoked = 10, "revoked", Drop;
    /// The policy set has no decision (it did not fit the tables): closed.
    Closed = 11, "closed", Drop;
    /// Its source address, or the address that it claims in ARP or neighbour discovery, is not the
    /// pod's.
    SpoofedSource = 12, "spoofed-source", Drop;
    /// A header ends after the packet does.
    Truncated = 13, "truncated", Drop;
    /// A length field contradicts the packet or the header it stands in.
    BadLength = 14, "bad-length", Drop;
    /// An Ethernet type that policy cannot judge, or ARP for other addresses than IPv4 on Ethernet.
    UnknownEthertype = 15, "unknown-ethertype", Drop;
    /// More VLAN tags than can be read.
    VlanDepth = 16, "vlan-depth", Drop;
    /// A later fragment of a packet whose first has not passed, or not lately.
    Fragment = 17, "fragment", Drop;
    /// A first fragment without the whole transport header, or one that overlaps it.
    TinyFragment = 18, "tiny-fragment", Drop;
    /// An IPv6 extension header that cannot be walked.
    UnknownExtension = 19, "unknown-extension", Drop;
    /// IPv6 "no next header".
    NoNextHeader = 20, "no-next-header", Drop;
    /// More extension headers than can be walked.
    HeaderChain = 21, "header-chain", Drop;
    /// A protocol that is none of TCP, UDP, SCTP, ICMP, ICMPv6.
    UnknownProtocol = 22, "unknown-protocol", Drop;
    /// An address that cannot stand in a packet (IPv4-mapped in IPv6, multicast source).
    MartianAddress = 23, "martian-address", Drop;
    /// Its flow has no place: another that lives cannot be told from it by what the table looks at.
    FlowTableFull = 24, "flow-table-full", Drop;
    /// The packet's bytes could not be read by the program.
    Unreadable = 25, "unreadable", Drop;
    /// The service's backends get different verdicts, and which of them it will be is not known here.
    MixedBackends = 26, "mixed-backends", Drop;
    /// A fragment that lies over what has passed of its packet, or came twice.
    OverlappingFragment = 27, "overlapping-fragment", Drop;
    /// Its flow took the place of another that lives and that both ends want: the table is full.
    FlowDisplaced = 29, "flow-displaced", Note;
    /// An event record was lost (rate limit or full ring).
    EventLost = 30, "event-lost", Note;
}
