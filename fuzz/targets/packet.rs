//! The packet parser on any bytes: it never panics, everything in a slice is readable to it, and
//! where it and etherparse both read a packet they read the same.
#![no_main]

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use libfuzzer_sys::fuzz_target;
use sluice_common::abi::Address;
use sluice_common::parse::{Frame, Packet, parse, quoted};
use sluice_common::reason::Reason;

fuzz_target!(|bytes: &[u8]| {
    let mut packet = Packet::default();
    let read = parse(bytes, &mut packet);
    assert_ne!(read, Err(Reason::Unreadable), "a slice can be read wherever it has bytes");
    // What a quote says is for the flow table to judge; here it must only not panic.
    let _ = quoted(bytes, &packet);
    if let (Ok(Frame::Ip), Ok(reference)) = (read, SlicedPacket::from_ethernet(bytes)) {
        compare(&packet, &reference);
    }
});

fn compare(packet: &Packet, reference: &SlicedPacket<'_>) {
    let ends: Option<(IpAddr, IpAddr)> = match &reference.net {
        Some(NetSlice::Ipv4(v4)) => {
            let header = v4.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        Some(NetSlice::Ipv6(v6)) => {
            let header = v6.header();
            Some((header.source_addr().into(), header.destination_addr().into()))
        }
        _ => None,
    };
    if let Some((source, destination)) = ends {
        assert_eq!(packet.source, Address::from(source));
        assert_eq!(packet.destination, Address::from(destination));
    }
    let ports = match &reference.transport {
        Some(TransportSlice::Tcp(tcp)) => Some((6, tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((17, udp.source_port(), udp.destination_port())),
        _ => None,
    };
    if let Some((protocol, source, destination)) = ports {
        assert_eq!(packet.protocol, protocol);
        assert_eq!(u16::from_be(packet.source_port_be), source);
        assert_eq!(u16::from_be(packet.destination_port_be), destination);
    }
}
