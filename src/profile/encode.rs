//! The DER of a TBSCertificate, written part by part.
//!
//! Owns every octet that a certificate of ours has beside names and keys that come encoded. Promises DER
//! (X.690) by construction: shortest lengths, named bits without trailing zeros, times as RFC 5280 wants
//! them. Decides nothing: `lint` reads the result anew and judges it. Cannot fail.

use certstatus::signature::tlv::{
    self, BIT_STRING, GENERALIZED_TIME, INTEGER, OCTET_STRING, SEQUENCE, SET, UTC_TIME,
};
use certstatus::signature::{PublicKey, SignatureAlgorithm};
use certstatus::{SerialNumber, UnixMillis};
use der::Tag;
use der::asn1::ObjectIdentifier;
use der::flagset::FlagSet;
use x509_cert::ext::pkix::KeyUsages;

use super::oid;
use super::rule::{AltName, Attribute};

/// BOOLEAN TRUE.
const TRUE: [u8; 3] = [0x01, 0x01, 0xff];
/// The tag of an OBJECT IDENTIFIER.
const OBJECT_IDENTIFIER: u8 = 0x06;
/// Context-specific, primitive: to be joined with the number.
const CONTEXT: u8 = 0x80;
/// Context-specific, constructed: to be joined with the number.
const CONTEXT_CONSTRUCTED: u8 = 0xa0;

/// 2050-01-01T00:00:00Z: the first time that UTCTime cannot say.
const YEAR_2050: UnixMillis = UnixMillis::from_seconds(2_524_608_000);

/// The parts of a TBSCertificate.
pub(super) struct Fields<'a> {
    /// The serial number.
    pub serial: SerialNumber,
    /// What it will be signed with.
    pub algorithm: SignatureAlgorithm,
    /// The issuer Name, DER.
    pub issuer: &'a [u8],
    /// notBefore.
    pub not_before: UnixMillis,
    /// notAfter.
    pub not_after: UnixMillis,
    /// The subject Name, DER.
    pub subject: &'a [u8],
    /// The subject's key.
    pub key: &'a PublicKey,
    /// The extensions one after the other, DER.
    pub extensions: &'a [u8],
}

/// Whether an extension is critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Criticality {
    /// A reader that does not know it refuses the certificate.
    Critical,
    /// A reader that does not know it passes it over.
    NotCritical,
}

/// The TBSCertificate (RFC 5280, 4.1), version 3.
pub(super) fn tbs(fields: &Fields<'_>) -> Vec<u8> {
    let version = [CONTEXT_CONSTRUCTED, 3, INTEGER, 1, 2];
    let serial = tlv::wrap(INTEGER, &[fields.serial.as_bytes()]);
    let validity = tlv::wrap(
        SEQUENCE,
        &[&time(fields.not_before), &time(fields.not_after)],
    );
    let extensions = tlv::wrap(SEQUENCE, &[fields.extensions]);
    let extensions = tlv::wrap(CONTEXT_CONSTRUCTED | 3, &[&extensions]);
    let parts: [&[u8]; 8] = [
        &version,
        &serial,
        fields.algorithm.identifier(),
        fields.issuer,
        &validity,
        fields.subject,
        fields.key.spki(),
        &extensions,
    ];
    tlv::wrap(SEQUENCE, &parts)
}

/// A time, to the second: UTCTime until 2049, GeneralizedTime after (RFC 5280, 4.1.2.5).
fn time(at: UnixMillis) -> Vec<u8> {
    // RFC 3339 in UTC has all the digits, in order: 2049-12-31T23:59:59Z.
    let digits: Vec<u8> = at
        .to_string()
        .bytes()
        .filter(|c| c.is_ascii_digit() || *c == b'Z')
        .collect();
    match digits.get(2..) {
        // No time here is before 1970, so two digits are not ambiguous.
        Some(two_digit_year) if at < YEAR_2050 => tlv::wrap(UTC_TIME, &[two_digit_year]),
        _ => tlv::wrap(GENERALIZED_TIME, &[&digits]),
    }
}

/// A Name with one attribute in each RDN.
pub(super) fn name(attributes: &[(Attribute, String)]) -> Vec<u8> {
    let rdns: Vec<Vec<u8>> = attributes
        .iter()
        .map(|(kind, value)| {
            let value = tlv::wrap(string_tag(kind.tag()), &[value.as_bytes()]);
            let pair = tlv::wrap(SEQUENCE, &[&object_identifier(kind.oid()), &value]);
            tlv::wrap(SET, &[&pair])
        })
        .collect();
    sequence_of(&rdns)
}

/// The octet of a string type's tag.
const fn string_tag(tag: Tag) -> u8 {
    match tag {
        Tag::PrintableString => 0x13,
        Tag::Ia5String => 0x16,
        _ => tlv::UTF8_STRING,
    }
}

/// An OBJECT IDENTIFIER.
pub(super) fn object_identifier(oid: ObjectIdentifier) -> Vec<u8> {
    tlv::wrap(OBJECT_IDENTIFIER, &[oid.as_bytes()])
}

/// A SEQUENCE OF values that come encoded.
fn sequence_of(values: &[Vec<u8>]) -> Vec<u8> {
    let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    tlv::wrap(SEQUENCE, &values)
}

/// An extension around its value.
pub(super) fn extension(oid: ObjectIdentifier, critical: Criticality, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = match critical {
        Criticality::Critical => &TRUE,
        Criticality::NotCritical => &[],
    };
    let value = tlv::wrap(OCTET_STRING, &[value]);
    tlv::wrap(SEQUENCE, &[&object_identifier(oid), critical, &value])
}

/// authorityKeyIdentifier: the issuer's subject key identifier as it stands there (RFC 5280, 4.2.1.1).
pub(super) fn authority_key_id(key_id: &[u8]) -> Vec<u8> {
    let key_id = tlv::wrap(CONTEXT, &[key_id]);
    let value = tlv::wrap(SEQUENCE, &[&key_id]);
    extension(oid::AUTHORITY_KEY_ID, Criticality::NotCritical, &value)
}

/// subjectKeyIdentifier: SHA-1 of the key's BIT STRING (RFC 5280, 4.2.1.2, method 1).
///
/// It is a name, not a proof: nothing here relies on its being free of collisions. It is what `openssl`
/// asks for with `subjectKeyIdentifier = hash`, so such requests agree with what they get.
pub(super) fn subject_key_id(key: &PublicKey) -> Vec<u8> {
    let value = tlv::wrap(OCTET_STRING, &[&key.key_identifier()]);
    extension(oid::SUBJECT_KEY_ID, Criticality::NotCritical, &value)
}

/// keyUsage: named bits, the first the most significant, no trailing zeros (X.690, 11.2.2).
pub(super) fn key_usage(usages: &[KeyUsages], critical: Criticality) -> Vec<u8> {
    let bits = usages.iter().fold(0u16, |bits, usage| {
        // In the flags the first bit is the least significant.
        bits | FlagSet::from(*usage).bits().reverse_bits()
    });
    let unused = bits.trailing_zeros().min(15);
    let [first, second] = bits.to_be_bytes();
    // Less than 16, so the remainder fits one octet.
    let unused_octet = (unused % 8).to_le_bytes();
    let value = match unused {
        8.. => tlv::wrap(BIT_STRING, &[&unused_octet[..1], &[first]]),
        _ => tlv::wrap(BIT_STRING, &[&unused_octet[..1], &[first, second]]),
    };
    extension(oid::KEY_USAGE, critical, &value)
}

/// extendedKeyUsage.
pub(super) fn extended_key_usage(usages: &[ObjectIdentifier], critical: Criticality) -> Vec<u8> {
    let usages: Vec<Vec<u8>> = usages
        .iter()
        .map(|usage| object_identifier(*usage))
        .collect();
    extension(oid::EXTENDED_KEY_USAGE, critical, &sequence_of(&usages))
}

/// basicConstraints that say "not a CA": an empty SEQUENCE, because FALSE is the default.
pub(super) fn not_a_ca(critical: Criticality) -> Vec<u8> {
    let value = tlv::wrap(SEQUENCE, &[]);
    extension(oid::BASIC_CONSTRAINTS, critical, &value)
}

/// basicConstraints of a CA, critical (RFC 5280, 4.2.1.9).
pub(super) fn a_ca(path_len: Option<u8>) -> Vec<u8> {
    let path_len = path_len.map(|length| match length {
        // A leading zero keeps the INTEGER positive.
        0x80.. => tlv::wrap(INTEGER, &[&[0, length]]),
        _ => tlv::wrap(INTEGER, &[&[length]]),
    });
    let value = tlv::wrap(SEQUENCE, &[&TRUE, path_len.as_deref().unwrap_or_default()]);
    extension(oid::BASIC_CONSTRAINTS, Criticality::Critical, &value)
}

/// certificatePolicies without qualifiers.
pub(super) fn policies(policies: &[ObjectIdentifier]) -> Vec<u8> {
    let policies: Vec<Vec<u8>> = policies
        .iter()
        .map(|policy| tlv::wrap(SEQUENCE, &[&object_identifier(*policy)]))
        .collect();
    let value = sequence_of(&policies);
    extension(oid::CERTIFICATE_POLICIES, Criticality::NotCritical, &value)
}

/// id-pkix-ocsp-nocheck (RFC 6960, 4.2.2.2.1): NULL.
pub(super) fn ocsp_nocheck() -> Vec<u8> {
    extension(oid::OCSP_NOCHECK, Criticality::NotCritical, &[0x05, 0x00])
}

/// cRLDistributionPoints with one full name, a URL.
pub(super) fn crl_distribution_point(url: &str) -> Vec<u8> {
    let url = tlv::wrap(CONTEXT | 6, &[url.as_bytes()]);
    let full_name = tlv::wrap(CONTEXT_CONSTRUCTED, &[&url]);
    let name = tlv::wrap(CONTEXT_CONSTRUCTED, &[&full_name]);
    let point = tlv::wrap(SEQUENCE, &[&name]);
    let value = tlv::wrap(SEQUENCE, &[&point]);
    extension(
        oid::CRL_DISTRIBUTION_POINTS,
        Criticality::NotCritical,
        &value,
    )
}

/// authorityInfoAccess with the OCSP responder's and the issuer certificate's URL; none without both.
pub(super) fn authority_info_access(ocsp: Option<&str>, issuer: Option<&str>) -> Option<Vec<u8>> {
    let access = |method, url: Option<&str>| {
        url.map(|url| {
            let url = tlv::wrap(CONTEXT | 6, &[url.as_bytes()]);
            tlv::wrap(SEQUENCE, &[&object_identifier(method), &url])
        })
    };
    let accesses: Vec<Vec<u8>> = [
        access(oid::AD_OCSP, ocsp),
        access(oid::AD_CA_ISSUERS, issuer),
    ]
    .into_iter()
    .flatten()
    .collect();
    if accesses.is_empty() {
        return None;
    }
    let value = sequence_of(&accesses);
    Some(extension(
        oid::AUTHORITY_INFO_ACCESS,
        Criticality::NotCritical,
        &value,
    ))
}

/// subjectAltName: critical where the subject is empty (RFC 5280, 4.2.1.6).
pub(super) fn alt_names(names: &[AltName], critical: Criticality) -> Vec<u8> {
    let names: Vec<Vec<u8>> = names.iter().map(general_name).collect();
    extension(oid::SUBJECT_ALT_NAME, critical, &sequence_of(&names))
}

/// A GeneralName (RFC 5280, 4.2.1.6).
pub(super) fn general_name(name: &AltName) -> Vec<u8> {
    match name {
        AltName::Email(text) => tlv::wrap(CONTEXT | 1, &[text.as_bytes()]),
        AltName::Dns(text) => tlv::wrap(CONTEXT | 2, &[text.as_bytes()]),
        AltName::Uri(text) => tlv::wrap(CONTEXT | 6, &[text.as_bytes()]),
        AltName::Ip(std::net::IpAddr::V4(v4)) => tlv::wrap(CONTEXT | 7, &[&v4.octets()]),
        AltName::Ip(std::net::IpAddr::V6(v6)) => tlv::wrap(CONTEXT | 7, &[&v6.octets()]),
        AltName::HardwareModule { hw_type, serial } => {
            let serial = tlv::wrap(OCTET_STRING, &[serial]);
            let value = tlv::wrap(SEQUENCE, &[&object_identifier(*hw_type), &serial]);
            let value = tlv::wrap(CONTEXT_CONSTRUCTED, &[&value]);
            let type_id = object_identifier(oid::HARDWARE_MODULE_NAME);
            tlv::wrap(CONTEXT_CONSTRUCTED, &[&type_id, &value])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use der::{Decode, Encode};
    use x509_cert::ext::Extension;
    use x509_cert::ext::pkix::{BasicConstraints, KeyUsage};
    use x509_cert::time::Time;

    #[test]
    fn times_change_their_form_in_2050() {
        let cases = [
            (0, "1970-01-01T00:00:00Z", UTC_TIME),
            (2_524_607_999, "2049-12-31T23:59:59Z", UTC_TIME),
            (2_524_608_000, "2050-01-01T00:00:00Z", GENERALIZED_TIME),
            (253_402_300_799, "9999-12-31T23:59:59Z", GENERALIZED_TIME),
        ];
        for (seconds, text, tag) in cases {
            let der = time(UnixMillis::from_seconds(seconds));
            assert_eq!(der.first(), Some(&tag), "{text}");
            assert_eq!(Time::from_der(&der).unwrap().to_string(), text);
        }
    }

    #[test]
    fn key_usages_are_read_back() {
        use KeyUsages as U;
        let sets: [&[U]; 5] = [
            &[U::DigitalSignature],
            &[U::KeyCertSign, U::CRLSign],
            &[U::DigitalSignature, U::KeyEncipherment],
            &[U::KeyAgreement, U::DecipherOnly],
            &[U::EncipherOnly],
        ];
        for set in sets {
            let der = key_usage(set, Criticality::Critical);
            let read = Extension::from_der(&der).unwrap();
            assert!(read.critical);
            let usage = KeyUsage::from_der(read.extn_value.as_bytes()).unwrap();
            assert_eq!(usage.0.into_iter().collect::<Vec<_>>(), set);
            assert_eq!(usage.to_der().unwrap(), read.extn_value.as_bytes());
        }
    }

    #[test]
    fn basic_constraints_are_read_back() {
        for length in [None, Some(0), Some(3), Some(0x7f), Some(0x80), Some(0xff)] {
            let read = Extension::from_der(&a_ca(length)).unwrap();
            let value = BasicConstraints::from_der(read.extn_value.as_bytes()).unwrap();
            assert!(read.critical && value.ca);
            assert_eq!(value.path_len_constraint, length);
        }
        let read = Extension::from_der(&not_a_ca(Criticality::NotCritical)).unwrap();
        let value = BasicConstraints::from_der(read.extn_value.as_bytes()).unwrap();
        assert!(!read.critical && !value.ca);
    }
}
