//! SEMANTICS.md 17 to 26: protocols and ports.

use super::*;

#[test]
fn case_17_tcp_alone_where_no_protocol_is_named() {
    // The converter writes TCP where `protocol` is omitted.
    let bench = bench().ingress("p", vec![allow_ports(vec![port(Protocol::Tcp, 53)])]);
    assert!(bench.allows("y/b", "x/a", tcp(53)));
    assert!(bench.denies("y/b", "x/a", udp(53)));
}

#[test]
fn case_18_protocol_without_port_is_all_its_ports() {
    let rule = allow_ports(vec![PortMatch::Protocol(Protocol::Udp)]);
    let bench = bench().ingress("p", vec![rule]);
    assert!(bench.allows("y/b", "x/a", udp(1)));
    assert!(bench.allows("y/b", "x/a", udp(65535)));
    assert!(bench.denies("y/b", "x/a", tcp(1)));
    assert!(bench.denies("y/b", "x/a", ECHO));
}

#[test]
fn case_19_sctp_is_not_tcp() {
    let bench = bench().ingress("p", vec![allow_ports(vec![port(Protocol::Sctp, 80)])]);
    assert!(bench.allows("y/b", "x/a", sctp(80)));
    assert!(bench.denies("y/b", "x/a", tcp(80)));
    assert!(bench.denies("y/b", "x/a", udp(80)));
}

#[test]
fn case_20_ranges_include_both_edges() {
    let range = PortMatch::Range { protocol: Protocol::Tcp, first: 32000, last: 32768 };
    let bench = bench().ingress("p", vec![allow_ports(vec![range])]);
    assert!(bench.allows("y/b", "x/a", tcp(32000)));
    assert!(bench.allows("y/b", "x/a", tcp(32768)));
    assert!(bench.denies("y/b", "x/a", tcp(31999)));
    assert!(bench.denies("y/b", "x/a", tcp(32769)));
}

#[test]
fn case_21_named_port_is_each_pods_own() {
    let web = vec![allow_ports(vec![named(Protocol::Tcp, "web")])];
    let bench = bench()
        .policy("x/p", everything(), Some(web), None)
        .names_port("x/a", "web", Protocol::Tcp, 8080)
        .names_port("x/b", "web", Protocol::Tcp, 9090);
    assert!(bench.allows("y/c", "x/b", tcp(9090)));
    assert!(bench.denies("y/c", "x/a", tcp(9090)));
    assert!(bench.allows("y/c", "x/a", tcp(8080)));
}

#[test]
fn case_22_unknown_name_matches_nothing() {
    let rule = allow_ports(vec![named(Protocol::Tcp, "nowhere")]);
    let bench = bench().ingress("p", vec![rule.clone()]).egress("q", vec![rule]);
    for port in [0, 1, 80, 65535] {
        assert!(bench.denies("y/b", "x/a", tcp(port)));
        assert!(bench.denies("x/a", "y/b", tcp(port)));
        assert!(bench.denies("x/a", "203.0.113.9", tcp(port)));
    }
}

#[test]
fn case_23_a_name_belongs_to_a_protocol() {
    let rule = allow_ports(vec![named(Protocol::Tcp, "dns")]);
    let bench = bench().ingress("p", vec![rule]).names_port("x/a", "dns", Protocol::Udp, 53);
    assert!(bench.denies("y/b", "x/a", tcp(53)));
    assert!(bench.denies("y/b", "x/a", udp(53)));
    let bench = bench.names_port("x/a", "dns", Protocol::Tcp, 5353);
    assert!(bench.allows("y/b", "x/a", tcp(5353)));
}

#[test]
fn case_24_egress_names_are_the_destinations() {
    let bench = bench()
        .egress("p", vec![allow_ports(vec![named(Protocol::Tcp, "web")])])
        .names_port("x/a", "web", Protocol::Tcp, 7070)
        .names_port("y/a", "web", Protocol::Tcp, 8080)
        .names_port("z/b", "web", Protocol::Tcp, 9090);
    assert!(bench.allows("x/a", "y/a", tcp(8080)));
    assert!(bench.allows("x/a", "z/b", tcp(9090)));
    assert!(bench.denies("x/a", "y/a", tcp(9090)));
    assert!(bench.denies("x/a", "y/a", tcp(7070)), "the subject's own name does not count");
    assert!(bench.denies("x/a", "203.0.113.9", tcp(8080)));
}

#[test]
fn case_24_a_block_resolves_names_on_the_pods_it_covers() {
    let rule = on(allow(vec![block("10.244.0.0/16", &[])]), vec![named(Protocol::Tcp, "web")]);
    let bench = bench().egress("p", vec![rule]).names_port("y/a", "web", Protocol::Tcp, 8080);
    assert!(bench.allows("x/a", "y/a", tcp(8080)));
    assert!(bench.denies("x/a", "y/b", tcp(8080)));
}

#[test]
fn case_25_two_hundred_ports() {
    let ports = (0..200).map(|i| port(Protocol::Tcp, 1000 + 7 * i)).collect();
    let bench = bench().ingress("p", vec![allow_ports(ports)]);
    assert!(bench.allows("y/b", "x/a", tcp(1000 + 7 * 199)));
    assert!(bench.denies("y/b", "x/a", tcp(1000 + 7 * 199 + 1)));
    assert!(bench.denies("y/b", "x/a", tcp(1000 + 7 * 200)));
}

#[test]
fn case_26_no_ports_is_all_and_an_empty_port_is_all_tcp() {
    let all = bench().ingress("p", vec![allow_all()]);
    let all_tcp = bench().ingress("p", vec![allow_ports(vec![PortMatch::Protocol(Protocol::Tcp)])]);
    for packet in [udp(9), sctp(9), ECHO, ECHO6] {
        assert!(all.allows("y/b", "x/a", packet));
        assert!(all_tcp.denies("y/b", "x/a", packet));
    }
    assert!(all.allows("y/b", "x/a", tcp(9)));
    assert!(all_tcp.allows("y/b", "x/a", tcp(9)));
}

#[test]
fn case_49_rules_with_ports_do_not_allow_icmp() {
    // ICMP's type and code stand where a port does; they are none.
    let range = |protocol| PortMatch::Range { protocol, first: 1, last: 65535 };
    let ports = Protocol::ALL.map(range).to_vec();
    let bench = bench().ingress("p", vec![allow_ports(ports)]);
    assert!(bench.denies("y/b", "x/a", ECHO));
    assert!(bench.denies("y/b", "x/a", ECHO6));
    assert!(bench.allows("y/b", "x/a", sctp(2048)));
}
