//! Addresses and blocks that meet each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sluice_policy::model::Block;

use super::Dice;

/// Where blocks begin: pods, nodes, outside, and the corners of both families.
const V4: [&str; 9] = [
    "0.0.0.0",
    "10.0.0.0",
    "10.0.0.4",
    "10.0.0.11",
    "10.1.2.3",
    "128.0.0.0",
    "172.30.0.1",
    "203.0.113.9",
    "255.255.255.255",
];
const V4_LENGTHS: [u8; 14] = [0, 1, 4, 8, 12, 16, 23, 24, 25, 28, 29, 30, 31, 32];

/// `::ffff:…` are CIDRs that no packet's address is in, inside blocks (`::/0`, `::/64`) that have
/// IPv6 addresses.
const V6: [&str; 8] = [
    "::",
    "::1",
    "::ffff:10.0.0.4",
    "fd00::",
    "fd00::4",
    "fd00::b",
    "2001:db8::9",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];
const V6_LENGTHS: [u8; 16] = [0, 1, 8, 16, 32, 64, 79, 80, 95, 96, 97, 104, 120, 124, 127, 128];

/// An address that a pod can have; the pool is small, so pods come to share them.
pub(super) fn of_pod(dice: &mut Dice, v6: bool) -> IpAddr {
    let host = dice.up_to(15) as u16;
    let other = dice.chance(20);
    if v6 {
        let subnet = if other { 1 } else { 0 };
        return Ipv6Addr::new(0xfd00, subnet, 0, 0, 0, 0, 0, host).into();
    }
    let host = host as u8;
    if other { Ipv4Addr::new(10, 1, 2, host) } else { Ipv4Addr::new(10, 0, 0, host) }.into()
}

/// An address that a node has.
pub(super) fn of_node(dice: &mut Dice, v6: bool) -> IpAddr {
    let host = 1 + dice.up_to(1) as u8;
    if v6 {
        return Ipv6Addr::new(0xfd00, 0x172, 0x30, 0, 0, 0, 0, u16::from(host)).into();
    }
    Ipv4Addr::new(172, 30, 0, host).into()
}

/// Any of the above, or one from the pool of corners.
pub(super) fn any(dice: &mut Dice) -> IpAddr {
    let v6 = dice.chance(40);
    match dice.up_to(3) {
        0 => corner(dice, v6),
        1 => of_node(dice, v6),
        _ => of_pod(dice, v6),
    }
}

fn corner(dice: &mut Dice, v6: bool) -> IpAddr {
    let text = if v6 { dice.pick(&V6) } else { dice.pick(&V4) };
    text.parse().expect("the pools are addresses")
}

/// A block with up to three excepts, host bits set as often as not.
pub(super) fn block(dice: &mut Dice) -> Block {
    let v6 = dice.chance(40);
    let base = if dice.chance(50) { corner(dice, v6) } else { of_pod(dice, v6) };
    let length = *if v6 { dice.pick(&V6_LENGTHS) } else { dice.pick(&V4_LENGTHS) };
    let cidr = cidr(base, length);
    let longest = cidr.max_prefix_len();
    let mut excepts = Vec::new();
    if length < longest && dice.chance(50) {
        for _ in 0..=dice.up_to(2) {
            let inside = inside(dice, cidr);
            excepts.push(self::cidr(inside, longer(dice, length, longest)));
        }
    }
    Block::new(cidr, excepts)
        .expect("a longer prefix of an address in the block is strictly within")
}

fn longer(dice: &mut Dice, length: u8, longest: u8) -> u8 {
    let lengths = if longest == 32 { &V4_LENGTHS[..] } else { &V6_LENGTHS[..] };
    let longer: Vec<u8> = lengths.iter().copied().filter(|l| *l > length).collect();
    *dice.pick(&longer)
}

fn cidr(base: IpAddr, length: u8) -> IpNet {
    IpNet::new(base, length).expect("lengths are those of the family")
}

/// An address of the block: its first or last, one of a pod in it, or any.
pub(super) fn inside(dice: &mut Dice, cidr: IpNet) -> IpAddr {
    match dice.up_to(4) {
        0 => cidr.network(),
        1 => cidr.broadcast(),
        2 | 3 => {
            let pod = of_pod(dice, cidr.max_prefix_len() == 128);
            if cidr.contains(&pod) { pod } else { scattered(dice, cidr) }
        }
        _ => scattered(dice, cidr),
    }
}

fn scattered(dice: &mut Dice, cidr: IpNet) -> IpAddr {
    match cidr {
        IpNet::V4(net) => {
            let host = dice.bits() as u32 & host_bits_v4(net);
            Ipv4Addr::from_bits(net.network().to_bits() | host).into()
        }
        IpNet::V6(net) => {
            let host = dice.bits() & host_bits_v6(net);
            Ipv6Addr::from_bits(net.network().to_bits() | host).into()
        }
    }
}

fn host_bits_v4(net: Ipv4Net) -> u32 {
    !net.netmask().to_bits()
}

fn host_bits_v6(net: Ipv6Net) -> u128 {
    !net.netmask().to_bits()
}

/// An address at an edge of the block: its first, its last, and their neighbours outside it.
pub(super) fn edge(dice: &mut Dice, cidr: IpNet) -> IpAddr {
    match dice.up_to(4) {
        0 => cidr.network(),
        1 => cidr.broadcast(),
        2 => step(cidr.network(), false),
        3 => step(cidr.broadcast(), true),
        _ => inside(dice, cidr),
    }
}

/// The next or the previous address, around the end of the family.
fn step(address: IpAddr, up: bool) -> IpAddr {
    match address {
        IpAddr::V4(v4) if up => Ipv4Addr::from_bits(v4.to_bits().wrapping_add(1)).into(),
        IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits().wrapping_sub(1)).into(),
        IpAddr::V6(v6) if up => Ipv6Addr::from_bits(v6.to_bits().wrapping_add(1)).into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits().wrapping_sub(1)).into(),
    }
}
