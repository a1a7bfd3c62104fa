//! Addresses as table keys.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 or IPv6 address as 16 bytes in network byte order; IPv4 is IPv4-mapped (`::ffff:a.b.c.d`,
/// RFC 4291 section 2.5.5.2), so that one table serves both families.
///
/// Words rather than bytes because they verify in a third of the instructions. The in-memory bytes
/// are the network order; the words are whatever the host makes of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Address {
    words: [u32; 4],
}

const _: () = assert!(size_of::<Address>() == 16);

impl Address {
    /// The all-zero address: "none" in an endpoint, `::` in a packet.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// From an IPv4 address as it stands in a packet, read as one native word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, 0xffff_u32.to_be(), word] }
    }

    /// From an IPv6 address as it stands in a packet, read as four native words.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The four words, in memory order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.words
    }

    /// True for the IPv4-mapped form, which an IPv6 packet must never carry.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0xffff_u32.to_be()
    }

    /// True for `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && self.words[3] == 0
    }

    /// The bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let mut out = [0; 16];
        let mut i = 0;
        while i < 4 {
            let b = self.words[i].to_ne_bytes();
            out[i * 4] = b[0];
            out[i * 4 + 1] = b[1];
            out[i * 4 + 2] = b[2];
            out[i * 4 + 3] = b[3];
            i += 1;
        }
        out
    }

    /// From bytes in network order.
    pub const fn from_octets(o: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_octets(v4.to_ipv6_mapped().octets()),
            IpAddr::V6(v6) => Self::from_octets(v6.octets()),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        let o = address.octets();
        if address.is_v4() {
            IpAddr::V4(Ipv4Addr::new(o[12], o[13], o[14], o[15]))
        } else {
            IpAddr::V6(Ipv6Addr::from(o))
        }
    }
}

/// In the order of the bytes on the wire, which is the numeric order of the addresses.
impl Ord for Address {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.octets().cmp(&other.octets())
    }
}

impl PartialOrd for Address {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

// SAFETY: four `u32`, no padding, every bit pattern valid.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Address {}
