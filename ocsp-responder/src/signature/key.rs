//! SubjectPublicKeyInfo: reading keys and verifying with them.
//!
//! Owns what [`PublicKey`] does. Promises that a key is kept octet for octet as it came, in DER, and that an EC
//! point is uncompressed and on its curve. Never converts a key from one encoding to another. A key
//! that parsed but is too weak or too large to verify with says so at [`PublicKey::verify`], so that a
//! policy can name its size first.

use super::tlv::whole_sequence;
use super::{KeyKind, PublicKey, SignatureAlgorithm, SignatureFault};
use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    self as aws, ParsedPublicKey, UnparsedPublicKey, VerificationAlgorithm,
};
use der::asn1::{BitStringRef, Null, ObjectIdentifier, UintRef};
use der::{Decode, Reader, SliceReader};
use std::fmt;

/// id-ecPublicKey (RFC 5480, 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp256r1 (RFC 5480, 2.1.1.1).
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// secp384r1.
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// rsaEncryption (RFC 3279, 2.3.1).
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// id-Ed25519 (RFC 8410, 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The moduli that signatures are verified with, in bits.
const RSA_VERIFIED_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// The y coordinates of Ed25519 points of order 1, 2, 4 and 8, little-endian, sign bit cleared.
///
/// The last two are the first two with the prime added, which some decoders take. Under such a key one
/// and the same signature verifies for many messages, so it proves possession of nothing.
pub(super) const ED25519_SMALL_ORDER: [[u8; 32]; 7] = [
    y_coordinate(0x00, 0x00, 0x00),
    y_coordinate(0x01, 0x00, 0x00),
    y_coordinate(0xec, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
    y_coordinate(0xed, 0xff, 0x7f),
    y_coordinate(0xee, 0xff, 0x7f),
];

/// Thirty-two octets: the first, thirty times the middle, the last.
const fn y_coordinate(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut octets = [middle; 32];
    let [low, .., high] = &mut octets;
    (*low, *high) = (first, last);
    octets
}

/// Whether an Ed25519 key is a point of small order, whatever its sign bit.
fn of_small_order(key: &[u8]) -> bool {
    let same = |y: &[u8; 32]| match (y, key) {
        ([y @ .., y_last], [key @ .., last]) => y == key && *y_last == last & 0x7f,
        _ => false,
    };
    ED25519_SMALL_ORDER.iter().any(same)
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::Rsa(bits) => write!(f, "RSA-{bits}"),
            Self::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki == other.spki
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "PublicKey({}, SHA-256 {})",
            self.kind,
            crate::hex::encode(&self.sha256())
        )
    }
}

impl PublicKey {
    /// Reads a DER SubjectPublicKeyInfo; EC points must be uncompressed and on the curve.
    ///
    /// RSA keys of any size parse, so that a policy can say what is wrong with them, and so do Ed25519
    /// keys that are no point at all; [`Self::verify`] accepts no signature by either.
    ///
    /// # Errors
    /// [`SignatureFault::UnknownKey`]: refuse the object that carries the key.
    pub fn parse(spki: &[u8]) -> Result<Self, SignatureFault> {
        let unknown = |_| SignatureFault::UnknownKey;
        let (kind, key) = whole_sequence(spki, |reader| {
            let family = reader.sequence(family)?;
            let bits = BitStringRef::decode(reader)?;
            let key = bits
                .as_bytes()
                .ok_or_else(|| der::Tag::BitString.value_error())?;
            Ok((kind_of(family, key)?, key))
        })
        .map_err(unknown)?;
        let verifier = match (default_verification(kind), kind) {
            (None, _) => None,
            (Some(_), KeyKind::Ed25519) if of_small_order(key) => None,
            (Some(algorithm), _) => match (ParsedPublicKey::new(algorithm, key), kind) {
                (Ok(parsed), _) => Some(parsed),
                // The modulus or the exponent: well formed (see `kind_of`), but senseless.
                (Err(_), KeyKind::Rsa(_)) => None,
                (Err(_), _) => return Err(SignatureFault::UnknownKey),
            },
        };
        Ok(Self {
            spki: spki.to_vec(),
            kind,
            key_len: key.len(),
            verifier,
        })
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> KeyKind {
        self.kind
    }

    /// SHA-256 of the SubjectPublicKeyInfo, 32 octets: the key's name in logs and configuration.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        let mut octets = [0; 32];
        octets.copy_from_slice(digest::digest(&digest::SHA256, &self.spki).as_ref());
        octets
    }

    /// SHA-1 of the BIT STRING's contents, 20 octets (RFC 5280, 4.2.1.2, method 1): a name, no proof.
    #[must_use]
    pub fn key_identifier(&self) -> [u8; 20] {
        let mut octets = [0; 20];
        let name = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, self.key());
        octets.copy_from_slice(name.as_ref());
        octets
    }

    /// Modulus and exponent of an RSA key, big-endian without leading zeros; none for other keys.
    #[must_use]
    pub fn rsa_parts(&self) -> Option<(&[u8], &[u8])> {
        match self.kind {
            KeyKind::Rsa(_) => rsa_public_key(self.key()).ok(),
            KeyKind::P256 | KeyKind::P384 | KeyKind::Ed25519 => None,
        }
    }

    /// Verifies a signature in X.509 form (ECDSA as DER SEQUENCE).
    ///
    /// # Errors
    /// [`SignatureFault::Mismatch`], [`SignatureFault::Bad`], or [`SignatureFault::UnusableKey`] for an
    /// RSA key that is outside 2048 to 8192 bits or has a senseless exponent, and for an Ed25519 key of
    /// small order. Refuse the signed object.
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureFault> {
        let chosen = verification(algorithm, self.kind).ok_or(SignatureFault::Mismatch)?;
        let ready = self.verifier.as_ref().ok_or(SignatureFault::UnusableKey)?;
        let verdict = if algorithm == SignatureAlgorithm::for_key(self.kind) {
            ready.verify_sig(message, signature)
        } else {
            UnparsedPublicKey::new(chosen, self.key()).verify(message, signature)
        };
        verdict.map_err(|_| SignatureFault::Bad)
    }

    /// The contents of the BIT STRING.
    fn key(&self) -> &[u8] {
        // In DER the BIT STRING ends the SubjectPublicKeyInfo, and nothing follows (see `parse`).
        self.spki
            .get(self.spki.len().saturating_sub(self.key_len)..)
            .unwrap_or_default()
    }
}

/// What the AlgorithmIdentifier of a key says.
#[derive(Clone, Copy)]
enum Family {
    /// id-ecPublicKey with secp256r1.
    P256,
    /// id-ecPublicKey with secp384r1.
    P384,
    /// rsaEncryption.
    Rsa,
    /// id-Ed25519.
    Ed25519,
}

/// Reads the contents of a key's AlgorithmIdentifier.
fn family(reader: &mut SliceReader<'_>) -> der::Result<Family> {
    let refused = || der::Error::from(der::Tag::ObjectIdentifier.value_error());
    match ObjectIdentifier::decode(reader)? {
        // RFC 5480, 2.1.1: the namedCurve choice only.
        EC_PUBLIC_KEY => match ObjectIdentifier::decode(reader)? {
            SECP256R1 => Ok(Family::P256),
            SECP384R1 => Ok(Family::P384),
            _ => Err(refused()),
        },
        // RFC 3279, 2.3.1: parameters MUST be NULL.
        RSA_ENCRYPTION => Null::decode(reader).map(|_| Family::Rsa),
        ED25519 => Ok(Family::Ed25519),
        _ => Err(refused()),
    }
}

/// The kind of a key, once its octets have the form that its family asks for.
fn kind_of(family: Family, key: &[u8]) -> der::Result<KeyKind> {
    match (family, key) {
        // 0x04: uncompressed (SEC 1, 2.3.3). The curve equation is checked by the parsed key.
        (Family::P256, [0x04, point @ ..]) if point.len() == 64 => Ok(KeyKind::P256),
        (Family::P384, [0x04, point @ ..]) if point.len() == 96 => Ok(KeyKind::P384),
        (Family::Ed25519, _) if key.len() == 32 => Ok(KeyKind::Ed25519),
        (Family::Rsa, _) => Ok(KeyKind::Rsa(bits(rsa_public_key(key)?.0))),
        _ => Err(der::Tag::BitString.value_error().into()),
    }
}

/// Reads an RSAPublicKey (RFC 8017, A.1.1): modulus and exponent without leading zeros, both above 0.
fn rsa_public_key(key: &[u8]) -> der::Result<(&[u8], &[u8])> {
    let (modulus, exponent) = whole_sequence(key, |reader| {
        Ok((
            UintRef::decode(reader)?.as_bytes(),
            UintRef::decode(reader)?.as_bytes(),
        ))
    })?;
    if bits(modulus) == 0 || bits(exponent) == 0 {
        return Err(der::Tag::Integer.value_error().into());
    }
    Ok((modulus, exponent))
}

/// The length in bits of a big-endian number without leading zero octets.
fn bits(number: &[u8]) -> u32 {
    let whole = u32::try_from(number.len())
        .unwrap_or(u32::MAX)
        .saturating_mul(8);
    whole.saturating_sub(number.first().map_or(0, |first| first.leading_zeros()))
}

/// How signatures by [`SignatureAlgorithm::for_key`] are verified; none for RSA of other sizes.
fn default_verification(kind: KeyKind) -> Option<&'static dyn VerificationAlgorithm> {
    match kind {
        KeyKind::Rsa(bits) if !RSA_VERIFIED_BITS.contains(&bits) => None,
        _ => verification(SignatureAlgorithm::for_key(kind), kind),
    }
}

/// The code that verifies such a signature by such a key; none if they do not fit.
fn verification(
    algorithm: SignatureAlgorithm,
    kind: KeyKind,
) -> Option<&'static dyn VerificationAlgorithm> {
    use SignatureAlgorithm as A;
    let chosen: &'static dyn VerificationAlgorithm = match (kind, algorithm) {
        (KeyKind::P256, A::EcdsaSha256) => &aws::ECDSA_P256_SHA256_ASN1,
        (KeyKind::P256, A::EcdsaSha384) => &aws::ECDSA_P256_SHA384_ASN1,
        (KeyKind::P256, A::EcdsaSha512) => &aws::ECDSA_P256_SHA512_ASN1,
        (KeyKind::P384, A::EcdsaSha256) => &aws::ECDSA_P384_SHA256_ASN1,
        (KeyKind::P384, A::EcdsaSha384) => &aws::ECDSA_P384_SHA384_ASN1,
        (KeyKind::P384, A::EcdsaSha512) => &aws::ECDSA_P384_SHA512_ASN1,
        (KeyKind::Rsa(_), A::RsaPkcs1Sha256) => &aws::RSA_PKCS1_2048_8192_SHA256,
        (KeyKind::Rsa(_), A::RsaPkcs1Sha384) => &aws::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa(_), A::RsaPkcs1Sha512) => &aws::RSA_PKCS1_2048_8192_SHA512,
        (KeyKind::Rsa(_), A::RsaPssSha256) => &aws::RSA_PSS_2048_8192_SHA256,
        (KeyKind::Rsa(_), A::RsaPssSha384) => &aws::RSA_PSS_2048_8192_SHA384,
        (KeyKind::Rsa(_), A::RsaPssSha512) => &aws::RSA_PSS_2048_8192_SHA512,
        (KeyKind::Ed25519, A::Ed25519) => &aws::ED25519,
        _ => return None,
    };
    Some(chosen)
}
