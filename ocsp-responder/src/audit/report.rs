//! What an audit that found no fault has to say.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::log::{Class, EventName, IssuerName, LeafIndex};
use crate::{UnixMillis, hex};

/// The summary of a log that verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The log's origin.
    pub origin: String,
    /// The verifier key that signed the head.
    pub log_key: String,
    /// Entries that verified.
    pub entries: u64,
    /// The root that they hash up to.
    pub root: Hex,
    /// When the log began, milliseconds since 1970.
    pub oldest: UnixMillis,
    /// When its newest entry was made, milliseconds since 1970: the log says nothing of later.
    pub newest: UnixMillis,
    /// What became of certificates.
    pub certificates: Certificates,
    /// What CA keys signed, class by class: what the tokens' own counters must agree with.
    pub classes: BTreeMap<Class, Tally>,
    /// The same by issuer, and the key that each name is bound to.
    pub issuers: BTreeMap<IssuerName, IssuerReport>,
    /// Certificates issued under each production order; empty without details.
    pub orders: BTreeMap<String, u64>,
    /// Units of each production order that unresolved certificates held and an operator gave back; only orders
    /// that have some, and empty without details.
    pub units_returned: BTreeMap<String, u64>,
    /// Events by name.
    pub events: BTreeMap<EventName, u64>,
    /// Starts of the appliance that no witness confirmed and an operator accepted: what was lost before one of them is
    /// not in this log.
    pub unwitnessed_starts: Vec<LeafIndex>,
    /// What was checked against details; `None` when none were given.
    pub details: Option<DetailReport>,
    /// The other heads that this log extends.
    pub agrees_with: Vec<Agreement>,
    /// The CRLs that were given or are published, all of them the log's own.
    pub crls: Vec<CrlReport>,
    /// Hash tiles that were compared with the entries.
    pub tiles_checked: u64,
    /// Hash tiles that a full publication has and this one has not.
    pub tiles_missing: u64,
}

/// A SHA-256 that serialises as hex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hex(pub [u8; 32]);

impl std::fmt::Display for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl Serialize for Hex {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// What became of certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Certificates {
    /// Signed, checked and logged.
    pub issued: u64,
    /// No signature exists.
    pub abandoned: u64,
    /// A signature may exist; the serial counts as revoked.
    pub unresolved: u64,
    /// Intents without an outcome as yet.
    pub open: u64,
    /// Serials that stand revoked by a revocation entry.
    pub revoked: u64,
}

/// What was signed in a class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Intents.
    pub intents: u64,
    /// Signatures that were checked and logged.
    pub signatures: u64,
    /// Requests that may have reached a token, those of unresolved intents included.
    pub attempts: u64,
    /// Intents that ended without a signature.
    pub abandoned: u64,
    /// Intents that ended in doubt.
    pub unresolved: u64,
    /// Intents without an outcome as yet.
    pub open: u64,
}

impl Tally {
    /// Adds another tally to this one.
    pub(super) const fn add(&mut self, other: &Self) {
        self.intents += other.intents;
        self.signatures += other.signatures;
        self.attempts += other.attempts;
        self.abandoned += other.abandoned;
        self.unresolved += other.unresolved;
        self.open += other.open;
    }
}

/// An issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IssuerReport {
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: Option<Hex>,
    /// SHA-256 of its newest certificate.
    pub certificate_sha256: Option<Hex>,
    /// What its key signed, class by class.
    pub classes: BTreeMap<Class, Tally>,
}

/// What details allowed to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DetailReport {
    /// Details that match their leaf's hash.
    pub matched: u64,
    /// Details that are gone (only where that is allowed).
    pub erased: u64,
    /// Signatures that verify with the issuer's key over the intent's bytes.
    pub signatures_verified: u64,
    /// Signatures that could not be checked, because a detail is gone.
    pub signatures_unverified: u64,
}

/// Another head that this log extends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Agreement {
    /// Where it came from.
    pub by: String,
    /// Its size.
    pub size: u64,
}

/// A CRL that the log knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CrlReport {
    /// Where it came from.
    pub by: String,
    /// Whose it is.
    pub issuer: IssuerName,
    /// 0 for a full CRL, else its partition.
    pub partition: u32,
    /// Its number.
    pub number: u64,
    /// The number of the newest CRL that the log knows of this issuer and partition: greater where this one is
    /// out of date.
    pub newest: u64,
}
