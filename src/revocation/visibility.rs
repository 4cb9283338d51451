//! By when a revocation is visible where.
//!
//! Owns the arithmetic, and nothing else: the figures are the site's (`[revocation]`). Promises times that hold
//! while the site's responders and CRLs do what the configuration says of them. Failure story: what is not
//! published yet has no times, and says so.

use certstatus::UnixMillis;
use serde::Serialize;

use crate::config;

/// By when a revocation is visible where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Visible {
    /// Whether the published log has it.
    pub published: bool,
    /// When it had it at the latest; absent while it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<UnixMillis>,
    /// By when a responder that is asked anew answers so: the next time that it looks at the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<UnixMillis>,
    /// By when no cached OCSP answer says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp_cached: Option<UnixMillis>,
    /// By when the issuer's published CRL says so; who fetched the last one keeps it until fetching again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<UnixMillis>,
}

impl Visible {
    /// Of what was published by now.
    pub(super) fn published(now: UnixMillis, terms: &config::Revocation) -> Self {
        let seen = now.saturating_add(terms.ocsp_poll);
        Self {
            published: true,
            log: Some(now),
            ocsp: Some(seen),
            // An answer made just before the responder looked is cached for its whole life.
            ocsp_cached: Some(seen.saturating_add(terms.ocsp_cached)),
            crl: Some(now.saturating_add(terms.crl_within)),
        }
    }

    /// Of what is not published yet: it will be, as soon as that works again.
    pub(super) const fn unpublished() -> Self {
        Self {
            published: false,
            log: None,
            ocsp: None,
            ocsp_cached: None,
            crl: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_times_follow_from_publication_poll_cache_and_crl() {
        let terms = config::Revocation {
            ocsp_poll: Duration::from_secs(1),
            ocsp_cached: Duration::from_secs(600),
            crl_within: Duration::from_secs(5),
        };
        let visible = Visible::published(UnixMillis(10_000), &terms);
        let told = serde_json::to_value(visible).unwrap();
        let expected = serde_json::json!({
            "published": true, "log": 10_000, "ocsp": 11_000, "ocsp_cached": 611_000, "crl": 15_000,
        });
        assert_eq!(told, expected);
        let told = serde_json::to_value(Visible::unpublished()).unwrap();
        assert_eq!(told, serde_json::json!({ "published": false }));
    }
}
