//! Details: what an entry's leaf keeps back, for auditors only.
//!
//! Owns the kinds of details. A detail is canonical JSON like a leaf (keys sorted, no white space) with a
//! random salt, so that its hash in the public leaf cannot be guessed from likely contents. Promises that
//! a detail that parses has one encoding, the bytes that were read. Never makes a salt: the caller
//! brings random octets. Failure story: [`NotADetail`]; whoever has the leaf knows whether the bytes are
//! damaged (their hash differs) or were written wrongly (it agrees).

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{UnixMillis, hex};

/// Unresolved certificates of a production order whose units return by themselves; the units of later ones are held
/// until an operator gives them back.
pub const UNRESOLVED_RETURNED_MAX: u32 = 10;

/// SHA-256 of a detail's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DetailHash(pub [u8; 32]);

impl DetailHash {
    /// Hashes a detail's canonical bytes.
    #[must_use]
    pub fn of(detail: &[u8]) -> Self {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, detail);
        let mut octets = [0; 32];
        octets
            .iter_mut()
            .zip(digest.as_ref())
            .for_each(|(to, from)| *to = *from);
        Self(octets)
    }
}

impl fmt::Display for DetailHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for DetailHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DetailHash({self})")
    }
}

impl Serialize for DetailHash {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DetailHash {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        hex::decode_array(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// 16 random octets, as 32 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt(pub [u8; 16]);

impl Serialize for Salt {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Salt {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        hex::decode_array(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// Octets as padded standard base64 (RFC 4648, section 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl Serialize for Base64 {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        use base64ct::Encoding as _;
        to.serialize_str(&base64ct::Base64::encode_string(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use base64ct::Encoding as _;
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        base64ct::Base64::decode_vec(&text)
            .map(Self)
            .map_err(serde::de::Error::custom)
    }
}

/// A kind of detail: a struct whose fields stand in alphabetical order, which is the canonical order.
pub trait Detail: Serialize + DeserializeOwned {
    /// The canonical bytes.
    fn encode(&self) -> Vec<u8> {
        // Serialising strings and integers to memory cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads a detail and refuses any but the canonical encoding.
    ///
    /// # Errors
    /// [`NotADetail`]: the detail is damaged or of another kind than its leaf says.
    fn parse(bytes: &[u8]) -> Result<Self, NotADetail> {
        let detail: Self = serde_json::from_slice(bytes).map_err(NotADetail::Json)?;
        if detail.encode() != bytes {
            return Err(NotADetail::NotCanonical);
        }
        Ok(detail)
    }
}

/// Why bytes are not the detail that they should be.
#[derive(Debug, thiserror::Error)]
pub enum NotADetail {
    /// Not the JSON of this kind of detail.
    #[error("not this detail's JSON")]
    Json(#[source] serde_json::Error),
    /// Not in its one canonical encoding.
    #[error("not the canonical encoding of its contents")]
    NotCanonical,
    /// Event data that is not an object, or has a float, a `null` or unsorted keys in it.
    #[error("its data is not an object of objects, arrays, strings, integers and booleans")]
    Contents,
}

/// How the list of a CRL follows from the log: what stands in the detail of its intent instead of the list itself.
///
/// The entries that it takes into account are those below the checkpoint in its log anchor, its issuer and partition
/// are in the leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CrlList {
    /// How many certificates it lists.
    pub entries: u64,
    /// What stays out of it; absent where everything stays on it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gone: Option<Gone>,
    /// SHA-256 (hex) of the whole TBSCertList, the list included.
    pub sha256: DetailHash,
}

/// What has left a CRL: certificates that expired before `expired`, and that an entry below `covered` revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gone {
    /// The size of the log that an earlier CRL took into account: what that one listed may leave.
    pub covered: u64,
    /// The end of validity, exclusive; milliseconds since 1970.
    pub expired: UnixMillis,
}

impl Gone {
    /// Whether a certificate that ends at `not_after`, and that entry `entry` revoked, has left.
    #[must_use]
    pub fn takes(&self, not_after: UnixMillis, entry: u64) -> bool {
        not_after < self.expired && entry < self.covered
    }
}

/// The detail of an intent: everything about the signature that is about to be made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IntentDetail {
    /// The device id as it was asked for, before case folding.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub device_id: Option<String>,
    /// The line that asked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<String>,
    /// How a CRL's list follows from the log; with every CRL and with nothing else.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub list: Option<CrlList>,
    /// The operator whose act entitles the signature.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub operator: Option<String>,
    /// The production order whose unit entitles the signature.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub order: Option<String>,
    /// The profile that built the certificate.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub profile: Option<String>,
    /// SHA-256 (hex) of the requested fields: the claim's third part.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub requested: Option<DetailHash>,
    /// Random.
    pub salt: Salt,
    /// SHA-256 (hex) of the subject's SubjectPublicKeyInfo.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub spki: Option<DetailHash>,
    /// The bytes to be signed: TBSCertificate, CertificationRequestInfo or test string; of a CRL the TBSCertList
    /// without its revokedCertificates.
    pub tbs: Base64,
    /// What the act was for, in a word: `line`, `server`, `ca`, `device`, `responder`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
}

impl Detail for IntentDetail {}

/// The detail of an outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutcomeDetail {
    /// Why it was abandoned or is unresolved, for people.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// Random.
    pub salt: Salt,
    /// SHA-256 (hex) of the whole signed object, DER.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sha256: Option<DetailHash>,
    /// The signature value as it stands in the BIT STRING; `tbs` of the intent names the algorithm.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub signature: Option<Base64>,
}

impl Detail for OutcomeDetail {}

/// The detail of an event, a revocation, a genesis or an issuer entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventDetail {
    /// What happened: any JSON object (keys sorted, no floats, no null).
    pub data: serde_json::Value,
    /// Random.
    pub salt: Salt,
}

impl Detail for EventDetail {
    fn parse(bytes: &[u8]) -> Result<Self, NotADetail> {
        let detail: Self = serde_json::from_slice(bytes).map_err(NotADetail::Json)?;
        if detail.encode() != bytes {
            return Err(NotADetail::NotCanonical);
        }
        // Floats have no one text form, and absent members stand for `null`.
        if !detail.data.is_object() || !is_plain(&detail.data) {
            return Err(NotADetail::Contents);
        }
        Ok(detail)
    }
}

/// What the detail of a `units-returned` event says: an operator gave units of an order back that unresolved
/// certificates held.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitsReturned {
    /// The production order.
    pub order: String,
    /// How many units, at least 1.
    pub units: u64,
}

impl UnitsReturned {
    /// The event's name.
    pub const EVENT: &'static str = "units-returned";

    /// Reads it from the event's data; `None` where an order's name or a positive number is missing.
    #[must_use]
    pub fn of(detail: &EventDetail) -> Option<Self> {
        let change = detail.data.get("change")?;
        let order = change.get("order")?.as_str()?.to_owned();
        let units = change.get("units")?.as_u64().filter(|units| *units > 0)?;
        Some(Self { order, units })
    }
}

/// Whether a value has neither floats nor `null`, and sorted keys at every level.
///
/// The recursion ends: the JSON parser refuses more than 128 levels.
fn is_plain(value: &serde_json::Value) -> bool {
    match value {
        serde_json::Value::Null => false,
        serde_json::Value::Bool(_) | serde_json::Value::String(_) => true,
        serde_json::Value::Number(number) => !number.is_f64(),
        serde_json::Value::Array(values) => values.iter().all(is_plain),
        serde_json::Value::Object(members) => {
            // Sorted by the map itself, unless another crate switches on serde_json's `preserve_order`.
            members.keys().is_sorted() && members.values().all(is_plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_round_trip_with_sorted_keys() {
        let detail = IntentDetail {
            device_id: Some("dev-1".into()),
            line: Some("line-1".into()),
            list: Some(CrlList {
                entries: 3,
                gone: Some(Gone {
                    covered: 9,
                    expired: UnixMillis(7),
                }),
                sha256: DetailHash([3; 32]),
            }),
            operator: Some("op".into()),
            order: Some("demo".into()),
            profile: Some("mqtt-device".into()),
            requested: Some(DetailHash([1; 32])),
            salt: Salt([7; 16]),
            spki: Some(DetailHash([2; 32])),
            tbs: Base64(vec![0x30, 0]),
            why: Some("device".into()),
        };
        let bytes = detail.encode();
        assert_eq!(IntentDetail::parse(&bytes).unwrap(), detail);
        // A `Value` sorts its keys, so an equal text shows that the struct's fields are sorted too.
        let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(serde_json::to_vec(&value).unwrap(), bytes);
        let outcome = OutcomeDetail {
            reason: Some("r".into()),
            salt: Salt([7; 16]),
            sha256: Some(DetailHash([2; 32])),
            signature: Some(Base64(vec![1])),
        };
        let value: serde_json::Value = serde_json::from_slice(&outcome.encode()).unwrap();
        assert_eq!(serde_json::to_vec(&value).unwrap(), outcome.encode());
    }

    #[test]
    fn event_data_is_plain_json_with_sorted_keys() {
        let salt = "07".repeat(16);
        let parse = |data: &str| {
            EventDetail::parse(format!("{{\"data\":{data},\"salt\":\"{salt}\"}}").as_bytes())
        };
        let data = r#"{"a":[1,-2,"\u0001\n\"",true],"b":{"c":18446744073709551615}}"#;
        assert_eq!(parse(data).unwrap().data["a"][2], "\u{1}\n\"");
        for bad in [
            r#"{"a":1.5}"#,
            r#"{"a":null}"#,
            "[]",
            "1",
            "null",
            r#"{"a":[{"b":0.5}]}"#,
        ] {
            let refused = parse(bad);
            assert!(
                matches!(refused, Err(NotADetail::Contents)),
                "{bad} {refused:?}"
            );
        }
        for bad in [
            r#"{"b":1,"a":1}"#,
            r#"{"a":1,"a":1}"#,
            r#"{"a": 1}"#,
            r#"{"a":"\u000a"}"#,
        ] {
            let refused = parse(bad);
            let canonical = matches!(refused, Err(NotADetail::NotCanonical));
            // Unsorted keys are refused by the second check where the map keeps their order.
            assert!(canonical || bad.starts_with("{\"b\""), "{bad} {refused:?}");
            assert!(refused.is_err(), "{bad}");
        }
        assert!(matches!(parse("{"), Err(NotADetail::Json(_))));
        let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
        assert!(matches!(parse(&deep), Err(NotADetail::Json(_))));
    }

    #[test]
    fn returned_units_name_an_order_and_a_number() {
        let read = |data| {
            let salt = Salt([7; 16]);
            UnitsReturned::of(&EventDetail { data, salt })
        };
        let data = serde_json::json!({
            "change": {"change": "units-returned", "order": "demo", "units": 3}, "operator": "op",
        });
        let order = "demo".to_owned();
        assert_eq!(read(data), Some(UnitsReturned { order, units: 3 }));
        for bad in [
            serde_json::json!({"order": "demo", "units": 3}),
            serde_json::json!({"change": {"order": "demo"}}),
            serde_json::json!({"change": {"units": 3}}),
            serde_json::json!({"change": {"order": "demo", "units": 0}}),
            serde_json::json!({"change": {"order": "demo", "units": -1}}),
            serde_json::json!({"change": {"order": "demo", "units": "3"}}),
            serde_json::json!({"change": "units-returned"}),
        ] {
            assert_eq!(read(bad.clone()), None, "{bad}");
        }
    }

    #[test]
    fn unknown_members_and_other_kinds_are_refused() {
        let outcome = OutcomeDetail {
            reason: None,
            salt: Salt([7; 16]),
            sha256: None,
            signature: None,
        };
        let bytes = outcome.encode();
        assert!(matches!(
            IntentDetail::parse(&bytes),
            Err(NotADetail::Json(_))
        ));
        assert!(matches!(
            EventDetail::parse(&bytes),
            Err(NotADetail::Json(_))
        ));
        let more = String::from_utf8(bytes)
            .unwrap()
            .replace('{', "{\"extra\":1,");
        assert!(matches!(
            OutcomeDetail::parse(more.as_bytes()),
            Err(NotADetail::Json(_))
        ));
        let null = more.replace("\"extra\":1", "\"reason\":null");
        assert!(matches!(
            OutcomeDetail::parse(null.as_bytes()),
            Err(NotADetail::NotCanonical)
        ));
    }

    proptest::proptest! {
        #[test]
        fn what_parses_is_canonical(bytes: Vec<u8>, at: proptest::sample::Index, octet: u8) {
            let detail = IntentDetail {
                device_id: None,
                line: Some("line-1".into()),
                list: None,
                operator: None,
                order: Some("an order, \u{e9}\u{1}".into()),
                profile: None,
                requested: None,
                salt: Salt([7; 16]),
                spki: Some(DetailHash([2; 32])),
                tbs: Base64(bytes.clone()),
                why: None,
            };
            let mut encoded = detail.encode();
            proptest::prop_assert_eq!(&IntentDetail::parse(&encoded).unwrap(), &detail);
            let at = at.index(encoded.len());
            encoded[at] = octet;
            for bytes in [&encoded, &bytes] {
                if let Ok(detail) = IntentDetail::parse(bytes) {
                    proptest::prop_assert_eq!(&detail.encode(), bytes);
                }
                if let Ok(detail) = OutcomeDetail::parse(bytes) {
                    proptest::prop_assert_eq!(&detail.encode(), bytes);
                }
                if let Ok(detail) = EventDetail::parse(bytes) {
                    proptest::prop_assert_eq!(&detail.encode(), bytes);
                }
            }
        }
    }
}
