//! SEMANTICS.md 27 to 33: blocks of addresses.

use super::*;

fn tcp_port(number: u16) -> Vec<PortMatch> {
    vec![port(Protocol::Tcp, number)]
}

#[test]
fn case_27_an_except_never_denies() {
    let bench = bench()
        .ingress("wide", vec![allow(vec![block("10.0.0.0/8", &["10.1.0.0/16"])])])
        .ingress("narrow", vec![allow(vec![block("10.1.2.3/32", &[])])]);
    assert_eq!(bench.decided_by("10.1.2.3", tcp(80)), "NetworkPolicy x/narrow ingress[0]");
    assert!(bench.denies("10.1.2.4", "x/a", tcp(80)));
    assert!(bench.allows("10.2.0.0", "x/a", tcp(80)));
    assert!(bench.allows("10.0.255.255", "x/a", tcp(80)));
    assert!(bench.denies("10.1.0.0", "x/a", tcp(80)));
    assert!(bench.denies("10.1.255.255", "x/a", tcp(80)));
}

#[test]
fn case_28_a_longer_prefix_hides_nothing() {
    let bench = bench()
        .ingress("wide", vec![on(allow(vec![block("10.0.0.0/8", &[])]), tcp_port(80))])
        .ingress("narrow", vec![on(allow(vec![block("10.1.0.0/16", &[])]), tcp_port(443))]);
    assert!(bench.allows("10.1.0.1", "x/a", tcp(80)));
    assert!(bench.allows("10.1.0.1", "x/a", tcp(443)));
    assert!(bench.denies("10.2.0.1", "x/a", tcp(443)));
}

#[test]
fn case_29_an_except_leaves_other_policies_alone() {
    let bench = bench()
        .ingress("wide", vec![allow(vec![block("10.0.0.0/8", &["10.1.0.0/16"])])])
        .ingress("dns", vec![on(allow(vec![block("0.0.0.0/0", &[])]), tcp_port(53))]);
    assert!(bench.allows("10.1.0.1", "x/a", tcp(53)));
    assert!(bench.denies("10.1.0.1", "x/a", tcp(54)));
}

#[test]
fn case_30_host_bits_do_not_count() {
    let bench = bench()
        .ingress("p", vec![on(allow(vec![block("10.161.0.0/8", &[])]), tcp_port(80))])
        .ingress("q", vec![on(allow(vec![block("10.0.0.0/8", &[])]), tcp_port(81))]);
    for number in [80, 81] {
        assert!(bench.allows("10.0.0.1", "x/a", tcp(number)));
        assert!(bench.allows("10.255.255.255", "x/a", tcp(number)));
        assert!(bench.denies("11.0.0.0", "x/a", tcp(number)));
    }
}

#[test]
fn case_31_all_of_one_family_is_none_of_the_other() {
    let v4 = bench().ingress("p", vec![allow(vec![block("0.0.0.0/0", &[])])]);
    assert!(v4.allows("203.0.113.9", "x/a", tcp(80)));
    assert!(v4.denies("2001:db8::9", "x/a", tcp(80)));
    let v6 = bench().ingress("p", vec![allow(vec![block("::/0", &[])])]);
    assert!(v6.allows("2001:db8::9", "x/a", tcp(80)));
    assert!(v6.denies("203.0.113.9", "x/a", tcp(80)));
    assert!(v6.denies("::ffff:203.0.113.9", "x/a", tcp(80)), "a mapped address is IPv4");
    let mapped = bench().ingress("p", vec![allow(vec![block("::ffff:0:0/96", &[])])]);
    assert!(mapped.denies("203.0.113.9", "x/a", tcp(80)), "a mapped block is no IPv4 block");
}

#[test]
fn case_32_a_block_matches_pods_too() {
    let bench = bench().ingress("p", vec![allow(vec![block("10.244.2.0/24", &["10.244.2.3/32"])])]);
    assert!(bench.allows("y/a", "x/a", tcp(80)));
    assert!(bench.denies("y/c", "x/a", tcp(80)), "y/c is the except");
    assert!(bench.denies("z/a", "x/a", tcp(80)));
}

#[test]
fn case_33_an_except_outside_its_block_cannot_be_said() {
    let cidr = "10.0.0.0/8".parse().expect("a CIDR");
    for except in ["11.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "fd00::/16"] {
        let except = except.parse().expect("a CIDR");
        assert_eq!(Block::new(cidr, [except]), Err(ExceptOutside { cidr, except }));
    }
}

#[test]
fn single_addresses_are_blocks() {
    let peers = vec![block("203.0.113.9/32", &[]), block("2001:db8::9/128", &[])];
    let bench = bench().egress("p", vec![allow(peers)]);
    assert!(bench.allows("x/a", "203.0.113.9", tcp(80)));
    assert!(bench.denies("x/a", "203.0.113.8", tcp(80)));
    assert!(bench.denies("x/a", "203.0.113.10", tcp(80)));
    assert!(bench.allows("x/a", "2001:db8::9", tcp(80)));
    assert!(bench.denies("x/a", "2001:db8::8", tcp(80)));
}
