//! How CRLs are configured: their terms, and the URLs of partitions.
//!
//! Owns the rules about `[crl]` and about what an issuer says of its CRLs. Promises terms under which a CRL is
//! renewed long before it ends. Failure is a sentence about the key.

use std::time::{Duration, UNIX_EPOCH};

use certstatus::UnixMillis;

use super::text::check_url;
use crate::limits;

/// What stands for a partition's number in its URL.
const PLACE: &str = "{partition}";

/// The longest number of a partition, in digits, for the length of the URL.
const LONGEST: &str = "4294967295";

/// How seldom CRLs are made, and how long they count; what is not said is the default of the issuer's role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CrlTerms {
    /// From `thisUpdate` to `nextUpdate`.
    pub validity: Option<Duration>,
    /// From one CRL to the next, while nothing is revoked.
    pub every: Option<Duration>,
    /// Certificates that expired since then stay listed (expiredCertsOnCRL).
    pub keep_expired_since: Option<UnixMillis>,
}

/// The URL of an issuer's CRL partitions: `http://pki.example/crl/device-1/{partition}.crl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionUrl {
    before: String,
    after: String,
}

impl CrlTerms {
    /// These terms, with `others` where they say nothing.
    #[must_use]
    pub fn or(self, others: Self) -> Self {
        Self {
            validity: self.validity.or(others.validity),
            every: self.every.or(others.every),
            keep_expired_since: self.keep_expired_since.or(others.keep_expired_since),
        }
    }

    /// Refuses terms under which a CRL would end before the next is safely there; names the key that is wrong.
    ///
    /// # Errors
    /// The key and what is wrong with its value.
    pub(super) fn check(self) -> Result<(), (&'static str, String)> {
        let shown = humantime::format_duration;
        if let Some(validity) = self.validity
            && !limits::CRL_VALIDITY_RANGE.contains(&validity)
        {
            return Err(("validity", "must be 1h to 10years".to_owned()));
        }
        let Some(every) = self.every else {
            return Ok(());
        };
        if every < limits::CRL_EVERY_MIN {
            let least = shown(limits::CRL_EVERY_MIN);
            return Err(("every", format!("must be at least {least}")));
        }
        let validity = self.validity.unwrap_or(limits::CRL_VALIDITY);
        if every > validity / 2 {
            let problem = format!(
                "{} must be at most half of the validity, {}: or one renewal that fails leaves no CRL",
                shown(every),
                shown(validity),
            );
            return Err(("every", problem));
        }
        Ok(())
    }
}

impl PartitionUrl {
    /// The URL of a partition, counted from 1.
    #[must_use]
    pub fn of(&self, partition: u32) -> String {
        format!("{}{partition}{}", self.before, self.after)
    }
}

impl std::str::FromStr for PartitionUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (before, after) = match text.split_once(PLACE) {
            Some((before, after)) if !after.contains(PLACE) => (before, after),
            _ => return Err(format!("must have {PLACE} in it exactly once")),
        };
        // The host is the same for all, or each would need a web server of its own.
        let host = before.splitn(4, '/').count() < 4;
        if host {
            return Err(format!("must have {PLACE} after its host"));
        }
        check_url(&format!("{before}{LONGEST}{after}"))?;
        Ok(Self {
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }
}

/// Reads a point in time: `2026-01-01T00:00:00Z`.
pub(super) fn read_time(text: &str) -> Result<UnixMillis, String> {
    let date = humantime::parse_rfc3339(text).ok();
    let since = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    since
        .map(|since| UnixMillis::from_seconds(since.as_secs()))
        .ok_or_else(|| format!("{text:?} is no time such as 2026-01-01T00:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partitions_url_has_one_place_after_the_host() {
        let url: PartitionUrl = "http://pki.example/crl/a/{partition}.crl".parse().unwrap();
        assert_eq!(url.of(12), "http://pki.example/crl/a/12.crl");
        for bad in [
            "http://pki.example/crl/a.crl",
            "http://pki.example/{partition}/{partition}.crl",
            "http://{partition}.example/a.crl",
            "ldap://pki.example/{partition}.crl",
            "http://pki.example/a b/{partition}.crl",
            "",
        ] {
            assert!(bad.parse::<PartitionUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn terms_leave_time_for_a_renewal_that_fails() {
        let hours = |hours: u64| Some(Duration::from_secs(3600 * hours));
        let terms = |validity, every| CrlTerms {
            validity,
            every,
            keep_expired_since: None,
        };
        for good in [
            terms(None, None),
            terms(hours(1), None),
            terms(hours(2), hours(1)),
            terms(None, hours(84)),
        ] {
            assert_eq!(good.check(), Ok(()), "{good:?}");
        }
        let key = |validity, every| terms(validity, every).check().unwrap_err().0;
        assert_eq!(key(Some(Duration::from_secs(60)), None), "validity");
        assert_eq!(key(hours(24 * 4000), None), "validity");
        assert_eq!(key(hours(2), hours(2)), "every");
        assert_eq!(key(None, hours(85)), "every");
        assert_eq!(key(None, Some(Duration::from_secs(1))), "every");
    }

    #[test]
    fn an_issuers_terms_come_before_those_of_all() {
        let own = CrlTerms {
            every: Some(Duration::from_secs(7200)),
            ..CrlTerms::default()
        };
        let all = CrlTerms {
            validity: Some(Duration::from_secs(86_400)),
            every: Some(Duration::from_secs(3600)),
            keep_expired_since: read_time("2026-01-01T00:00:00Z").ok(),
        };
        let both = own.or(all);
        assert_eq!(both.every, own.every);
        assert_eq!(both.validity, all.validity);
        assert_eq!(both.keep_expired_since, Some(UnixMillis(1_767_225_600_000)));
        assert!(read_time("tomorrow").is_err());
    }
}
