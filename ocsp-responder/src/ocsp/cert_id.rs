//! CertIDs, and the issuers that they name.
//!
//! Owns the hashes of an issuer, made once, and the reading and writing of CertIDs. Promises that an
//! issuer matches a CertID only if both hashes of the CertID's own algorithm are equal. Never verifies a
//! certificate. Failure is the `der` crate's error, or [`NotACertificate`] with the field.

use super::{CertId, HashAlgorithm, SERIAL_OCTETS_MAX, context, optional, value};
use crate::signature::tlv;
use aws_lc_rs::digest;
use der::asn1::BitStringRef;
use der::{Decode, Reader, SliceReader, Tag};

/// NULL, whole.
const NULL: &[u8] = &[5, 0];
/// id-sha1 (RFC 4055, 2.1), contents.
const SHA1: &[u8] = &[0x2b, 0x0e, 3, 2, 0x1a];
/// id-sha256 (RFC 4055, 2.1), contents.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1];
/// id-sha384, contents.
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
/// id-sha512, contents.
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 3];

impl HashAlgorithm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sha1, Self::Sha256, Self::Sha384, Self::Sha512];

    /// The contents of its OBJECT IDENTIFIER.
    const fn oid(self) -> &'static [u8] {
        match self {
            Self::Sha1 => SHA1,
            Self::Sha256 => SHA256,
            Self::Sha384 => SHA384,
            Self::Sha512 => SHA512,
        }
    }

    /// Reads the contents of an AlgorithmIdentifier; none for a hash that is not one of ours.
    fn read(reader: &mut SliceReader<'_>) -> der::Result<Option<Self>> {
        let oid = value(reader, Tag::ObjectIdentifier)?;
        let known = Self::ALL.into_iter().find(|hash| hash.oid() == oid);
        if reader.is_finished() {
            return Ok(known);
        }
        // RFC 4055, 2.1: both NULL and absent parameters MUST be accepted with the SHA hashes.
        let parameters = reader.tlv_bytes()?;
        if known.is_some() && parameters != NULL {
            return Err(Tag::Null.value_error().into());
        }
        Ok(known)
    }
}

/// Reads the next value, a CertID.
pub fn read<'a>(reader: &mut SliceReader<'a>) -> der::Result<CertId<'a>> {
    let der = tlv::raw(reader, Tag::Sequence)?;
    tlv::whole_sequence(der, |reader| {
        let hash = reader.sequence(HashAlgorithm::read)?;
        let issuer_name_hash = value(reader, Tag::OctetString)?;
        let issuer_key_hash = value(reader, Tag::OctetString)?;
        let serial = value(reader, Tag::Integer)?;
        if serial.is_empty() || serial.len() > SERIAL_OCTETS_MAX {
            return Err(Tag::Integer.value_error().into());
        }
        Ok(CertId {
            hash,
            issuer_name_hash,
            issuer_key_hash,
            serial,
            der,
        })
    })
}

/// Some octets under each hash.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hashes {
    /// SHA-1.
    sha1: [u8; 20],
    /// SHA-256.
    sha256: [u8; 32],
    /// SHA-384.
    sha384: [u8; 48],
    /// SHA-512.
    sha512: [u8; 64],
}

impl Hashes {
    /// Hashes four times.
    fn of(octets: &[u8]) -> Self {
        Self {
            sha1: sha1(octets),
            sha256: hash(&digest::SHA256, octets),
            sha384: hash(&digest::SHA384, octets),
            sha512: hash(&digest::SHA512, octets),
        }
    }

    /// One of the four.
    const fn get(&self, algorithm: HashAlgorithm) -> &[u8] {
        match algorithm {
            HashAlgorithm::Sha1 => &self.sha1,
            HashAlgorithm::Sha256 => &self.sha256,
            HashAlgorithm::Sha384 => &self.sha384,
            HashAlgorithm::Sha512 => &self.sha512,
        }
    }
}

/// The digest, whose length `N` is the algorithm's own.
fn hash<const N: usize>(algorithm: &'static digest::Algorithm, octets: &[u8]) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(digest::digest(algorithm, octets).as_ref());
    out
}

/// SHA-1 of octets: a name, no proof.
pub fn sha1(octets: &[u8]) -> [u8; 20] {
    hash(&digest::SHA1_FOR_LEGACY_USE_ONLY, octets)
}

/// What CertIDs call an issuer: the hashes of its Name and its key, each under every algorithm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerHashes {
    /// Of the DER Name.
    name: Hashes,
    /// Of the contents of the public key BIT STRING.
    key: Hashes,
}

/// Why octets are not a certificate; the field that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an X.509 certificate in DER: {0}")]
pub struct NotACertificate(pub &'static str);

impl IssuerHashes {
    /// Hashes the subject and the key of an issuer's certificate (DER; RFC 6960, 4.1.1).
    ///
    /// # Errors
    /// [`NotACertificate`]: the issuer cannot be served.
    pub fn of_certificate(der: &[u8]) -> Result<Self, NotACertificate> {
        let (subject, key) = subject_and_key(der)?;
        Ok(Self {
            name: Hashes::of(subject),
            key: Hashes::of(key),
        })
    }

    /// Whether the CertID names this issuer.
    #[must_use]
    pub fn matches(&self, id: &CertId<'_>) -> bool {
        id.hash.is_some_and(|hash| {
            id.issuer_key_hash == self.key.get(hash) && id.issuer_name_hash == self.name.get(hash)
        })
    }

    /// The hash of the Name: 20, 32, 48 or 64 octets.
    #[must_use]
    pub const fn name_hash(&self, hash: HashAlgorithm) -> &[u8] {
        self.name.get(hash)
    }

    /// The hash of the key, as long: what one looks an issuer up by among many.
    #[must_use]
    pub const fn key_hash(&self, hash: HashAlgorithm) -> &[u8] {
        self.key.get(hash)
    }

    /// Writes the CertID of this issuer's certificate with this serial (the INTEGER's contents).
    ///
    /// The hash's parameters are NULL: some responders know no other form (RFC 4055, 2.1).
    #[must_use]
    pub fn cert_id(&self, hash: HashAlgorithm, serial: &[u8]) -> Vec<u8> {
        let oid = tlv::wrap(tlv::OBJECT_IDENTIFIER, &[hash.oid()]);
        let algorithm = tlv::wrap(tlv::SEQUENCE, &[&oid, NULL]);
        let name = tlv::wrap(tlv::OCTET_STRING, &[self.name.get(hash)]);
        let key = tlv::wrap(tlv::OCTET_STRING, &[self.key.get(hash)]);
        let serial = tlv::wrap(tlv::INTEGER, &[serial]);
        tlv::wrap(tlv::SEQUENCE, &[&algorithm, &name, &key, &serial])
    }
}

/// The subject Name (DER) and the contents of the public key BIT STRING of a certificate.
pub fn subject_and_key(certificate: &[u8]) -> Result<(&[u8], &[u8]), NotACertificate> {
    let tbs = tlv::whole_sequence(certificate, |reader| {
        let tbs = tlv::raw(reader, Tag::Sequence)?;
        tlv::raw(reader, Tag::Sequence)?;
        BitStringRef::decode(reader)?;
        Ok(tbs)
    })
    .map_err(|_| NotACertificate("not a SEQUENCE of content, algorithm and signature"))?;
    let (subject, spki) = tlv::whole_sequence(tbs, |reader| {
        optional(reader, context(0))?;
        value(reader, Tag::Integer)?;
        // Signature algorithm, issuer, validity.
        for _ in 0..3 {
            tlv::raw(reader, Tag::Sequence)?;
        }
        let subject = tlv::raw(reader, Tag::Sequence)?;
        let spki = tlv::raw(reader, Tag::Sequence)?;
        reader.read_slice(reader.remaining_len())?;
        Ok((subject, spki))
    })
    .map_err(|_| NotACertificate("tbsCertificate"))?;
    let key = tlv::whole_sequence(spki, |reader| {
        tlv::raw(reader, Tag::Sequence)?;
        BitStringRef::decode(reader)
    })
    .ok()
    .and_then(|bits| bits.as_bytes())
    .ok_or(NotACertificate("subjectPublicKeyInfo"))?;
    Ok((subject, key))
}
