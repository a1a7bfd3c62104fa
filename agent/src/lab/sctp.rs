//! As much of SCTP (RFC 9260) as a probe needs, since the kernel may have none: INIT and INIT ACK,
//! HEARTBEAT and HEARTBEAT ACK, as raw packets.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;

/// IP protocol number.
const IPPROTO_SCTP: i32 = 132;
/// Source port, destination port, verification tag, checksum.
const COMMON_HEADER: usize = 12;
/// Chunk header and the fixed part of INIT and INIT ACK.
const INIT_CHUNK: usize = 20;
/// Parameter "state cookie" of INIT ACK, which must be there.
const COOKIE: [u8; 8] = [0, 7, 0, 8, b's', b'l', b'c', b'e'];

/// The chunks in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Opens; with the sender's tag.
    Init(u32),
    /// Answers; with the sender's tag.
    InitAck(u32),
    /// Asks on an association that is there; with a number to be sent back.
    Heartbeat(u64),
    /// Answers it.
    HeartbeatAck(u64),
}

/// A packet with one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Port that it comes from.
    pub(super) source: u16,
    /// Port that it goes to.
    pub(super) destination: u16,
    /// The receiver's tag; 0 for INIT.
    pub(super) tag: u32,
    /// The chunk.
    pub(super) chunk: Chunk,
}

impl Packet {
    /// The bytes from the SCTP header on, checksum included.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(COMMON_HEADER + INIT_CHUNK + COOKIE.len());
        bytes.extend(self.source.to_be_bytes());
        bytes.extend(self.destination.to_be_bytes());
        bytes.extend(self.tag.to_be_bytes());
        bytes.extend([0; 4]);
        match self.chunk {
            Chunk::Init(tag) => init(&mut bytes, 1, tag, &[]),
            Chunk::InitAck(tag) => init(&mut bytes, 2, tag, &COOKIE),
            Chunk::Heartbeat(number) => heartbeat(&mut bytes, 4, number),
            Chunk::HeartbeatAck(number) => heartbeat(&mut bytes, 5, number),
        }
        let checksum = crc32c(&bytes).to_le_bytes();
        bytes[8..COMMON_HEADER].copy_from_slice(&checksum);
        bytes
    }

    /// Reads what [`Self::encode`] can write; `None` for anything else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let half = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let word = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let long = |at: usize| Some(u64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let chunk = match bytes.get(COMMON_HEADER)? {
            1 => Chunk::Init(word(COMMON_HEADER + 4)?),
            2 => Chunk::InitAck(word(COMMON_HEADER + 4)?),
            4 => Chunk::Heartbeat(long(COMMON_HEADER + 8)?),
            5 => Chunk::HeartbeatAck(long(COMMON_HEADER + 8)?),
            _ => return None,
        };
        let packet = Self { source: half(0)?, destination: half(2)?, tag: word(4)?, chunk };
        // The checksum covers every byte, so an equal packet is an intact one.
        (packet.encode() == bytes).then_some(packet)
    }

    /// What a host that listens on the packet's destination answers; `None`: nothing.
    pub(super) fn answer(&self) -> Option<Self> {
        let (tag, chunk) = match self.chunk {
            Chunk::Init(tag) => (tag, Chunk::InitAck(!tag)),
            Chunk::Heartbeat(number) => (!self.tag, Chunk::HeartbeatAck(number)),
            Chunk::InitAck(_) | Chunk::HeartbeatAck(_) => return None,
        };
        Some(Self { source: self.destination, destination: self.source, tag, chunk })
    }
}

fn init(bytes: &mut Vec<u8>, kind: u8, tag: u32, parameters: &[u8]) {
    let length = (INIT_CHUNK + parameters.len()) as u16;
    bytes.extend([kind, 0]);
    bytes.extend(length.to_be_bytes());
    bytes.extend(tag.to_be_bytes());
    bytes.extend(65_536_u32.to_be_bytes()); // receiver window
    bytes.extend([0, 1, 0, 1]); // streams out and in
    bytes.extend(tag.to_be_bytes()); // first transmission number
    bytes.extend(parameters);
}

fn heartbeat(bytes: &mut Vec<u8>, kind: u8, number: u64) {
    bytes.extend([kind, 0, 0, 16, 0, 1, 0, 12]); // chunk of 16 bytes, parameter of 12
    bytes.extend(number.to_be_bytes());
}

/// CRC-32C, reflected (RFC 9260 appendix A), bit by bit: the packets are small and few.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 }
        })
    })
}

/// A raw socket that sees every SCTP packet to `address`.
///
/// # Errors
/// No privilege, or not an address of this namespace.
pub(super) fn socket(address: IpAddr) -> io::Result<UdpSocket> {
    let local = SocketAddr::new(address, 0);
    let socket =
        Socket::new(Domain::for_address(local), Type::RAW, Some(Protocol::from(IPPROTO_SCTP)))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(local))?;
    // Sending and receiving whole packets is the same for a raw socket as for UDP.
    UdpSocket::from_std(socket.into())
}

/// What a raw socket has read, without the IPv4 header, which is there for IPv4 only.
pub(super) fn payload(address: IpAddr, bytes: &[u8]) -> &[u8] {
    let header = match (address, bytes.first()) {
        (IpAddr::V4(_), Some(first)) => usize::from(first & 0x0f) * 4,
        _ => 0,
    };
    bytes.get(header..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc32c() {
        // The check value of the CRC catalogue, and RFC 3720 appendix B.4's 32 zero bytes.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn packets_are_read_as_they_were_written() {
        let chunks =
            [Chunk::Init(1), Chunk::InitAck(2), Chunk::Heartbeat(3), Chunk::HeartbeatAck(4)];
        for chunk in chunks {
            let packet = Packet { source: 40_000, destination: 80, tag: 7, chunk };
            assert_eq!(Packet::decode(&packet.encode()), Some(packet));
        }
    }

    #[test]
    fn a_changed_byte_makes_no_packet() {
        let packet = Packet { source: 40_000, destination: 80, tag: 0, chunk: Chunk::Init(9) };
        let good = packet.encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(Packet::decode(&bad), None, "byte {at}");
        }
        assert_eq!(Packet::decode(&good[..20]), None);
    }

    #[test]
    fn only_requests_are_answered_and_to_where_they_came_from() {
        let ask = Packet { source: 40_000, destination: 80, tag: 0, chunk: Chunk::Init(9) };
        let answer = ask.answer().expect("an answer");
        assert_eq!((answer.source, answer.destination, answer.tag), (80, 40_000, 9));
        assert_eq!(answer.chunk, Chunk::InitAck(!9));
        assert_eq!(answer.answer(), None);
    }

    #[test]
    fn ipv4_headers_are_taken_off_by_their_length() {
        let v4 = "10.0.0.1".parse().expect("an address");
        let v6 = "fd00::1".parse().expect("an address");
        assert_eq!(payload(v4, &[[0x46; 24].as_slice(), &[1, 2]].concat()), [1, 2]);
        assert_eq!(payload(v6, &[1, 2]), [1, 2]);
        assert_eq!(payload(v4, &[0x4f]), [0; 0]);
    }
}
