//! Certificate requests (PKCS#10, RFC 2986): limits, strict parse, proof of possession, key policy.
//!
//! Owns [`Csr`] and [`VerifiedCsr`]. Promises that a [`VerifiedCsr`]'s sender had the private key and that
//! the key is one that we would certify; that the signature is checked over the bytes that came, never
//! over bytes encoded anew; and that no input makes it panic or work for long (`limits` come first).
//! Never copies a field into a certificate: that is `profile`'s to decide. Failure story: every refusal
//! names the rule in words for the operator of a line, and nothing of the request's contents but OIDs.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

mod key_policy;
mod scan;
mod transport;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
mod tests;

use certstatus::log::DetailHash;
use certstatus::signature::{PublicKey, SignatureAlgorithm, SignatureFault, split, tlv};
use der::asn1::{Ia5StringRef, ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use der::{Any, Decode, Encode, Tag, Tagged};
use x509_cert::attr::Attributes;
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::{GeneralName, GeneralNames};
use x509_cert::name::Name;
use x509_cert::request::CertReqInfo;

use crate::limits;

/// extensionRequest (RFC 2985, 5.4.2).
const EXTENSION_REQUEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");
/// challengePassword (RFC 2985, 5.4.1): tolerated, because EST binds it to the TLS session, and ignored.
const CHALLENGE_PASSWORD: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.7");
/// unstructuredName (RFC 2985, 5.4.3): OpenSSL's default configuration offers it; ignored.
const UNSTRUCTURED_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.2");
/// subjectAltName (RFC 5280, 4.2.1.6).
const SUBJECT_ALT_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.17");
/// commonName (RFC 5280, appendix A.1).
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// A request that parsed; nothing about it is proved yet.
#[derive(Clone, Debug)]
pub struct Csr {
    /// The CertificationRequestInfo as it came: what the signature covers.
    info: Vec<u8>,
    /// What the signature says that it is.
    algorithm: SignatureAlgorithm,
    /// The signature's octets.
    signature: Vec<u8>,
    /// What becomes of it once it is proved.
    content: VerifiedCsr,
}

/// A request whose sender proved possession of a key that passed the key policy.
#[derive(Clone, Debug)]
pub struct VerifiedCsr {
    /// The subject.
    subject: Name,
    /// The subject's DER as it came.
    subject_der: Vec<u8>,
    /// The extensions asked for.
    extensions: Vec<Extension>,
    /// Their DER as it came; empty where there is no extensionRequest.
    extensions_der: Vec<u8>,
    /// The names in the subjectAltName extension that is asked for.
    alt_names: GeneralNames,
    /// The key.
    key: PublicKey,
}

/// Why a request is refused. Always the sender's fault; the same bytes are never accepted on a retry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CsrRefused {
    /// Over the limit.
    #[error("the request is longer than {0} bytes")]
    TooLong(usize),
    /// No bytes, or white space only.
    #[error("the request is empty")]
    Empty,
    /// Neither DER nor PEM nor base64.
    #[error("the request is neither DER nor PEM nor base64: send what `openssl req -new` writes")]
    Encoding,
    /// PEM of something else.
    #[error(
        "the PEM block is not a certificate request: its label must be CERTIFICATE REQUEST \
         or NEW CERTIFICATE REQUEST"
    )]
    PemLabel,
    /// A private key was sent.
    #[error(
        "this is a private key: it must never leave the device. Destroy it, make a new one \
         and send its certificate request"
    )]
    PrivateKey,
    /// PEM without its end, or with text after it.
    #[error("the PEM block has no matching END line, or something follows it")]
    PemEnd,
    /// More than one request.
    #[error("there is more than one request here: send them one by one, or as a batch")]
    Several,
    /// It ends too early.
    #[error("the request ends before it is complete: it was cut off on the way")]
    Truncated,
    /// Bytes after the end.
    #[error("something follows the end of the request")]
    Trailing,
    /// A length that is not DER, a SET out of order, a default written out.
    #[error("the request is not encoded in DER: {0}")]
    NotDer(&'static str),
    /// Nested too deep.
    #[error("the request nests deeper than {0} levels")]
    TooDeep(usize),
    /// Too many of something.
    #[error("the request has more than {max} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        max: usize,
    },
    /// DER, but not of a PKCS#10 request.
    #[error("not a PKCS#10 certificate request: its {0} cannot be read")]
    Malformed(&'static str),
    /// A version that does not exist.
    #[error("the request's version is not 0 (v1), the only one there is")]
    Version,
    /// An attribute that is not known.
    #[error(
        "the request has the attribute {0}: only extensionRequest, challengePassword and \
         unstructuredName are accepted"
    )]
    Attribute(ObjectIdentifier),
    /// An attribute twice, or with more than one value.
    #[error("the request has the attribute {0} more than once")]
    AttributeTwice(ObjectIdentifier),
    /// An extension twice.
    #[error("the request asks for the extension {0} twice")]
    ExtensionTwice(ObjectIdentifier),
    /// A key of another kind.
    #[error(
        "the key's kind is not accepted: use P-256, P-384, RSA of 2048 to 4096 bits or Ed25519"
    )]
    KeyAlgorithm,
    /// Another curve.
    #[error("the key's elliptic curve is not accepted: use P-256 or P-384, named by its OID")]
    KeyCurve,
    /// A compressed point.
    #[error("the key is a compressed elliptic-curve point: encode it uncompressed")]
    KeyPointCompressed,
    /// Not a point of the curve.
    #[error("the key is not a point of its elliptic curve: the device's key generation is broken")]
    KeyPoint,
    /// A key whose octets are not of its kind.
    #[error("the key cannot be read: its encoding is not that of its algorithm")]
    KeyEncoding,
    /// An Ed25519 key with which anybody can sign.
    #[error("the Ed25519 key has small order: anybody can sign with it")]
    KeySmallOrder,
    /// An RSA modulus of another size.
    #[error("the RSA key has {0} bits: 2048 to 4096 are accepted, in whole bytes")]
    RsaSize(u32),
    /// An even modulus.
    #[error("the RSA key's modulus is even: it is no product of two primes")]
    RsaEven,
    /// Another exponent than 65537.
    #[error("the RSA key's exponent is not 65537, the only one accepted: make the key with it")]
    RsaExponent,
    /// A modulus that a child can factor.
    #[error("the RSA key's modulus is divisible by {0}: the device's key generation is broken")]
    RsaSmallFactor(u32),
    /// ROCA (CVE-2017-15361).
    #[error(
        "the RSA key has the ROCA fingerprint (CVE-2017-15361): its private key can be computed. \
         Update the chip's firmware, or make the key elsewhere"
    )]
    RsaRoca,
    /// Primes too close to each other (CVE-2022-26320).
    #[error(
        "the RSA key's two primes are too close to each other (CVE-2022-26320): its private key \
         can be computed"
    )]
    RsaClosePrimes,
    /// Signed with something that is not accepted.
    #[error(
        "the request is signed with an algorithm that is not accepted: use SHA-256, SHA-384 or \
         SHA-512 with ECDSA or RSA, or Ed25519"
    )]
    SignatureAlgorithm,
    /// The algorithm is of another kind than the key.
    #[error("the request's signature algorithm does not fit its key")]
    SignatureMismatch,
    /// No proof of possession.
    #[error(
        "the request's signature is wrong: it was changed after signing, or signed with another key"
    )]
    Signature,
}

impl CsrRefused {
    /// The stable name of the rule, for problem types and log entries: lower-case words with hyphens.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::TooLong(_) => "request-too-long",
            Self::Empty => "request-empty",
            Self::Encoding => "request-encoding",
            Self::PemLabel => "request-pem-label",
            Self::PrivateKey => "request-private-key",
            Self::PemEnd => "request-pem-end",
            Self::Several => "request-several",
            Self::Truncated => "request-truncated",
            Self::Trailing => "request-trailing-bytes",
            Self::NotDer(_) => "request-not-der",
            Self::TooDeep(_) => "request-too-deep",
            Self::TooMany { .. } => "request-too-many",
            Self::Malformed(_) => "request-malformed",
            Self::Version => "request-version",
            Self::Attribute(_) => "request-attribute",
            Self::AttributeTwice(_) => "request-attribute-twice",
            Self::ExtensionTwice(_) => "request-extension-twice",
            Self::KeyAlgorithm => "key-algorithm",
            Self::KeyCurve => "key-curve",
            Self::KeyPointCompressed => "key-point-compressed",
            Self::KeyPoint => "key-point",
            Self::KeyEncoding => "key-encoding",
            Self::KeySmallOrder => "key-small-order",
            Self::RsaSize(_) => "key-rsa-size",
            Self::RsaEven => "key-rsa-even",
            Self::RsaExponent => "key-rsa-exponent",
            Self::RsaSmallFactor(_) => "key-rsa-small-factor",
            Self::RsaRoca => "key-rsa-roca",
            Self::RsaClosePrimes => "key-rsa-close-primes",
            Self::SignatureAlgorithm => "signature-algorithm",
            Self::SignatureMismatch => "signature-mismatch",
            Self::Signature => "signature-wrong",
        }
    }
}

impl Csr {
    /// Reads DER, PEM (`CERTIFICATE REQUEST` or `NEW CERTIFICATE REQUEST`), or base64 wrapped or not.
    ///
    /// The bytes tell which: DER begins with 0x30, PEM has a BEGIN line (text may stand before it),
    /// everything else is taken for base64. At most [`limits::CSR_BYTES_MAX`] bytes.
    ///
    /// # Errors
    /// [`CsrRefused`]: tell the sender; the same bytes will be refused again.
    pub fn parse(bytes: &[u8]) -> Result<Self, CsrRefused> {
        if bytes.len() > limits::CSR_BYTES_MAX {
            return Err(CsrRefused::TooLong(limits::CSR_BYTES_MAX));
        }
        let der = transport::decode(bytes)?;
        scan::scan(&der)?;
        let (info, algorithm, signature) = split(&der).map_err(|fault| match fault {
            SignatureFault::UnknownAlgorithm => CsrRefused::SignatureAlgorithm,
            _ => CsrRefused::Malformed("outer SEQUENCE"),
        })?;
        Ok(Self {
            info: info.to_vec(),
            algorithm,
            signature: signature.to_vec(),
            content: read_info(info)?,
        })
    }

    /// Verifies the signature over the original bytes and the key policy.
    ///
    /// The policy comes first: it is cheaper for all that it refuses, and its answer is of more use.
    ///
    /// # Errors
    /// [`CsrRefused`]: tell the sender; the same bytes will be refused again.
    pub fn verify(self) -> Result<VerifiedCsr, CsrRefused> {
        let key = &self.content.key;
        key_policy::admit(key)?;
        key.verify(self.algorithm, &self.info, &self.signature)
            .map_err(|fault| match fault {
                SignatureFault::Mismatch => CsrRefused::SignatureMismatch,
                SignatureFault::UnusableKey => CsrRefused::RsaExponent,
                _ => CsrRefused::Signature,
            })?;
        Ok(self.content)
    }
}

impl VerifiedCsr {
    /// The subject name asked for.
    #[must_use]
    pub fn subject(&self) -> &Name {
        &self.subject
    }

    /// The one common name of the subject, where there is exactly one and it is a UTF8String, PrintableString or IA5String.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        let mut names = self.subject.iter().filter(|a| a.oid == COMMON_NAME);
        match (names.next(), names.next()) {
            (Some(only), None) => text(&only.value),
            _ => None,
        }
    }

    /// The extensions asked for (extensionRequest), in order.
    #[must_use]
    pub fn extensions(&self) -> &[Extension] {
        &self.extensions
    }

    /// The names in the subjectAltName extension that is asked for; none where it is not asked for.
    #[must_use]
    pub fn alt_names(&self) -> &[GeneralName] {
        &self.alt_names
    }

    /// The public key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.key
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_sha256(&self) -> DetailHash {
        DetailHash(self.key.sha256())
    }

    /// SHA-256 over the DER of subject, the extensionRequest and the device id, length-prefixed: the claim's third part.
    ///
    /// Each part is preceded by its length in octets, 8 octets big-endian; an absent extensionRequest has
    /// length 0. Neither the signature nor the challengePassword goes in: both differ in each retry.
    #[must_use]
    pub fn requested(&self, device_id: &str) -> DetailHash {
        let parts = [
            &self.subject_der[..],
            &self.extensions_der[..],
            device_id.as_bytes(),
        ];
        let mut prefixed = Vec::with_capacity(parts.iter().map(|p| p.len() + 8).sum());
        for part in parts {
            prefixed.extend_from_slice(&(part.len() as u64).to_be_bytes());
            prefixed.extend_from_slice(part);
        }
        DetailHash::of(&prefixed)
    }

    /// A request for a key whose possession needs no proof, because it was just made here (the server's key, a CA
    /// key in the ceremony) or operators approved it (a responder's): subject and public key only.
    #[must_use]
    pub fn own_key(subject: Name, key: PublicKey) -> Self {
        Self {
            subject_der: name_der(&subject),
            subject,
            extensions: Vec::new(),
            extensions_der: Vec::new(),
            alt_names: Vec::new(),
            key,
        }
    }
}

/// A key (SubjectPublicKeyInfo, DER) that came without a request, if it is one that we would certify.
///
/// # Errors
/// [`CsrRefused`]: tell the sender; the same key will be refused again.
pub fn fit_key(spki: &[u8]) -> Result<PublicKey, CsrRefused> {
    let key = PublicKey::parse(spki).map_err(|_| key_policy::explain(spki))?;
    key_policy::admit(&key)?;
    Ok(key)
}

/// The DER CertificationRequestInfo (RFC 2986) for a subject and key, no attributes: what an issuer signs to
/// ask an offline root for its certificate.
#[must_use]
pub fn request_to_sign(subject: &Name, key: &PublicKey) -> Vec<u8> {
    let version = [tlv::INTEGER, 1, 0];
    let attributes = [tlv::CONTEXT_0, 0];
    let parts = [&version, &name_der(subject)[..], key.spki(), &attributes];
    tlv::wrap(tlv::SEQUENCE, &parts)
}

/// The text of an attribute value, where it is a UTF8String, PrintableString or IA5String of its characters.
pub(crate) fn text(value: &Any) -> Option<&str> {
    match value.tag() {
        Tag::Utf8String => Utf8StringRef::try_from(value).is_ok(),
        Tag::PrintableString => PrintableStringRef::try_from(value).is_ok(),
        Tag::Ia5String => Ia5StringRef::try_from(value).is_ok(),
        _ => false,
    }
    .then(|| std::str::from_utf8(value.value()).ok())
    .flatten()
}

/// The DER of a name.
pub(crate) fn name_der(name: &Name) -> Vec<u8> {
    name.to_der()
        .expect("a name that is in memory is shorter than DER's limit of 256 MiB")
}

/// Reads the CertificationRequestInfo strictly: encoding it anew must give the same bytes.
fn read_info(der: &[u8]) -> Result<VerifiedCsr, CsrRefused> {
    let (version, subject_der, spki) = tlv::whole_sequence(der, |reader| {
        let version = tlv::raw(reader, Tag::Integer)?;
        let subject = tlv::raw(reader, Tag::Sequence)?;
        let spki = tlv::raw(reader, Tag::Sequence)?;
        der::Reader::drain(reader, der::Reader::remaining_len(reader))?;
        Ok((version, subject, spki))
    })
    .map_err(|_| CsrRefused::Malformed("content"))?;
    if version != [tlv::INTEGER, 1, 0] {
        return Err(CsrRefused::Version);
    }
    let key = PublicKey::parse(spki).map_err(|_| key_policy::explain(spki))?;
    let subject = Name::from_der(subject_der).map_err(|_| CsrRefused::Malformed("subject"))?;
    let info = CertReqInfo::from_der(der).map_err(|_| CsrRefused::Malformed("attributes"))?;
    if info.to_der().ok().as_deref() != Some(der) {
        return Err(CsrRefused::NotDer("encoded anew it has other bytes"));
    }
    at_most(
        subject.iter().count(),
        limits::CSR_SUBJECT_ATTRIBUTES_MAX,
        "attributes in its subject",
    )?;
    let extensions_der = requested_extensions(&info.attributes)?;
    let extensions = read_extensions(&extensions_der)?;
    Ok(VerifiedCsr {
        subject,
        subject_der: subject_der.to_vec(),
        alt_names: read_alt_names(&extensions)?,
        extensions,
        extensions_der,
        key,
    })
}

/// The DER of the extensionRequest, empty if there is none; refuses attributes that are not known.
fn requested_extensions(attributes: &Attributes) -> Result<Vec<u8>, CsrRefused> {
    at_most(
        attributes.len(),
        limits::CSR_ATTRIBUTES_MAX,
        "request attributes",
    )?;
    let mut seen = Vec::with_capacity(attributes.len());
    let mut request = Vec::new();
    for attribute in attributes.iter() {
        let oid = attribute.oid;
        if ![EXTENSION_REQUEST, CHALLENGE_PASSWORD, UNSTRUCTURED_NAME].contains(&oid) {
            return Err(CsrRefused::Attribute(oid));
        }
        let value = attribute
            .values
            .get(0)
            .ok_or(CsrRefused::Malformed("attributes"))?;
        if seen.contains(&oid) || attribute.values.len() > 1 {
            return Err(CsrRefused::AttributeTwice(oid));
        }
        seen.push(oid);
        if oid == EXTENSION_REQUEST {
            request = value
                .to_der()
                .map_err(|_| CsrRefused::Malformed("extensionRequest"))?;
        }
    }
    Ok(request)
}

/// Reads the extensions of an extensionRequest, whose DER may be empty (there is none).
fn read_extensions(der: &[u8]) -> Result<Vec<Extension>, CsrRefused> {
    if der.is_empty() {
        return Ok(Vec::new());
    }
    let malformed = || CsrRefused::Malformed("extensionRequest");
    let extensions = Vec::<Extension>::from_der(der).map_err(|_| malformed())?;
    if extensions.to_der().ok().as_deref() != Some(der) {
        return Err(CsrRefused::NotDer("an extension has other bytes anew"));
    }
    at_most(extensions.len(), limits::CSR_EXTENSIONS_MAX, "extensions")?;
    let mut seen = Vec::with_capacity(extensions.len());
    for extension in &extensions {
        // RFC 5280, 4.2: not more than one instance of an extension.
        if seen.contains(&extension.extn_id) {
            return Err(CsrRefused::ExtensionTwice(extension.extn_id));
        }
        seen.push(extension.extn_id);
    }
    Ok(extensions)
}

/// Reads the names of the subjectAltName extension, where it is asked for.
fn read_alt_names(extensions: &[Extension]) -> Result<GeneralNames, CsrRefused> {
    let wanted = |e: &&Extension| e.extn_id == SUBJECT_ALT_NAME;
    let Some(extension) = extensions.iter().find(wanted) else {
        return Ok(GeneralNames::new());
    };
    let value = extension.extn_value.as_bytes();
    let malformed = CsrRefused::Malformed("subjectAltName");
    scan::scan(value).map_err(|refused| match refused {
        // The request itself is whole.
        CsrRefused::Truncated | CsrRefused::Trailing => malformed.clone(),
        other => other,
    })?;
    let names = GeneralNames::from_der(value).map_err(|_| malformed)?;
    at_most(
        names.len(),
        limits::CSR_SANS_MAX,
        "subject alternative names",
    )?;
    Ok(names)
}

/// Refuses more than the limit.
const fn at_most(count: usize, max: usize, what: &'static str) -> Result<(), CsrRefused> {
    if count > max {
        return Err(CsrRefused::TooMany { what, max });
    }
    Ok(())
}
