//! What is believed of CA certificates, responder certificates and CRLs before anything is answered with them.
//!
//! Owns those checks. Promises that a file counts only if it is bound to the verified log: a CA certificate by its hash
//! in the log, everything else by that CA's signature. Never fetches, never keeps, never reads a clock. Failure story:
//! [`BadFile`] says which rule a file broke; the last good one stays.

use der::asn1::ObjectIdentifier;
use der::{Decode as _, Encode as _};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};
use x509_cert::time::Time;

use crate::log::DetailHash;
use crate::log::checkpoint::{BadNote, Checkpoint, VerifierKey};
use crate::ocsp::{IssuerHashes, NotACertificate, ResponderId};
use crate::signature::{self, PublicKey, SignatureFault};
use crate::view::IssuerBinding;
use crate::{
    UnixMillis,
    crl::{self, Scope},
};

/// id-kp-OCSPSigning (RFC 6960, 4.2.2.2).
const OCSP_SIGNING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.9");
/// id-pkix-ocsp-nocheck (RFC 6960, 4.2.2.2.1).
const NO_CHECK: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.48.1.5");

/// Why a published file is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadFile {
    /// The CA certificate's hash.
    #[error("it is not the certificate that the log binds this issuer to")]
    NotTheLogs,
    /// Its encoding.
    #[error("it is not an X.509 certificate in DER: {0}")]
    NotACertificate(#[from] NotACertificate),
    /// A structure within.
    #[error("it cannot be read")]
    Der(#[from] der::Error),
    /// A key or a signature.
    #[error("it is not signed by this issuer's key, or its key is unusable")]
    Signature(#[from] SignatureFault),
    /// A rule for responder certificates.
    #[error("{0}")]
    Rule(&'static str),
    /// Not a CRL.
    #[error("it is no CRL of ours")]
    Crl(#[from] crl::NotACrl),
    /// A CRL's anchor.
    #[error("its log anchor does not verify")]
    Anchor(#[from] BadNote),
    /// An older CRL.
    #[error("its number is {found}, and {kept} was there before: somebody serves an old copy")]
    Older {
        /// Its number.
        found: u64,
        /// That of the CRL that is kept.
        kept: u64,
    },
    /// A CRL that the log has superseded.
    #[error(
        "its number is {found}, and by the verified log {issued} was issued: somebody withholds the newer one, or \
         copies it late"
    )]
    Behind {
        /// Its number.
        found: u64,
        /// The newest that was issued.
        issued: u64,
    },
    /// A CRL that the log does not know.
    #[error(
        "its number is {found}, of which the verified log does not know yet that it was issued for this place"
    )]
    Ahead {
        /// Its number.
        found: u64,
    },
    /// A CRL of another history.
    #[error("its log anchor contradicts the verified log: one of them is forked")]
    Forked,
}

/// An issuer's own certificate.
#[derive(Debug)]
pub struct CaCertificate {
    /// The DER.
    pub der: Vec<u8>,
    /// The subject's Name, DER.
    pub name: Vec<u8>,
    /// The public key.
    pub key: PublicKey,
    /// What CertIDs call it.
    pub hashes: IssuerHashes,
}

/// This responder's certificate by one issuer.
#[derive(Debug)]
pub struct ResponderCertificate {
    /// The DER.
    pub der: Vec<u8>,
    /// The first moment of validity.
    pub not_before: UnixMillis,
    /// The last second of validity.
    pub not_after: UnixMillis,
    /// The responder by name.
    pub by_name: ResponderId,
    /// The responder by key.
    pub by_key: ResponderId,
}

impl ResponderCertificate {
    /// Whether it is valid at this time.
    pub fn is_valid(&self, now: UnixMillis) -> bool {
        self.not_before <= now && now < self.not_after
    }
}

/// What of a CRL counts here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFacts {
    /// Its number.
    pub number: u64,
    /// When it was made.
    pub this_update: UnixMillis,
    /// When the next one is there at the latest.
    pub next_update: UnixMillis,
    /// Serials on it.
    pub entries: usize,
    /// What it covers.
    pub scope: Scope,
}

/// Checks a CA certificate against the log.
pub fn ca(der: Vec<u8>, binding: &IssuerBinding) -> Result<CaCertificate, BadFile> {
    if DetailHash::of(&der).0 != binding.certificate {
        return Err(BadFile::NotTheLogs);
    }
    let hashes = IssuerHashes::of_certificate(&der)?;
    let certificate = Certificate::from_der(&der)?;
    let tbs = certificate.tbs_certificate();
    let key = PublicKey::parse(&tbs.subject_public_key_info().to_der()?)?;
    if key.sha256() != binding.spki {
        return Err(BadFile::NotTheLogs);
    }
    Ok(CaCertificate {
        name: tbs.subject().to_der()?,
        der,
        key,
        hashes,
    })
}

/// Checks this responder's certificate: its issuer, its key (SubjectPublicKeyInfo, DER) and what it may do.
///
/// Its dates are the caller's to compare.
pub fn responder(
    der: Vec<u8>,
    ca: &CaCertificate,
    spki: &[u8],
) -> Result<ResponderCertificate, BadFile> {
    let (tbs, algorithm, signature) = signature::split(&der)?;
    ca.key.verify(algorithm, tbs, signature)?;
    let certificate = Certificate::from_der(&der)?;
    let tbs = certificate.tbs_certificate();
    if tbs.issuer().to_der()? != ca.name {
        return Err(BadFile::Rule("it names another issuer"));
    }
    if tbs.subject_public_key_info().to_der()? != spki {
        let text =
            "it is for another key: have this responder's key approved (see `hallmark-ocsp key`)";
        return Err(BadFile::Rule(text));
    }
    let purposes = tbs.get_extension::<ExtendedKeyUsage>()?;
    if !purposes.is_some_and(|(_, purposes)| purposes.0.contains(&OCSP_SIGNING)) {
        return Err(BadFile::Rule(
            "it has no extended key usage id-kp-OCSPSigning",
        ));
    }
    if !tbs
        .extensions()
        .is_some_and(|all| all.iter().any(|one| one.extn_id == NO_CHECK))
    {
        return Err(BadFile::Rule("it has no extension id-pkix-ocsp-nocheck"));
    }
    if tbs
        .get_extension::<BasicConstraints>()?
        .is_some_and(|(_, constraints)| constraints.ca)
    {
        return Err(BadFile::Rule("it is a CA certificate"));
    }
    if tbs
        .get_extension::<KeyUsage>()?
        .is_some_and(|(_, usage)| !usage.digital_signature())
    {
        return Err(BadFile::Rule("its key usage has no digitalSignature"));
    }
    let validity = *tbs.validity();
    Ok(ResponderCertificate {
        not_before: time(&validity.not_before),
        not_after: time(&validity.not_after),
        by_name: ResponderId::by_name(&der)?,
        by_key: ResponderId::by_key(&der)?,
        der,
    })
}

/// Checks whose a CRL is: its issuer's by its signature, and this log's by what it says of the log.
///
/// Where it belongs is [`Crl::fits`]'s; whether the head in its anchor is of this history is the caller's to compare.
pub fn crl(der: &[u8], ca: &CaCertificate, key: &VerifierKey) -> Result<Crl, BadFile> {
    let (tbs, algorithm, signature) = signature::split(der)?;
    ca.key.verify(algorithm, tbs, signature)?;
    let parsed = crl::parse_counting(der)?;
    if parsed.issuer != ca.name {
        return Err(BadFile::Rule("it names another issuer"));
    }
    let Some((origin, log_key, note)) = parsed.anchor else {
        return Err(BadFile::Rule("it has no log anchor"));
    };
    if origin != key.name() || log_key != key.to_string() {
        return Err(BadFile::Rule("its log anchor names another log"));
    }
    let anchor = Checkpoint::verify(&note, key)?;
    Ok(Crl {
        facts: CrlFacts {
            number: parsed.number,
            this_update: parsed.this_update,
            next_update: parsed.next_update,
            entries: parsed.listed,
            scope: parsed.scope,
        },
        anchor,
        note,
    })
}

/// A CRL that the issuer signed for this log.
#[derive(Debug)]
pub struct Crl {
    /// What counts of it.
    pub facts: CrlFacts,
    /// The head that it anchors.
    pub anchor: Checkpoint,
    /// That head, signed.
    pub note: String,
}

/// What is expected of a CRL at its place.
#[derive(Clone, Debug)]
pub struct Expected {
    /// 0 for the full CRL, else the partition.
    pub partition: u32,
    /// The newest number that the verified log says was issued for this place when the file was asked for.
    pub asked: Option<u64>,
    /// The same by now: the log goes on.
    pub issued: Option<u64>,
    /// The one that is served there.
    pub served: Option<CrlFacts>,
    /// Whether the file was believed at an earlier start.
    pub kept: bool,
}

impl Crl {
    /// Whether it is what belongs at a place.
    ///
    /// An issuer's CRLs share one sequence of numbers and one key, and whoever serves them can put one in the place of
    /// another. The log tells which number was issued for which partition.
    pub fn fits(&self, expected: &Expected) -> Result<(), BadFile> {
        let found = self.facts.number;
        match (expected.partition, &self.facts.scope) {
            (0, Scope::Partition(_)) => {
                let text = "it covers a partition only, and this is the place of the full CRL";
                return Err(BadFile::Rule(text));
            }
            (1.., Scope::Everything | Scope::UserCertificates) => {
                let text = "it covers no partition, and this is the place of one";
                return Err(BadFile::Rule(text));
            }
            (0, Scope::Everything | Scope::UserCertificates) | (1.., Scope::Partition(_)) => {}
        }
        if let Some(served) = &expected.served {
            if found < served.number {
                return Err(BadFile::Older {
                    found,
                    kept: served.number,
                });
            }
            if self.facts.scope != served.scope {
                return Err(BadFile::Rule(
                    "it covers something else than the one before",
                ));
            }
        }
        let Some(issued) = expected.issued.filter(|issued| found <= *issued) else {
            return Err(BadFile::Ahead { found });
        };
        let exact = found == issued || expected.asked == Some(found);
        // What was taken before was exact then, and another of the same scope is of the same expected.
        if exact || expected.kept || expected.served.is_some() {
            return Ok(());
        }
        Err(BadFile::Behind { found, issued })
    }
}

/// A certificate's time.
fn time(time: &Time) -> UnixMillis {
    UnixMillis::from_seconds(time.to_unix_duration().as_secs())
}
