//! How witnesses are configured: who cosigns this log's heads, and where their last ones are.
//!
//! Owns the rules about a `[[witness]]`. Promises an address that can be asked over plain HTTP without looking at the
//! text again: what is fetched is signed, so the way to it need not be trusted. Failure is a sentence about the key.

use certstatus::log::checkpoint::CosignerKey;

use super::text::check_url;

/// The port of HTTP where a URL has none.
const PORT: u16 = 80;

/// A witness: whoever cosigns the heads of this log, such as a `hallmark-ocsp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Witness {
    /// What it is called in messages, metrics and log entries: `name`, or the name of its key.
    pub name: String,
    /// `url`: below it is `/checkpoint/ORIGIN`.
    pub url: WitnessUrl,
    /// `key`: what its cosignatures verify with.
    pub key: CosignerKey,
}

/// The base URL of a witness: `http://HOST:PORT`, perhaps with a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessUrl {
    /// Without `/` at its end.
    base: String,
    /// Where host and port begin and end in it.
    authority: (usize, usize),
}

impl WitnessUrl {
    /// Host and port as the Host header has them.
    #[must_use]
    pub fn authority(&self) -> &str {
        let (from, to) = self.authority;
        self.base.get(from..to).unwrap_or_default()
    }

    /// Host and port to connect to.
    #[must_use]
    pub fn address(&self) -> String {
        let authority = self.authority();
        // Of an IPv6 address the colons are in brackets.
        let after_host = authority.rsplit(']').next().unwrap_or_default();
        if after_host.contains(':') {
            authority.to_owned()
        } else {
            format!("{authority}:{PORT}")
        }
    }

    /// The path at which the witness has its last head of a log.
    #[must_use]
    pub fn path(&self, origin: &str) -> String {
        let before = self.base.get(self.authority.1..).unwrap_or_default();
        format!("{before}/checkpoint/{origin}")
    }
}

impl std::fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base)
    }
}

impl std::str::FromStr for WitnessUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(format!(
                "{text:?} does not begin with http://: it is asked without TLS, what it answers is signed"
            ));
        };
        check_url(text)?;
        if rest.contains('?') {
            return Err(format!("{text:?} has a query"));
        }
        if rest.contains("/checkpoint/") {
            return Err(format!(
                "{text:?} goes too far: /checkpoint/ and the log's origin are added to it"
            ));
        }
        let base = text.trim_end_matches('/').to_owned();
        let from = text.len() - rest.len();
        let to = rest.find('/').map_or(base.len(), |at| from + at);
        Ok(Self {
            authority: (from, to.min(base.len())),
            base,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_for_asking() {
        for (text, authority, address, path) in [
            (
                "http://w.example",
                "w.example",
                "w.example:80",
                "/checkpoint/log.example/1",
            ),
            (
                "http://w.example:8080/",
                "w.example:8080",
                "w.example:8080",
                "/checkpoint/log.example/1",
            ),
            (
                "http://[::1]/a/b/",
                "[::1]",
                "[::1]:80",
                "/a/b/checkpoint/log.example/1",
            ),
            (
                "http://[::1]:81/a",
                "[::1]:81",
                "[::1]:81",
                "/a/checkpoint/log.example/1",
            ),
        ] {
            let url: WitnessUrl = text.parse().unwrap();
            assert_eq!(url.authority(), authority);
            assert_eq!(url.address(), address);
            assert_eq!(url.path("log.example/1"), path);
            assert_eq!(url.to_string(), text.trim_end_matches('/'));
        }
        for bad in [
            "",
            "http://",
            "http:///",
            "https://w.example",
            "w.example:8080",
            "http://w.example/?a=b",
            "http://w.example/checkpoint/log.example",
            "http://u@w.example",
            "http://w.example/#f",
        ] {
            assert!(bad.parse::<WitnessUrl>().is_err(), "{bad}");
        }
    }
}
