//! Renewals of line certificates: whose turn it is, and what the same renewal got before.
//!
//! Owns [`RenewalTurn`] and the recognition of a repeated renewal: the certificate that asks and the new public
//! key are what makes two renewals the same. Promises that a line renews one certificate at a time, and that
//! a renewal whose answer was lost gets the certificate that exists, byte for byte, while it is valid and not revoked.
//! Never signs. Failure story: none of its own; what the log cannot tell is an error, and the line asks again.

use std::sync::{Arc, PoisonError};

use certstatus::SerialNumber;
use certstatus::log::DetailHash;
use certstatus::log::entry::Slug;
use der::{Decode as _, Encode as _};
use x509_cert::Certificate;

use super::{Answer, Inner, Issuance, IssueError, Origin};
use crate::csr::VerifiedCsr;
use crate::ra::{Line, PartyCertificate};
use crate::signing_log::{CertificateRecord, CertificateState, LogError, LogState};

/// A line's turn to renew its certificate; dropping it lets the next renewal of the line begin.
pub(crate) struct RenewalTurn {
    inner: Arc<Inner>,
    line: Slug,
}

impl Issuance {
    /// The line's turn to renew, unless a renewal of it is in work. Nobody queues for it: what waits could pile up.
    pub(crate) fn renewal_turn(&self, line: &Slug) -> Option<RenewalTurn> {
        let renewing = self.inner.renewing.lock();
        let began = renewing
            .unwrap_or_else(PoisonError::into_inner)
            .insert(line.clone());
        began.then(|| RenewalTurn {
            inner: Arc::clone(&self.inner),
            line: line.clone(),
        })
    }

    /// What the same renewal got before: the first certificate that the line got after the one that asks, for this key.
    ///
    /// Whoever calls it holds the line's turn, so that no other renewal of the line is between this and its own.
    ///
    /// # Errors
    /// [`IssueError::Log`]: try again.
    pub(crate) async fn renewed_before(
        &self,
        line: &Line,
        csr: &VerifiedCsr,
    ) -> Result<Option<Answer>, IssueError> {
        let log = &self.inner.log;
        // What is not yet known to be durable is not given out, as with devices.
        if log.status().state == LogState::Recovering {
            return Err(LogError::Recovering.into());
        }
        let now = self.inner.clock.now();
        let certificates = log.registry().line(line.name());
        let certificates = certificates.map_or_else(Vec::new, |record| record.certificates);
        // With the key of the certificate that asks, itself is not the answer: a line may keep its key.
        let younger = certificates
            .into_iter()
            .skip_while(|certificate| certificate.serial != line.serial())
            .skip(1);
        for PartyCertificate { serial, .. } in younger.filter(|it| now <= it.not_after) {
            let answer = self.inner.given_out(serial, &csr.spki_sha256()).await?;
            if answer.is_some() {
                return Ok(answer);
            }
        }
        Ok(None)
    }
}

impl Inner {
    /// A certificate of the log as it was given out, if it is for this key and not revoked.
    async fn given_out(
        &self,
        serial: SerialNumber,
        spki: &DetailHash,
    ) -> Result<Option<Answer>, IssueError> {
        let Some(record) = self.log.certificate(serial).await? else {
            return Ok(None);
        };
        let CertificateRecord {
            issuer,
            status,
            not_after,
            intent,
            outcome: Some(outcome),
            pem: Some(pem),
            ..
        } = record
        else {
            return Ok(None);
        };
        if status != CertificateState::Issued {
            return Ok(None);
        }
        let unreadable = || IssueError::NotACertificate(intent);
        let (_, der) = der::pem::decode_vec(pem.as_bytes()).map_err(|_| unreadable())?;
        if public_key_of(&der).map_err(|_| unreadable())? != *spki {
            return Ok(None);
        }
        let mut chain = vec![der];
        chain.extend(self.known(&issuer)?.chain.iter().cloned());
        Ok(Some(Answer {
            chain,
            serial,
            entries: (intent, outcome),
            not_after,
            origin: Origin::Repeated,
        }))
    }
}

/// SHA-256 of a certificate's SubjectPublicKeyInfo.
fn public_key_of(certificate: &[u8]) -> Result<DetailHash, der::Error> {
    let certificate = Certificate::from_der(certificate)?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    Ok(DetailHash::of(&key.to_der()?))
}

impl Drop for RenewalTurn {
    fn drop(&mut self) {
        let renewing = self.inner.renewing.lock();
        renewing
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.line);
    }
}
