//! The syntax of names and URLs in certificates.
//!
//! Owns what a dNSName, URI, rfc822Name, PrintableString and HTTP URL look like (RFC 5280, 4.2.1.6; RFC
//! 1034, 3.5; RFC 3986). Used where names are made and again where final bytes are read. Failure is a
//! clause that says what is wrong.

/// One label of a DNS name: 1 to 63 letters, digits and hyphens, neither first nor last a hyphen.
pub(super) fn dns_label(label: &str) -> Result<(), &'static str> {
    if label.is_empty() || label.len() > 63 {
        return Err("a label of a DNS name has 1 to 63 characters");
    }
    if !label
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || c == b'-')
    {
        return Err("a DNS name has letters, digits, hyphens and dots only");
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("a label of a DNS name neither begins nor ends with a hyphen");
    }
    Ok(())
}

/// A DNS name without wildcard and without a dot at its end, up to 253 characters.
pub(super) fn dns_name(name: &str) -> Result<(), &'static str> {
    if name.len() > 253 {
        return Err("a DNS name has at most 253 characters");
    }
    let mut last = "";
    for label in name.split('.') {
        dns_label(label)?;
        last = label;
    }
    // RFC 1123, 2.1: what ends in a number is an address.
    if name.contains('.') && last.bytes().all(|c| c.is_ascii_digit()) {
        return Err("a DNS name does not end in a number");
    }
    Ok(())
}

/// An absolute URI (RFC 3986): scheme, colon, and only characters that a URI has.
pub(super) fn uri(text: &str) -> Result<(), &'static str> {
    let (scheme, rest) = text.split_once(':').ok_or("a URI begins with its scheme")?;
    let in_scheme = |c: u8| c.is_ascii_alphanumeric() || b"+-.".contains(&c);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.bytes().all(in_scheme) {
        return Err("a URI begins with its scheme");
    }
    if rest.is_empty() {
        return Err("a URI has something after its scheme");
    }
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&c);
    if !rest.bytes().all(allowed) {
        return Err("it has a character that no URI has");
    }
    let escaped = rest.split('%').skip(1).all(|after| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    });
    if !escaped {
        return Err("a % in a URI is followed by two hex digits");
    }
    match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => authority(rest),
        _ => Ok(()),
    }
}

/// An `http:` or `https:` URL with a host.
pub(super) fn http_url(text: &str) -> Result<(), &'static str> {
    uri(text)?;
    if text.starts_with("http://") || text.starts_with("https://") {
        Ok(())
    } else {
        Err("the URL begins with neither http:// nor https://")
    }
}

/// What stands after `http:`: two slashes and a host that is a DNS name or an address, perhaps a port.
fn authority(rest: &str) -> Result<(), &'static str> {
    let after = rest
        .strip_prefix("//")
        .ok_or("an HTTP URL has // after its scheme")?;
    let end = after.find(['/', '?', '#']).unwrap_or(after.len());
    let authority = after.get(..end).unwrap_or_default();
    if authority.contains('@') {
        return Err("the URL names a user");
    }
    let (host, port) = match authority
        .strip_prefix('[')
        .and_then(|v6| v6.split_once(']'))
    {
        Some((v6, port)) => {
            if v6.parse::<std::net::Ipv6Addr>().is_err() {
                return Err("the URL's host is not an IPv6 address");
            }
            (None, port)
        }
        None => match authority.split_once(':') {
            Some((host, _)) => (Some(host), authority.get(host.len()..).unwrap_or_default()),
            None => (Some(authority), ""),
        },
    };
    if let Some(host) = host
        && host.parse::<std::net::Ipv4Addr>().is_err()
    {
        dns_name(host)?;
    }
    match port.strip_prefix(':') {
        None if port.is_empty() => Ok(()),
        Some(digits) if digits.parse::<u16>().is_ok() => Ok(()),
        _ => Err("the URL's port is not a number up to 65535"),
    }
}

/// A mailbox `local@domain` (RFC 5280, 4.2.1.6): ASCII, a dot-atom and a DNS name.
pub(super) fn email(text: &str) -> Result<(), &'static str> {
    let (local, domain) = text.split_once('@').ok_or("a mail address has an @")?;
    let atom = |c: u8| c.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&c);
    if local.len() > 64
        || local
            .split('.')
            .any(|a| a.is_empty() || !a.bytes().all(atom))
    {
        return Err("the part before the @ is not that of a mail address");
    }
    dns_name(domain)
}

/// Whether a PrintableString has this character (X.680, 41.4).
pub(super) const fn is_printable(c: u8) -> bool {
    c.is_ascii_alphanumeric()
        || matches!(c, b' ' | b'\'' | b'('..=b')' | b'+'..=b'/' | b':' | b'=' | b'?')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dns_names() {
        for good in [
            "a",
            "a-b.example",
            "1a.2b",
            "123",
            "a.".repeat(126).trim_end_matches('.'),
        ] {
            assert_eq!(dns_name(good), Ok(()), "{good}");
        }
        let long = "a".repeat(64);
        for bad in [
            "", ".", "a.", ".a", "a..b", "-a", "a-", "a_b", "*.a", "ä", "1.2.3.4", &long,
        ] {
            assert!(dns_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn uris_and_urls() {
        for good in [
            "urn:dev:id:1",
            "http://a/x?y=1#z",
            "https://1.2.3.4:8/",
            "http://[::1]:80/a%20b",
            "tag:x",
        ] {
            assert_eq!(uri(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "x",
            "1a:b",
            ":x",
            "urn:",
            "urn:a b",
            "urn:ä",
            "urn:%2",
            "urn:%zz",
            "http:/a",
            "http://",
            "http://a:b/",
            "http://u@a/",
            "http://a_b/",
            "http://[::g]/",
            "http://[::1]x/",
            "https://a:65536",
        ] {
            assert!(uri(bad).is_err(), "{bad}");
        }
        assert!(http_url("urn:x:y").is_err());
        assert_eq!(http_url("http://crl.example/a.crl"), Ok(()));
    }

    #[test]
    fn mail_addresses() {
        assert_eq!(email("a.b+c@x.example"), Ok(()));
        for bad in ["", "a", "@x", "a@", "a..b@x", "a b@x", "a@x@y", "ä@x"] {
            assert!(email(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn printable_strings_have_no_underscore_star_or_at() {
        let all: String = (0..=127u8)
            .filter(|c| is_printable(*c))
            .map(char::from)
            .collect();
        assert_eq!(
            all,
            " '()+,-./0123456789:=?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,80}") {
            let _ = (dns_name(&text), uri(&text), email(&text), http_url(&text));
            let _ = (uri(&format!("http:{text}")), uri(&format!("http://[{text}")));
        }
    }
}
