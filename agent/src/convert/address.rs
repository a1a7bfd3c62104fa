//! IP addresses as the API server and kube-proxy read them.

use std::net::IpAddr;

/// Reads an address. The parts of an IPv4 address may begin with zeros, and are decimal numbers all the
/// same (`010.0.0.1` is 10.0.0.1): the API took that once, may have it stored, and kube-proxy
/// translates it. An IPv4 address that is written as IPv6 (`::ffff:10.0.0.1`) is that IPv4 address.
pub fn parse(value: &str) -> Option<IpAddr> {
    if let Ok(address) = value.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let parts: Option<Vec<&str>> = value.split('.').map(without_zeros).collect();
    parts?.join(".").parse().ok().filter(IpAddr::is_ipv4)
}

fn without_zeros(part: &str) -> Option<&str> {
    match (part, part.trim_start_matches('0')) {
        ("", _) => None,
        (_, "") => Some("0"),
        (_, digits) => Some(digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_in_front_are_no_octal_and_a_mapped_address_is_what_it_maps() {
        for (text, expected) in [
            ("10.0.0.1", "10.0.0.1"),
            ("010.000.00.1", "10.0.0.1"),
            ("0010.08.09.0255", "10.8.9.255"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("FD00::1", "fd00::1"),
        ] {
            assert_eq!(parse(text).map(|a| a.to_string()).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_none() {
        for text in [
            "",
            "10.0.0",
            "10..0.1",
            "010.0.0.256",
            "0x10.0.0.1",
            "10.0.0.1 ",
            "a",
            "1",
            "0.0.0.+1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
