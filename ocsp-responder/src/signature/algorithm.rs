//! AlgorithmIdentifiers: the bytes written, and the encodings accepted.
//!
//! Owns the mapping between [`SignatureAlgorithm`] and its DER. Promises that what it writes it also
//! reads. Never guesses: a parameter that is not in the RFC is refused.

use super::tlv::whole_sequence;
use super::{SignatureAlgorithm, SignatureFault};
use der::asn1::{ContextSpecific, ObjectIdentifier};
use der::{Decode, Reader, SliceReader, Tag, TagNumber};

/// ecdsa-with-SHA256 (RFC 5758, 3.2).
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
/// ecdsa-with-SHA384.
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
/// ecdsa-with-SHA512.
const ECDSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.4");
/// sha256WithRSAEncryption (RFC 4055, 5).
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");
/// sha384WithRSAEncryption.
const RSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.12");
/// sha512WithRSAEncryption.
const RSA_SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.13");
/// id-RSASSA-PSS (RFC 4055, 3.1).
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
/// id-mgf1 (RFC 4055, 2.2).
const MGF1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.8");
/// id-sha256.
const SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
/// id-sha384.
const SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
/// id-sha512.
const SHA512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
/// id-Ed25519 (RFC 8410, 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The DER of id-RSASSA-PSS with one hash for message and mask, and a salt of the hash's length.
///
/// RFC 4055, 3.1: hash and mask generation explicit, hash parameters NULL, trailer field left out.
macro_rules! pss_identifier {
    ($hash:literal, $salt:literal) => {
        &[
            0x30, 0x41, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a, 0x30,
            0x34, 0xa0, 0x0f, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04,
            0x02, $hash, 0x05, 0x00, 0xa1, 0x1c, 0x30, 0x1a, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86,
            0xf7, 0x0d, 0x01, 0x01, 0x08, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65,
            0x03, 0x04, 0x02, $hash, 0x05, 0x00, 0xa2, 0x03, 0x02, 0x01, $salt,
        ]
    };
}

/// The DER of an RSASSA-PKCS1-v1_5 identifier: parameters NULL (RFC 4055, 5).
macro_rules! pkcs1_identifier {
    ($hash:literal) => {
        &[
            0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, $hash, 0x05,
            0x00,
        ]
    };
}

/// The DER of an ECDSA identifier: no parameters (RFC 5758, 3.2).
macro_rules! ecdsa_identifier {
    ($hash:literal) => {
        &[
            0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, $hash,
        ]
    };
}

/// The canonical DER of an algorithm.
pub const fn identifier(algorithm: SignatureAlgorithm) -> &'static [u8] {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 => ecdsa_identifier!(0x02),
        SignatureAlgorithm::EcdsaSha384 => ecdsa_identifier!(0x03),
        SignatureAlgorithm::EcdsaSha512 => ecdsa_identifier!(0x04),
        SignatureAlgorithm::RsaPkcs1Sha256 => pkcs1_identifier!(0x0b),
        SignatureAlgorithm::RsaPkcs1Sha384 => pkcs1_identifier!(0x0c),
        SignatureAlgorithm::RsaPkcs1Sha512 => pkcs1_identifier!(0x0d),
        SignatureAlgorithm::RsaPssSha256 => pss_identifier!(0x01, 0x20),
        SignatureAlgorithm::RsaPssSha384 => pss_identifier!(0x02, 0x30),
        SignatureAlgorithm::RsaPssSha512 => pss_identifier!(0x03, 0x40),
        SignatureAlgorithm::Ed25519 => &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70],
    }
}

/// What stands after the OID of an AlgorithmIdentifier.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Parameters<'a> {
    /// Nothing.
    Absent,
    /// NULL.
    Null,
    /// One other value, whole.
    Other(&'a [u8]),
}

/// Reads the DER of one AlgorithmIdentifier.
pub fn parse(der: &[u8]) -> Result<SignatureAlgorithm, SignatureFault> {
    let unknown = |_| SignatureFault::UnknownAlgorithm;
    let (oid, parameters) = whole_sequence(der, oid_and_parameters).map_err(unknown)?;
    // RFC 4055, 5: both NULL and absent parameters MUST be accepted with RSASSA-PKCS1-v1_5.
    let null_or_absent = matches!(parameters, Parameters::Null | Parameters::Absent);
    let absent = matches!(parameters, Parameters::Absent);
    match oid {
        ECDSA_SHA256 if absent => Ok(SignatureAlgorithm::EcdsaSha256),
        ECDSA_SHA384 if absent => Ok(SignatureAlgorithm::EcdsaSha384),
        ECDSA_SHA512 if absent => Ok(SignatureAlgorithm::EcdsaSha512),
        ED25519 if absent => Ok(SignatureAlgorithm::Ed25519),
        RSA_SHA256 if null_or_absent => Ok(SignatureAlgorithm::RsaPkcs1Sha256),
        RSA_SHA384 if null_or_absent => Ok(SignatureAlgorithm::RsaPkcs1Sha384),
        RSA_SHA512 if null_or_absent => Ok(SignatureAlgorithm::RsaPkcs1Sha512),
        RSA_PSS => match parameters {
            Parameters::Other(der) => pss(der),
            Parameters::Absent | Parameters::Null => Err(SignatureFault::UnknownAlgorithm),
        },
        _ => Err(SignatureFault::UnknownAlgorithm),
    }
}

/// Reads the contents of an AlgorithmIdentifier.
fn oid_and_parameters<'a>(
    reader: &mut SliceReader<'a>,
) -> der::Result<(ObjectIdentifier, Parameters<'a>)> {
    let oid = ObjectIdentifier::decode(reader)?;
    if reader.is_finished() {
        return Ok((oid, Parameters::Absent));
    }
    let value = reader.tlv_bytes()?;
    let parameters = if value == [0x05, 0x00] {
        Parameters::Null
    } else {
        Parameters::Other(value)
    };
    Ok((oid, parameters))
}

/// Reads RSASSA-PSS-params that say one of the three sets that are accepted.
fn pss(der: &[u8]) -> Result<SignatureAlgorithm, SignatureFault> {
    let unknown = |_| SignatureFault::UnknownAlgorithm;
    let (hash, mask, salt, trailer) = whole_sequence(der, |reader| {
        let hash = explicit(reader, 0, hash_oid)?;
        let mask = explicit(reader, 1, mask_hash_oid)?;
        let salt = ContextSpecific::<u16>::decode_explicit(reader, TagNumber(2))?;
        // RFC 4055, 3.1: a present trailerField of 1 MUST be recognised beside an absent one.
        let trailer = ContextSpecific::<u16>::decode_explicit(reader, TagNumber(3))?;
        Ok((
            hash,
            mask,
            salt.map(|s| s.value),
            trailer.map_or(1, |t| t.value),
        ))
    })
    .map_err(unknown)?;
    match (hash, mask, salt, trailer) {
        (SHA256, SHA256, Some(32), 1) => Ok(SignatureAlgorithm::RsaPssSha256),
        (SHA384, SHA384, Some(48), 1) => Ok(SignatureAlgorithm::RsaPssSha384),
        (SHA512, SHA512, Some(64), 1) => Ok(SignatureAlgorithm::RsaPssSha512),
        _ => Err(SignatureFault::UnknownAlgorithm),
    }
}

/// Reads an explicitly tagged SEQUENCE that must be there: the default (SHA-1) is never accepted.
fn explicit<'a>(
    reader: &mut SliceReader<'a>,
    number: u32,
    read: impl FnOnce(&mut SliceReader<'a>) -> der::Result<ObjectIdentifier>,
) -> der::Result<ObjectIdentifier> {
    let header = der::Header::decode(reader)?;
    header.tag().assert_eq(Tag::ContextSpecific {
        constructed: true,
        number: TagNumber(number),
    })?;
    reader.read_nested(header.length(), |inner| inner.sequence(read))
}

/// Reads a hash's AlgorithmIdentifier; parameters NULL or absent (RFC 4055, 2.1).
fn hash_oid(reader: &mut SliceReader<'_>) -> der::Result<ObjectIdentifier> {
    match oid_and_parameters(reader)? {
        (oid, Parameters::Absent | Parameters::Null) => Ok(oid),
        (_, Parameters::Other(_)) => Err(Tag::Null.value_error().into()),
    }
}

/// Reads MGF1's AlgorithmIdentifier and gives the hash in it.
fn mask_hash_oid(reader: &mut SliceReader<'_>) -> der::Result<ObjectIdentifier> {
    let oid = ObjectIdentifier::decode(reader)?;
    if oid != MGF1 {
        return Err(Tag::ObjectIdentifier.value_error().into());
    }
    reader.sequence(hash_oid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::tlv;

    /// The tag of an OBJECT IDENTIFIER.
    const OBJECT_IDENTIFIER: u8 = 0x06;

    /// Every algorithm.
    const ALL: [SignatureAlgorithm; 10] = [
        SignatureAlgorithm::EcdsaSha256,
        SignatureAlgorithm::EcdsaSha384,
        SignatureAlgorithm::EcdsaSha512,
        SignatureAlgorithm::RsaPkcs1Sha256,
        SignatureAlgorithm::RsaPkcs1Sha384,
        SignatureAlgorithm::RsaPkcs1Sha512,
        SignatureAlgorithm::RsaPssSha256,
        SignatureAlgorithm::RsaPssSha384,
        SignatureAlgorithm::RsaPssSha512,
        SignatureAlgorithm::Ed25519,
    ];

    /// An AlgorithmIdentifier of RSASSA-PSS with these parameter fields.
    fn pss_with(fields: &[&[u8]]) -> Vec<u8> {
        let oid = tlv::wrap(OBJECT_IDENTIFIER, &[RSA_PSS.as_bytes()]);
        tlv::wrap(tlv::SEQUENCE, &[&oid, &tlv::wrap(tlv::SEQUENCE, fields)])
    }

    /// A hash identifier with or without NULL.
    fn hash(oid: &ObjectIdentifier, parameters: &[u8]) -> Vec<u8> {
        let oid = tlv::wrap(OBJECT_IDENTIFIER, &[oid.as_bytes()]);
        tlv::wrap(tlv::SEQUENCE, &[&oid, parameters])
    }

    /// The field `[1] { id-mgf1, hash }`.
    fn mask(hash: &[u8]) -> Vec<u8> {
        let oid = tlv::wrap(OBJECT_IDENTIFIER, &[MGF1.as_bytes()]);
        tlv::wrap(0xa1, &[&tlv::wrap(tlv::SEQUENCE, &[&oid, hash])])
    }

    #[test]
    fn what_is_written_is_read() {
        for algorithm in ALL {
            assert_eq!(parse(identifier(algorithm)), Ok(algorithm));
        }
    }

    #[test]
    fn only_rsa_takes_null() {
        let null: &[u8] = &[5, 0];
        for (oid, accepted) in [
            (RSA_SHA256, Some(SignatureAlgorithm::RsaPkcs1Sha256)),
            (RSA_SHA512, Some(SignatureAlgorithm::RsaPkcs1Sha512)),
            (ECDSA_SHA256, None),
            (ED25519, None),
            (RSA_PSS, None),
        ] {
            assert_eq!(parse(&hash(&oid, null)).ok(), accepted, "{oid}");
        }
        let absent = parse(&hash(&RSA_SHA384, &[]));
        assert_eq!(absent, Ok(SignatureAlgorithm::RsaPkcs1Sha384));
        assert!(parse(&hash(&RSA_SHA384, &[5, 0, 5, 0])).is_err());
        assert!(parse(&hash(&RSA_SHA384, &[2, 1, 0])).is_err());
    }

    #[test]
    fn pss_takes_three_sets_only() {
        let (null, none): (&[u8], &[u8]) = (&[5, 0], &[]);
        let field0 = |oid, parameters| tlv::wrap(0xa0, &[&hash(oid, parameters)]);
        let salt = |n: u8| vec![0xa2, 3, 2, 1, n];
        for (a, b) in [(null, null), (null, none), (none, null), (none, none)] {
            let der = pss_with(&[&field0(&SHA256, a), &mask(&hash(&SHA256, b)), &salt(32)]);
            assert_eq!(parse(&der), Ok(SignatureAlgorithm::RsaPssSha256));
        }
        let (h, m) = (field0(&SHA256, null), mask(&hash(&SHA256, null)));
        let with_trailer = pss_with(&[&h, &m, &salt(32), &[0xa3, 3, 2, 1, 1]]);
        assert_eq!(parse(&with_trailer), Ok(SignatureAlgorithm::RsaPssSha256));
        let refused: [&[&[u8]]; 7] = [
            &[],
            &[&h, &m],
            &[&h, &salt(32)],
            &[&m, &salt(32)],
            &[&h, &m, &salt(20)],
            &[&h, &mask(&hash(&SHA384, null)), &salt(32)],
            &[&h, &m, &salt(32), &[0xa3, 3, 2, 1, 2]],
        ];
        for fields in refused {
            assert_eq!(
                parse(&pss_with(fields)),
                Err(SignatureFault::UnknownAlgorithm)
            );
        }
    }

    #[test]
    fn other_algorithms_and_tails_are_refused() {
        let sha1_with_rsa = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.5");
        assert!(parse(&hash(&sha1_with_rsa, &[5, 0])).is_err());
        for algorithm in ALL {
            let mut der = identifier(algorithm).to_vec();
            der.push(0);
            assert!(parse(&der).is_err());
        }
    }
}
