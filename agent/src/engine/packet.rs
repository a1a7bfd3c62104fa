//! Packets made by hand, for the programs to judge. Their checksums are zero: nobody looks at them.

use std::net::IpAddr;

use sluice_common::parse::{protocol, sctp_chunk, tcp_flag};

/// Which packet of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The first, from the side that opens it.
    Open,
    /// The first answer.
    Answer,
    /// A later one, from either side.
    Data,
}

/// One packet of a connection, from the side that sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// IP protocol number: TCP, UDP, SCTP, ICMP or ICMPv6 (echo).
    pub protocol: u8,
    /// Source port. Echo: the identifier, in both directions.
    pub source_port: u16,
    /// Destination port. Echo: not used.
    pub destination_port: u16,
    /// Which packet it is.
    pub step: Step,
    /// It goes from the side that opened the connection to the other.
    pub forward: bool,
}

impl Segment {
    /// The Ethernet frame.
    pub fn frame(&self) -> Vec<u8> {
        frame(self.source, self.destination, self.protocol, &self.payload())
    }

    /// The transport header, with a little data where the protocol wants some.
    pub fn payload(&self) -> Vec<u8> {
        match self.protocol {
            protocol::UDP => udp(self.source_port, self.destination_port, b"data"),
            protocol::SCTP => sctp(self.source_port, self.destination_port, self.sctp_chunk()),
            protocol::ICMP => echo(if self.forward { 8 } else { 0 }, self.source_port),
            protocol::ICMPV6 => echo(if self.forward { 128 } else { 129 }, self.source_port),
            _ => tcp(self.source_port, self.destination_port, self.tcp_flags()),
        }
    }

    const fn tcp_flags(&self) -> u8 {
        match self.step {
            Step::Open => tcp_flag::SYN,
            Step::Answer => tcp_flag::SYN | tcp_flag::ACK,
            Step::Data => tcp_flag::ACK,
        }
    }

    const fn sctp_chunk(&self) -> u8 {
        const INIT_ACK: u8 = 2;
        const DATA: u8 = 0;
        match self.step {
            Step::Open => sctp_chunk::INIT,
            Step::Answer => INIT_ACK,
            Step::Data => DATA,
        }
    }
}

/// An IPv4 or IPv6 packet in an Ethernet frame; the addresses' family decides which (the source's,
/// where they differ).
pub fn frame(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            frame.extend([0x08, 0x00, 0x45, 0]);
            frame.extend(length(20 + payload.len()));
            frame.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        (source, destination) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(length(payload.len()));
            frame.extend([protocol, 64]);
            frame.extend(octets(source));
            frame.extend(octets(destination));
        }
    }
    frame.extend(payload);
    frame
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A length field; packets here are far below its end.
fn length(length: usize) -> [u8; 2] {
    u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes()
}

/// A TCP header without options or data.
pub fn tcp(source: u16, destination: u16, flags: u8) -> Vec<u8> {
    let mut header = ports(source, destination);
    header.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

/// A UDP datagram.
pub fn udp(source: u16, destination: u16, data: &[u8]) -> Vec<u8> {
    let mut datagram = ports(source, destination);
    datagram.extend(length(8 + data.len()));
    datagram.extend([0, 0]);
    datagram.extend(data);
    datagram
}

/// An SCTP packet with one chunk.
pub fn sctp(source: u16, destination: u16, chunk: u8) -> Vec<u8> {
    let mut packet = ports(source, destination);
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0]);
    packet.extend([chunk, 0, 0, 20]);
    packet.extend([0; 16]);
    packet
}

/// An ICMP or ICMPv6 echo message.
pub fn echo(message: u8, identifier: u16) -> Vec<u8> {
    let mut packet = vec![message, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend([0, 1]);
    packet
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}
