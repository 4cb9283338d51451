//! The API's own certificate: renewed through the five steps before its last third.
//!
//! Promises that a listener never shows an expired certificate while a token can sign. Keeps the key that the
//! ceremony made. Failure story: a renewal that fails is told and tried again; the old certificate stays.

use std::time::Duration;

use certstatus::UnixMillis;
use certstatus::signature::PublicKey;
use der::{Decode as _, EncodePem as _, pem::LineEnding};
use x509_cert::Certificate;
use x509_cert::name::Name;

use crate::config::Config;
use crate::csr::VerifiedCsr;
use crate::http::tls::{ServerCertificate, TlsError};
use crate::issuance::{Issuance, IssueError};
use crate::ra::{APPLIANCE, Grant, Purpose};
use crate::time::Clock;
use certstatus::durable;

/// The longest pause between two looks at the certificate's age: a pause does not see the clock being set.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);

/// The pause after a renewal that failed.
const RETRY_PAUSE: Duration = Duration::from_secs(60);

/// The profile of the API's certificate.
const PROFILE: &str = "tls-server";

/// Why a renewal failed; it is tried again.
#[derive(Debug, thiserror::Error)]
enum RenewalError {
    /// The current certificate does not parse.
    #[error("the current certificate cannot be read")]
    Current(#[source] der::Error),
    /// Its public key is not one that we would certify.
    #[error("the current key is unfit")]
    Key(#[source] certstatus::signature::SignatureFault),
    /// No certificate was issued.
    #[error("no certificate was issued")]
    Issue(#[source] IssueError),
    /// The file was not written.
    #[error("the new certificate was not written")]
    Write(#[source] std::io::Error),
    /// The listener does not take it.
    #[error("the new certificate cannot be used")]
    Use(#[source] TlsError),
}

/// Renews the certificate whenever two thirds of its life are over. Never returns.
pub(super) async fn keep_fresh(
    config: &Config,
    issuance: &Issuance,
    clock: &Clock,
    current: &ServerCertificate,
) {
    let mut renewed = None;
    loop {
        let pause = match due_in(&current.leaf(), renewed, clock.now()) {
            Ok(left) if !left.is_zero() => left.min(LOOK_INTERVAL),
            Ok(_due) => match renew(config, issuance, current).await {
                Ok(()) => {
                    renewed = Some(clock.now());
                    continue;
                }
                Err(error) => {
                    tracing::error!(
                        error = %certstatus::chain(&error),
                        "the server's certificate was not renewed"
                    );
                    RETRY_PAUSE
                }
            },
            Err(error) => {
                tracing::error!(
                    error = %certstatus::chain(&error),
                    "the server's certificate cannot be judged"
                );
                LOOK_INTERVAL
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// The time until two thirds of the certificate's (DER) life are over; zero when they are.
///
/// Its life begins when it was made, where that is known: a profile may date it back by more than its validity,
/// and then it would be due as soon as it is there.
fn due_in(
    leaf: &[u8],
    made: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<Duration, RenewalError> {
    let leaf = Certificate::from_der(leaf).map_err(RenewalError::Current)?;
    let validity = leaf.tbs_certificate().validity();
    let until = validity.not_after.to_unix_duration();
    let from = validity.not_before.to_unix_duration();
    let from = made.map_or(from, |made| from.max(Duration::from_millis(made.0)));
    let third = until.saturating_sub(from) / 3;
    Ok(until
        .saturating_sub(third)
        .saturating_sub(Duration::from_millis(now.0)))
}

/// Issues a new certificate for the same key, writes it and lets the listener use it.
async fn renew(
    config: &Config,
    issuance: &Issuance,
    current: &ServerCertificate,
) -> Result<(), RenewalError> {
    use der::Encode as _;
    let leaf = Certificate::from_der(&current.leaf()).map_err(RenewalError::Current)?;
    let spki = leaf
        .tbs_certificate()
        .subject_public_key_info()
        .to_der()
        .map_err(RenewalError::Current)?;
    let key = PublicKey::parse(&spki).map_err(RenewalError::Key)?;
    let csr = VerifiedCsr::own_key(Name::default(), key);
    let grant = Grant::act(APPLIANCE, Purpose::Server(config.server.names.clone()));
    let answer = issuance
        .access(grant, PROFILE, csr)
        .await
        .map_err(RenewalError::Issue)?;
    let mut pem = String::new();
    for certificate in &answer.chain {
        let parsed = Certificate::from_der(certificate).map_err(RenewalError::Current)?;
        pem.push_str(
            &parsed
                .to_pem(LineEnding::LF)
                .map_err(RenewalError::Current)?,
        );
    }
    let (chain_file, key_file) = (config.server_chain_file(), config.server_key_file());
    let path = chain_file.clone();
    tokio::task::spawn_blocking(move || durable::write(&path, pem.as_bytes()))
        .await
        .map_err(std::io::Error::other)
        .and_then(|written| written)
        .map_err(RenewalError::Write)?;
    current
        .replace(&chain_file, &key_file)
        .map_err(RenewalError::Use)?;
    tracing::info!(serial = %answer.serial, until = %answer.not_after, "server certificate renewed");
    Ok(())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    #[test]
    fn a_certificate_is_due_when_two_thirds_of_its_life_are_over() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2026, 1, 31);
        let leaf = params.self_signed(&key).unwrap().der().to_vec();
        // 2026-01-01T00:00:00Z and days after it.
        let day = |number: u64| UnixMillis::from_seconds(1_767_225_600 + number * 86_400);
        let days = |number: u32| Duration::from_secs(86_400) * number;
        for (made, now, left) in [
            (None, day(0), days(20)),
            (None, day(19), days(1)),
            (None, day(20), days(0)),
            (None, day(40), days(0)),
            // Dated back by 27 days, it lives for 3 and is due a day before its end.
            (Some(day(27)), day(27), days(2)),
            (Some(day(27)), day(29), days(0)),
        ] {
            assert_eq!(due_in(&leaf, made, now).unwrap(), left, "{made:?} {now:?}");
        }
        assert!(due_in(b"no certificate", None, day(0)).is_err());
    }
}
