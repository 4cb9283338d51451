//! CRLs: through intent, sign and check like every signature.
//!
//! Owns how a CRL is made and published; its callers say when and what it covers (in this version the ceremony
//! alone, once for each issuer), and `certstatus::crl` encodes it. Promises that every CRL carries
//! the log's origin, verifier key and newest checkpoint. Failure story: no new CRL; the published one stays
//! valid until its `nextUpdate`.

use std::path::Path;
use std::time::Duration;

use certstatus::UnixMillis;
use certstatus::crl::{CrlFields, LogAnchor, RevokedEntry, Scope, TbsCrl};
use certstatus::log::IssuerName;

use crate::issuer::{MakeFailed, Signer};
use crate::profile::IssuerFacts;
use crate::ra::{APPLIANCE, Grant, Purpose};
use crate::signing_log::{Issued, LogError, SigningLog, ToBeSigned};
use certstatus::durable;

/// Why a CRL is not made.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// It was not made.
    #[error("the CRL was not made")]
    Make(#[source] MakeFailed),
    /// The log failed.
    #[error("the log does not serve a CRL")]
    Log(#[source] LogError),
    /// The file could not be written.
    #[error("the CRL was issued but not written")]
    Write(#[source] std::io::Error),
}

/// What a CRL covers and how long it counts.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// What it covers.
    pub scope: Scope,
    /// From `now` to `nextUpdate`; longer than the outage that a site must bear.
    pub validity: Duration,
    /// `thisUpdate`.
    pub now: UnixMillis,
}

/// Makes, signs, logs and publishes (`public/crl/<issuer>.crl`) a full CRL.
///
/// # Errors
/// [`CrlError`]; the published CRL stays.
pub async fn issue(
    log: &SigningLog,
    signer: &Signer,
    facts: &IssuerFacts,
    terms: Terms,
    revoked: &[RevokedEntry],
    published: &Path,
) -> Result<Issued, CrlError> {
    let checkpoint = log.checkpoint().await.map_err(CrlError::Log)?;
    let number = log
        .next_crl_number(signer.name())
        .await
        .map_err(CrlError::Log)?;
    let tbs = TbsCrl::encode(
        &CrlFields {
            issuer: &facts.subject,
            authority_key_id: &facts.key_id,
            algorithm: signer.algorithm(),
            number,
            this_update: terms.now,
            next_update: terms.now.saturating_add(terms.validity),
            scope: terms.scope,
            anchor: LogAnchor {
                origin: log.origin(),
                log_key: &log.verifier_key(),
                checkpoint: &checkpoint,
            },
        },
        revoked,
    );
    let grant = Grant::act(APPLIANCE, Purpose::Crl(signer.name().clone()));
    let object = ToBeSigned::Crl {
        issuer: signer.name().clone(),
        key: signer.public_key().clone(),
        algorithm: signer.algorithm(),
        tbs,
    };
    let issued = signer
        .make(log, &grant, object)
        .await
        .map_err(CrlError::Make)?;
    // A reader that finds the CRL must find its entries below the published head.
    log.publish().await.map_err(CrlError::Log)?;
    write(published, signer.name(), issued.der().to_vec()).await?;
    Ok(issued)
}

/// Writes the CRL where readers look for it.
async fn write(published: &Path, issuer: &IssuerName, der: Vec<u8>) -> Result<(), CrlError> {
    let path = published.join("crl").join(format!("{issuer}.crl"));
    tokio::task::spawn_blocking(move || durable::write(&path, &der))
        .await
        .map_err(std::io::Error::other)
        .and_then(|written| written)
        .map_err(CrlError::Write)
}
