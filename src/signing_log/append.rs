//! What is asked of the writer: entries prepared as far as they can be without knowing their index.
//!
//! Owns the requests that wait in the writer's queue and their making from a grant and an object. Details are
//! encoded, salted and hashed here, in the asker's own task, so that the one writer does little per entry.
//! Promises that a grant entitles its object. Failure story: a refusal leaves nothing.

use base64ct::{Base64, Encoding as _};
use certstatus::log::detail::Base64 as Octets;
use certstatus::log::entry::Slug;
use certstatus::log::{
    Class, CrlList, DetailHash, EntryKind, EventDetail, EventName, IntentDetail, IssuerName,
    LeafIndex, Outcome, OutcomeDetail, Salt, Subject,
};
use certstatus::signature::{PublicKey, SignatureAlgorithm};
use certstatus::{SerialNumber, UnixMillis};
use der::{Decode as _, Reader as _, SliceReader};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::error::{IntentRefused, LogError};
use super::intent::{Certificate, Failed, Intent, ToBeSigned};
use super::record::IssuerRecord;
use super::revocations::{RevokeDraft, Revoked};
use crate::hsm::Hsm;
use crate::limits;
use crate::profile::Tbs;
use crate::ra::{Change, ChangeRefused, Grant, GrantKind, Purpose};
use crate::time::Clock;

/// What waits in the writer's queue.
pub(super) enum Append {
    /// An intent.
    Intent {
        draft: Box<IntentDraft>,
        answer: oneshot::Sender<Result<Intent, IntentRefused>>,
    },
    /// An outcome. Without an answer where nobody waits for it.
    Outcome {
        closing: Box<Closing>,
        answer: Option<oneshot::Sender<Result<LeafIndex, LogError>>>,
    },
    /// An entry that touches no intent.
    Note {
        note: Box<Note>,
        answer: Option<oneshot::Sender<Result<LeafIndex, LogError>>>,
    },
    /// Revocations for one reason.
    Revoke {
        draft: Box<RevokeDraft>,
        answer: oneshot::Sender<Result<Vec<Revoked>, LogError>>,
    },
    /// Not an entry: what a start has to make sure of.
    Recover {
        hsm: Hsm,
        answer: oneshot::Sender<Result<(), LogError>>,
    },
    /// Not an entry: the end.
    Stop { answer: oneshot::Sender<()> },
}

/// A detail in its canonical bytes, with their hash.
pub(super) struct Sealed {
    pub bytes: Vec<u8>,
    pub hash: DetailHash,
}

/// An intent that wants an index.
pub(super) struct IntentDraft {
    pub issuer: IssuerName,
    pub subject: Subject,
    pub key: PublicKey,
    pub algorithm: SignatureAlgorithm,
    pub tbs: Vec<u8>,
    pub detail: Sealed,
    /// What is looked up later, where it is a certificate.
    pub certificate: Option<CertificateRow>,
}

/// A certificate's row in the store.
pub(super) struct CertificateRow {
    pub serial: SerialNumber,
    pub why: &'static str,
    pub profile: String,
    pub line: Option<Slug>,
    /// The approved responder that it is for.
    pub responder: Option<Slug>,
    /// The order's unit that it takes.
    pub unit: Option<UnitRow>,
    /// The serial of the line's certificate that it renews.
    pub renews: Option<SerialNumber>,
    pub spki: DetailHash,
    pub requested: DetailHash,
    pub not_before: UnixMillis,
    pub not_after: UnixMillis,
}

/// A device's part of a certificate's row.
pub(super) struct UnitRow {
    pub order: Slug,
    /// The line that asked, with the serial of the certificate that proved it.
    pub asked_by: (Slug, SerialNumber),
    pub device_id: String,
    /// `<issuer>/<case-folded device id>`.
    pub device_key: String,
}

/// An outcome that wants an index.
pub(super) struct Closing {
    pub intent: LeafIndex,
    pub issuer: IssuerName,
    pub subject: Subject,
    pub outcome: Outcome,
    pub order: Option<Slug>,
    pub detail: Sealed,
}

/// Any other entry.
pub(super) struct Note {
    pub kind: EntryKind,
    pub detail: Option<Sealed>,
    pub effect: Effect,
}

/// What an entry does beside standing in the log.
pub(super) enum Effect {
    /// Nothing.
    None,
    /// It changes lines or orders.
    Change(Change),
    /// It makes an issuer known.
    Issuer(Box<IssuerRecord>),
}

/// The first line of every self-test's string.
const SELF_TEST: &str = "Hallmark self-test";

impl Sealed {
    /// Encodes and hashes a detail.
    fn of(detail: &impl certstatus::log::Detail) -> Self {
        let bytes = detail.encode();
        let hash = DetailHash::of(&bytes);
        Self { bytes, hash }
    }

    /// The detail of an event, a revocation, a genesis or an issuer.
    pub(super) fn event(data: Value) -> Result<Self, LogError> {
        if !data.is_object() || !canonical(&data) {
            return Err(refused(
                "data",
                "must be a JSON object without null or fractions",
            ));
        }
        let detail = Self::of(&EventDetail {
            data,
            salt: salt()?,
        });
        if detail.bytes.len() > limits::DETAIL_BYTES_MAX {
            return Err(refused("data", "is too long for an entry of the log"));
        }
        Ok(detail)
    }
}

/// Whether a value has one canonical encoding: no null, and integers only.
fn canonical(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) => number.is_i64() || number.is_u64(),
        Value::Array(values) => values.iter().all(canonical),
        Value::Object(fields) => fields.values().all(canonical),
    }
}

/// A value that an entry cannot have.
fn refused(key: &'static str, problem: &str) -> LogError {
    LogError::Change(ChangeRefused::Value {
        key,
        problem: problem.to_owned(),
    })
}

/// Random octets.
fn random<const N: usize>() -> Result<[u8; N], LogError> {
    let mut octets = [0; N];
    // Without randomness details could be guessed and nothing could be signed either.
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| LogError::Randomness)?;
    Ok(octets)
}

/// A fresh salt.
fn salt() -> Result<Salt, LogError> {
    random().map(Salt)
}

/// What an intent is for and on whose behalf, as its detail tells.
struct Entitled<'a> {
    why: &'static str,
    operator: Option<&'a str>,
    line: Option<&'a Slug>,
    unit: Option<Unit<'a>>,
    renews: Option<SerialNumber>,
}

/// The unit that a grant entitles to.
struct Unit<'a> {
    order: &'a Slug,
    asked_by: (&'a Slug, SerialNumber),
    device_id: &'a str,
}

/// Reads a grant; refuses it for an object of another kind than it entitles to.
fn entitled<'a>(
    grant: &'a Grant,
    class: Class,
    issuer: &IssuerName,
) -> Result<Entitled<'a>, IntentRefused> {
    let (wanted, entitled) = match &grant.0 {
        GrantKind::Unit {
            order,
            line,
            certificate,
            device_id,
        } => (
            Class::Certificate,
            Entitled {
                why: "device",
                operator: None,
                line: Some(line),
                unit: Some(Unit {
                    order,
                    asked_by: (line, *certificate),
                    device_id,
                }),
                renews: None,
            },
        ),
        GrantKind::LineRenewal { line, certificate } => (
            Class::Certificate,
            Entitled {
                why: "line",
                operator: None,
                line: Some(line),
                unit: None,
                renews: Some(*certificate),
            },
        ),
        GrantKind::Act { operator, purpose } => {
            let (wanted, why, line) = match purpose {
                Purpose::Line(line) => (Class::Certificate, "line", Some(line)),
                Purpose::Reader(_) => (Class::Certificate, "reader", None),
                Purpose::Server(_) => (Class::Certificate, "server", None),
                Purpose::Responder(_) => (Class::Certificate, "responder", None),
                // A CA certificate is signed here, or asked for from an offline root.
                Purpose::Ca(_) if class == Class::Request => (Class::Request, "request", None),
                Purpose::Ca(_) => (Class::Certificate, "ca", None),
                Purpose::Crl(name) if name == issuer => (Class::Crl, "crl", None),
                Purpose::SelfTest(name) if name == issuer => (Class::SelfTest, "self-test", None),
                Purpose::Crl(_) | Purpose::SelfTest(_) => {
                    return Err(object("it is for another issuer than its grant"));
                }
            };
            let operator = Some(operator.as_str());
            let (unit, renews) = (None, None);
            (
                wanted,
                Entitled {
                    why,
                    operator,
                    line,
                    unit,
                    renews,
                },
            )
        }
    };
    if wanted == class {
        Ok(entitled)
    } else {
        Err(object("its grant is for another kind of object"))
    }
}

/// An object that cannot stand in the log.
const fn object(problem: &'static str) -> IntentRefused {
    IntentRefused::Object { problem }
}

impl IntentDraft {
    /// Prepares an intent for an object under a grant.
    ///
    /// # Errors
    /// [`IntentRefused::Object`] when the grant does not entitle to it or its bytes are not what they must be.
    pub(super) fn new(
        grant: &Grant,
        to_be_signed: ToBeSigned,
        origin: &str,
        clock: &Clock,
    ) -> Result<Self, IntentRefused> {
        match to_be_signed {
            ToBeSigned::Certificate(tbs) => Self::certificate(grant, tbs),
            ToBeSigned::Crl {
                issuer,
                key,
                algorithm,
                partition,
                gone,
                tbs,
            } => {
                let number = tbs.number();
                let subject = Subject::Crl { number, partition };
                let list = CrlList {
                    entries: u64::try_from(tbs.entries()).unwrap_or(u64::MAX),
                    gone,
                    sha256: DetailHash::of(tbs.der()),
                };
                let (tbs, frame) = tbs.into_parts();
                let told = (frame, Some(list));
                let draft = Self::plain(grant, issuer, subject, (key, algorithm), told)?;
                Ok(Self { tbs, ..draft })
            }
            ToBeSigned::Request {
                issuer,
                key,
                algorithm,
                tbs,
            } => {
                let told = (tbs, None);
                Self::plain(grant, issuer, Subject::Request, (key, algorithm), told)
            }
            ToBeSigned::SelfTest {
                issuer,
                key,
                algorithm,
            } => {
                let nonce = certstatus::hex::encode(&random::<32>()?);
                let text = format!("{SELF_TEST}\n{origin}\n{}\n{nonce}", clock.now().0);
                Self::plain(
                    grant,
                    issuer,
                    Subject::SelfTest,
                    (key, algorithm),
                    (text.into_bytes(), None),
                )
            }
        }
    }

    /// Prepares anything but a certificate; the detail has the bytes, of a CRL those around its list.
    fn plain(
        grant: &Grant,
        issuer: IssuerName,
        subject: Subject,
        (key, algorithm): (PublicKey, SignatureAlgorithm),
        (tbs, list): (Vec<u8>, Option<CrlList>),
    ) -> Result<Self, IntentRefused> {
        let class = subject.class();
        let entitled = entitled(grant, class, &issuer)?;
        names_algorithm(class, &tbs, algorithm)?;
        let told = IntentDetail {
            device_id: None,
            line: entitled.line.map(ToString::to_string),
            list,
            operator: entitled.operator.map(str::to_owned),
            order: None,
            profile: None,
            requested: None,
            salt: salt()?,
            spki: None,
            tbs: Octets(tbs),
            why: Some(entitled.why.to_owned()),
        };
        let detail = Sealed::of(&told);
        let Octets(tbs) = told.tbs;
        if detail.bytes.len() > limits::DETAIL_BYTES_MAX {
            return Err(object("it is too long for an entry of the log"));
        }
        Ok(Self {
            issuer,
            subject,
            key,
            algorithm,
            tbs,
            detail,
            certificate: None,
        })
    }

    /// Prepares a certificate.
    fn certificate(grant: &Grant, tbs: Tbs) -> Result<Self, IntentRefused> {
        let entitled = entitled(grant, Class::Certificate, &tbs.issuer)?;
        names_algorithm(Class::Certificate, &tbs.der, tbs.algorithm)?;
        let unit = match entitled.unit {
            None => None,
            Some(unit)
                if tbs
                    .device_id
                    .as_deref()
                    .is_some_and(|id| id != unit.device_id) =>
            {
                return Err(object("it names another device than its grant"));
            }
            Some(Unit {
                order,
                asked_by: (line, certificate),
                device_id,
            }) => Some(UnitRow {
                order: order.clone(),
                asked_by: (line.clone(), certificate),
                device_id: device_id.to_owned(),
                device_key: device_key(tbs.issuer.as_str(), device_id),
            }),
        };
        let detail = Sealed::of(&IntentDetail {
            device_id: unit.as_ref().map(|unit| unit.device_id.clone()),
            line: entitled.line.map(ToString::to_string),
            list: None,
            operator: entitled.operator.map(str::to_owned),
            order: unit.as_ref().map(|unit| unit.order.to_string()),
            profile: Some(tbs.profile.clone()),
            requested: Some(tbs.requested),
            salt: salt()?,
            spki: Some(tbs.spki),
            tbs: Octets(tbs.der.clone()),
            why: Some(entitled.why.to_owned()),
        });
        if detail.bytes.len() > limits::DETAIL_BYTES_MAX {
            return Err(object("it is too long for an entry of the log"));
        }
        Ok(Self {
            subject: Subject::Certificate {
                serial: tbs.serial,
                not_after: tbs.not_after,
            },
            issuer: tbs.issuer,
            key: tbs.issuer_key,
            algorithm: tbs.algorithm,
            tbs: tbs.der,
            detail,
            certificate: Some(CertificateRow {
                serial: tbs.serial,
                why: entitled.why,
                profile: tbs.profile,
                line: entitled.line.cloned(),
                responder: responder(grant).cloned(),
                unit,
                renews: entitled.renews,
                spki: tbs.spki,
                requested: tbs.requested,
                not_before: tbs.not_before,
                not_after: tbs.not_after,
            }),
        })
    }
}

/// The responder that a grant is for.
const fn responder(grant: &Grant) -> Option<&Slug> {
    match &grant.0 {
        GrantKind::Act {
            purpose: Purpose::Responder(responder),
            ..
        } => Some(responder),
        _ => None,
    }
}

/// What makes a device id unique within an issuer.
pub(super) fn device_key(issuer: &str, device_id: &str) -> String {
    // Device ids are printable ASCII (the registry refuses others), so this folds every letter there is.
    format!("{issuer}/{}", device_id.to_ascii_lowercase())
}

/// Checks that the bytes to be signed name the algorithm that will sign, as RFC 5280 (4.1.1.2, 5.1.1.2) wants;
/// it is also how the log tells later which algorithm it was.
fn names_algorithm(
    class: Class,
    tbs: &[u8],
    algorithm: SignatureAlgorithm,
) -> Result<(), IntentRefused> {
    let named = match class {
        Class::Certificate | Class::Crl => named_algorithm(class, tbs),
        Class::Request | Class::SelfTest => return Ok(()),
    };
    if named == Some(algorithm) {
        Ok(())
    } else {
        Err(object("its bytes name another signature algorithm"))
    }
}

/// The algorithm that a TBSCertificate or TBSCertList names.
pub(super) fn named_algorithm(class: Class, tbs: &[u8]) -> Option<SignatureAlgorithm> {
    // Version and serial stand before it in a certificate, the version in a CRL.
    let before = match class {
        Class::Certificate => 2,
        Class::Crl => 1,
        Class::Request | Class::SelfTest => return None,
    };
    let mut reader = SliceReader::new(tbs).ok()?;
    let identifier = reader.sequence(|fields| {
        for _ in 0..before {
            fields.tlv_bytes()?;
        }
        let identifier = fields.tlv_bytes()?;
        while !fields.is_finished() {
            fields.tlv_bytes()?;
        }
        Ok::<_, der::Error>(identifier)
    });
    SignatureAlgorithm::parse(identifier.ok()?).ok()
}

impl Closing {
    /// The outcome of a certificate (CRL, request, self-test) that was issued.
    pub(super) fn issued(certificate: &Certificate) -> Result<Self, LogError> {
        let detail = OutcomeDetail {
            reason: None,
            salt: salt()?,
            sha256: (!certificate.der.is_empty()).then_some(certificate.sha256),
            signature: Some(Octets(certificate.signature.clone())),
        };
        let intent = &certificate.intent;
        Ok(Self {
            intent: intent.index,
            issuer: intent.issuer.clone(),
            subject: intent.subject,
            outcome: Outcome::Issued {
                attempts: certificate.attempts,
            },
            order: intent.order.clone(),
            detail: Sealed::of(&detail),
        })
    }

    /// The outcome of an intent that failed.
    pub(super) fn failed(failed: Failed) -> Result<Self, LogError> {
        let Failed {
            intent,
            attempts,
            reason,
        } = failed;
        let outcome = match attempts {
            0 => Outcome::Abandoned,
            attempts => Outcome::Unresolved { attempts },
        };
        Self::unsigned(
            intent.index,
            intent.issuer,
            intent.subject,
            outcome,
            intent.order,
            reason,
        )
    }

    /// An outcome without a signature.
    pub(super) fn unsigned(
        intent: LeafIndex,
        issuer: IssuerName,
        subject: Subject,
        outcome: Outcome,
        order: Option<Slug>,
        reason: String,
    ) -> Result<Self, LogError> {
        let detail = Sealed::of(&OutcomeDetail {
            reason: Some(reason),
            salt: salt()?,
            sha256: None,
            signature: None,
        });
        Ok(Self {
            intent,
            issuer,
            subject,
            outcome,
            order,
            detail,
        })
    }
}

impl Note {
    /// Whether it changes lines or orders.
    pub(super) const fn changes_registry(&self) -> bool {
        matches!(self.effect, Effect::Change(_))
    }

    /// Entry 0.
    pub(super) fn genesis(origin: &str, log_key: &str, data: Value) -> Result<Self, LogError> {
        Ok(Self {
            kind: EntryKind::Genesis {
                origin: origin.to_owned(),
                log_key: log_key.to_owned(),
            },
            detail: Some(Sealed::event(data)?),
            effect: Effect::None,
        })
    }

    /// An event.
    pub(super) fn event(event: EventName, data: Value) -> Result<Self, LogError> {
        Ok(Self {
            kind: EntryKind::Event { event },
            detail: Some(Sealed::event(data)?),
            effect: Effect::None,
        })
    }

    /// A sign of life.
    pub(super) const fn tick() -> Self {
        Self {
            kind: EntryKind::Tick,
            detail: None,
            effect: Effect::None,
        }
    }

    /// A change of lines or orders; the event is named as the change is.
    pub(super) fn change(operator: &str, change: Change) -> Result<Self, LogError> {
        let told = serde_json::to_value(&change)
            .map_err(|_| refused("change", "cannot be written as JSON"))?;
        let name = told.get("change").and_then(Value::as_str);
        let event: EventName = name
            .and_then(|name| name.parse().ok())
            .ok_or_else(|| refused("change", "has no name"))?;
        Ok(Self {
            kind: EntryKind::Event { event },
            detail: Some(Sealed::event(
                json!({ "change": told, "operator": operator }),
            )?),
            effect: Effect::Change(change),
        })
    }

    /// An issuer's name, key and certificate.
    pub(super) fn issuer(record: IssuerRecord) -> Result<Self, LogError> {
        let unfit = |_| refused("certificate", "is not an X.509 certificate");
        let certificate = x509_cert::Certificate::from_der(&record.certificate).map_err(unfit)?;
        let spki = certificate.tbs_certificate().subject_public_key_info();
        let spki = der::Encode::to_der(spki).map_err(unfit)?;
        let data = json!({
            "algorithm": record.algorithm,
            "certificate": Base64::encode_string(&record.certificate),
            "parent": record.parent,
            "partitions": record.partitions,
            "role": record.role,
        });
        Ok(Self {
            kind: EntryKind::Issuer {
                issuer: record.name.clone(),
                spki: DetailHash::of(&spki).0,
                certificate: DetailHash::of(&record.certificate).0,
            },
            detail: Some(Sealed::event(data)?),
            effect: Effect::Issuer(Box::new(record)),
        })
    }
}

#[cfg(test)]
mod tests {
    use certstatus::log::Detail as _;

    use super::*;

    #[test]
    fn only_data_with_one_encoding_is_taken() {
        for bad in [
            json!([]),
            json!({"a": null}),
            json!({"a": [1.5]}),
            json!({"a": {"b": null}}),
        ] {
            assert!(Sealed::event(bad).is_err());
        }
        let sealed = Sealed::event(json!({"b": 1, "a": [true, "x", {"c": -1}]})).unwrap();
        EventDetail::parse(&sealed.bytes).unwrap();
        assert_eq!(sealed.hash, DetailHash::of(&sealed.bytes));
    }

    #[test]
    fn long_data_is_refused() {
        let long = "x".repeat(limits::DETAIL_BYTES_MAX);
        assert!(Sealed::event(json!({ "a": long })).is_err());
    }

    #[test]
    fn salts_differ() {
        let seal = || Sealed::event(json!({})).unwrap().hash;
        assert_ne!(seal(), seal());
    }

    #[test]
    fn device_ids_are_folded_within_their_issuer() {
        assert_eq!(device_key("a", "Dev-1"), device_key("a", "DEV-1"));
        assert_ne!(device_key("a", "dev-1"), device_key("b", "dev-1"));
        // An issuer's name has no slash, so no two pairs share a key.
        assert!("a/b".parse::<IssuerName>().is_err());
    }
}
