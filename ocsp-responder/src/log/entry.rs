//! Entries of the signing log: the public leaf of each act.
//!
//! Owns the leaf: it says little (kind, issuer, serial, status, times) and names its detail by hash. Its
//! encoding is canonical JSON: one object, keys sorted, no white space, strings and integers only, no
//! `null`. Promises that a leaf that parses has one encoding, the bytes that were read. Never judges
//! whether an entry fits the ones before it: that is the audit's and the signing log's.
//! Failure story: [`NotAnEntry`]; the reader stops there, since nothing after it can be relied on.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::DetailHash;
use crate::{SerialNumber, UnixMillis};

/// The version of the leaf format that this crate writes and reads.
pub const FORMAT_VERSION: u8 = 1;

/// The longest leaf in bytes; the tile format allows 65,535.
pub const LEAF_BYTES_MAX: usize = 4096;

/// The zero-based position of an entry in the log.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct LeafIndex(pub u64);

impl fmt::Display for LeafIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A short name in the log and in URLs: 1–40 of a–z, 0–9 and `-`, neither first nor last a `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Slug(String);

/// A text is not a [`Slug`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 40 characters of a-z, 0-9 and '-', and '-' is neither first nor last")]
pub struct NotASlug;

impl Slug {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Slug {
    type Err = NotASlug;

    fn from_str(text: &str) -> Result<Self, NotASlug> {
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        let edge = text.starts_with('-') || text.ends_with('-');
        if text.is_empty() || text.len() > 40 || edge || !text.bytes().all(allowed) {
            return Err(NotASlug);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Slug {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The name of an issuer, bound to its key by the log's `issuer` entry.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct IssuerName(pub Slug);

impl IssuerName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl std::str::FromStr for IssuerName {
    type Err = NotASlug;

    fn from_str(text: &str) -> Result<Self, NotASlug> {
        text.parse().map(Self)
    }
}

impl fmt::Display for IssuerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of an event, such as `order-opened`; what happened stands in the detail.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct EventName(pub Slug);

impl std::str::FromStr for EventName {
    type Err = NotASlug;

    fn from_str(text: &str) -> Result<Self, NotASlug> {
        text.parse().map(Self)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What kind of thing a CA key signs; signatures are reconciled with the token class by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// An X.509 certificate.
    Certificate,
    /// A certificate revocation list.
    Crl,
    /// A PKCS#10 request for a certificate that another CA signs.
    Request,
    /// A domain-separated test string.
    SelfTest,
}

/// The one thing that an intent permits to be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A certificate with this serial, valid until `not_after`.
    Certificate {
        /// The certificate's serial number.
        serial: SerialNumber,
        /// The end of validity, whole seconds.
        not_after: UnixMillis,
    },
    /// A CRL.
    Crl {
        /// The CRL number (RFC 5280, 5.2.3).
        number: u64,
        /// 0 for the full CRL, else the partition, counted from 1.
        partition: u32,
    },
    /// A PKCS#10 request.
    Request,
    /// A self-test.
    SelfTest,
}

impl Subject {
    /// The class that this signature counts in.
    #[must_use]
    pub const fn class(&self) -> Class {
        match self {
            Self::Certificate { .. } => Class::Certificate,
            Self::Crl { .. } => Class::Crl,
            Self::Request => Class::Request,
            Self::SelfTest => Class::SelfTest,
        }
    }
}

/// How an intent ended. Each intent has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Signed and checked; `attempts` counts the requests that may have reached a token.
    Issued {
        /// At least 1.
        attempts: u32,
    },
    /// No request reached a token: no signature exists.
    Abandoned,
    /// A signature may exist: the serial counts as revoked without reason code.
    Unresolved {
        /// Requests that may have reached a token; 0 where a restart forgot them.
        attempts: u32,
    },
}

/// What an entry records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Entry 0: names the log.
    Genesis {
        /// The checkpoint origin line.
        origin: String,
        /// The log's verifier key (C2SP signed-note form).
        log_key: String,
    },
    /// Binds an issuer's name to its key and certificate.
    Issuer {
        /// The name.
        issuer: IssuerName,
        /// SHA-256 of the SubjectPublicKeyInfo.
        spki: [u8; 32],
        /// SHA-256 of the certificate.
        certificate: [u8; 32],
    },
    /// A signature is about to be made.
    Intent {
        /// The issuer whose key signs.
        issuer: IssuerName,
        /// What it signs.
        subject: Subject,
    },
    /// How an intent ended.
    Outcome {
        /// The intent's index.
        intent: LeafIndex,
        /// The issuer, as in the intent.
        issuer: IssuerName,
        /// The subject, as in the intent.
        subject: Subject,
        /// The end.
        outcome: Outcome,
    },
    /// A certificate is revoked.
    Revoked {
        /// The certificate's issuer.
        issuer: IssuerName,
        /// The certificate's serial.
        serial: SerialNumber,
        /// The RFC 5280 reason code (0–6, 8–10).
        reason: u8,
        /// When it counts as revoked, whole seconds.
        revoked_at: UnixMillis,
    },
    /// Something else that an auditor must see; its detail says what.
    Event {
        /// What happened.
        event: EventName,
    },
    /// Nothing happened for a while.
    Tick,
}

/// One entry of the log, as its public leaf shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its position.
    pub index: LeafIndex,
    /// When it was appended; never before the entry before it.
    pub time: UnixMillis,
    /// What it records.
    pub kind: EntryKind,
    /// The hash of its detail, where it has one.
    pub detail: Option<DetailHash>,
}

/// Why bytes are not an entry.
#[derive(Debug, thiserror::Error)]
pub enum NotAnEntry {
    /// Longer than [`LEAF_BYTES_MAX`].
    #[error("a leaf has at most {LEAF_BYTES_MAX} bytes")]
    Long,
    /// Not the JSON of a leaf.
    #[error("not a leaf's JSON")]
    Json(#[source] serde_json::Error),
    /// JSON of a leaf, but not in its one canonical encoding.
    #[error("not the canonical encoding of its contents")]
    NotCanonical,
    /// A format version that this program does not know.
    #[error("leaf format version {0} is not known")]
    Version(u8),
    /// A field that this kind needs is absent, or one that it has not is there.
    #[error("the fields do not fit the kind")]
    Fields,
}

/// The leaf as it stands in JSON: fields in alphabetical order, which is the canonical order.
#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct Wire {
    #[serde(skip_serializing_if = "Option::is_none")]
    attempts: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate: Option<Hex32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<Class>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<DetailHash>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<EventName>,
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    intent: Option<LeafIndex>,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<IssuerName>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    log_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    origin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<OutcomeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    serial: Option<SerialNumber>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spki: Option<Hex32>,
    time: UnixMillisWire,
    v: u8,
}

/// Milliseconds, defaulting to zero only to please `default`; re-encoding catches an absent one.
#[derive(Serialize, Deserialize, Default, Clone, Copy)]
#[serde(transparent)]
struct UnixMillisWire(u64);

/// The discriminator.
#[derive(Serialize, Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Genesis,
    Issuer,
    Intent,
    Outcome,
    Revoked,
    Event,
    #[default]
    Tick,
}

/// The name of an [`Outcome`].
#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum OutcomeName {
    Issued,
    Abandoned,
    Unresolved,
}

/// A SHA-256 as 64 hex digits.
#[derive(Clone, Copy)]
struct Hex32([u8; 32]);

impl Serialize for Hex32 {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&crate::hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Hex32 {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        crate::hex::decode_array(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

impl Entry {
    /// The leaf's canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Serialising strings and integers to memory cannot fail.
        serde_json::to_vec(&Wire::from(self)).unwrap_or_default()
    }

    /// Reads a leaf and refuses any but the canonical encoding.
    ///
    /// # Errors
    /// [`NotAnEntry`]: the log is damaged or of another version; stop reading it.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAnEntry> {
        if bytes.len() > LEAF_BYTES_MAX {
            return Err(NotAnEntry::Long);
        }
        let wire: Wire = serde_json::from_slice(bytes).map_err(NotAnEntry::Json)?;
        if wire.v != FORMAT_VERSION {
            return Err(NotAnEntry::Version(wire.v));
        }
        let entry = wire.into_entry().ok_or(NotAnEntry::Fields)?;
        // One comparison catches white space, other key orders, doubled keys and stray fields alike.
        if entry.encode() != bytes {
            return Err(NotAnEntry::NotCanonical);
        }
        Ok(entry)
    }
}

impl From<&Entry> for Wire {
    fn from(entry: &Entry) -> Self {
        let mut wire = Self {
            index: entry.index.0,
            time: UnixMillisWire(entry.time.0),
            detail: entry.detail,
            v: FORMAT_VERSION,
            ..Self::default()
        };
        match &entry.kind {
            EntryKind::Genesis { origin, log_key } => {
                wire.kind = Kind::Genesis;
                wire.origin = Some(origin.clone());
                wire.log_key = Some(log_key.clone());
            }
            EntryKind::Issuer {
                issuer,
                spki,
                certificate,
            } => {
                wire.kind = Kind::Issuer;
                wire.issuer = Some(issuer.clone());
                wire.spki = Some(Hex32(*spki));
                wire.certificate = Some(Hex32(*certificate));
            }
            EntryKind::Intent { issuer, subject } => {
                wire.kind = Kind::Intent;
                wire.issuer = Some(issuer.clone());
                wire.set_subject(subject);
            }
            EntryKind::Outcome {
                intent,
                issuer,
                subject,
                outcome,
            } => {
                wire.kind = Kind::Outcome;
                wire.intent = Some(*intent);
                wire.issuer = Some(issuer.clone());
                wire.set_subject(subject);
                wire.set_outcome(*outcome);
            }
            EntryKind::Revoked {
                issuer,
                serial,
                reason,
                revoked_at,
            } => {
                wire.kind = Kind::Revoked;
                wire.issuer = Some(issuer.clone());
                wire.serial = Some(*serial);
                wire.reason = Some(*reason);
                wire.revoked_at = Some(revoked_at.seconds());
            }
            EntryKind::Event { event } => {
                wire.kind = Kind::Event;
                wire.event = Some(event.clone());
            }
            EntryKind::Tick => wire.kind = Kind::Tick,
        }
        wire
    }
}

impl Wire {
    /// Fills in the fields of a subject.
    fn set_subject(&mut self, subject: &Subject) {
        self.class = Some(subject.class());
        match subject {
            Subject::Certificate { serial, not_after } => {
                self.serial = Some(*serial);
                self.not_after = Some(not_after.seconds());
            }
            Subject::Crl { number, partition } => {
                self.number = Some(*number);
                self.partition = Some(*partition);
            }
            Subject::Request | Subject::SelfTest => {}
        }
    }

    /// Fills in the fields of an outcome.
    fn set_outcome(&mut self, outcome: Outcome) {
        let (name, attempts) = match outcome {
            Outcome::Issued { attempts } => (OutcomeName::Issued, Some(attempts)),
            Outcome::Abandoned => (OutcomeName::Abandoned, None),
            Outcome::Unresolved { attempts } => (OutcomeName::Unresolved, Some(attempts)),
        };
        self.outcome = Some(name);
        self.attempts = attempts;
    }

    /// The subject that the fields name.
    fn subject(&self) -> Option<Subject> {
        Some(match self.class? {
            Class::Certificate => Subject::Certificate {
                serial: self.serial?,
                not_after: UnixMillis::from_seconds(self.not_after?),
            },
            Class::Crl => Subject::Crl {
                number: self.number?,
                partition: self.partition?,
            },
            Class::Request => Subject::Request,
            Class::SelfTest => Subject::SelfTest,
        })
    }

    /// The typed entry; `None` when a field that the kind needs is absent.
    fn into_entry(self) -> Option<Entry> {
        let kind = match self.kind {
            Kind::Genesis => EntryKind::Genesis {
                origin: self.origin?,
                log_key: self.log_key?,
            },
            Kind::Issuer => EntryKind::Issuer {
                issuer: self.issuer?,
                spki: self.spki?.0,
                certificate: self.certificate?.0,
            },
            Kind::Intent => EntryKind::Intent {
                subject: self.subject()?,
                issuer: self.issuer?,
            },
            Kind::Outcome => EntryKind::Outcome {
                intent: self.intent?,
                subject: self.subject()?,
                outcome: match self.outcome? {
                    OutcomeName::Issued => Outcome::Issued {
                        attempts: self.attempts?,
                    },
                    OutcomeName::Abandoned => Outcome::Abandoned,
                    OutcomeName::Unresolved => Outcome::Unresolved {
                        attempts: self.attempts?,
                    },
                },
                issuer: self.issuer?,
            },
            Kind::Revoked => EntryKind::Revoked {
                serial: self.serial?,
                reason: self.reason.filter(|code| matches!(code, 0..=6 | 8..=10))?,
                revoked_at: UnixMillis::from_seconds(self.revoked_at?),
                issuer: self.issuer?,
            },
            Kind::Event => EntryKind::Event { event: self.event? },
            Kind::Tick => EntryKind::Tick,
        };
        let (index, time) = (LeafIndex(self.index), UnixMillis(self.time.0));
        Some(Entry {
            index,
            time,
            kind,
            detail: self.detail,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr as _;

    use super::*;

    fn intent() -> Entry {
        let subject = Subject::Certificate {
            serial: SerialNumber::from_random([0x41; 16]),
            not_after: UnixMillis::from_seconds(1_800_000_000),
        };
        Entry {
            index: LeafIndex(7),
            time: UnixMillis(1_700_000_000_123),
            kind: EntryKind::Intent {
                issuer: "device-1".parse().unwrap(),
                subject,
            },
            detail: Some(DetailHash([0xab; 32])),
        }
    }

    #[test]
    fn an_intent_reads_as_documented() {
        let expected = format!(
            concat!(
                r#"{{"class":"certificate","detail":"{}","index":7,"issuer":"device-1","#,
                r#""kind":"intent","not_after":1800000000,"serial":"{}","time":1700000000123,"v":1}}"#
            ),
            "ab".repeat(32),
            "41".repeat(16)
        );
        assert_eq!(String::from_utf8(intent().encode()).unwrap(), expected);
        assert_eq!(Entry::parse(expected.as_bytes()).unwrap(), intent());
    }

    #[test]
    fn only_the_canonical_encoding_is_read() {
        let text = String::from_utf8(intent().encode()).unwrap();
        let spaced = text.replacen(':', ": ", 1);
        assert!(matches!(
            Entry::parse(spaced.as_bytes()),
            Err(NotAnEntry::NotCanonical)
        ));
        let stray = text.replacen("\"index\"", "\"event\":\"x\",\"index\"", 1);
        assert!(matches!(
            Entry::parse(stray.as_bytes()),
            Err(NotAnEntry::NotCanonical)
        ));
        let absent = text.replacen("\"not_after\":1800000000,", "", 1);
        assert!(matches!(
            Entry::parse(absent.as_bytes()),
            Err(NotAnEntry::Fields)
        ));
    }

    /// One entry of every kind, class and outcome.
    fn every_kind() -> Vec<EntryKind> {
        let issuer = || IssuerName::from_str("device-1").unwrap();
        let serial = SerialNumber::from_random([0x41; 16]);
        let subjects = [
            Subject::Certificate {
                serial,
                not_after: UnixMillis::END_OF_TIME,
            },
            Subject::Crl {
                number: u64::MAX,
                partition: u32::MAX,
            },
            Subject::Request,
            Subject::SelfTest,
        ];
        let outcomes = [
            Outcome::Issued { attempts: 1 },
            Outcome::Abandoned,
            Outcome::Unresolved { attempts: 0 },
        ];
        let mut kinds = vec![
            EntryKind::Genesis {
                origin: "log.example/\u{e9}\"\\".into(),
                log_key: "k".into(),
            },
            EntryKind::Issuer {
                issuer: issuer(),
                spki: [1; 32],
                certificate: [2; 32],
            },
            EntryKind::Revoked {
                issuer: issuer(),
                serial,
                reason: 10,
                revoked_at: UnixMillis(0),
            },
            EntryKind::Event {
                event: "order-opened".parse().unwrap(),
            },
            EntryKind::Tick,
        ];
        for subject in subjects {
            kinds.push(EntryKind::Intent {
                issuer: issuer(),
                subject,
            });
            for outcome in outcomes {
                let intent = LeafIndex(3);
                kinds.push(EntryKind::Outcome {
                    intent,
                    issuer: issuer(),
                    subject,
                    outcome,
                });
            }
        }
        kinds
    }

    #[test]
    fn every_kind_round_trips_with_sorted_keys() {
        for kind in every_kind() {
            for detail in [None, Some(DetailHash([3; 32]))] {
                let (index, time) = (LeafIndex(u64::MAX), UnixMillis(u64::MAX));
                let entry = Entry {
                    index,
                    time,
                    kind: kind.clone(),
                    detail,
                };
                let bytes = entry.encode();
                assert_eq!(Entry::parse(&bytes).unwrap(), entry);
                let keys: serde_json::Map<String, serde_json::Value> =
                    serde_json::from_slice(&bytes).unwrap();
                assert!(keys.keys().is_sorted());
                let sorted: std::collections::BTreeMap<_, _> = keys.into_iter().collect();
                assert_eq!(serde_json::to_vec(&sorted).unwrap(), bytes);
            }
        }
    }

    #[test]
    fn fields_of_another_kind_other_versions_and_long_leaves_are_refused() {
        let text = String::from_utf8(intent().encode()).unwrap();
        let version = text.replacen("\"v\":1", "\"v\":2", 1);
        assert!(matches!(
            Entry::parse(version.as_bytes()),
            Err(NotAnEntry::Version(2))
        ));
        let unknown = text.replacen("\"v\":1", "\"v\":1,\"w\":1", 1);
        assert!(matches!(
            Entry::parse(unknown.as_bytes()),
            Err(NotAnEntry::Json(_))
        ));
        let attempts = text.replacen("{\"class\"", "{\"attempts\":1,\"class\"", 1);
        assert!(matches!(
            Entry::parse(attempts.as_bytes()),
            Err(NotAnEntry::NotCanonical)
        ));
        let kindless = text.replacen("\"kind\":\"intent\",", "", 1);
        assert!(Entry::parse(kindless.as_bytes()).is_err());
        let long = vec![b' '; LEAF_BYTES_MAX + 1];
        assert!(matches!(Entry::parse(&long), Err(NotAnEntry::Long)));
        for reason in [7, 11, 255] {
            let text = format!(
                "{{\"index\":1,\"issuer\":\"d\",\"kind\":\"revoked\",\"reason\":{reason},\
                 \"revoked_at\":0,\"serial\":\"{}\",\"time\":0,\"v\":1}}",
                "41".repeat(16)
            );
            assert!(
                matches!(Entry::parse(text.as_bytes()), Err(NotAnEntry::Fields)),
                "{reason}"
            );
        }
    }

    #[test]
    fn names_are_slugs() {
        for good in ["a", "0", "device-1", &"x".repeat(40)] {
            assert_eq!(good.parse::<Slug>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a-", "A", "a b", "a_b", "\u{e9}", &"x".repeat(41)] {
            assert_eq!(bad.parse::<Slug>(), Err(NotASlug), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_parses_is_canonical(
            bytes: Vec<u8>, index: u64, time: u64, pick: proptest::sample::Index,
            at: proptest::sample::Index, octet: u8,
        ) {
            let kinds = every_kind();
            let kind = kinds[pick.index(kinds.len())].clone();
            let entry = Entry { index: LeafIndex(index), time: UnixMillis(time), kind, detail: None };
            let mut encoded = entry.encode();
            proptest::prop_assert_eq!(&Entry::parse(&encoded).unwrap(), &entry);
            let at = at.index(encoded.len());
            encoded[at] = octet;
            for bytes in [bytes, encoded] {
                if let Ok(entry) = Entry::parse(&bytes) {
                    proptest::prop_assert_eq!(entry.encode(), bytes);
                }
            }
        }
    }
}
