//! One isolated pod that some number of peers may reach on one port.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, ensure};
use sluice::datapath::events::Events;
use sluice::datapath::{Datapath, LoadOptions};
use sluice_common::abi::{
    Address, ClassId, Decision, DecisionKey, Direction, Endpoint, EndpointFlags, RULE_DEFAULT,
    RuleId, SET_NONE, SetId, UNCLASSIFIED, Verdict, Versioned,
};
use sluice_common::reason::Reason;
use sluice_policy::diff::Op;
use sluice_policy::tables::Prefix;

use sluice_benches::packet::{self, Tuple};
use sluice_benches::raw::Program;

/// The port that peers may reach.
pub(crate) const OPEN_PORT: u16 = 8080;
/// A port that nobody may reach.
pub(crate) const CLOSED_PORT: u16 = 9090;

const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const FIRST_PEER: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const LOOPBACK: u32 = 1;
const SLOT: u32 = 1;
const SET: SetId = 1;
const CLASS: ClassId = 1;
const RULE: RuleId = 1;
const TCP: u8 = 6;

/// The loaded programs over tables that say so.
pub(crate) struct Scene {
    datapath: Datapath,
    peers: u32,
}

impl Scene {
    pub(crate) fn new(peers: u32) -> anyhow::Result<Self> {
        Self::with(peers, &LoadOptions::default())
    }

    pub(crate) fn with(peers: u32, options: &LoadOptions) -> anyhow::Result<Self> {
        let mut datapath = Datapath::load(options).context("cannot load the programs")?;
        let maps = datapath.maps();
        maps.apply(&tables(peers))?;
        maps.set_slot(LOOPBACK, SLOT)?;
        Ok(Self { datapath, peers })
    }

    pub(crate) fn program(&self, direction: Direction) -> anyhow::Result<Program> {
        let fd = self.datapath.program(direction)?.fd()?;
        Ok(Program::from_fd(fd.as_fd().try_clone_to_owned()?))
    }

    /// A packet of the first peer.
    pub(crate) fn peer_packet(&self, flags: u8, port: u16) -> Vec<u8> {
        packet::tcp(Tuple { source: (FIRST_PEER, 40_000), destination: (POD, port) }, flags)
    }

    /// Lets the first peer connect, and gives a packet of the connection.
    pub(crate) fn open_connection(&self) -> anyhow::Result<Vec<u8>> {
        let tuple = Tuple { source: (FIRST_PEER, 40_000), destination: (POD, OPEN_PORT) };
        let (ingress, egress) =
            (self.program(Direction::Ingress)?, self.program(Direction::Egress)?);
        ingress.run(&packet::tcp(tuple, packet::SYN), 1, crate::PASS)?;
        egress.run(&packet::tcp(tuple.reply(), packet::SYN_ACK), 1, crate::PASS)?;
        let data = packet::tcp(tuple, packet::ACK);
        ingress.run(&data, 1, crate::PASS)?;
        Ok(data)
    }

    /// The address of the first peer; the others follow it.
    pub(crate) const fn first_peer(&self) -> Ipv4Addr {
        FIRST_PEER
    }

    /// A mask that leaves only numbers of peers, and as many as a mask can.
    pub(crate) const fn peer_mask(&self) -> u32 {
        (1 << self.peers.ilog2()) - 1
    }

    /// The reader of the records of drops; there is one.
    pub(crate) fn take_events(&mut self) -> anyhow::Result<Events> {
        self.datapath.maps().take_events().context("the records have a reader already")
    }

    /// Records of drops that were lost so far, as the program counts them.
    pub(crate) fn lost_records(&mut self) -> anyhow::Result<u64> {
        let counted = self.datapath.maps().snapshot(SLOT)?;
        let lost = counted.get(&(Direction::Ingress, Reason::EventLost));
        Ok(lost.map_or(0, |counter| counter.packets))
    }

    pub(crate) fn forget_flows(&mut self) -> anyhow::Result<()> {
        let maps = self.datapath.maps();
        for (key, _) in maps.flows()? {
            maps.remove_flow(&key)?;
        }
        Ok(())
    }

    /// Fails unless the flow table holds that many flows.
    pub(crate) fn expect_flows(&mut self, expected: u32) -> anyhow::Result<()> {
        let flows = self.datapath.maps().flows()?.len();
        ensure!(flows == usize::try_from(expected)?, "{flows} flows were opened, not {expected}");
        Ok(())
    }
}

fn tables(peers: u32) -> Vec<Op> {
    let pod = Endpoint {
        sets: [SET, SET_NONE],
        epoch: 1,
        flags: EndpointFlags::PRESENT,
        v4: Address::from(IpAddr::from(POD)),
        v6: Address::UNSPECIFIED,
    };
    let decision = |class, protocol, port, bits, verdict: Verdict, rule| {
        let key = DecisionKey::new(SET, class, protocol, port);
        let decision = Decision { verdict: verdict as u32, rank: 0, rule };
        Op::Decision(Prefix { key, bits }, Versioned::settled(decision))
    };
    let any = DecisionKey::BITS_ANY;
    let mut ops = vec![
        Op::Endpoint(SLOT, Versioned::settled(pod)),
        decision(UNCLASSIFIED, 0, 0, any, Verdict::Deny, RULE_DEFAULT),
        decision(CLASS, 0, 0, any, Verdict::Deny, RULE_DEFAULT),
        decision(CLASS, TCP, OPEN_PORT, DecisionKey::BITS, Verdict::Allow, RULE),
    ];
    ops.extend((0..peers).map(|peer| {
        let address = Ipv4Addr::from(u32::from(FIRST_PEER) + peer);
        Op::Peer(Address::from(IpAddr::from(address)), Versioned::settled(CLASS))
    }));
    ops
}
