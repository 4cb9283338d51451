//! What goes through the log on its way to a signature and back: intent, certificate, issued.
//!
//! Owns the types whose existence proves a step. Their fields are visible to the log only, so that nobody
//! else can make one. Promises that a [`Certificate`]'s signature verified over exactly its intent's bytes.
//! Failure story: a signature that does not verify gives the intent back as [`CheckFailed`].

use certstatus::log::entry::Slug;
use certstatus::log::{Class, DetailHash, Gone, IssuerName, LeafIndex, Subject};
use certstatus::signature::{PublicKey, SignatureAlgorithm, SignatureFault, assemble, split};

use crate::profile::Tbs;

/// What is to be signed.
pub enum ToBeSigned {
    /// A certificate.
    Certificate(Tbs),
    /// A CRL.
    Crl {
        /// Whose.
        issuer: IssuerName,
        /// Its key.
        key: PublicKey,
        /// What it signs with.
        algorithm: SignatureAlgorithm,
        /// 0 for the full CRL, else the partition.
        partition: u32,
        /// What stays out of it: with the checkpoint in it, what its list follows from.
        gone: Option<Gone>,
        /// The list.
        tbs: certstatus::crl::TbsCrl,
    },
    /// A PKCS#10 request to an offline root: the CertificationRequestInfo.
    Request {
        /// Whose.
        issuer: IssuerName,
        /// Its key.
        key: PublicKey,
        /// What it signs with.
        algorithm: SignatureAlgorithm,
        /// The DER.
        tbs: Vec<u8>,
    },
    /// A self-test: the log chooses the string, which no certificate can be.
    SelfTest {
        /// Whose key.
        issuer: IssuerName,
        /// The key.
        key: PublicKey,
        /// What it signs with.
        algorithm: SignatureAlgorithm,
    },
}

/// The permission to sign one TBS once. Made only after its commit; not `Clone`; consumed by `Issuer::sign`.
#[derive(Debug)]
pub struct Intent {
    pub(super) index: LeafIndex,
    pub(super) issuer: IssuerName,
    pub(super) subject: Subject,
    pub(super) key: PublicKey,
    pub(super) algorithm: SignatureAlgorithm,
    pub(super) tbs: Vec<u8>,
    /// Whose unit comes back when it is abandoned.
    pub(super) order: Option<Slug>,
}

/// A signed object whose signature verified over exactly the intent's TBS. Made only by [`Intent::certify`].
#[derive(Debug)]
pub struct Certificate {
    pub(super) intent: Intent,
    pub(super) der: Vec<u8>,
    pub(super) sha256: DetailHash,
    pub(super) signature: Vec<u8>,
    pub(super) attempts: u32,
}

/// A signed object whose outcome is durable: it may leave.
#[derive(Clone, Debug)]
pub struct Issued {
    pub(super) der: Vec<u8>,
    pub(super) subject: Subject,
    pub(super) intent: LeafIndex,
    pub(super) outcome: LeafIndex,
}

/// An intent that failed: whether a signature may exist, and what happened, for people.
#[derive(Debug)]
pub struct Failed {
    /// The intent.
    pub intent: Intent,
    /// Requests that may have reached a token; 0 means provably none.
    pub attempts: u32,
    /// What happened.
    pub reason: String,
}

/// The signature over an intent is not what it must be: the token or its driver is broken.
#[derive(Debug, thiserror::Error)]
#[error("the token's signature over {what} is wrong: {fault}")]
pub struct CheckFailed {
    /// The intent: record it; it is unresolved.
    pub failed: Box<Failed>,
    /// Which object.
    pub what: String,
    /// What the verification said.
    pub fault: SignatureFault,
}

impl Intent {
    /// Its entry.
    #[must_use]
    pub const fn index(&self) -> LeafIndex {
        self.index
    }

    /// The issuer whose key may sign it.
    #[must_use]
    pub const fn issuer(&self) -> &IssuerName {
        &self.issuer
    }

    /// What it permits.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The exact bytes to sign.
    #[must_use]
    pub fn tbs(&self) -> &[u8] {
        &self.tbs
    }

    /// Step 4: joins the signature, verifies it with the issuer's public key over the intent's TBS, parses the
    /// result anew and compares its TBS bytes.
    ///
    /// A self-test's string is no DER: its signature is verified and nothing is joined. Reads the TBS three times,
    /// which takes a CRL of a million entries some tenths of a second.
    ///
    /// # Errors
    /// [`CheckFailed`]: record its `failed`; the token or its driver is broken.
    pub fn certify(self, signature: Vec<u8>, attempts: u32) -> Result<Certificate, CheckFailed> {
        // The caller got a signature, so at least one request reached a token.
        let attempts = attempts.max(1);
        match self.verified(&signature) {
            Ok(der) => Ok(Certificate {
                intent: self,
                sha256: DetailHash::of(&der),
                der,
                signature,
                attempts,
            }),
            Err(fault) => {
                let what = self.name();
                Err(CheckFailed {
                    failed: Box::new(Failed {
                        intent: self,
                        attempts,
                        reason: format!("the signature was wrong: {fault}"),
                    }),
                    what,
                    fault,
                })
            }
        }
    }

    /// The whole signed object, if the signature is right; nothing for a self-test.
    fn verified(&self, signature: &[u8]) -> Result<Vec<u8>, SignatureFault> {
        self.key.verify(self.algorithm, &self.tbs, signature)?;
        if self.subject.class() == Class::SelfTest {
            return Ok(Vec::new());
        }
        let der = assemble(&self.tbs, self.algorithm, signature);
        let parts = split(&der)?;
        if parts != (self.tbs.as_slice(), self.algorithm, signature) {
            return Err(SignatureFault::NotSigned);
        }
        Ok(der)
    }

    /// The object in words.
    fn name(&self) -> String {
        match &self.subject {
            Subject::Certificate { serial, .. } => format!("certificate {serial}"),
            Subject::Crl {
                number,
                partition: 0,
            } => format!("CRL {number} of {}", self.issuer),
            Subject::Crl { number, partition } => {
                format!("CRL {number} of {}, partition {partition}", self.issuer)
            }
            Subject::Request => format!("the request of {}", self.issuer),
            Subject::SelfTest => format!("the self-test of {}", self.issuer),
        }
    }
}

impl Certificate {
    /// The class that its signature counts in.
    #[must_use]
    pub const fn class(&self) -> Class {
        self.intent.subject.class()
    }
}

impl Issued {
    /// The signed object, DER; empty for a self-test.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The same, given away.
    #[must_use]
    pub fn into_der(self) -> Vec<u8> {
        self.der
    }

    /// What it is.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The entries of its intent and its outcome.
    #[must_use]
    pub const fn entries(&self) -> (LeafIndex, LeafIndex) {
        (self.intent, self.outcome)
    }
}
