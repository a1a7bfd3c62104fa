//! A block with excepts contains exactly what bit-by-bit comparison says.
#![no_main]

use std::net::IpAddr;

use ipnet::IpNet;
use libfuzzer_sys::fuzz_target;
use sluice_policy::model::Block;

type Prefix = (IpAddr, u8);

fuzz_target!(|input: (Prefix, Vec<Prefix>, IpAddr)| {
    let (cidr, except, address) = input;
    let Some(cidr) = net(cidr) else { return };
    let except: Vec<IpNet> = except.into_iter().filter_map(net).collect();
    let within = |e: &IpNet| e.prefix_len() > cidr.prefix_len() && covers(cidr, e.addr());
    let block = Block::new(cidr, except.iter().copied());
    assert_eq!(block.is_ok(), except.iter().all(within));
    if let Ok(block) = block {
        let expected = covers(cidr, address) && !except.iter().any(|e| covers(*e, address));
        assert_eq!(block.contains(address), expected);
    }
});

fn net((address, bits): Prefix) -> Option<IpNet> {
    IpNet::new(address, bits % 129).ok()
}

/// The first `prefix_len` bits are equal, one by one.
fn covers(net: IpNet, address: IpAddr) -> bool {
    let (mine, other) = match (net.addr(), address) {
        (IpAddr::V4(mine), IpAddr::V4(other)) => (mine.octets().to_vec(), other.octets().to_vec()),
        (IpAddr::V6(mine), IpAddr::V6(other)) => (mine.octets().to_vec(), other.octets().to_vec()),
        _ => return false,
    };
    let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
    (0..usize::from(net.prefix_len())).all(|at| bit(&mine, at) == bit(&other, at))
}
