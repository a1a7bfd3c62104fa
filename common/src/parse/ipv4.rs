//! IPv4 (RFC 791).

use super::{Bytes, Packet, Piece, first_fragment, header, later_fragment, transport};
use crate::abi::Address;
use crate::reason::Reason;

/// Length of the header without options.
pub(super) const LENGTH_MIN: u32 = 20;
/// Bits of the fragment word: "more fragments", and the offset in units of 8 bytes.
pub(super) const MORE_FRAGMENTS: u32 = 0x2000;
pub(super) const FRAGMENT_OFFSET: u32 = 0x1fff;

/// Reads the packet whose IPv4 header begins at `start`. Options are stepped over; they end where the
/// header's length field says, which is the only thing about them that moves the ports.
#[inline(always)]
pub(super) fn parse<B: Bytes + ?Sized>(
    bytes: &B,
    start: u32,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let words: [u32; 5] = header(bytes, start, LENGTH_MIN, bytes.length())?;
    let first = u32::from_be(words[0]);
    let header_length = ((first >> 24) & 0xf) * 4;
    if first >> 28 != 4 || header_length < LENGTH_MIN {
        return Err(Reason::BadLength);
    }
    let end = start + total_length(first & 0xffff, bytes.length() - start);
    if end > bytes.length() || start + header_length > end {
        return Err(Reason::BadLength);
    }
    if is_never_a_source(u32::from_be(words[3])) {
        return Err(Reason::MartianAddress);
    }
    packet.source = Address::from_v4_word(words[3]);
    packet.destination = Address::from_v4_word(words[4]);
    packet.addressed = true;
    packet.end = end;
    packet.hop_limit = (u32::from_be(words[2]) >> 24) as u8;
    packet.protocol = (u32::from_be(words[2]) >> 16) as u8;

    let fragment = u32::from_be(words[1]) & (MORE_FRAGMENTS | FRAGMENT_OFFSET);
    let position = (fragment & FRAGMENT_OFFSET) * 8;
    if fragment != 0 {
        let (id, more) = (u32::from_be(words[1]) >> 16, fragment & MORE_FRAGMENTS != 0);
        packet.piece = Piece::new(id, position, end - start - header_length, more)?;
    }
    if position != 0 {
        return later_fragment(packet.protocol, position);
    }
    let read =
        transport::parse(bytes, bytes.blur(start + header_length), bytes.blur(end), false, packet);
    if fragment != 0 { first_fragment(read) } else { read }
}

/// The packet's length. A merged packet above 64 KiB cannot say its length and says 0; it ends where
/// the buffer does (Linux, "BIG TCP"). Any other zero is shorter than a header.
#[inline(always)]
const fn total_length(field: u32, available: u32) -> u32 {
    if field == 0 && available > 0xffff { available } else { field }
}

/// 224.0.0.0/4 or the broadcast address, in host order.
#[inline(always)]
pub(super) const fn is_never_a_source(address: u32) -> bool {
    address >> 28 == 0xe || address == u32::MAX
}
