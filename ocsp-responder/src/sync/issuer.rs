//! A pinned issuer, and what is believed of a CRL in its name.
//!
//! Owns those checks. Promises that the pinned certificate is the only thing trusted: whoever serves a CRL can withhold
//! it and no more. Never fetches, never writes, never reads a clock. Failure story: [`BadCrl`] says which rule a list
//! broke; the one in place stays.

use std::fmt;

use der::{Decode as _, DecodePem as _, Encode as _};
use x509_cert::Certificate;
use x509_cert::ext::pkix::{BasicConstraints, KeyUsage, SubjectKeyIdentifier};

use crate::UnixMillis;
use crate::crl::{self, ParsedCrl, Scope};
use crate::log::checkpoint::{BadNote, Checkpoint, VerifierKey};
use crate::log::entry::Slug;
use crate::serial::SerialNumber;
use crate::signature::{self, PublicKey, SignatureFault};

/// The OID of deltaCRLIndicator (RFC 5280, 5.2.4) in DER: 2.5.29.27.
const DELTA_CRL_INDICATOR: [u8; 5] = [0x06, 3, 0x55, 0x1d, 27];

/// Who signs a CRL.
#[derive(Debug)]
pub struct Issuer {
    /// The name in the configuration: in messages, metrics and file names.
    pub name: Slug,
    /// The subject, DER.
    pub subject: Vec<u8>,
    /// The subject as people read it.
    pub subject_text: String,
    /// The subject key identifier.
    key_id: Vec<u8>,
    key: PublicKey,
    /// The key of the log that every CRL's anchor must be of, where it is checked.
    log: Option<VerifierKey>,
}

/// A certificate that signs no CRL of ours.
#[derive(Debug, thiserror::Error)]
pub enum BadIssuer {
    /// Its encoding.
    #[error("must be one CA certificate, as DER or PEM")]
    NotACertificate(#[from] der::Error),
    /// Its key.
    #[error("has a key that nothing can be verified with")]
    Key(#[from] SignatureFault),
    /// What it may do.
    #[error("{0}")]
    Rule(&'static str),
}

/// A CRL that was verified; its entries are read when they are asked for.
#[derive(Clone)]
pub struct Crl {
    /// The DER.
    pub der: Vec<u8>,
    /// The CRL number.
    pub number: u64,
    /// thisUpdate.
    pub this_update: UnixMillis,
    /// nextUpdate.
    pub next_update: UnixMillis,
    /// The log's head that it carries, where that is checked.
    anchor: Option<Checkpoint>,
}

impl fmt::Debug for Crl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crl(number {}, {} octets)", self.number, self.der.len())
    }
}

/// Why a CRL is not taken.
#[derive(Debug, thiserror::Error)]
pub enum BadCrl {
    /// A signature or its absence.
    #[error("it is not signed by the pinned issuer: torn, forged, or another issuer's")]
    Signature(#[from] SignatureFault),
    /// Its form.
    #[error("it is no CRL of Hallmark's")]
    NotOurs(#[from] crl::NotACrl),
    /// A delta CRL.
    #[error("it is a delta CRL: brokers need the full one, /crl/ISSUER.crl")]
    Delta,
    /// A CRL of some certificates only.
    #[error(
        "it is the CRL of one partition ({0}): OpenSSL refuses certificates of the others with it; fetch the full one, /crl/ISSUER.crl"
    )]
    Partition(String),
    /// Its issuer Name.
    #[error("it names another issuer than the pinned certificate does")]
    AnotherIssuer,
    /// Its authorityKeyIdentifier.
    #[error("its authorityKeyIdentifier is not the pinned certificate's subjectKeyIdentifier")]
    AnotherKey,
    /// The log's head in it.
    #[error("its log anchor does not verify")]
    Anchor(#[from] BadNote),
    /// No head of the configured log in it.
    #[error("its log anchor is missing or names another log than log_key does")]
    AnotherLog,
    /// A head that contradicts the one in place.
    #[error(
        "its log anchor contradicts that of the CRL in place: a shorter or another history of one log; ask the appliance's operator, and keep both files"
    )]
    Fork,
    /// An older one.
    #[error("its number is {found}, and {kept} is in place: somebody serves an old copy")]
    Older {
        /// Its number.
        found: u64,
        /// That of the CRL in place.
        kept: u64,
    },
    /// Another one of the same number.
    #[error("its number is {0}, and another CRL of that number is in place")]
    Twin(u64),
    /// It is over.
    #[error("it ended at {0}")]
    Ended(UnixMillis),
    /// It is from the future.
    #[error(
        "it was made at {made}, and here it is {now}: a broker with this clock would refuse every client; set the clocks right"
    )]
    NotYet {
        /// thisUpdate.
        made: UnixMillis,
        /// The time here.
        now: UnixMillis,
    },
}

impl BadCrl {
    /// Whether the same octets may be good later.
    pub const fn may_pass(&self) -> bool {
        matches!(self, Self::NotYet { .. })
    }
}

impl Issuer {
    /// Reads a pinned certificate, DER or PEM.
    ///
    /// # Errors
    /// [`BadIssuer`]: name another file.
    pub fn read(name: Slug, octets: &[u8], log: Option<VerifierKey>) -> Result<Self, BadIssuer> {
        let certificate = match octets.starts_with(b"-----BEGIN") {
            true => Certificate::from_pem(octets)?,
            false => Certificate::from_der(octets)?,
        };
        let tbs = certificate.tbs_certificate();
        let constraints = tbs.get_extension::<BasicConstraints>()?;
        if !constraints.is_some_and(|(_, constraints)| constraints.ca) {
            return Err(BadIssuer::Rule("is not a CA certificate"));
        }
        let usage = tbs.get_extension::<KeyUsage>()?;
        if usage.is_some_and(|(_, usage)| !usage.crl_sign()) {
            return Err(BadIssuer::Rule(
                "may not sign CRLs: its key usage has no cRLSign",
            ));
        }
        let Some((_, key_id)) = tbs.get_extension::<SubjectKeyIdentifier>()? else {
            return Err(BadIssuer::Rule("has no subjectKeyIdentifier"));
        };
        Ok(Self {
            name,
            subject: tbs.subject().to_der()?,
            subject_text: tbs.subject().to_string(),
            key_id: key_id.0.as_bytes().to_vec(),
            key: PublicKey::parse(&tbs.subject_public_key_info().to_der()?)?,
            log,
        })
    }

    /// Verifies a CRL (DER): signature, form, issuer, scope and log anchor; its dates are [`Crl::counts_at`]'s.
    ///
    /// # Errors
    /// [`BadCrl`]: keep what is in place.
    pub fn verify(&self, der: Vec<u8>) -> Result<Crl, BadCrl> {
        let (tbs, algorithm, signature) = signature::split(&der)?;
        self.key.verify(algorithm, tbs, signature)?;
        let parsed = match crl::parse(&der) {
            Err(_) if is_delta(tbs) => return Err(BadCrl::Delta),
            parsed => parsed?,
        };
        if parsed.issuer != self.subject {
            return Err(BadCrl::AnotherIssuer);
        }
        if parsed.authority_key_id != self.key_id {
            return Err(BadCrl::AnotherKey);
        }
        if let Scope::Partition(url) = parsed.scope {
            return Err(BadCrl::Partition(url));
        }
        let anchor = match &self.log {
            Some(key) => Some(anchor(&parsed, key)?),
            None => None,
        };
        Ok(Crl {
            der,
            number: parsed.number,
            this_update: parsed.this_update,
            next_update: parsed.next_update,
            anchor,
        })
    }
}

/// Whether a TBSCertList that is not of our form has a delta's extension.
fn is_delta(tbs: &[u8]) -> bool {
    let size = DELTA_CRL_INDICATOR.len();
    tbs.windows(size)
        .any(|octets| octets == DELTA_CRL_INDICATOR)
}

/// The log's head in a CRL, verified.
fn anchor(parsed: &ParsedCrl, key: &VerifierKey) -> Result<Checkpoint, BadCrl> {
    match &parsed.anchor {
        Some((origin, _, note)) if origin == key.name() => Ok(Checkpoint::verify(note, key)?),
        _ => Err(BadCrl::AnotherLog),
    }
}

impl Crl {
    /// Refuses a CRL that a broker would refuse every client with at this time.
    ///
    /// # Errors
    /// [`BadCrl::NotYet`], [`BadCrl::Ended`].
    pub const fn counts_at(&self, now: UnixMillis) -> Result<(), BadCrl> {
        let (made, until) = (self.this_update, self.next_update);
        if made.0 > now.0 {
            return Err(BadCrl::NotYet { made, now });
        }
        if until.0 <= now.0 {
            return Err(BadCrl::Ended(until));
        }
        Ok(())
    }

    /// Whether this one is newer than the one in place; not so when they are the same.
    ///
    /// # Errors
    /// [`BadCrl::Older`], [`BadCrl::Twin`], [`BadCrl::Fork`].
    pub fn replaces(&self, kept: &Self) -> Result<bool, BadCrl> {
        let (found, in_place) = (self.number, kept.number);
        if found < in_place {
            return Err(BadCrl::Older {
                found,
                kept: in_place,
            });
        }
        if self.der == kept.der {
            return Ok(false);
        }
        if found == in_place {
            return Err(BadCrl::Twin(found));
        }
        let contradict = |new: &Checkpoint, old: &Checkpoint| {
            new.size < old.size || (new.size == old.size && new.root != old.root)
        };
        match (&self.anchor, &kept.anchor) {
            (Some(new), Some(old)) if contradict(new, old) => Err(BadCrl::Fork),
            _ => Ok(true),
        }
    }

    /// The serials on it, sorted.
    pub fn serials(&self) -> Vec<SerialNumber> {
        // It was read when it was verified.
        let revoked = crl::parse(&self.der).map(|parsed| parsed.revoked);
        let mut serials: Vec<_> = revoked
            .unwrap_or_default()
            .iter()
            .map(|one| one.serial)
            .collect();
        serials.sort_unstable();
        serials
    }
}
