//! What the log tells of claims, certificates, issuers and itself.
//!
//! Owns the plain records that the log's readers and writers exchange with the rest of the appliance.
//! Promises nothing about durability: that is their makers' part.

use std::path::PathBuf;

use certstatus::log::entry::Slug;
use certstatus::log::{DetailHash, Gone, IssuerName, LeafIndex};
use certstatus::signature::SignatureAlgorithm;
use certstatus::{SerialNumber, UnixMillis};
use der::Decode as _;

use super::intent::Issued;
use super::revocations::Revocation;

/// Where the log is published.
#[derive(Clone, Debug)]
pub struct Publication {
    /// `public/`.
    pub published: PathBuf,
    /// `private/`.
    pub details: PathBuf,
}

/// A claim: what makes a retry the same request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Claim {
    /// The order.
    pub order: certstatus::log::entry::Slug,
    /// SHA-256 of the public key.
    pub spki: DetailHash,
    /// SHA-256 of the requested fields.
    pub requested: DetailHash,
}

/// What a claim has come to.
#[derive(Clone, Debug)]
pub enum Claimed {
    /// Nobody has it.
    Free,
    /// An intent has it and has no outcome yet.
    InFlight,
    /// Its certificate.
    Issued(Issued),
    /// Its certificate, which is revoked since.
    Revoked {
        /// The serial.
        serial: SerialNumber,
        /// How it stands.
        standing: Revocation,
    },
}

/// What has become of the intent for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateState {
    /// It has no outcome yet.
    Open,
    /// The certificate was issued and counts.
    Issued,
    /// The certificate was issued and is on hold since.
    OnHold,
    /// The certificate was issued and revoked since.
    Revoked,
    /// No token signed it.
    Abandoned,
    /// A token may have signed it; its serial counts as revoked.
    Unresolved,
}

/// A certificate as `cert list` and `cert show` tell of it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct CertificateRecord {
    /// The serial.
    pub serial: SerialNumber,
    /// The issuer.
    pub issuer: IssuerName,
    /// What became of it.
    pub status: CertificateState,
    /// How it stands revoked, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revocation: Option<Revocation>,
    /// What it is for: `device`, `line`, `server`, `responder` or `ca`.
    pub why: String,
    /// The profile.
    pub profile: String,
    /// The order.
    pub order: Option<String>,
    /// The line.
    pub line: Option<String>,
    /// The device id.
    pub device_id: Option<String>,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
    /// The intent's entry.
    pub intent: LeafIndex,
    /// The outcome's entry.
    pub outcome: Option<LeafIndex>,
    /// The certificate, PEM, where it was issued (`cert show` only).
    pub pem: Option<String>,
}

/// Which certificates to list.
#[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificateFilter {
    /// Of this order.
    pub order: Option<Slug>,
    /// Of this device id (case does not matter).
    pub device_id: Option<String>,
    /// Of this issuer.
    pub issuer: Option<IssuerName>,
    /// Entries after this one.
    pub after: Option<u64>,
    /// At most this many (1–1,000; 100 when absent).
    pub limit: Option<u32>,
}

/// An issuer as the ceremony recorded it.
#[derive(Clone, Debug)]
pub struct IssuerRecord {
    /// The name.
    pub name: IssuerName,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// What its key signs with.
    pub algorithm: SignatureAlgorithm,
    /// Its role.
    pub role: IssuerRole,
    /// Who signed its certificate; itself for a root.
    pub parent: IssuerName,
    /// CRL partitions, fixed for ever; 0 is none.
    pub partitions: u32,
}

impl IssuerRecord {
    /// The serial of its certificate, where that is of this appliance's form: an offline root's need not be.
    #[must_use]
    pub fn serial(&self) -> Option<SerialNumber> {
        let certificate = x509_cert::Certificate::from_der(&self.certificate).ok()?;
        let serial = certificate.tbs_certificate().serial_number();
        SerialNumber::from_slice(serial.as_bytes()).ok()
    }
}

/// Which revocations are to be on a CRL.
#[derive(Clone, Copy, Debug)]
pub struct CrlContents<'a> {
    /// The issuer.
    pub issuer: &'a IssuerName,
    /// 0 for all of them, else those of this partition.
    pub partition: u32,
    /// What stays out; none: all stay on it.
    pub gone: Option<Gone>,
}

/// What a CRL lists, and the log that says so.
pub struct RevokedList {
    /// The entries, encoded, in the order of the log.
    pub list: certstatus::crl::TbsCrlBuilder,
    /// The entries of the log that it takes into account.
    pub size: u64,
    /// The checkpoint over exactly these, a whole signed note.
    pub checkpoint: String,
}

/// What an issuer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IssuerRole {
    /// A root.
    Root,
    /// Signs device certificates.
    Device,
    /// Signs certificates of lines, operators, responders and the server.
    Access,
}

/// Whether the log takes entries.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum LogState {
    /// It makes sure what is durable and closes open intents.
    Recovering,
    /// It takes entries.
    Running,
    /// Storage failed; recovery is retried.
    Halted {
        /// What failed, where, and what to do.
        reason: String,
    },
}

/// The log's size and age, for status and metrics.
#[derive(Clone, Debug, serde::Serialize)]
pub struct LogStatus {
    /// Whether it takes entries.
    #[serde(flatten)]
    pub state: LogState,
    /// Entries that are durable.
    pub size: u64,
    /// Entries that are published.
    pub published: u64,
    /// The time of the newest entry.
    pub newest: UnixMillis,
    /// Intents without an outcome.
    pub open_intents: u64,
}
