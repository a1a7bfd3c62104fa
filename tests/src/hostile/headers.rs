//! Headers that stand between the Ethernet header and the port.

use sluice::engine::packet::echo;
use sluice_common::abi::Direction;
use sluice_common::parse::protocol;
use sluice_common::reason::Reason;

use super::{Hostile, OPEN, SHUT, error, judged, syn, v4, v6};
use crate::packet::{V4, V6, authentication, fragment, options, routing};

const HOP_BY_HOP: u8 = 0;
const DESTINATION: u8 = 60;
const NO_NEXT_HEADER: u8 = 59;

pub(super) fn packets(direction: Direction) -> Vec<Hostile> {
    let mut packets = ipv4_options(direction);
    packets.extend(ipv6_extensions(direction));
    packets.extend(ipv6_chains(direction));
    packets.extend(forged_errors(direction));
    packets
}

/// Options do not move the port.
fn ipv4_options(direction: Direction) -> Vec<Hostile> {
    // Where the ports of a packet without options stand, the options say 80.
    let fake = vec![1, 1, 0, 80, 1, 1, 1, 0];
    let with = |options: &[u8], port| V4 { options: options.into(), ..v4(direction, syn(port)) };
    let fake = judged("options like ports", direction, |port| with(&fake, port).frame());
    let longest = judged("longest options", direction, |port| with(&[1; 40], port).frame());
    fake.into_iter().chain(longest).collect()
}

/// Nor do extension headers.
fn ipv6_extensions(direction: Direction) -> Vec<Hostile> {
    // An options header whose content looks like ports 80 and 80.
    let disguised = |number| (number, vec![0, 0, 80, 0, 80, 0, 0]);
    let chains = [
        vec![disguised(HOP_BY_HOP)],
        vec![disguised(DESTINATION)],
        vec![routing(0)],
        vec![authentication()],
        vec![options(HOP_BY_HOP, 3), options(DESTINATION, 0), routing(0), options(DESTINATION, 9)],
        vec![options(HOP_BY_HOP, 255)],
        // A fragment header of a packet that is whole.
        vec![fragment(0, false)],
        vec![options(DESTINATION, 0); 8],
    ];
    let with = |chain: &Vec<_>, port| V6 { extensions: chain.clone(), ..v6(direction, syn(port)) };
    let judged =
        |chain| judged("extension headers", direction, move |port| with(chain, port).frame());
    chains.iter().flat_map(judged).collect()
}

/// Chains that cannot be walked to their end.
fn ipv6_chains(direction: Direction) -> Vec<Hostile> {
    let open = || v6(direction, syn(OPEN));
    let with = |extension| open().with(extension);
    let packets = [
        ("mobility", with((135, vec![0; 7])), Reason::UnknownExtension),
        ("experiment", with((253, vec![0; 7])), Reason::UnknownExtension),
        ("encrypted", with((50, vec![0; 7])), Reason::UnknownExtension),
        (
            "hop-by-hop options that do not come first",
            with(options(DESTINATION, 0)).with(options(HOP_BY_HOP, 0)),
            Reason::UnknownExtension,
        ),
        ("route to another destination", with(routing(1)), Reason::UnknownExtension),
        ("authentication, shortest", with((51, vec![0; 7])), Reason::BadLength),
        (
            "nothing",
            V6 { protocol: NO_NEXT_HEADER, ..v6(direction, Vec::new()) },
            Reason::NoNextHeader,
        ),
        (
            "something behind the last",
            V6 { protocol: NO_NEXT_HEADER, ..with(options(DESTINATION, 0)) },
            Reason::NoNextHeader,
        ),
        (
            "options longer than the packet",
            with((DESTINATION, vec![9, 0, 0, 0, 0, 0, 0])),
            Reason::Truncated,
        ),
        (
            "options that end in their beginning",
            V6 { protocol: DESTINATION, ..v6(direction, vec![6, 0, 0, 0]) },
            Reason::Truncated,
        ),
        ("OSPF", V6 { protocol: 89, ..v6(direction, vec![0; 20]) }, Reason::UnknownProtocol),
        (
            "ICMP of the other family",
            V6 { protocol: protocol::ICMP, ..v6(direction, echo(8, 1)) },
            Reason::UnknownProtocol,
        ),
        (
            "nine headers",
            V6 { extensions: vec![options(DESTINATION, 0); 9], ..open() },
            Reason::HeaderChain,
        ),
    ];
    packets
        .into_iter()
        .map(|(name, packet, reason)| Hostile::new(name, direction, packet.frame(), reason))
        .collect()
}

/// Errors about packets that nobody has sent, and errors about errors: policy denies them.
fn forged_errors(direction: Direction) -> Vec<Hostile> {
    let deny = |name, frame| Hostile::new(name, direction, frame, Reason::DefaultDeny);
    let fragmentation_needed = [3, 4, 0, 0, 0, 0, 5, 0];
    let too_big = [2, 0, 0, 0, 0, 0, 5, 0];
    // What it quotes would have gone the other way.
    let sent4 = v4(direction.reverse(), syn(SHUT)).bytes();
    let sent6 = v6(direction.reverse(), syn(SHUT)).bytes();
    let error4 = error(direction, fragmentation_needed, &sent4, true);
    let error6 = error(direction, too_big, &sent6, false);
    vec![
        deny("error about an error", error(direction, fragmentation_needed, &error4[14..], true)),
        deny("error about an error, IPv6", error(direction, too_big, &error6[14..], false)),
        deny("error about nothing", error(direction, fragmentation_needed, &[], true)),
        deny("error about nothing, IPv6", error(direction, too_big, &[], false)),
        deny("quoted packet of the other family", error(direction, too_big, &sent4, false)),
        deny("error about no flow", error4),
        deny("error about no flow, IPv6", error6),
    ]
}
