//! Rules about single texts in the configuration: paths, origins, names and URLs.
//!
//! Owns what each may be made of. Promises to look at the text alone: no name is resolved, no file is asked
//! for. Failure story: each refusal says what would be right; the caller names the key.

use std::net::IpAddr;
use std::path::{Component, Path, PathBuf};

/// The longest URL in bytes: longer ones do not fit into certificates that small devices read.
const URL_BYTES_MAX: usize = 255;

/// The longest origin line in bytes: it stands in every checkpoint and CRL.
const ORIGIN_BYTES_MAX: usize = 200;

/// The path without `.` and `..`, told by its text alone.
pub fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                plain.pop();
            }
            other => plain.push(other),
        }
    }
    plain
}

/// A log's origin: a schema-less URL (C2SP tlog-checkpoint) whose text is safe in file names and notes.
pub fn check_origin(origin: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~/:".contains(c);
    let edge = origin.starts_with('/') || origin.ends_with('/') || origin.contains("//");
    if origin.is_empty() || origin.len() > ORIGIN_BYTES_MAX || edge || !origin.chars().all(allowed)
    {
        return Err(format!(
            "must be a URL without its scheme, such as hallmark.example/plant-7: up to \
             {ORIGIN_BYTES_MAX} letters, digits, '-', '.', '_', '~', ':' and single '/' in between"
        ));
    }
    Ok(())
}

/// An IP address, or a DNS host name (RFC 1123, 2.1) without a wildcard.
pub fn check_server_name(name: &str) -> Result<(), String> {
    if name.parse::<IpAddr>().is_ok() || is_host(name) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is neither an IP address nor a DNS host name"
    ))
}

/// Whether a text is a DNS host name.
fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        let allowed = label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let edge = label.starts_with('-') || label.ends_with('-');
        !label.is_empty() && label.len() <= 63 && allowed && !edge
    };
    // A last label of digits would be read as a malformed IPv4 address (RFC 3696, 2).
    let last = name.rsplit('.').next().unwrap_or_default();
    let numeric = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(label) && !numeric
}

/// An absolute http or https URL (RFC 3986) fit for a certificate: no user, no fragment.
pub fn check_url(url: &str) -> Result<(), String> {
    let refuse = |what: &str| Err(format!("{url:?} {what}"));
    let rest = url.strip_prefix("http://").or(url.strip_prefix("https://"));
    let Some(rest) = rest else {
        return refuse("does not begin with http:// or https://");
    };
    if url.len() > URL_BYTES_MAX {
        return Err(format!("is longer than {URL_BYTES_MAX} bytes"));
    }
    let forbidden = |c: char| !c.is_ascii_graphic() || "\"<>\\^`{|}#".contains(c);
    if rest.contains(forbidden) {
        return refuse("has a character that a URL has not, or a fragment");
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let (host, port) = match authority.strip_prefix('[') {
        Some(bracketed) => match bracketed.split_once(']') {
            Some((host, port)) if host.parse::<std::net::Ipv6Addr>().is_ok() => (None, port),
            _ => return refuse("has no valid IPv6 address in its brackets"),
        },
        None => {
            let end = authority.find(':').unwrap_or(authority.len());
            let (host, port) = authority.split_at(end);
            (Some(host), port)
        }
    };
    if host.is_some_and(|host| check_server_name(host).is_err()) {
        return refuse("has no valid host");
    }
    let number = port
        .strip_prefix(':')
        .map(str::parse::<std::num::NonZeroU16>);
    if !port.is_empty() && !matches!(number, Some(Ok(_))) {
        return refuse("has no valid port");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn urls_as_certificates_take_them() {
        for good in [
            "http://pki.example/a.crl",
            "https://pki.example:8080/x?y=1",
            "http://192.0.2.1/ocsp",
            "http://[2001:db8::1]:80/ocsp",
            "http://localhost:8080",
        ] {
            assert_eq!(check_url(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "http://",
            "http:///x",
            "http://user@host/",
            "http://host:0/",
            "http://host:/",
            "http://host:70000/",
            "http://[::1/",
            "http://[host]/",
            "http://host/#f",
            "http://h\u{f6}st/",
            "HTTP://host/",
            "http://999.1.1.1/",
        ] {
            assert!(check_url(bad).is_err(), "{bad}");
        }
        assert!(check_url(&format!("http://host/{}", "a".repeat(300))).is_err());
    }

    #[test]
    fn names_as_certificates_take_them() {
        for good in [
            "a",
            "hallmark.example",
            "192.0.2.1",
            "2001:db8::1",
            "x-1.7a",
        ] {
            assert_eq!(check_server_name(good), Ok(()), "{good}");
        }
        for bad in ["", ".", "a.", "-a", "a_b", "a..b", "1.2.3", "a/b", "[::1]"] {
            assert!(check_server_name(bad).is_err(), "{bad}");
        }
        assert!(check_server_name(&"a".repeat(64)).is_err());
    }

    #[test]
    fn paths_are_made_plain() {
        assert_eq!(plain(Path::new("/a/./b/../c")), Path::new("/a/c"));
        assert_eq!(plain(Path::new("/../a")), Path::new("/a"));
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,60}") {
            let _ = check_url(&format!("http://{text}"));
            let _ = check_server_name(&text);
            let _ = check_origin(&text);
        }
    }
}
