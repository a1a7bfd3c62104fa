//! IPv6 (RFC 8200) and its extension headers.

use super::{Bytes, Packet, Piece, first_fragment, header, later_fragment, transport};
use crate::abi::Address;
use crate::reason::Reason;

/// Length of the fixed header.
pub(super) const LENGTH: u32 = 40;
/// Extension headers that are walked; real packets have one or two.
const EXTENSIONS_MAX: u32 = 8;
/// Bytes of an extension header that hold everything that is read of it.
const EXTENSION_LENGTH_MIN: u32 = 8;
/// Bytes of an authentication header without its check value.
const AUTHENTICATION_LENGTH_MIN: u32 = 12;

/// Extension header numbers (IANA, "IPv6 Extension Header Types").
mod extension {
    pub(super) const HOP_BY_HOP: u8 = 0;
    pub(super) const ROUTING: u8 = 43;
    pub(super) const FRAGMENT: u8 = 44;
    /// Encapsulating security payload: what follows is encrypted.
    pub(super) const ENCAPSULATED: u8 = 50;
    pub(super) const AUTHENTICATION: u8 = 51;
    pub(super) const NO_NEXT: u8 = 59;
    pub(super) const DESTINATION: u8 = 60;
    pub(super) const MOBILITY: u8 = 135;
    pub(super) const HOST_IDENTITY: u8 = 139;
    pub(super) const SHIM6: u8 = 140;
    pub(super) const EXPERIMENT_1: u8 = 253;
    pub(super) const EXPERIMENT_2: u8 = 254;
}

/// Reads the packet whose IPv6 header begins at `start`.
#[inline(always)]
pub(super) fn parse<B: Bytes + ?Sized>(
    bytes: &B,
    start: u32,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let words: [u32; 10] = header(bytes, start, LENGTH, bytes.length())?;
    if u32::from_be(words[0]) >> 28 != 6 {
        return Err(Reason::BadLength);
    }
    let second = u32::from_be(words[1]);
    let end = start + LENGTH + payload_length(second >> 16, bytes.length() - start - LENGTH);
    if end > bytes.length() {
        return Err(Reason::BadLength);
    }
    let source = Address::from_words([words[2], words[3], words[4], words[5]]);
    let destination = Address::from_words([words[6], words[7], words[8], words[9]]);
    if are_martian(&source, &destination) {
        return Err(Reason::MartianAddress);
    }
    packet.source = source;
    packet.destination = destination;
    packet.addressed = true;
    packet.end = end;
    packet.hop_limit = second as u8;
    walk(bytes, start + LENGTH, end, (second >> 8) as u8, packet)
}

/// An IPv4-mapped address would be judged as the IPv4 address that it stands for (RFC 4942 section 2.2); a
/// multicast source is never valid (RFC 4291 section 2.7).
#[inline(always)]
pub(super) const fn are_martian(source: &Address, destination: &Address) -> bool {
    source.is_v4() || destination.is_v4() || u32::from_be(source.words()[0]) >> 24 == 0xff
}

/// Length of what follows the fixed header. A merged packet above 64 KiB says 0 (RFC 2675 and Linux,
/// "BIG TCP"); it ends where the buffer does.
#[inline(always)]
const fn payload_length(field: u32, available: u32) -> u32 {
    if field == 0 && available > 0xffff { available } else { field }
}

/// Walks the extension headers from `offset` on, then reads the transport header.
#[inline(always)]
fn walk<B: Bytes + ?Sized>(
    bytes: &B,
    mut offset: u32,
    end: u32,
    mut next: u8,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let mut walked = 0;
    let read = loop {
        // "Hop-by-hop options" may only come first (RFC 8200 section 4.1).
        if !is_walkable(next) || (next == extension::HOP_BY_HOP && walked > 0) {
            break last(bytes, offset, end, next, packet);
        }
        if walked == EXTENSIONS_MAX {
            break Err(Reason::HeaderChain);
        }
        walked += 1;
        let step = match step(bytes, offset, end, next) {
            Ok(step) => step,
            Err(reason) => break Err(reason),
        };
        packet.has_fragment_header |= next == extension::FRAGMENT;
        if next == extension::FRAGMENT && step.fragment != 0 {
            if packet.piece.is_fragment {
                return Err(Reason::UnknownExtension);
            }
            packet.piece = piece(bytes, offset, end, step.fragment)?;
            if packet.piece.offset != 0 {
                packet.protocol = step.next;
                return later_fragment(step.next, step.fragment & !7);
            }
        }
        offset = bytes.blur(offset + step.length);
        next = bytes.blur(u32::from(step.next)) as u8;
    };
    if packet.piece.is_fragment { first_fragment(read) } else { read }
}

/// What a fragment header says; `fragment` as in [`Step`].
#[inline(always)]
fn piece<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    fragment: u32,
) -> Result<Piece, Reason> {
    let words: [u32; 1] = header(bytes, offset + 4, 4, end)?;
    let length = end - offset - EXTENSION_LENGTH_MIN;
    Piece::new(u32::from_be(words[0]), fragment & !7, length, fragment & 1 != 0)
}

/// One extension header.
struct Step {
    /// The header after it.
    next: u8,
    /// Its length in bytes.
    length: u32,
    /// Fragment header: the offset in bytes (a multiple of 8), and 1 for "more fragments". Zero in a
    /// fragment header means that it is the whole packet (RFC 6946).
    fragment: u32,
}

#[inline(always)]
fn step<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    header_type: u8,
) -> Result<Step, Reason> {
    let words: [u32; 1] = header(bytes, offset, EXTENSION_LENGTH_MIN, end)?;
    let first = u32::from_be(words[0]);
    let units = (first >> 16) & 0xff;
    let mut fragment = 0;
    let length = match header_type {
        extension::FRAGMENT => {
            fragment = first & 0xfff9;
            EXTENSION_LENGTH_MIN
        }
        extension::AUTHENTICATION => {
            let length = (units + 2) * 4;
            if length < AUTHENTICATION_LENGTH_MIN {
                return Err(Reason::BadLength);
            }
            length
        }
        // With segments left the packet will go on to another destination than the one that policy
        // would look at.
        extension::ROUTING if first & 0xff != 0 => return Err(Reason::UnknownExtension),
        _ => (units + 1) * 8,
    };
    if offset + length > end {
        return Err(Reason::Truncated);
    }
    Ok(Step { next: (first >> 24) as u8, length, fragment })
}

#[inline(always)]
const fn is_walkable(header_type: u8) -> bool {
    matches!(
        header_type,
        extension::HOP_BY_HOP
            | extension::ROUTING
            | extension::FRAGMENT
            | extension::AUTHENTICATION
            | extension::DESTINATION
    )
}

/// The header that ends the walk.
#[inline(always)]
fn last<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    end: u32,
    header_type: u8,
    packet: &mut Packet,
) -> Result<(), Reason> {
    packet.protocol = header_type;
    match header_type {
        extension::NO_NEXT => Err(Reason::NoNextHeader),
        extension::HOP_BY_HOP
        | extension::ENCAPSULATED
        | extension::MOBILITY
        | extension::HOST_IDENTITY
        | extension::SHIM6
        | extension::EXPERIMENT_1
        | extension::EXPERIMENT_2 => Err(Reason::UnknownExtension),
        _ => transport::parse(bytes, offset, end, true, packet),
    }
}
