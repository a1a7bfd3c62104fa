//! TCP packets over IPv4 and Ethernet, as they stand on a veth.

use std::net::Ipv4Addr;

/// TCP flags: the first packet of a connection.
pub const SYN: u8 = 0x02;
/// TCP flags: the answer to it.
pub const SYN_ACK: u8 = 0x12;
/// TCP flags: any later one.
pub const ACK: u8 = 0x10;

/// Offset of the IPv4 source address.
pub const SOURCE_ADDRESS: i16 = 14 + 12;
/// Offset of the TCP source port.
pub const SOURCE_PORT: i16 = 14 + 20;
/// Offset of the TCP sequence number.
pub const SEQUENCE: i16 = SOURCE_PORT + 4;
/// Length of the packets.
pub const LENGTH: usize = 14 + 20 + 20;

/// Where a packet comes from and goes to.
#[derive(Clone, Copy)]
pub struct Tuple {
    /// Address and port.
    pub source: (Ipv4Addr, u16),
    /// Address and port.
    pub destination: (Ipv4Addr, u16),
}

impl Tuple {
    /// The way back.
    #[must_use]
    pub const fn reply(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }
}

/// A segment without data. Checksums are zero: the programs do not look at them.
pub fn tcp(tuple: Tuple, flags: u8) -> Vec<u8> {
    let mut packet = Vec::with_capacity(LENGTH);
    packet.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00]);
    packet.extend([0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
    packet.extend(tuple.source.0.octets());
    packet.extend(tuple.destination.0.octets());
    packet.extend(tuple.source.1.to_be_bytes());
    packet.extend(tuple.destination.1.to_be_bytes());
    packet.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}
