//! Packets as a hostile pod would send them: every header field can be a lie.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Ethernet types.
pub const IPV4: u16 = 0x0800;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// ARP.
pub const ARP: u16 = 0x0806;
/// 802.1Q.
pub const VLAN: u16 = 0x8100;
/// 802.1ad.
pub const SERVICE_VLAN: u16 = 0x88a8;

/// An Ethernet frame with any tags before the type.
pub fn ethernet(tags: &[u16], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend([0, 7]);
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 packet; what is `None` is as it should be.
#[derive(Clone, Debug)]
pub struct V4 {
    /// Source.
    pub source: Ipv4Addr,
    /// Destination.
    pub destination: Ipv4Addr,
    /// Protocol.
    pub protocol: u8,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Version and header length.
    pub first_byte: Option<u8>,
    /// Total length.
    pub total_length: Option<u16>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl V4 {
    /// A well-formed packet.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            protocol,
            options: Vec::new(),
            fragment: 0,
            first_byte: None,
            total_length: None,
            payload,
        }
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let first = self.first_byte.unwrap_or(0x40 | (header / 4) as u8);
        let total = self.total_length.unwrap_or((header + self.payload.len()) as u16);
        let mut bytes = vec![first, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend([0, 9]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([64, self.protocol, 0, 0]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(&self.options);
        bytes.extend(&self.payload);
        bytes
    }

    /// The packet in a frame.
    pub fn frame(&self) -> Vec<u8> {
        ethernet(&[], IPV4, &self.bytes())
    }
}

/// An IPv6 packet; what is `None` is as it should be.
#[derive(Clone, Debug)]
pub struct V6 {
    /// Source.
    pub source: Ipv6Addr,
    /// Destination.
    pub destination: Ipv6Addr,
    /// Extension headers: number, and content from its second byte on.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// Protocol of the payload.
    pub protocol: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Payload length.
    pub payload_length: Option<u16>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl V6 {
    /// A well-formed packet.
    pub fn new(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            source,
            destination,
            extensions: Vec::new(),
            protocol,
            hop_limit: 64,
            payload_length: None,
            payload,
        }
    }

    /// With a further extension header, behind those that are there.
    #[must_use]
    pub fn with(mut self, extension: (u8, Vec<u8>)) -> Self {
        self.extensions.push(extension);
        self
    }

    /// The packet.
    pub fn bytes(&self) -> Vec<u8> {
        let mut next: Vec<u8> = self.extensions.iter().map(|(number, _)| *number).collect();
        next.push(self.protocol);
        let mut content = Vec::new();
        for ((_, body), next) in self.extensions.iter().zip(&next[1..]) {
            content.push(*next);
            content.extend(body);
        }
        content.extend(&self.payload);
        let length = self.payload_length.unwrap_or(content.len() as u16);
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(length.to_be_bytes());
        bytes.extend([next[0], self.hop_limit]);
        bytes.extend(self.source.octets());
        bytes.extend(self.destination.octets());
        bytes.extend(content);
        bytes
    }

    /// The packet in a frame.
    pub fn frame(&self) -> Vec<u8> {
        ethernet(&[], IPV6, &self.bytes())
    }
}

/// Hop-by-hop or destination options of `units` times eight bytes beyond the first eight, padded.
pub fn options(number: u8, units: u8) -> (u8, Vec<u8>) {
    let mut body = vec![units];
    body.resize(7 + 8 * usize::from(units), 0);
    (number, body)
}

/// A routing header.
pub fn routing(segments_left: u8) -> (u8, Vec<u8>) {
    (43, vec![0, 0, segments_left, 0, 0, 0, 0])
}

/// A fragment header; `offset` in bytes.
pub fn fragment(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let word = (offset & !7) | u16::from(more);
    let word = word.to_be_bytes();
    (44, vec![0, word[0], word[1], 0, 0, 0, 9])
}

/// An authentication header with a check value of 12 bytes.
pub fn authentication() -> (u8, Vec<u8>) {
    let mut body = vec![4];
    body.resize(23, 0);
    (51, body)
}

/// An ARP request (operation 1) or reply (2) for IPv4 on Ethernet.
pub fn arp(operation: u16, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4];
    message.extend(operation.to_be_bytes());
    message.extend([2, 0, 0, 0, 0, 2]);
    message.extend(sender.octets());
    message.extend([0; 6]);
    message.extend(target.octets());
    message
}

/// A neighbour solicitation (135) or advertisement (136) about `target`, with `options` behind it.
pub fn neighbour(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    message: u8,
    target: Ipv6Addr,
    options: &[u8],
) -> V6 {
    let mut payload = vec![message, 0, 0, 0, 0, 0, 0, 0];
    payload.extend(target.octets());
    payload.extend(options);
    V6 { hop_limit: 255, ..V6::new(source, destination, 58, payload) }
}
