//! Conversions between what tokens speak and what X.509 speaks.
//!
//! Owns SubjectPublicKeyInfo from PKCS#11 attributes, ECDSA signatures as DER, DigestInfo. Promises
//! that a value that is not well formed is refused, never repaired: a token that returns half a signature
//! is a token with a fault. Never calls the token.

use aws_lc_rs::digest;
use certstatus::signature::{KeyKind, PublicKey};

/// DER of the parameters of P-256: its OID (RFC 5480, 2.1.1.1).
pub const P256_PARAMS: &[u8] = &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// DER of the parameters of P-384: its OID.
pub const P384_PARAMS: &[u8] = &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22];

/// DER of the parameters of Ed25519 as PKCS#11 3.0 (2.3.10) first had them: the curve's name.
pub const ED25519_NAME_PARAMS: &[u8] = b"\x13\x0cedwards25519";

/// DER of the parameters of Ed25519: its OID (RFC 8410, 3).
pub const ED25519_OID_PARAMS: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

/// DER of the OID id-ecPublicKey.
const EC_PUBLIC_KEY: &[u8] = &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];

/// DER of the AlgorithmIdentifier of RSA keys: rsaEncryption with NULL (RFC 3279, 2.3.1).
const RSA_IDENTIFIER: &[u8] = &[
    0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
];

/// DER of the AlgorithmIdentifier of Ed25519 keys.
const ED25519_IDENTIFIER: &[u8] = &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70];

/// DER tag of INTEGER.
const INTEGER: u8 = 0x02;
/// DER tag of BIT STRING.
const BIT_STRING: u8 = 0x03;
/// DER tag of OCTET STRING.
const OCTET_STRING: u8 = 0x04;
/// DER tag of SEQUENCE.
const SEQUENCE: u8 = 0x30;

/// The digests that CA keys sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// The digest of `octets`.
    pub fn digest(self, octets: &[u8]) -> digest::Digest {
        digest::digest(
            match self {
                Self::Sha256 => &digest::SHA256,
                Self::Sha384 => &digest::SHA384,
                Self::Sha512 => &digest::SHA512,
            },
            octets,
        )
    }

    /// The digest's length in octets, which is the PSS salt's too.
    pub const fn length(self) -> u8 {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// DER of DigestInfo around the digest of `octets` (RFC 8017, 9.2, note 1).
    pub fn digest_info(self, octets: &[u8]) -> Vec<u8> {
        // id-sha256, id-sha384 and id-sha512 differ in their last octet only.
        let last = match self {
            Self::Sha256 => 1,
            Self::Sha384 => 2,
            Self::Sha512 => 3,
        };
        let mut contents = vec![
            0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, last, 0x05,
            0x00,
        ];
        contents.extend_from_slice(&tlv(OCTET_STRING, self.digest(octets).as_ref()));
        tlv(SEQUENCE, &contents)
    }
}

/// The public key of an EC or Edwards key from CKA_EC_PARAMS and CKA_EC_POINT; none if it is none of ours.
///
/// The point is an OCTET STRING around the raw point (PKCS#11 2.40) or the raw point itself: tokens do both.
pub fn ec_public_key(params: &[u8], point: &[u8]) -> Option<PublicKey> {
    let (identifier, raw_length) = if params == P256_PARAMS {
        (ec_identifier(P256_PARAMS), 65)
    } else if params == P384_PARAMS {
        (ec_identifier(P384_PARAMS), 97)
    } else if params == ED25519_NAME_PARAMS || params == ED25519_OID_PARAMS {
        (ED25519_IDENTIFIER.to_vec(), 32)
    } else {
        return None;
    };
    public_key(&identifier, raw_point(point, raw_length)?)
}

/// The public key of an RSA key from CKA_MODULUS and CKA_PUBLIC_EXPONENT; none if they are none.
pub fn rsa_public_key(modulus: &[u8], exponent: &[u8]) -> Option<PublicKey> {
    let mut parts = unsigned(modulus)?;
    parts.extend_from_slice(&unsigned(exponent)?);
    public_key(RSA_IDENTIFIER, &tlv(SEQUENCE, &parts))
}

/// Joins an AlgorithmIdentifier and a key's octets and reads the result.
fn public_key(identifier: &[u8], key: &[u8]) -> Option<PublicKey> {
    let mut bits = vec![0]; // no unused bits
    bits.extend_from_slice(key);
    let mut contents = identifier.to_vec();
    contents.extend_from_slice(&tlv(BIT_STRING, &bits));
    PublicKey::parse(&tlv(SEQUENCE, &contents)).ok()
}

/// DER of the AlgorithmIdentifier of EC keys with these parameters.
fn ec_identifier(params: &[u8]) -> Vec<u8> {
    tlv(SEQUENCE, &[EC_PUBLIC_KEY, params].concat())
}

/// The raw point of this length in a CKA_EC_POINT value, wrapped or not.
fn raw_point(value: &[u8], length: usize) -> Option<&[u8]> {
    if value.len() == length {
        return Some(value);
    }
    let header = [OCTET_STRING, u8::try_from(length).ok()?];
    value
        .strip_prefix(&header)
        .filter(|point| point.len() == length)
}

/// An ECDSA signature of a token (r and s, each as long as the curve's order) as DER; none if it is not one.
pub fn ecdsa_der(raw: &[u8], kind: KeyKind) -> Option<Vec<u8>> {
    let half = match kind {
        KeyKind::P256 => 32,
        KeyKind::P384 => 48,
        KeyKind::Rsa(_) | KeyKind::Ed25519 => return None,
    };
    let (r, s) = raw.split_at_checked(half)?;
    if s.len() != half {
        return None;
    }
    let mut contents = unsigned(r)?;
    contents.extend_from_slice(&unsigned(s)?);
    Some(tlv(SEQUENCE, &contents))
}

/// DER of a positive INTEGER from big-endian octets; none for zero.
fn unsigned(octets: &[u8]) -> Option<Vec<u8>> {
    let start = octets.iter().position(|octet| *octet != 0)?;
    let significant = octets.get(start..)?;
    if significant.first().is_some_and(|octet| *octet >= 0x80) {
        return Some(tlv(INTEGER, &[&[0], significant].concat()));
    }
    Some(tlv(INTEGER, significant))
}

/// One DER value: tag, length in its shortest form, contents.
fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(contents.len() + 4);
    out.push(tag);
    match u8::try_from(contents.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let length = contents.len().to_be_bytes();
            let skipped = length.iter().take_while(|octet| **octet == 0).count();
            let significant = length.get(skipped..).unwrap_or_default();
            out.push(0x80 | u8::try_from(significant.len()).unwrap_or(0));
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(contents);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING,
        EcdsaKeyPair, KeyPair, UnparsedPublicKey,
    };
    use certstatus::signature::SignatureAlgorithm;
    use proptest::prelude::*;

    /// A P-256 key pair and its private key's PKCS#8.
    fn p256() -> (EcdsaKeyPair, Vec<u8>) {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref()).unwrap();
        (pair, pkcs8.as_ref().to_vec())
    }

    #[test]
    fn a_raw_signature_verifies_as_der() {
        let (pair, _) = p256();
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let key = ec_public_key(P256_PARAMS, pair.public_key().as_ref()).unwrap();
        // Many, so that short and high values of r and s occur.
        for n in 0..200u32 {
            let message = n.to_be_bytes();
            let raw = pair.sign(&rng, &message).unwrap();
            let der = ecdsa_der(raw.as_ref(), KeyKind::P256).unwrap();
            key.verify(SignatureAlgorithm::EcdsaSha256, &message, &der)
                .unwrap();
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key())
                .verify(&message, raw.as_ref())
                .unwrap();
        }
    }

    #[test]
    fn signatures_of_the_wrong_length_are_refused() {
        assert_eq!(ecdsa_der(&[1; 63], KeyKind::P256), None);
        assert_eq!(ecdsa_der(&[1; 65], KeyKind::P256), None);
        assert_eq!(ecdsa_der(&[1; 64], KeyKind::P384), None);
        assert_eq!(
            ecdsa_der(&[0; 64], KeyKind::P256),
            None,
            "r and s are not 0"
        );
        assert_eq!(ecdsa_der(&[], KeyKind::P256), None);
        assert!(ecdsa_der(&[1; 96], KeyKind::P384).is_some());
    }

    #[test]
    fn points_are_accepted_raw_and_wrapped() {
        let (pair, pkcs8) = p256();
        let raw = pair.public_key().as_ref();
        let wrapped = [&[OCTET_STRING, 65], raw].concat();
        let key = ec_public_key(P256_PARAMS, raw).unwrap();
        assert_eq!(ec_public_key(P256_PARAMS, &wrapped), Some(key.clone()));
        assert_eq!(key.kind(), KeyKind::P256);
        assert_eq!(ec_public_key(P384_PARAMS, raw), None, "another curve");
        assert_eq!(ec_public_key(P256_PARAMS, &wrapped[..66]), None, "cut");
        let asn1 = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap();
        let spki = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
            asn1.public_key(),
        )
        .unwrap();
        assert_eq!(key.spki(), spki.as_ref());
    }

    #[test]
    fn ed25519_points_are_accepted_raw_and_wrapped_with_either_parameters() {
        let pair = aws_lc_rs::signature::Ed25519KeyPair::generate().unwrap();
        let raw = pair.public_key().as_ref();
        let wrapped = [&[OCTET_STRING, 32], raw].concat();
        let key = ec_public_key(ED25519_NAME_PARAMS, raw).unwrap();
        assert_eq!(key.kind(), KeyKind::Ed25519);
        assert_eq!(ec_public_key(ED25519_OID_PARAMS, &wrapped), Some(key));
    }

    #[test]
    fn digest_info_is_that_of_rfc_8017() {
        let info = Hash::Sha256.digest_info(b"");
        assert_eq!(info.len(), 51);
        assert!(info.starts_with(&[0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60]));
        assert_eq!(info[17..19], [0x04, 0x20]);
        assert_eq!(Hash::Sha384.digest_info(b"")[..2], [0x30, 0x41]);
        assert_eq!(Hash::Sha512.digest_info(b"")[..2], [0x30, 0x51]);
    }

    #[test]
    fn an_rsa_modulus_gets_its_sign_octet() {
        let mut modulus = vec![0xff; 384];
        modulus[383] = 0x01;
        let key = rsa_public_key(&modulus, &[0x01, 0x00, 0x01]).unwrap();
        assert_eq!(key.kind(), KeyKind::Rsa(3072));
        let padded = [&[0, 0], modulus.as_slice()].concat();
        assert_eq!(rsa_public_key(&padded, &[0, 1, 0, 1]), Some(key));
        assert_eq!(rsa_public_key(&[], &[1, 0, 1]), None);
    }

    proptest! {
        #[test]
        fn no_attribute_value_panics(
            params in proptest::collection::vec(any::<u8>(), 0..20),
            point in proptest::collection::vec(any::<u8>(), 0..140),
        ) {
            let _ = ec_public_key(&params, &point);
            let _ = ec_public_key(P256_PARAMS, &point);
            let _ = ec_public_key(ED25519_OID_PARAMS, &point);
            let _ = rsa_public_key(&point, &params);
            let _ = ecdsa_der(&point, KeyKind::P256);
        }

        #[test]
        fn a_point_of_the_right_form_is_read_as_it_stands_or_refused(
            which in 0usize..4, octets in proptest::collection::vec(any::<u8>(), 97), real in any::<bool>(),
            at in any::<prop::sample::Index>(), flip in any::<u8>(), wrapped in any::<bool>(),
        ) {
            let (params, length) = [
                (P256_PARAMS, 65), (P384_PARAMS, 97), (ED25519_NAME_PARAMS, 32), (ED25519_OID_PARAMS, 32),
            ][which];
            let mut raw = octets[..length].to_vec();
            if which < 2 {
                raw[0] = 4; // uncompressed (SEC 1, 2.3.3)
            }
            if real && which == 0 {
                raw = p256().0.public_key().as_ref().to_vec();
                let at = at.index(raw.len());
                raw[at] ^= flip;
            }
            let header = [OCTET_STRING, u8::try_from(length).unwrap()];
            let given = if wrapped { [&header[..], &raw].concat() } else { raw.clone() };
            if let Some(key) = ec_public_key(params, &given) {
                prop_assert!(key.spki().ends_with(&raw));
                prop_assert_eq!(PublicKey::parse(key.spki()).ok(), Some(key));
            }
        }

        #[test]
        fn a_modulus_is_read_as_it_stands_or_refused(
            mut modulus in proptest::collection::vec(any::<u8>(), 250..520), high in any::<bool>(),
            zeros in 0usize..3, exponent in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            if high {
                modulus[0] |= 0x80;
                *modulus.last_mut().unwrap() |= 1;
            }
            let given = [&vec![0; zeros][..], &modulus].concat();
            if let Some(key) = rsa_public_key(&given, &exponent) {
                let shown = modulus.iter().skip_while(|octet| **octet == 0).copied().collect::<Vec<u8>>();
                prop_assert!(key.spki().windows(shown.len()).any(|window| window == shown));
                prop_assert_eq!(PublicKey::parse(key.spki()).ok(), Some(key));
            }
        }
    }
}
