//! Certificates of OCSP responders, as they stand published and as operators see them.
//!
//! Owns where they are published and which of them count; the daemon says when one is made. Promises that a file
//! counts only where the issuer signed it for the key that is approved now. Never signs. Failure story: a file that
//! does not count is as good as none, and is replaced.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certstatus::log::IssuerName;
use certstatus::log::entry::Slug;
use certstatus::signature::split;
use certstatus::{SerialNumber, UnixMillis};
use der::{Decode as _, Encode as _};
use x509_cert::Certificate;

use crate::profile::IssuerFacts;

/// How far a certificate's start may lie ahead of the clock before it is made anew: the clock was set back, and
/// readers would not take it yet.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// Where the certificates of all responders are published.
#[must_use]
pub fn directory(published: &Path) -> PathBuf {
    published.join("responders")
}

/// Where a responder's certificate by an issuer is published, below `public/`: `responders/<name>/<issuer>.cer`.
#[must_use]
pub fn path(published: &Path, responder: &Slug, issuer: &IssuerName) -> PathBuf {
    directory(published)
        .join(responder.as_str())
        .join(format!("{issuer}.cer"))
}

/// A responder's certificate that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponderCertificate {
    /// The DER.
    pub der: Vec<u8>,
    /// Its serial.
    pub serial: SerialNumber,
    /// The first second of validity.
    pub not_before: UnixMillis,
    /// The last second of validity.
    pub not_after: UnixMillis,
}

impl ResponderCertificate {
    /// Reads a certificate, if this issuer signed it for this key (SubjectPublicKeyInfo, DER).
    #[must_use]
    pub fn judge(der: Vec<u8>, facts: &IssuerFacts, spki: &[u8]) -> Option<Self> {
        let (tbs, algorithm, signature) = split(&der).ok()?;
        facts.public_key.verify(algorithm, tbs, signature).ok()?;
        let certificate = Certificate::from_der(&der).ok()?;
        let tbs = certificate.tbs_certificate();
        if tbs.subject_public_key_info().to_der().ok()? != spki {
            return None;
        }
        let serial = SerialNumber::from_slice(tbs.serial_number().as_bytes()).ok()?;

        let validity = tbs.validity();
        let [not_before, not_after] = [validity.not_before, validity.not_after]
            .map(|time| UnixMillis::from_seconds(time.to_unix_duration().as_secs()));
        Some(Self {
            der,
            serial,
            not_before,
            not_after,
        })
    }

    /// The time until only a third of its life is left; zero when it is, or when its life begins later than now.
    ///
    /// Its life begins when it was made, where that is known: a profile may date it back by more than its
    /// validity, and then it would be due as soon as it is there.
    #[must_use]
    pub fn due_in(&self, made: Option<UnixMillis>, now: UnixMillis) -> Duration {
        if self.not_before > now.saturating_add(AHEAD_MAX) {
            return Duration::ZERO;
        }
        let from = made.map_or(self.not_before, |made| made.max(self.not_before));
        let third = self.not_after.0.saturating_sub(from.0) / 3;
        let due = self.not_after.0.saturating_sub(third);
        Duration::from_millis(due.saturating_sub(now.0))
    }
}

/// What is known of the certificates of all responders; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    states: Arc<Mutex<BTreeMap<(Slug, IssuerName), CertificateState>>>,
}

/// The state of a responder's certificate by one issuer.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CertificateState {
    /// Who signs it.
    pub issuer: IssuerName,
    /// Its serial, if there is one.
    pub serial: Option<SerialNumber>,
    /// The last second of its validity.
    pub not_after: Option<UnixMillis>,
    /// Why there is no newer one though there should be; none when there need not be.
    pub problem: Option<String>,
}

/// A certificate on the board, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct RespondersCertificate {
    /// The responder.
    pub responder: Slug,
    /// How it stands with it.
    #[serde(flatten)]
    pub state: CertificateState,
}

impl Board {
    /// Every certificate, by responder and issuer.
    #[must_use]
    pub fn states(&self) -> Vec<RespondersCertificate> {
        let of = |((responder, _), state): (&(Slug, IssuerName), &CertificateState)| {
            RespondersCertificate {
                responder: responder.clone(),
                state: state.clone(),
            }
        };
        self.lock().iter().map(of).collect()
    }

    /// The certificates of a responder, by issuer.
    #[must_use]
    pub fn of(&self, responder: &Slug) -> Vec<CertificateState> {
        let states = self.lock();
        let of = states.iter().filter(|((name, _), _)| name == responder);
        of.map(|(_, state)| state.clone()).collect()
    }

    /// Tells how it stands with a responder's certificate.
    pub fn tell(
        &self,
        responder: &Slug,
        issuer: &IssuerName,
        certificate: Option<&ResponderCertificate>,
        problem: Option<String>,
    ) {
        let state = CertificateState {
            issuer: issuer.clone(),
            serial: certificate.map(|certificate| certificate.serial),
            not_after: certificate.map(|certificate| certificate.not_after),
            problem,
        };
        self.lock()
            .insert((responder.clone(), issuer.clone()), state);
    }

    /// Forgets an issuer's certificates for responders that are not wanted.
    pub fn retain(&self, issuer: &IssuerName, wanted: impl Fn(&Slug) -> bool) {
        self.lock()
            .retain(|(responder, of), _| of != issuer || wanted(responder));
    }

    /// The states; no panic can leave them half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(Slug, IssuerName), CertificateState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate from second 0 until second 300.
    fn certificate() -> ResponderCertificate {
        ResponderCertificate {
            der: Vec::new(),
            serial: SerialNumber::from_random([7; 16]),
            not_before: UnixMillis(0),
            not_after: UnixMillis(300_000),
        }
    }

    #[test]
    fn it_is_due_when_a_third_is_left_or_when_it_is_not_valid_yet() {
        for (made, now, left) in [
            (None, 0, 200),
            (None, 199_000, 1),
            (None, 200_000, 0),
            (None, 400_000, 0),
            // Dated back: it lives for 30 s and is due 10 s before its end.
            (Some(270_000), 270_000, 20),
            (Some(270_000), 290_000, 0),
        ] {
            let due = certificate().due_in(made.map(UnixMillis), UnixMillis(now));
            assert_eq!(due, Duration::from_secs(left), "{made:?} {now}");
        }
        let mut ahead = certificate();
        ahead.not_before = UnixMillis(61_000);
        assert_eq!(ahead.due_in(None, UnixMillis(0)), Duration::ZERO);
        assert_ne!(ahead.due_in(None, UnixMillis(1_000)), Duration::ZERO);
    }

    #[test]
    fn the_board_keeps_the_last_word_on_each_pair() {
        let board = Board::default();
        let (one, other): (Slug, Slug) = ("a".parse().unwrap(), "b".parse().unwrap());
        let issuer: IssuerName = "device-1".parse().unwrap();
        board.tell(&one, &issuer, None, Some("no token".to_owned()));
        board.tell(&other, &issuer, Some(&certificate()), None);
        assert_eq!(board.of(&one)[0].problem.as_deref(), Some("no token"));
        board.tell(&one, &issuer, Some(&certificate()), None);
        let state = &board.of(&one)[0];
        assert_eq!(
            (state.not_after, state.problem.as_deref()),
            (Some(UnixMillis(300_000)), None)
        );
        board.retain(&issuer, |responder| *responder == other);
        assert!(board.of(&one).is_empty());
        assert_eq!(board.of(&other).len(), 1);
    }
}
