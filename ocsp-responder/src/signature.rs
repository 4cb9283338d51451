//! Public keys and signature verification: the one place that maps X.509 algorithms to code.
//!
//! Owns the AlgorithmIdentifiers, the reading of SubjectPublicKeyInfo and the verification of
//! signatures, for proof of possession, verify-after-sign, CRLs and the audit (RFC 3279, 4055, 5480,
//! 5758, 8410). Promises that a key that parsed is well formed, an EC point on its curve, and that
//! [`split`] gives the very octets that were signed. Never signs, never re-encodes what it verifies.
//! Failure is a [`SignatureFault`]; no input makes it panic.

mod algorithm;
mod key;
#[cfg(test)]
pub(crate) mod openssl;
pub mod tlv;

use aws_lc_rs::signature::ParsedPublicKey;
use der::asn1::BitStringRef;
use der::{Decode, Tag};

/// A signature algorithm that Hallmark makes or accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SignatureAlgorithm {
    /// ECDSA with SHA-256 (any curve accepted for verification; signed with P-256).
    EcdsaSha256,
    /// ECDSA with SHA-384 (signed with P-384).
    EcdsaSha384,
    /// ECDSA with SHA-512: accepted in requests only.
    EcdsaSha512,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    RsaPkcs1Sha256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    RsaPkcs1Sha384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    RsaPkcs1Sha512,
    /// RSASSA-PSS with SHA-256, MGF1 with SHA-256, salt of 32 octets.
    RsaPssSha256,
    /// RSASSA-PSS with SHA-384, MGF1 with SHA-384, salt of 48 octets.
    RsaPssSha384,
    /// RSASSA-PSS with SHA-512, MGF1 with SHA-512, salt of 64 octets.
    RsaPssSha512,
    /// Ed25519 (RFC 8410).
    Ed25519,
}

/// The kind of a public key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum KeyKind {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// RSA with this many modulus bits.
    Rsa(u32),
    /// Ed25519.
    Ed25519,
}

/// A public key that parsed, ready to verify; cloning copies some hundred octets.
#[derive(Clone)]
pub struct PublicKey {
    /// The DER, as it came.
    spki: Vec<u8>,
    /// What it is.
    kind: KeyKind,
    /// How many of the last octets of `spki` are the contents of its BIT STRING.
    key_len: usize,
    /// The key ready for [`SignatureAlgorithm::for_key`]; none if nothing is verified with it.
    ///
    /// Other algorithms parse the key again at each verification: about 7 of 70 µs.
    verifier: Option<ParsedPublicKey>,
}

/// Why a public key, an algorithm or a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureFault {
    /// Not a SubjectPublicKeyInfo of a kind that we know.
    #[error("the public key is not a P-256, P-384, RSA or Ed25519 SubjectPublicKeyInfo")]
    UnknownKey,
    /// A key that is well formed but so weak, or so large, that nothing is verified with it.
    #[error(
        "the key cannot be used: an RSA modulus must be odd and have 2048 to 8192 bits, its exponent \
         must be odd, above 1 and below 2^33, and an Ed25519 key must not be of small order"
    )]
    UnusableKey,
    /// An AlgorithmIdentifier that we do not know, or with wrong parameters.
    #[error("the signature algorithm is not one that is accepted here")]
    UnknownAlgorithm,
    /// The algorithm does not fit the key.
    #[error("the signature algorithm does not fit the key")]
    Mismatch,
    /// Not a DER SEQUENCE of content, algorithm and signature.
    #[error("not a signed object: a DER SEQUENCE of content, algorithm and signature")]
    NotSigned,
    /// The signature does not verify.
    #[error("the signature does not verify")]
    Bad,
}

impl SignatureAlgorithm {
    /// The DER of the AlgorithmIdentifier, parameters as the RFCs want them.
    #[must_use]
    pub const fn identifier(self) -> &'static [u8] {
        algorithm::identifier(self)
    }

    /// Reads the DER of an AlgorithmIdentifier (one whole SEQUENCE).
    ///
    /// Beside the canonical form it takes what RFC 4055 obliges verifiers to take: absent parameters
    /// with RSASSA-PKCS1-v1_5, and in RSASSA-PSS absent hash parameters and a trailer field of 1.
    ///
    /// # Errors
    /// [`SignatureFault::UnknownAlgorithm`]: refuse the object.
    pub fn parse(der: &[u8]) -> Result<Self, SignatureFault> {
        algorithm::parse(der)
    }

    /// The algorithm to sign with, given the key, where nothing else is configured.
    #[must_use]
    pub const fn for_key(kind: KeyKind) -> Self {
        match kind {
            KeyKind::P256 => Self::EcdsaSha256,
            KeyKind::P384 => Self::EcdsaSha384,
            KeyKind::Rsa(_) => Self::RsaPkcs1Sha256,
            KeyKind::Ed25519 => Self::Ed25519,
        }
    }
}

/// Joins TBS bytes, algorithm and signature: `SEQUENCE { tbs, algorithm, BIT STRING signature }`.
#[must_use]
pub fn assemble(tbs: &[u8], algorithm: SignatureAlgorithm, signature: &[u8]) -> Vec<u8> {
    let identifier = algorithm.identifier();
    let bits = signature.len() + 1;
    let contents = tbs.len() + identifier.len() + tlv::tlv_len(bits);
    let mut out = Vec::with_capacity(tlv::tlv_len(contents));
    tlv::push_header(&mut out, tlv::SEQUENCE, contents);
    out.extend_from_slice(tbs);
    out.extend_from_slice(identifier);
    tlv::push_header(&mut out, tlv::BIT_STRING, bits);
    out.push(0); // unused bits
    out.extend_from_slice(signature);
    out
}

/// The three parts of a signed object, borrowed from its DER: exact TBS bytes, algorithm, signature.
///
/// The TBS is one whole SEQUENCE, unread. Whether an algorithm named inside it agrees with the one
/// outside is the caller's to compare.
///
/// # Errors
/// [`SignatureFault::NotSigned`]: not such a SEQUENCE in DER, or octets after it;
/// [`SignatureFault::UnknownAlgorithm`]. Refuse the object.
pub fn split(der: &[u8]) -> Result<(&[u8], SignatureAlgorithm, &[u8]), SignatureFault> {
    let (tbs, identifier, bits) = tlv::whole_sequence(der, |reader| {
        let tbs = tlv::raw(reader, Tag::Sequence)?;
        let identifier = tlv::raw(reader, Tag::Sequence)?;
        Ok((tbs, identifier, BitStringRef::decode(reader)?))
    })
    .map_err(|_| SignatureFault::NotSigned)?;
    let signature = bits.as_bytes().ok_or(SignatureFault::NotSigned)?;
    Ok((tbs, SignatureAlgorithm::parse(identifier)?, signature))
}

#[cfg(test)]
mod tests;
