//! CRL encoding (RFC 5280, section 5), without any key.
//!
//! Owns the TBSCertList that issuers sign, the log-anchor extension, and the strict reading of such
//! CRLs. Promises that what [`TbsCrl::encode`] writes, signed, [`parse`] reads back, and that a list of a
//! million entries, handed over one by one ([`TbsCrlBuilder`]), is encoded into one vector. Never signs, never verifies (see
//! [`crate::signature`]), never sorts. Encoding cannot fail; reading names the field that is wrong.
//!
//! # The log-anchor extension
//! Non-critical, in the extensions of every CRL, so that the CA's key vouches for the log's:
//!
//! ```text
//! id-log-anchor ::= { 1 2 840 113556 1 8000 2554 45864 3357 32055 18580 40992 12208346 13479745 }
//!
//! LogAnchor ::= SEQUENCE {
//!     origin      UTF8String,   -- the log's origin line
//!     logKey      UTF8String,   -- the verifier key, signed-note form
//!     checkpoint  UTF8String    -- the newest checkpoint when the CRL was made: a whole signed note
//! }
//! ```
//!
//! The last seven arcs are the UUID b3280d1d-7d37-4894-a020-ba48dacdaf41, drawn at random for this purpose, below the arc
//! that Microsoft keeps for UUIDs cut in pieces. As one arc below 2.25 (ITU-T X.667) it would have 128 bits: RFC 5280,
//! appendix B, promises readers arcs below 2^28 only, and GnuTLS and Go refuse a whole CRL for a larger one.

mod encode;
mod read;

use crate::SerialNumber;
use crate::log::IssuerName;
use crate::signature::SignatureAlgorithm;
use crate::time::UnixMillis;

/// id-ce-authorityKeyIdentifier (RFC 5280, 5.2.1), non-critical.
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x06, 3, 0x55, 0x1d, 35];
/// id-ce-cRLNumber (RFC 5280, 5.2.3), non-critical.
const CRL_NUMBER: &[u8] = &[0x06, 3, 0x55, 0x1d, 20];
/// id-ce-issuingDistributionPoint (RFC 5280, 5.2.5) and `critical TRUE`.
const ISSUING_DISTRIBUTION_POINT: &[u8] = &[0x06, 3, 0x55, 0x1d, 28, 0x01, 1, 0xff];
/// `onlyContainsUserCerts [1] TRUE`.
const ONLY_USER_CERTIFICATES: &[u8] = &[0x81, 1, 0xff];
/// `[0]`, constructed: distributionPoint, and fullName within it.
const DISTRIBUTION_POINT: u8 = 0xa0;
/// `uniformResourceIdentifier [6]`.
const URI: u8 = 0x86;
/// id-ce-expiredCertsOnCRL (X.509, 9.5.2.8), non-critical.
const EXPIRED_CERTS_ON_CRL: &[u8] = &[0x06, 3, 0x55, 0x1d, 60];
/// id-log-anchor, non-critical.
const LOG_ANCHOR: &[u8] = &[
    0x06, 0x21, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x14, 0x01, 0xbe, 0x40, 0x93, 0x7a, 0x82, 0xe6, 0x28,
    0x9a, 0x1d, 0x81, 0xfa, 0x37, 0x81, 0x91, 0x14, 0x82, 0xc0, 0x20, 0x85, 0xe9, 0x91, 0x5a, 0x86,
    0xb6, 0xde, 0x41,
];
/// Everything of an entry's extensions before the reason code: one CRLReason (RFC 5280, 5.3.1).
const REASON_PREFIX: &[u8] = &[
    0x30, 12, 0x30, 10, 0x06, 3, 0x55, 0x1d, 21, 0x04, 3, 0x0a, 1,
];
/// 2050-01-01T00:00:00Z, from which on times are GeneralizedTime (RFC 5280, 5.1.2.4).
const GENERALIZED_FROM_SECONDS: u64 = 2_524_608_000;

/// The longest CRL that is read of a source, in octets: a million entries take 49 MB.
pub const CRL_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Where an issuer's CRL is below `public/`, and below the URL of a responder: partition 0 is the full one.
#[must_use]
pub fn published_path(issuer: &IssuerName, partition: u32) -> String {
    match partition {
        0 => format!("crl/{issuer}.crl"),
        _ => format!("crl/{issuer}/{partition}.crl"),
    }
}

/// Whether a full CRL may carry this reason code.
///
/// RFC 5280, 5.3.1: 0 (unspecified) SHOULD be left out, 7 is not used, 8 (removeFromCRL) belongs in
/// delta CRLs only, 10 is the last.
pub(crate) const fn carried(reason: u8) -> bool {
    matches!(reason, 1..=6 | 9 | 10)
}

/// One revoked certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevokedEntry {
    /// The serial.
    pub serial: SerialNumber,
    /// The revocation time, written to the second.
    pub revoked_at: UnixMillis,
    /// The RFC 5280 reason code; `None`, and codes that a full CRL may not carry, leave the extension out.
    pub reason: Option<u8>,
}

/// What a CRL covers: its issuingDistributionPoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything that the issuer signs: no issuingDistributionPoint (roots).
    Everything,
    /// `onlyContainsUserCerts` and no name: what OpenSSL brokers accept (device issuers).
    UserCertificates,
    /// `onlyContainsUserCerts` and the distribution point of one partition: the URL, octet for octet as in the
    /// cRLDistributionPoints of its certificates. Printable ASCII.
    Partition(String),
}

/// What a CRL says of itself.
#[derive(Clone, Debug)]
pub struct CrlFields<'a> {
    /// The issuer's subject Name, DER, as in its certificate.
    pub issuer: &'a [u8],
    /// The issuer certificate's subject key identifier.
    pub authority_key_id: &'a [u8],
    /// The algorithm that will sign.
    pub algorithm: SignatureAlgorithm,
    /// The CRL number.
    pub number: u64,
    /// When it is made.
    pub this_update: UnixMillis,
    /// When the next one is there at the latest.
    pub next_update: UnixMillis,
    /// What it covers.
    pub scope: Scope,
    /// expiredCertsOnCRL: certificates that expired since then stay on it. None: they leave.
    pub expired_since: Option<UnixMillis>,
    /// The log's origin, verifier key and newest checkpoint, bound by the CA key (DESIGN: CRL anchors the log).
    pub anchor: LogAnchor<'a>,
}

/// What binds the signing log to the CA key: the contents of the log-anchor extension.
#[derive(Clone, Copy, Debug)]
pub struct LogAnchor<'a> {
    /// The origin line.
    pub origin: &'a str,
    /// The verifier key, signed-note form.
    pub log_key: &'a str,
    /// The newest checkpoint: a whole signed note.
    pub checkpoint: &'a str,
}

/// A TBSCertList ready to be signed.
#[derive(Clone, Debug)]
pub struct TbsCrl {
    /// The DER.
    der: Vec<u8>,
    /// The same without revokedCertificates.
    frame: Vec<u8>,
    /// The CRL number in it.
    number: u64,
    /// How many certificates it lists.
    entries: usize,
}

/// A TBSCertList without its revokedCertificates: what the log keeps of a CRL, whose list follows from other entries.
#[derive(Clone, Debug)]
pub struct Frame {
    /// What it says of itself; lists nothing.
    pub parsed: ParsedCrl,
    /// The DER.
    der: Vec<u8>,
    /// What stands before revokedCertificates, the header of the whole left out.
    before: std::ops::Range<usize>,
}

/// A TBSCertList on its way: takes its entries one by one, so that they stand in memory once, encoded.
///
/// An entry takes 35 octets, or 49 with a reason code; no entries means no revokedCertificates
/// (RFC 5280, 5.1.2.6).
#[derive(Debug)]
pub struct TbsCrlBuilder {
    /// Room for all that stands before the entries, then the entries.
    out: Vec<u8>,
    entries: usize,
}

impl TbsCrlBuilder {
    /// Makes room for so many entries; more may come, and cost a reallocation.
    #[must_use]
    pub fn with_capacity(entries: usize) -> Self {
        encode::begin(entries)
    }

    /// Adds an entry; entries stand in the order in which they come, each serial at most once.
    ///
    /// Times after 9999 become 99991231235959Z.
    pub fn push(&mut self, entry: &RevokedEntry) {
        encode::push_entry(&mut self.out, entry);
        self.entries += 1;
    }

    /// The entries so far.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// Puts the fields around the entries.
    #[must_use]
    pub fn finish(self, fields: &CrlFields<'_>) -> TbsCrl {
        let frame = encode::frame(fields);
        let entries = self.entries;
        // A frame that was just written has its two halves.
        let halves = read::halves(&frame).unwrap_or_default();
        TbsCrl {
            der: encode::surround(self, halves),
            frame,
            number: fields.number,
            entries,
        }
    }

    /// Puts a TBSCertList that was written without its list around the entries: the DER.
    #[must_use]
    pub fn fill(self, frame: &Frame) -> Vec<u8> {
        encode::surround(self, frame.halves())
    }
}

impl Frame {
    /// Reads a TBSCertList that must list nothing.
    ///
    /// # Errors
    /// [`NotACrl`] names the field.
    pub fn parse(der: Vec<u8>) -> Result<Self, NotACrl> {
        let parsed = read::frame(&der)?;
        let (before, after) = read::halves(&der).ok_or(NotACrl("tbsCertList"))?;
        let header = der.len() - before.len() - after.len();
        let before = header..header + before.len();
        Ok(Self {
            parsed,
            der,
            before,
        })
    }

    /// What stands before revokedCertificates, and what stands after it.
    fn halves(&self) -> (&[u8], &[u8]) {
        let before = self.der.get(self.before.clone()).unwrap_or_default();
        let after = self.der.get(self.before.end..).unwrap_or_default();
        (before, after)
    }
}

impl TbsCrl {
    /// Encodes a list that is in memory; see [`TbsCrlBuilder`].
    #[must_use]
    pub fn encode(fields: &CrlFields<'_>, revoked: &[RevokedEntry]) -> Self {
        let mut builder = TbsCrlBuilder::with_capacity(revoked.len());
        revoked.iter().for_each(|entry| builder.push(entry));
        builder.finish(fields)
    }

    /// The DER TBSCertList, and the same without revokedCertificates, given away.
    #[must_use]
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.der, self.frame)
    }

    /// The DER TBSCertList.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The same without revokedCertificates: what [`Frame::parse`] reads.
    #[must_use]
    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// How many certificates it lists.
    #[must_use]
    pub const fn entries(&self) -> usize {
        self.entries
    }

    /// The CRL number.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }
}

/// The parts of a parsed CRL that an auditor needs.
#[derive(Clone, Debug)]
pub struct ParsedCrl {
    /// The issuer Name, DER.
    pub issuer: Vec<u8>,
    /// The issuer's key identifier, from the authorityKeyIdentifier.
    pub authority_key_id: Vec<u8>,
    /// The algorithm that both AlgorithmIdentifiers name.
    pub algorithm: SignatureAlgorithm,
    /// What it covers, from the issuingDistributionPoint.
    pub scope: Scope,
    /// The CRL number.
    pub number: u64,
    /// thisUpdate.
    pub this_update: UnixMillis,
    /// nextUpdate.
    pub next_update: UnixMillis,
    /// expiredCertsOnCRL.
    pub expired_since: Option<UnixMillis>,
    /// The entries; none where only the head was read, or they were only counted.
    pub revoked: Vec<RevokedEntry>,
    /// How many entries were read or counted.
    pub listed: usize,
    /// Origin, verifier key and checkpoint from the log-anchor extension.
    pub anchor: Option<(String, String, String)>,
}

/// Why bytes are not a CRL of ours.
#[derive(Debug, thiserror::Error)]
#[error("not a CRL that this appliance makes: {0}")]
pub struct NotACrl(pub &'static str);

/// Parses a signed CRL (DER); the signature is the caller's to verify with [`crate::signature::split`].
///
/// Takes exactly the encoding that [`TbsCrl::encode`] makes, save that the log anchor may be absent:
/// same fields, same order, same criticality, no serial twice.
///
/// # Errors
/// [`NotACrl`] names the field: the CRL was not made here, or was damaged. Do not use it.
pub fn parse(der: &[u8]) -> Result<ParsedCrl, NotACrl> {
    read::crl(der, read::Entries::Read)
}

/// Parses a signed CRL (DER) whose entries are read and counted, but not kept: a million of them take no memory.
///
/// A serial that is listed twice is not noticed.
///
/// # Errors
/// [`NotACrl`] names the field.
pub fn parse_counting(der: &[u8]) -> Result<ParsedCrl, NotACrl> {
    read::crl(der, read::Entries::Count)
}

/// Parses a signed CRL (DER) but for its entries, which are passed over: what it covers and how long it counts.
///
/// # Errors
/// [`NotACrl`] names the field.
pub fn parse_head(der: &[u8]) -> Result<ParsedCrl, NotACrl> {
    read::crl(der, read::Entries::PassOver)
}

#[cfg(test)]
mod tests;
