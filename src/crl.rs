//! CRLs: through intent, sign and check like every signature.
//!
//! Owns when a CRL is made and what it covers; `certstatus::crl` encodes it. Promises that every CRL carries
//! the log's origin, verifier key and newest checkpoint. Failure story: no new CRL; the published one stays
//! valid until its `nextUpdate`.

use std::path::Path;
use std::time::Duration;

use certstatus::UnixMillis;
use certstatus::crl::{CrlFields, LogAnchor, RevokedEntry, Scope, TbsCrl};
use certstatus::log::IssuerName;

use crate::durable;
use crate::hsm::HsmError;
use crate::issuer::{SignFailed, Signer};
use crate::profile::IssuerFacts;
use crate::ra::{APPLIANCE, Grant, Purpose};
use crate::signing_log::{Failed, Issued, SigningLog, ToBeSigned};

/// Why a CRL is not made.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// The intent was refused.
    #[error("the CRL's intent was not recorded")]
    Intent(#[source] crate::signing_log::IntentRefused),
    /// The token did not sign.
    #[error("the CRL was not signed")]
    Sign(#[source] HsmError),
    /// The signature does not verify.
    #[error("the CRL's signature is wrong")]
    Check(#[source] certstatus::signature::SignatureFault),
    /// The log failed.
    #[error("the CRL's outcome was not recorded")]
    Log(#[source] crate::signing_log::LogError),
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
    let intent = log
        .record_intent(&grant, object)
        .await
        .map_err(CrlError::Intent)?;
    let signed = match signer.sign(intent).await {
        Ok(signed) => signed,
        Err(SignFailed { failed, source }) => {
            // The failure is what the caller must hear; an intent left open is closed by recovery.
            close(log, *failed).await;
            return Err(CrlError::Sign(source));
        }
    };
    let checked = match signed.check() {
        Ok(checked) => checked,
        Err(wrong) => {
            let fault = wrong.fault;
            close(log, *wrong.failed).await;
            return Err(CrlError::Check(fault));
        }
    };
    let issued = log.record_issued(checked).await.map_err(CrlError::Log)?;
    // A reader that finds the CRL must find its entries below the published head.
    log.publish().await.map_err(CrlError::Log)?;
    write(published, signer.name(), issued.der().to_vec()).await?;
    Ok(issued)
}

/// Closes a failed intent, or leaves it to recovery.
async fn close(log: &SigningLog, failed: Failed) {
    if let Err(error) = log.record_failed(failed).await {
        tracing::error!(%error, "a CRL's intent stays open until recovery");
    }
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
