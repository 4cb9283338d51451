//! Reads what is to be signed, as far as the log states something of it.
//!
//! Owns a reading of TBSCertificate, TBSCertList and CertificationRequestInfo that is independent of
//! the code that built them. Promises strict DER at every level that it opens. Never interprets
//! extensions. Failure story: whatever does not parse is `None`; the caller names the entry.

use der::asn1::{AnyRef, GeneralizedTime, UtcTime};
use der::{Decode as _, Reader as _, SliceReader, Tag, Tagged as _};

use crate::signature::SignatureAlgorithm;
use crate::{SerialNumber, UnixMillis};

/// What a TBSCertificate says that the log says too.
pub(super) struct TbsCertificate<'a> {
    /// The serial number.
    pub serial: SerialNumber,
    /// The algorithm that the signature must have.
    pub algorithm: SignatureAlgorithm,
    /// The issuer's Name, DER.
    pub issuer: &'a [u8],
    /// The end of validity.
    pub not_after: UnixMillis,
    /// The subject's Name, DER.
    pub subject: &'a [u8],
    /// The SubjectPublicKeyInfo, DER.
    pub spki: &'a [u8],
}

/// `[0] EXPLICIT INTEGER 2`: a certificate without it cannot have extensions and is none of ours.
const VERSION_3: [u8; 5] = [0xa0, 3, 2, 1, 2];

/// One DER element.
struct Element<'a> {
    tag: Tag,
    whole: &'a [u8],
    value: &'a [u8],
}

/// The elements within a constructed one.
struct Elements<'a>(SliceReader<'a>);

impl<'a> Elements<'a> {
    /// Opens a whole SEQUENCE.
    fn of_sequence(whole: &'a [u8]) -> Option<Self> {
        let any = AnyRef::from_der(whole)
            .ok()
            .filter(|any| any.tag() == Tag::Sequence)?;
        SliceReader::new(any.value()).ok().map(Self)
    }

    /// The next element.
    fn next(&mut self) -> Option<Element<'a>> {
        let whole = self.0.tlv_bytes().ok()?;
        let any = AnyRef::from_der(whole).ok()?;
        Some(Element {
            tag: any.tag(),
            whole,
            value: any.value(),
        })
    }

    /// The next element, whole, if it has this tag.
    fn next_tagged(&mut self, tag: Tag) -> Option<Element<'a>> {
        self.next().filter(|element| element.tag == tag)
    }
}

/// Reads a version 3 TBSCertificate (RFC 5280, 4.1).
pub(super) fn certificate(tbs: &[u8]) -> Option<TbsCertificate<'_>> {
    let mut fields = Elements::of_sequence(tbs)?;
    fields.next().filter(|version| version.whole == VERSION_3)?;
    let serial = fields.next_tagged(Tag::Integer)?.value;
    let algorithm = fields.next_tagged(Tag::Sequence)?.whole;
    let issuer = fields.next_tagged(Tag::Sequence)?.whole;
    let mut validity = Elements::of_sequence(fields.next_tagged(Tag::Sequence)?.whole)?;
    let (_not_before, not_after) = (validity.next()?, validity.next()?);
    let subject = fields.next_tagged(Tag::Sequence)?.whole;
    let spki = fields.next_tagged(Tag::Sequence)?.whole;
    Some(TbsCertificate {
        serial: SerialNumber::from_slice(serial).ok()?,
        algorithm: SignatureAlgorithm::parse(algorithm).ok()?,
        issuer,
        not_after: time(&not_after)?,
        subject,
        spki,
    })
}

/// The algorithm that a TBSCertList names (RFC 5280, 5.1.2).
pub(super) fn crl_algorithm(tbs: &[u8]) -> Option<SignatureAlgorithm> {
    let mut fields = Elements::of_sequence(tbs)?;
    fields.next().filter(|version| version.whole == [2, 1, 1])?;
    SignatureAlgorithm::parse(fields.next_tagged(Tag::Sequence)?.whole).ok()
}

/// The SubjectPublicKeyInfo in a CertificationRequestInfo (RFC 2986, 4.1).
pub(super) fn request_spki(tbs: &[u8]) -> Option<&[u8]> {
    let mut fields = Elements::of_sequence(tbs)?;
    fields.next().filter(|version| version.whole == [2, 1, 0])?;
    fields.next_tagged(Tag::Sequence)?;
    Some(fields.next_tagged(Tag::Sequence)?.whole)
}

/// What binds a CA certificate to its name and key, whoever issued it.
pub(super) struct CaCertificate<'a> {
    /// The subject's Name, DER.
    pub subject: &'a [u8],
    /// The SubjectPublicKeyInfo, DER.
    pub spki: &'a [u8],
}

/// Reads a whole CA certificate, its names and key only: one from elsewhere has serials and algorithms
/// of other kinds than ours.
pub(super) fn ca_certificate(der: &[u8]) -> Option<CaCertificate<'_>> {
    let mut parts = Elements::of_sequence(der)?;
    let mut fields = Elements::of_sequence(parts.next_tagged(Tag::Sequence)?.whole)?;
    fields.next().filter(|version| version.whole == VERSION_3)?;
    fields.next_tagged(Tag::Integer)?;
    // Algorithm, issuer, validity.
    for _ in 0..3 {
        fields.next_tagged(Tag::Sequence)?;
    }
    let subject = fields.next_tagged(Tag::Sequence)?.whole;
    let spki = fields.next_tagged(Tag::Sequence)?.whole;
    Some(CaCertificate { subject, spki })
}

/// Reads a Time (RFC 5280, 4.1.2.5).
fn time(element: &Element<'_>) -> Option<UnixMillis> {
    let since_1970 = match element.tag {
        Tag::UtcTime => UtcTime::from_der(element.whole).ok()?.to_unix_duration(),
        Tag::GeneralizedTime => GeneralizedTime::from_der(element.whole)
            .ok()?
            .to_unix_duration(),
        _ => return None,
    };
    Some(UnixMillis::from_seconds(since_1970.as_secs()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::signature::tlv;

    const NAME: [u8; 2] = [0x30, 0];
    const SPKI: [u8; 5] = [0x30, 3, 3, 1, 0];

    /// A TBSCertificate with this end of validity (a whole Time).
    fn tbs(not_after: &[u8]) -> Vec<u8> {
        let validity = tlv::wrap(0x30, &[&tlv::wrap(0x17, &[b"250101000000Z"]), not_after]);
        let serial = tlv::wrap(2, &[&[0x41; 16]]);
        let algorithm = SignatureAlgorithm::Ed25519.identifier();
        tlv::wrap(
            0x30,
            &[
                &VERSION_3, &serial, algorithm, &NAME, &validity, &NAME, &SPKI,
            ],
        )
    }

    #[test]
    fn both_forms_of_time_are_read() {
        let utc = tbs(&tlv::wrap(0x17, &[b"491231235959Z"]));
        let parsed = certificate(&utc).unwrap();
        assert_eq!(parsed.not_after.to_string(), "2049-12-31T23:59:59Z");
        assert_eq!(parsed.serial, SerialNumber::from_random([0x41; 16]));
        assert_eq!(
            (parsed.algorithm, parsed.spki),
            (SignatureAlgorithm::Ed25519, &SPKI[..])
        );
        assert_eq!((parsed.issuer, parsed.subject), (&NAME[..], &NAME[..]));
        let never = tbs(&tlv::wrap(0x18, &[b"99991231235959Z"]));
        assert_eq!(
            certificate(&never).unwrap().not_after,
            UnixMillis::END_OF_TIME
        );
        assert!(certificate(&tbs(&tlv::wrap(0x17, &[b"4912312359Z"]))).is_none());
    }

    #[test]
    fn one_structure_is_never_read_as_another() {
        let certificate_bytes = tbs(&tlv::wrap(0x17, &[b"491231235959Z"]));
        let algorithm = SignatureAlgorithm::Ed25519.identifier();
        let crl = tlv::wrap(0x30, &[&[2, 1, 1], algorithm, &NAME]);
        let request = tlv::wrap(0x30, &[&[2, 1, 0], &NAME, &SPKI, &[0xa0, 0]]);
        assert_eq!(crl_algorithm(&crl), Some(SignatureAlgorithm::Ed25519));
        assert_eq!(request_spki(&request), Some(&SPKI[..]));
        for other in [&crl, &request] {
            assert!(certificate(other).is_none());
        }
        for other in [&certificate_bytes, &request] {
            assert_eq!(crl_algorithm(other), None);
        }
        for other in [&certificate_bytes, &crl] {
            assert_eq!(request_spki(other), None);
        }
        let whole = tlv::wrap(0x30, &[&certificate_bytes, algorithm, &[3, 1, 0]]);
        assert_eq!(ca_certificate(&whole).unwrap().spki, SPKI);
        assert!(ca_certificate(&certificate_bytes).is_none());
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_reader(bytes: Vec<u8>, at: prop::sample::Index, octet: u8) {
            let mut mutated = tbs(&tlv::wrap(0x17, &[b"491231235959Z"]));
            let at = at.index(mutated.len());
            mutated[at] = octet;
            for bytes in [&bytes, &mutated] {
                let _ = certificate(bytes);
                let _ = crl_algorithm(bytes);
                let _ = request_spki(bytes);
                let _ = ca_certificate(bytes);
            }
        }
    }
}
