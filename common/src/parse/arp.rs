//! ARP (RFC 826) for IPv4 on Ethernet.

use super::{Bytes, Packet, header};
use crate::abi::Address;
use crate::reason::Reason;

/// Length of the message.
const LENGTH: u32 = 28;
/// The least payload of an Ethernet frame: a message may be padded up to it. More would be room for
/// data that nobody judges.
const PADDED_LENGTH: u32 = 46;

/// Ethernet addresses (1) for IPv4 (0x0800), six bytes for four.
const ETHERNET_IPV4: u32 = 0x0001_0800;
const LENGTHS: u32 = 0x0604;

/// Reads the message at `offset`: sender and target become the packet's source and destination.
#[inline(always)]
pub(super) fn parse<B: Bytes + ?Sized>(
    bytes: &B,
    offset: u32,
    packet: &mut Packet,
) -> Result<(), Reason> {
    let words: [u32; 7] = header(bytes, offset, LENGTH, bytes.length())?;
    let [kind, lengths, _, sender_high, sender_low, _, target] = words.map(u32::from_be);
    if kind != ETHERNET_IPV4 || lengths >> 16 != LENGTHS {
        return Err(Reason::UnknownEthertype);
    }
    if bytes.length() > offset + PADDED_LENGTH {
        return Err(Reason::BadLength);
    }
    let sender = sender_high << 16 | sender_low >> 16;
    packet.source = Address::from_v4_word(sender.to_be());
    packet.destination = Address::from_v4_word(target.to_be());
    packet.addressed = true;
    Ok(())
}
