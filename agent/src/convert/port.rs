//! Protocols, port numbers and port names.

use sluice_policy::model::Protocol;

/// What is wrong with a port or a protocol.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// Not a protocol with ports.
    #[error("unknown protocol `{value}`: must be TCP, UDP or SCTP")]
    Protocol {
        /// The value.
        value: String,
    },
    /// Not a port number.
    #[error("{value} is no port: must be between 1 and 65535")]
    Number {
        /// The value.
        value: i64,
    },
    /// Not a port name.
    #[error(
        "`{value}` is no port name: must be at most 15 lower case letters, digits or `-`, with at least one letter, no `-` at an end and no two in a row"
    )]
    Name {
        /// The value.
        value: String,
    },
}

/// TCP where omitted.
///
/// # Errors
/// [`PortError::Protocol`].
pub fn protocol(value: Option<&str>) -> Result<Protocol, PortError> {
    match value {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(value) => Err(PortError::Protocol { value: value.into() }),
    }
}

/// 1 to 65535.
///
/// # Errors
/// [`PortError::Number`].
pub fn number(value: i64) -> Result<u16, PortError> {
    match u16::try_from(value) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(PortError::Number { value }),
    }
}

/// IANA service name (RFC 6335 section 5.1), in lower case.
///
/// # Errors
/// [`PortError::Name`].
pub fn name(value: &str) -> Result<(), PortError> {
    let ok = (1..=15).contains(&value.len())
        && value.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && value.bytes().any(|b| b.is_ascii_lowercase())
        && !value.starts_with('-')
        && !value.ends_with('-')
        && !value.contains("--");
    if ok { Ok(()) } else { Err(PortError::Name { value: value.into() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_end_at_0_and_65536() {
        assert_eq!(number(1), Ok(1));
        assert_eq!(number(65535), Ok(65535));
        for value in [0, -1, 65536, 70000] {
            assert_eq!(number(value), Err(PortError::Number { value }));
        }
    }

    #[test]
    fn names_are_iana_service_names() {
        for good in ["http", "a", "p-8080", "1a"] {
            assert_eq!(name(good), Ok(()), "{good}");
        }
        for bad in ["", "80", "HTTP", "-a", "a-", "a--b", "a_b", "abcdefghijklmnop"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn protocols_are_upper_case_and_default_to_tcp() {
        assert_eq!(protocol(None), Ok(Protocol::Tcp));
        assert_eq!(protocol(Some("SCTP")), Ok(Protocol::Sctp));
        assert!(protocol(Some("tcp")).is_err());
        assert!(protocol(Some("ICMP")).is_err());
    }
}
