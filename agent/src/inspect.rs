//! What the kernel tables say of a pod, by name: read from the pins and the agent's notes, so that it
//! works without an agent too.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;
use sluice_common::abi::{
    Address, CIDR_KEY_BITS, ClassId, Decision, DecisionKey, Direction, Endpoint, Flow, FlowKey,
    FlowState, SetId, UNCLASSIFIED, Verdict,
};
use sluice_common::reason::Outcome;
use sluice_policy::diff::KernelState;
use sluice_policy::model::{PodName, direction_label};
use sluice_policy::names::Names;
use sluice_policy::tables::{Prefix, Tables};

use crate::datapath::attach::{self, DIRECTIONS};
use crate::datapath::pins::{links_of, maps_of};
use crate::datapath::{KernelMaps, MapFault};
use crate::state::{State, StateError};
use crate::status::{EndpointStatus, EnforcementState, InterfaceStatus, Status, TableStatus};

/// Bits of a [`Prefix`] of `cidrs` before the first address bit.
const SET_BITS: u32 = 32;

/// Why nothing could be read.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// No agent has pinned anything there.
    #[error("nothing is pinned in {}: no agent enforces with it", .0.display())]
    NothingPinned(PathBuf),
    /// The tables were made by an agent with another layout.
    #[error("the tables in {} have layout {found}, this sluice reads {expected}", pins.display())]
    ForeignAbi {
        /// The directory.
        pins: PathBuf,
        /// Their layout's version.
        found: u32,
        /// Ours.
        expected: u32,
    },
    /// A table.
    #[error(transparent)]
    Table(#[from] MapFault),
    /// The notes.
    #[error(transparent)]
    Notes(#[from] StateError),
    /// The pinned links.
    #[error(transparent)]
    Links(#[from] attach::AttachError),
}

/// One pod's view of the tables. Field names are a contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PodView {
    /// `namespace/name`; `slot N` where the notes do not say.
    pub pod: String,
    /// Its addresses in the tables.
    pub addresses: Vec<IpAddr>,
    /// Slot.
    pub slot: u32,
    /// Number of the incarnation.
    pub epoch: u32,
    /// Interfaces that are led to the slot, by index.
    pub interfaces: Vec<u32>,
    /// Per direction.
    pub directions: Vec<DirectionView>,
    /// Tracked flows.
    pub flows: Vec<FlowView>,
    /// What became of its packets.
    pub counters: Vec<CounterView>,
}

/// One direction of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DirectionView {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Number of the policy set; 0: not isolated.
    pub set: SetId,
    /// The policies in it.
    pub policies: String,
    /// What it says to each class of peers. An isolated direction without any is closed.
    pub classes: Vec<ClassView>,
    /// Blocks of addresses that it tells apart, with their class.
    pub blocks: Vec<BlockView>,
}

/// What a set says to a class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ClassView {
    /// Number of the class; 0: everyone else.
    pub class: ClassId,
    /// Who is in it.
    pub peers: String,
    /// Pods' addresses of this class, or services' addresses and ports.
    pub addresses: usize,
    /// By protocol and ports; the narrowest that fits a packet counts.
    pub ports: Vec<PortView>,
}

/// A decision on ports.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PortView {
    /// `any`, or the protocol.
    pub protocol: String,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// The rule.
    pub decided_by: String,
}

/// A block of addresses of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockView {
    /// Block, as `address/bits`.
    pub block: String,
    /// Number of the class.
    pub class: ClassId,
}

/// A tracked flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowView {
    /// The other end.
    pub remote: IpAddr,
    /// Its port.
    pub remote_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// The protocol.
    pub protocol: String,
    /// Direction of the first packet.
    pub initiator: &'static str,
    /// Its state.
    pub state: String,
    /// The node's own host stack opened it.
    pub host: bool,
}

/// Packets and bytes with one outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CounterView {
    /// `ingress` or `egress`.
    pub direction: &'static str,
    /// Reason label.
    pub reason: &'static str,
    /// They were dropped.
    pub dropped: bool,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Pinned tables and notes, opened to look at.
struct Pinned {
    maps: KernelMaps,
    state: KernelState,
    notes: State,
    led: BTreeMap<u32, u32>,
}

impl Pinned {
    fn open(bpffs: &Path, state_dir: &Path) -> Result<Self, InspectError> {
        let pins = maps_of(bpffs);
        let maps = match KernelMaps::open(&pins) {
            Err(MapFault::Missing(_)) => return Err(InspectError::NothingPinned(bpffs.into())),
            maps => maps?,
        };
        let control = maps.control()?;
        let expected = sluice_common::abi::ABI_VERSION;
        if control.abi_version != expected {
            let found = control.abi_version;
            return Err(InspectError::ForeignAbi { pins, found, expected });
        }
        let (state, led) = (maps.state()?, maps.slots()?);
        let notes = State::load(state_dir)?.unwrap_or_default();
        Ok(Self { maps, state, notes, led })
    }

    /// Name of a slot's pod.
    fn name(&self, slot: u32) -> Option<&PodName> {
        self.notes.places.iter().find(|(_, place)| place.slot == slot).map(|(pod, _)| pod)
    }

    fn interfaces(&self, slot: u32) -> Vec<u32> {
        self.led.iter().filter(|(_, to)| **to == slot).map(|(ifindex, _)| *ifindex).collect()
    }
}

/// The views of all pods in the tables, or of one.
///
/// # Errors
/// [`InspectError`].
pub fn pods(
    bpffs: &Path,
    state_dir: &Path,
    only: Option<&PodName>,
) -> Result<Vec<PodView>, InspectError> {
    let pinned = Pinned::open(bpffs, state_dir)?;
    let tables = pinned.state.view();
    let flows = pinned.maps.flows()?;
    let mut views = Vec::new();
    for (slot, endpoint) in &tables.endpoints {
        let name = pinned.name(*slot);
        if only.is_none() || only == name {
            views.push(view(&pinned, &tables, &flows, *slot, endpoint, name)?);
        }
    }
    views.sort_by(|a, b| a.pod.cmp(&b.pod));
    Ok(views)
}

/// What is enforced according to the pins alone.
///
/// # Errors
/// [`InspectError`]; [`InspectError::NothingPinned`] where nothing is.
pub fn status_of_pins(bpffs: &Path, state_dir: &Path) -> Result<Status, InspectError> {
    let pinned = Pinned::open(bpffs, state_dir)?;
    let attached = attach::pinned(&links_of(bpffs))?;
    let tables = pinned.state.view();
    let endpoints = tables
        .endpoints
        .iter()
        .map(|(slot, endpoint)| {
            let interfaces = pinned.interfaces(*slot);
            let (ingress, egress) =
                (endpoint.is_governed(Direction::Ingress), endpoint.is_governed(Direction::Egress));
            let is_attached = interfaces.iter().any(|ifindex| attached.contains(ifindex));
            let state = match (ingress || egress, is_attached) {
                (false, _) => EnforcementState::NotIsolated,
                (true, true) => EnforcementState::Enforced,
                (true, false) => EnforcementState::NotEnforced,
            };
            let index_only =
                |ifindex: &u32| InterfaceStatus { ifindex: *ifindex, ..InterfaceStatus::default() };
            EndpointStatus {
                pod: pinned.name(*slot).map_or_else(|| format!("slot {slot}"), ToString::to_string),
                addresses: addresses(endpoint),
                interfaces: interfaces.iter().map(index_only).collect(),
                slot: *slot,
                epoch: endpoint.epoch,
                ingress,
                egress,
                state,
                reason: None,
            }
        })
        .collect();
    let control = pinned.maps.control()?;
    Ok(Status {
        generation: control.generation,
        abi_version: control.abi_version,
        endpoints,
        tables: TableStatus::of(&tables),
        ..Status::default()
    })
}

fn addresses(endpoint: &Endpoint) -> Vec<IpAddr> {
    let own = [endpoint.v4, endpoint.v6].into_iter().filter(|a| !a.is_unspecified());
    own.map(IpAddr::from).collect()
}

fn view(
    pinned: &Pinned,
    tables: &Tables,
    flows: &[(FlowKey, Flow)],
    slot: u32,
    endpoint: &Endpoint,
    name: Option<&PodName>,
) -> Result<PodView, InspectError> {
    let own = flows.iter().filter(|(key, _)| key.epoch == endpoint.epoch);
    let counters =
        pinned.maps.snapshot(slot)?.into_iter().map(|((direction, reason), counter)| CounterView {
            direction: direction_label(direction),
            reason: reason.label(),
            dropped: reason.outcome() == Outcome::Drop,
            packets: counter.packets,
            bytes: counter.bytes,
        });
    let names = &pinned.notes.names;
    Ok(PodView {
        pod: name.map_or_else(|| format!("slot {slot}"), ToString::to_string),
        addresses: addresses(endpoint),
        slot,
        epoch: endpoint.epoch,
        interfaces: pinned.interfaces(slot),
        directions: DIRECTIONS
            .iter()
            .map(|direction| direction_view(*direction, endpoint.set(*direction), tables, names))
            .collect(),
        flows: own.map(|(key, flow)| flow_view(key, flow)).collect(),
        counters: counters.collect(),
    })
}

fn direction_view(
    direction: Direction,
    set: SetId,
    tables: &Tables,
    names: &Names,
) -> DirectionView {
    let mut by_class: BTreeMap<ClassId, Vec<(&Prefix<DecisionKey>, &Decision)>> = BTreeMap::new();
    for (prefix, decision) in &tables.decisions {
        if set != 0 && prefix.key.set() == set && !decision.is_absent() {
            by_class.entry(prefix.key.class()).or_default().push((prefix, decision));
        }
    }
    let classes = by_class
        .into_iter()
        .map(|(class, decisions)| ClassView {
            class,
            peers: match class {
                UNCLASSIFIED => "everyone else".into(),
                class => names.classes.get(&class).cloned().unwrap_or_default(),
            },
            addresses: tables
                .peers
                .values()
                .chain(tables.vips.values())
                .filter(|c| **c == class)
                .count(),
            ports: port_views(&decisions, names),
        })
        .collect();
    let blocks = tables
        .cidrs
        .iter()
        .filter(|(prefix, _)| set != 0 && prefix.key.set() == set)
        .map(|(prefix, class)| BlockView {
            block: block(&prefix.key.address, prefix.bits.saturating_sub(SET_BITS)),
            class: *class,
        })
        .collect();
    DirectionView {
        direction: direction_label(direction),
        set,
        policies: names.sets.get(&set).cloned().unwrap_or_default(),
        classes,
        blocks,
    }
}

/// The decisions as port ranges; neighbours that say the same are one.
fn port_views(decisions: &[(&Prefix<DecisionKey>, &Decision)], names: &Names) -> Vec<PortView> {
    let mut views: Vec<PortView> = Vec::new();
    for (prefix, decision) in decisions {
        let whole = prefix.bits <= DecisionKey::BITS_PROTOCOL;
        let port_bits = DecisionKey::BITS.saturating_sub(prefix.bits);
        let (first, last) = if whole {
            (0, u16::MAX)
        } else {
            let first = prefix.key.port();
            (first, first | ((1_u32 << port_bits) - 1) as u16)
        };
        let next = PortView {
            protocol: match prefix.bits {
                DecisionKey::BITS_ANY => "any".into(),
                _ => protocol(prefix.key.protocol()),
            },
            first,
            last,
            verdict: if decision.verdict == Verdict::Allow as u32 { "allow" } else { "deny" },
            decided_by: names.decided_by(Some(decision)).to_string(),
        };
        match views.last_mut() {
            Some(last)
                if last.protocol == next.protocol
                    && last.last.checked_add(1) == Some(next.first)
                    && (last.verdict, &last.decided_by) == (next.verdict, &next.decided_by) =>
            {
                last.last = next.last;
            }
            _ => views.push(next),
        }
    }
    views
}

/// A block whose prefix counts from the 128-bit form of the address.
fn block(address: &Address, bits: u32) -> String {
    const MAPPED: u32 = 96;
    debug_assert!(bits + SET_BITS <= CIDR_KEY_BITS, "a prefix of this table");
    if address.is_v4() && bits >= MAPPED {
        format!("{}/{}", IpAddr::from(*address), bits - MAPPED)
    } else {
        format!("{}/{bits}", std::net::Ipv6Addr::from(address.octets()))
    }
}

fn flow_view(key: &FlowKey, flow: &Flow) -> FlowView {
    let state = [
        (FlowState::Opening, "opening"),
        (FlowState::Established, "established"),
        (FlowState::Closing, "closing"),
        (FlowState::Revoked, "revoked"),
    ];
    let known = state.iter().find(|(state, _)| *state as u32 == flow.state);
    FlowView {
        remote: key.remote.into(),
        remote_port: u16::from_be(key.remote_port_be),
        local_port: u16::from_be(key.local_port_be),
        protocol: protocol(u8::try_from(key.protocol).unwrap_or_default()),
        initiator: if flow.initiator == Direction::Ingress as u32 { "ingress" } else { "egress" },
        state: known.map_or_else(|| flow.state.to_string(), |(_, label)| (*label).into()),
        host: flow.flags & Flow::FLAG_HOST != 0,
    }
}

fn protocol(number: u8) -> String {
    match number {
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decision(verdict: Verdict) -> Decision {
        Decision { verdict: verdict as u32, rank: 0, rule: 0 }
    }

    #[test]
    fn neighbouring_prefixes_that_say_the_same_are_one_range() {
        let key = |bits, port| Prefix { key: DecisionKey::new(1, 2, 6, port), bits };
        let any = Prefix { key: DecisionKey::new(1, 2, 0, 0), bits: DecisionKey::BITS_ANY };
        let (allow, deny) = (decision(Verdict::Allow), decision(Verdict::Deny));
        let (a, b, c) = (key(95, 80), key(96, 82), key(96, 84));
        let views = port_views(
            &[(&any, &deny), (&a, &allow), (&b, &allow), (&c, &allow)],
            &Names::default(),
        );
        let ranges: Vec<_> =
            views.iter().map(|v| (v.protocol.as_str(), v.first, v.last, v.verdict)).collect();
        assert_eq!(
            ranges,
            [("any", 0, 65535, "deny"), ("TCP", 80, 82, "allow"), ("TCP", 84, 84, "allow")]
        );
    }

    #[test]
    fn blocks_are_written_in_their_own_family() {
        let v4: IpAddr = "10.0.0.0".parse().expect("v4");
        let v6: IpAddr = "fd00::".parse().expect("v6");
        assert_eq!(block(&v4.into(), 96 + 8), "10.0.0.0/8");
        assert_eq!(block(&v6.into(), 8), "fd00::/8");
        assert_eq!(block(&Address::UNSPECIFIED, 0), "::/0");
    }
}
