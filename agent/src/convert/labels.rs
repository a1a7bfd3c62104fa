//! The syntax of names and labels, as the API server checks it.

/// What is wrong with a name, a label key or a label value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// Not a DNS name.
    #[error(
        "`{value}` must consist of lower case letters, digits, `-` or `.`, begin and end with a letter or digit, and have at most 253 characters"
    )]
    DnsName {
        /// The value.
        value: String,
    },
    /// Not a DNS label.
    #[error(
        "`{value}` must consist of lower case letters, digits or `-`, begin and end with a letter or digit, and have at most 63 characters"
    )]
    DnsLabel {
        /// The value.
        value: String,
    },
    /// Not a label key.
    #[error(
        "label key `{value}` must be letters, digits, `-`, `_` or `.`, at most 63 of them, begin and end with a letter or digit, and may have a DNS name and `/` before it"
    )]
    LabelKey {
        /// The key.
        value: String,
    },
    /// Not a label value.
    #[error(
        "label value `{value}` must be empty, or letters, digits, `-`, `_` or `.`, at most 63 of them, and begin and end with a letter or digit"
    )]
    LabelValue {
        /// The value.
        value: String,
    },
}

/// RFC 1123 subdomain.
///
/// # Errors
/// [`SyntaxError::DnsName`].
pub fn dns_name(value: &str) -> Result<(), SyntaxError> {
    let ok = value.len() <= 253 && value.split('.').all(is_dns_part);
    if ok { Ok(()) } else { Err(SyntaxError::DnsName { value: value.into() }) }
}

/// RFC 1123 label.
///
/// # Errors
/// [`SyntaxError::DnsLabel`].
pub fn dns_label(value: &str) -> Result<(), SyntaxError> {
    let ok = value.len() <= 63 && is_dns_part(value);
    if ok { Ok(()) } else { Err(SyntaxError::DnsLabel { value: value.into() }) }
}

fn is_dns_part(part: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bounded_by(part, inner, |b| inner(b) || b == b'-')
}

/// `[dns-name/]name`.
///
/// # Errors
/// [`SyntaxError::LabelKey`].
pub fn label_key(key: &str) -> Result<(), SyntaxError> {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let ok = is_label_part(name) && prefix.is_none_or(|p| dns_name(p).is_ok());
    if ok { Ok(()) } else { Err(SyntaxError::LabelKey { value: key.into() }) }
}

/// A label's value.
///
/// # Errors
/// [`SyntaxError::LabelValue`].
pub fn label_value(value: &str) -> Result<(), SyntaxError> {
    let ok = value.is_empty() || is_label_part(value);
    if ok { Ok(()) } else { Err(SyntaxError::LabelValue { value: value.into() }) }
}

fn is_label_part(part: &str) -> bool {
    part.len() <= 63
        && bounded_by(
            part,
            |b| b.is_ascii_alphanumeric(),
            |b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'),
        )
}

/// Not empty, first and last byte are `end`, all are `inner`.
fn bounded_by(text: &str, end: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    match text.as_bytes() {
        [] => false,
        bytes => end(bytes[0]) && end(bytes[bytes.len() - 1]) && bytes.iter().all(|&b| inner(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_keys_follow_the_api() {
        for good in ["app", "a.b_c-d", "kubernetes.io/metadata.name", "A", "x/Y"] {
            assert_eq!(label_key(good), Ok(()), "{good}");
        }
        for bad in ["", "/app", "x/", "-a", "a-", "a b", "X.io/a", "a/b/c", &"a".repeat(64)] {
            assert!(label_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn label_values_follow_the_api() {
        for good in ["", "v1.2_3", "A"] {
            assert_eq!(label_value(good), Ok(()), "{good}");
        }
        for bad in ["-", "a/b", "a b", "é", &"a".repeat(64)] {
            assert!(label_value(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_follow_the_api() {
        assert_eq!(dns_name("web.v1"), Ok(()));
        assert!(dns_name("Web").is_err());
        assert!(dns_name("a..b").is_err());
        assert!(dns_label("web.v1").is_err());
        assert!(dns_label("").is_err());
    }
}
