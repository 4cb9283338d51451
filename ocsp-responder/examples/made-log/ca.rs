//! An issuer with a software key and a self-signed certificate.
//!
//! Owns the DER of one P-256 CA certificate, put together by hand. Promises that OpenSSL and the audit read it. Never
//! for anything but made logs.

use std::io;
use std::path::Path;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use certstatus::crl::{CrlFields, LogAnchor, Scope, TbsCrl};
use certstatus::log::DetailHash;
use certstatus::signature::{SignatureAlgorithm, assemble};
use certstatus::{UnixMillis, durable};

/// id-ecPublicKey with prime256v1 (RFC 5480).
const P256: &[u8] =
    b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// basicConstraints, critical: a CA (RFC 5280, 4.2.1.9).
const CA: &[u8] = b"\x30\x0f\x06\x03\x55\x1d\x13\x01\x01\xff\x04\x05\x30\x03\x01\x01\xff";
/// keyUsage, critical: keyCertSign and cRLSign (RFC 5280, 4.2.1.3).
const USAGE: &[u8] = b"\x30\x0e\x06\x03\x55\x1d\x0f\x01\x01\xff\x04\x04\x03\x02\x01\x06";

/// How long a CRL counts.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A CA.
pub struct Ca {
    pkcs8: Vec<u8>,
    /// Its SubjectPublicKeyInfo, DER.
    pub spki: Vec<u8>,
    /// Its certificate, DER.
    pub certificate: Vec<u8>,
    /// Its Name, DER.
    pub name: Vec<u8>,
}

/// A DER value of up to 65,535 octets.
fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let mut out = vec![tag];
    match u16::try_from(contents.len())
        .unwrap_or(u16::MAX)
        .to_be_bytes()
    {
        [0, short @ 0..128] => out.push(short),
        [0, long] => out.extend([0x81, long]),
        [high, low] => out.extend([0x82, high, low]),
    }
    out.extend(contents);
    out
}

impl Ca {
    /// Writes its private key, PKCS#8 DER, where nobody else can read it.
    pub fn write_key(&self, path: &Path) -> io::Result<()> {
        durable::write_secret(path, &self.pkcs8)
    }

    /// A CRL that lists nothing and carries this head of a log, in force from `made` for a year.
    pub fn crl(&self, number: u64, made: UnixMillis, anchor: LogAnchor<'_>) -> io::Result<Vec<u8>> {
        let algorithm = SignatureAlgorithm::EcdsaSha256;
        let tbs = TbsCrl::encode(
            &CrlFields {
                issuer: &self.name,
                authority_key_id: &DetailHash::of(&self.spki).0[..20],
                algorithm,
                number,
                this_update: made,
                next_update: made.saturating_add(YEAR),
                scope: Scope::UserCertificates,
                expired_since: None,
                anchor,
            },
            &[],
        );
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pkcs8);
        let pair = pair.map_err(io::Error::other)?;
        let signature = pair.sign(&random, tbs.der()).map_err(io::Error::other)?;
        Ok(assemble(tbs.der(), algorithm, signature.as_ref()))
    }

    /// Makes a key and a certificate for this common name.
    pub fn new(common_name: &str) -> io::Result<Self> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(io::Error::other)?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).map_err(io::Error::other)?;
        let spki = tlv(0x30, &[P256, &tlv(3, &[&[0], pair.public_key().as_ref()])]);
        let value = tlv(0x0c, &[common_name.as_bytes()]);
        let attribute = tlv(0x30, &[b"\x06\x03\x55\x04\x03", &value]);
        let name = tlv(0x30, &[&tlv(0x31, &[&attribute])]);
        let validity = tlv(
            0x30,
            &[
                &tlv(0x17, &[b"250101000000Z"]),
                &tlv(0x18, &[b"99991231235959Z"]),
            ],
        );
        let extensions = tlv(0xa3, &[&tlv(0x30, &[CA, USAGE])]);
        let tbs = tlv(
            0x30,
            &[
                b"\xa0\x03\x02\x01\x02",
                b"\x02\x01\x01",
                SignatureAlgorithm::EcdsaSha256.identifier(),
                &name,
                &validity,
                &name,
                &spki,
                &extensions,
            ],
        );
        let signature = pair.sign(&random, &tbs).map_err(io::Error::other)?;
        let certificate = assemble(&tbs, SignatureAlgorithm::EcdsaSha256, signature.as_ref());
        Ok(Self {
            pkcs8: pkcs8.as_ref().to_vec(),
            spki,
            certificate,
            name,
        })
    }
}
