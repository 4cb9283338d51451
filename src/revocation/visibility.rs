//! By when a revocation is visible where.
//!
//! Owns the arithmetic, and nothing else: the figures are the site's (`[revocation]`). Promises times that hold
//! while the site's responders and CRLs do what the configuration says of them. Failure story: what is not
//! published yet has no times, and a CRL that cannot be made has none; both say so.

use certstatus::UnixMillis;
use certstatus::log::IssuerName;
use serde::Serialize;

use crate::config;

/// By when a revocation is visible where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Visible {
    /// Whether the published log has it.
    pub published: bool,
    /// When it had it at the latest; absent while it has not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log: Option<UnixMillis>,
    /// By when a responder that is asked anew answers so: the next time that it looks at the log. Absent where none of
    /// the certificates is a device issuer's: responders answer for no others, their issuers' CRLs tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp: Option<UnixMillis>,
    /// By when no cached OCSP answer says otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ocsp_cached: Option<UnixMillis>,
    /// By when the published CRLs of all issuers concerned say so; who fetched the last one keeps it until fetching
    /// again. Absent where one waits for something that has no time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crl: Option<UnixMillis>,
    /// The issuers concerned whose CRLs cannot be made now.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub crl_waits: Vec<CrlWaits>,
}

/// Who tells what certificates are worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Responders do, of at least one of them.
    ByOcsp,
    /// Their issuers' CRLs do, and nobody else: a root and an access issuer certify no responder.
    ByCrlsAlone,
}

/// An issuer whose CRL cannot be made now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrlWaits {
    /// Whose.
    pub issuer: IssuerName,
    /// What it waits for.
    pub problem: String,
}

impl Visible {
    /// Of what was published by now, with the CRLs that cannot follow.
    pub(super) fn published(
        now: UnixMillis,
        terms: &config::Revocation,
        answered: Answered,
        crl_waits: Vec<CrlWaits>,
    ) -> Self {
        let seen = match answered {
            Answered::ByOcsp => Some(now.saturating_add(terms.ocsp_poll)),
            Answered::ByCrlsAlone => None,
        };
        Self {
            published: true,
            log: Some(now),
            ocsp: seen,
            // An answer made just before the responder looked is cached for its whole life.
            ocsp_cached: seen.map(|seen| seen.saturating_add(terms.ocsp_cached)),
            crl: crl_waits
                .is_empty()
                .then(|| now.saturating_add(terms.crl_within)),
            crl_waits,
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
            crl_waits: Vec::new(),
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
        let now = UnixMillis(10_000);
        let visible = Visible::published(now, &terms, Answered::ByOcsp, Vec::new());
        let told = serde_json::to_value(visible).unwrap();
        let expected = serde_json::json!({
            "published": true, "log": 10_000, "ocsp": 11_000, "ocsp_cached": 611_000, "crl": 15_000,
        });
        assert_eq!(told, expected);
        let visible = Visible::published(now, &terms, Answered::ByCrlsAlone, Vec::new());
        let told = serde_json::to_value(visible).unwrap();
        let expected = serde_json::json!({ "published": true, "log": 10_000, "crl": 15_000 });
        assert_eq!(told, expected);
        let waits = CrlWaits {
            issuer: "device-1".parse().unwrap(),
            problem: "its token is away".to_owned(),
        };
        let told = serde_json::to_value(Visible::published(
            now,
            &terms,
            Answered::ByOcsp,
            vec![waits],
        ))
        .unwrap();
        let expected = serde_json::json!({
            "published": true, "log": 10_000, "ocsp": 11_000, "ocsp_cached": 611_000,
            "crl_waits": [{"issuer": "device-1", "problem": "its token is away"}],
        });
        assert_eq!(told, expected);
        let told = serde_json::to_value(Visible::unpublished()).unwrap();
        assert_eq!(told, serde_json::json!({ "published": false }));
    }
}
