//! Blocks of addresses, resolved: each prefix carries everything that covers it.

use ipnet::IpNet;
use sluice_common::abi::Address;

use crate::model::Block;
use crate::tables::{Prefix, TrieKey};

/// A prefix as it stands in the tables: IPv4 as mapped (96 bits more).
///
/// `None` for IPv6 prefixes within the mapped space: no packet carries such an address.
pub(crate) fn prefix(net: IpNet) -> Option<Prefix<Address>> {
    let bits = match net {
        IpNet::V4(v4) => 96 + u32::from(v4.prefix_len()),
        IpNet::V6(v6) => u32::from(v6.prefix_len()),
    };
    let prefix = Prefix::new(Address::from(net.network()), bits);
    let is_mapped_v6 = matches!(net, IpNet::V6(_)) && mapped().covers(&prefix);
    (!is_mapped_v6).then_some(prefix)
}

/// `::ffff:0:0/96`, where the IPv4 addresses are.
fn mapped() -> Prefix<Address> {
    let mut octets = [0; 16];
    (octets[10], octets[11]) = (0xff, 0xff);
    Prefix::new(Address::from_octets(octets), 96)
}

/// A place where a block begins or ends to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Mark {
    prefix: Prefix<Address>,
    block: usize,
    holds: bool,
}

/// One open prefix on the way down.
struct Level<P> {
    prefix: Prefix<Address>,
    /// Blocks that hold here.
    blocks: Vec<usize>,
    /// Their values, sorted, each once.
    values: Vec<P>,
}

/// For each prefix that matters, in ascending order, the values of all the blocks that hold there
/// (sorted, each once). A prefix that says the same as what covers it is left out.
pub(crate) fn resolve<'a, P: Copy + Ord>(
    blocks: impl IntoIterator<Item = (&'a Block, P)>,
) -> Vec<(Prefix<Address>, Vec<P>)> {
    let (marks, values) = marks(blocks);
    let mut out = Vec::new();
    let mut path: Vec<Level<P>> = Vec::new();
    for group in marks.chunk_by(|a, b| a.prefix == b.prefix) {
        let prefix = group[0].prefix;
        while path.last().is_some_and(|level| !level.prefix.covers(&prefix)) {
            path.pop();
        }
        let above = path.last();
        let mut holding = above.map(|level| level.blocks.clone()).unwrap_or_default();
        holding.retain(|block| !group.iter().any(|mark| !mark.holds && mark.block == *block));
        holding.extend(group.iter().filter(|mark| mark.holds).map(|mark| mark.block));
        let mut here: Vec<P> = holding.iter().map(|block| values[*block]).collect();
        here.sort_unstable();
        here.dedup();
        if above.map_or(&[][..], |level| &level.values) != here {
            out.push((prefix, here.clone()));
        }
        path.push(Level { prefix, blocks: holding, values: here });
    }
    out
}

/// All marks in ascending order, and the value of each block.
fn marks<'a, P>(blocks: impl IntoIterator<Item = (&'a Block, P)>) -> (Vec<Mark>, Vec<P>) {
    let mut marks = Vec::new();
    let mut values = Vec::new();
    for (block, value) in blocks {
        let index = values.len();
        values.push(value);
        let Some(whole) = prefix(block.cidr()) else { continue };
        marks.push(Mark { prefix: whole, block: index, holds: true });
        let excepts = block.except().iter().filter_map(|net| prefix(*net));
        marks.extend(excepts.map(|prefix| Mark { prefix, block: index, holds: false }));
        if matches!(block.cidr(), IpNet::V6(_)) && whole.covers(&mapped()) {
            marks.push(Mark { prefix: mapped(), block: index, holds: false });
        }
    }
    marks.sort_unstable();
    (marks, values)
}

/// The prefixes, from the shortest on, at which blocks that contain the address can begin.
pub(crate) fn prefixes_of(
    address: Address,
    lengths: impl IntoIterator<Item = u32>,
) -> impl Iterator<Item = Prefix<Address>> {
    lengths.into_iter().map(move |bits| Prefix { key: address.truncate(bits), bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::IpAddr;

    use crate::tables::longest_match;

    fn net(text: &str) -> IpNet {
        text.parse().expect("the test's own CIDR is valid")
    }

    fn block(cidr: &str, except: &[&str]) -> Block {
        Block::new(net(cidr), except.iter().map(|e| net(e))).expect("excepts lie within")
    }

    fn values_at(blocks: &[Block], address: &str) -> Vec<usize> {
        let resolved: BTreeMap<_, _> =
            resolve(blocks.iter().enumerate().map(|(i, b)| (b, i))).into_iter().collect();
        let address: IpAddr = address.parse().expect("the test's own address is valid");
        let key = Prefix { key: address.into(), bits: 128 };
        longest_match(&resolved, key).map(|(_, values)| values.clone()).unwrap_or_default()
    }

    #[test]
    fn a_longer_prefix_keeps_the_shorter_ones_values() {
        let blocks = [block("10.0.0.0/8", &[]), block("10.1.0.0/16", &[])];
        assert_eq!(values_at(&blocks, "10.1.0.1"), [0, 1]);
        assert_eq!(values_at(&blocks, "10.2.0.1"), [0]);
    }

    #[test]
    fn an_except_takes_off_its_own_block_only() {
        let blocks = [block("10.0.0.0/8", &["10.1.0.0/16"]), block("0.0.0.0/0", &[])];
        assert_eq!(values_at(&blocks, "10.1.0.1"), [1]);
        assert_eq!(values_at(&blocks, "10.2.0.1"), [0, 1]);
        let blocks = [block("10.0.0.0/8", &["10.1.0.0/16"]), block("10.1.2.3/32", &[])];
        assert_eq!(values_at(&blocks, "10.1.2.3"), [1]);
        assert_eq!(values_at(&blocks, "10.1.2.4"), []);
    }

    #[test]
    fn families_never_cover_each_other() {
        let blocks = [block("0.0.0.0/0", &[]), block("::/0", &[])];
        assert_eq!(values_at(&blocks, "10.1.0.1"), [0]);
        assert_eq!(values_at(&blocks, "2001:db8::1"), [1]);
        assert_eq!(values_at(&[block("::/0", &[])], "10.1.0.1"), []);
    }

    #[test]
    fn what_says_the_same_as_its_cover_is_left_out() {
        let blocks = [block("10.0.0.0/8", &[]), block("10.1.0.0/16", &[])];
        assert_eq!(resolve(blocks.iter().map(|b| (b, 0))).len(), 1);
    }

    /// Nets that nest and meet often, of both families.
    fn nets() -> impl Strategy<Value = IpNet> {
        let v4 = (0_u32..8, prop_oneof![0_u8..=4, 29_u8..=32]).prop_map(|(low, bits)| {
            IpNet::new(IpAddr::V4((0x0a00_0000 | low).into()), bits).expect("at most 32 bits")
        });
        let v6 =
            (0_u128..8, prop_oneof![0_u8..=4, 79_u8..=97, 125_u8..=128]).prop_map(|(low, bits)| {
                let high = if low % 2 == 0 { 0xffff_0a00_0000 } else { 0 };
                IpNet::new(IpAddr::V6((high | low).into()), bits).expect("at most 128 bits")
            });
        prop_oneof![v4, v6]
    }

    fn blocks() -> impl Strategy<Value = Block> {
        (nets(), prop::collection::vec(nets(), 0..4)).prop_map(|(cidr, except)| {
            let cidr = cidr.trunc();
            let within = except.into_iter().filter(|e| cidr.contains(e) && e.trunc() != cidr);
            Block::new(cidr, within).expect("only what lies within was kept")
        })
    }

    proptest! {
        #[test]
        fn the_longest_match_says_what_each_block_says(blocks in prop::collection::vec((blocks(), 0_u8..4), 0..10)) {
            let resolved: BTreeMap<_, _> = resolve(blocks.iter().map(|(b, v)| (b, *v))).into_iter().collect();
            let v4 = (0..9_u32).map(|low| IpAddr::V4((0x0a00_0000 | low).into()));
            let v4 = v4.chain([IpAddr::V4(0xf000_0000.into()), IpAddr::V4(0x2000_0000.into())]);
            let v6 = (0..9_u128).map(|low| IpAddr::V6(low.into()));
            let v6 = v6.chain([IpAddr::V6((0x2001 << 112).into()), IpAddr::V6((0xfffe << 32).into())]);
            for address in v4.chain(v6) {
                let key = Prefix { key: Address::from(address), bits: 128 };
                let found = longest_match(&resolved, key).map(|(_, v)| v.clone()).unwrap_or_default();
                let holding = blocks.iter().filter(|(b, _)| b.contains(address)).map(|(_, v)| *v);
                let expected: Vec<u8> = holding.collect::<BTreeSet<_>>().into_iter().collect();
                prop_assert_eq!(found, expected, "{}", address);
            }
        }
    }
}
