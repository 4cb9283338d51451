//! OCSP messages (RFC 6960, with RFC 5019 for GET and RFC 9654 for nonces), without any key.
//!
//! Owns the reading of requests from strangers, the writing of responses, and the strict reading of
//! responses for clients. Promises that a request is bounded before it is read, that a CertID and a
//! nonce come back octet for octet as they were sent, and that what [`response_data`] and
//! [`successful`] write, [`read_response`] reads. Never signs, never verifies (see
//! [`crate::signature`]), never decides a status, does no I/O. Writing cannot fail; reading fails with
//! a [`BadRequest`], which the responder answers with [`ErrorStatus::MalformedRequest`], or with
//! [`NotAResponse`].
//!
//! # What is taken from clients
//! - RFC 6960 asks for DER only where something is signed, and yet each client writes DER. Other forms
//!   are refused, save for defaults that are written out (version 1, `critical FALSE`) and an empty
//!   list of extensions.
//! - A signed request is taken like any other: the signature is not looked at, since the answer is the
//!   same for everyone.
//! - A CertID with a hash that is not known here is well formed: it names no issuer of ours, so it is
//!   [`ErrorStatus::Unauthorized`] that fits. Hence [`CertId::hash`] is optional.
//! - An unknown extension is ignored unless it is critical (RFC 6960, 4.1.2).
//! - A nonce stands in an OCTET STRING of its own since RFC 6960. Clients of RFC 2560's time put the
//!   bare octets there (older releases of libksba, Keycloak and pyca/cryptography), and what
//!   they compare is the whole value. Both forms are taken and echoed as they are.

mod cert_id;
mod encode;
mod extension;
mod path;
mod read;
mod request;

use crate::signature::SignatureAlgorithm;
use crate::{CertStatus, SerialNumber, UnixMillis};
use der::{Decode, Header, Reader, SliceReader, Tag, TagNumber};

pub use cert_id::{IssuerHashes, NotACertificate};

/// The longest request, in octets.
///
/// [`CERT_IDS_MAX`] CertIDs with SHA-512 take 12 KiB, and a signature with the requester's certificate
/// fits beside them; ten thousand connections that each send one hold 160 MiB at most.
pub const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// The most CertIDs in one request.
///
/// A client asks for a chain, or for the handful of peers that it talks to. Each CertID costs a look-up
/// and some 150 octets of answer under one signature, so that nobody gets much for one small request.
pub const CERT_IDS_MAX: usize = 64;

/// The longest path of a GET request behind `/ocsp/`, in octets.
///
/// RFC 5019, 5: GET is for requests of up to 255 octets once encoded, and longer URLs than 8 KiB do not
/// pass the usual proxies.
pub const GET_PATH_BYTES_MAX: usize = 8 * 1024;

/// The longest nonce in octets; the shortest has one (RFC 9654, 2.1).
pub const NONCE_OCTETS_MAX: usize = 128;

/// The most octets of an INTEGER that is a serial: 20 and one for the sign (RFC 5280, 4.1.2.2).
pub const SERIAL_OCTETS_MAX: usize = 21;

/// id-pkix-ocsp-basic (RFC 6960, 4.2.1), contents.
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
/// id-pkix-ocsp-nonce (RFC 9654, 2.1), contents.
const NONCE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];
/// id-pkix-ocsp-response, the acceptable response types (RFC 6960, 4.4.3), contents.
const ACCEPTABLE_RESPONSES: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 4];

//------ Requests --------------------------------------------------------------------

/// A hash that a CertID can be made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// SHA-1: the default of almost every client. It names an issuer and proves nothing.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// Which certificate a client asks for (RFC 6960, 4.1.1), borrowed from the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CertId<'a> {
    /// The hash; none if it is not one of ours, and then no issuer matches.
    pub hash: Option<HashAlgorithm>,
    /// The hash of the issuer's Name.
    pub issuer_name_hash: &'a [u8],
    /// The hash of the contents of the issuer's public key BIT STRING.
    pub issuer_key_hash: &'a [u8],
    /// The contents of the serial's INTEGER: 1 to [`SERIAL_OCTETS_MAX`] octets, of any form.
    pub serial: &'a [u8],
    /// The whole CertID, for the answer to repeat octet for octet.
    pub der: &'a [u8],
}

impl CertId<'_> {
    /// The serial if it is of the one form that is issued here; any other was never issued.
    #[must_use]
    pub fn serial_number(&self) -> Option<SerialNumber> {
        SerialNumber::from_slice(self.serial).ok()
    }
}

/// A nonce as it stands in its extension: the extnValue, with or without an OCTET STRING around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce<'a>(&'a [u8]);

impl<'a> Nonce<'a> {
    /// Takes the contents of an extnValue.
    ///
    /// # Errors
    /// [`BadRequest::NonceLength`]: no octet, or more than [`NONCE_OCTETS_MAX`]. RFC 9654, 2.1: the
    /// request MUST be refused with malformedRequest.
    pub fn new(extn_value: &'a [u8]) -> Result<Self, BadRequest> {
        let nonce = Self(extn_value);
        match nonce.octets().len() {
            1..=NONCE_OCTETS_MAX => Ok(nonce),
            _ => Err(BadRequest::NonceLength),
        }
    }

    /// The octets that the client drew, without the OCTET STRING around them if there is one.
    #[must_use]
    pub fn octets(self) -> &'a [u8] {
        only(self.0, Tag::OctetString).unwrap_or(self.0)
    }
}

/// What is asked, borrowed from the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The certificates, 1 to [`CERT_IDS_MAX`], in the client's order.
    pub cert_ids: Vec<CertId<'a>>,
    /// The nonce to echo, if there is one.
    pub nonce: Option<Nonce<'a>>,
}

/// Why a request is not answered: [`ErrorStatus::MalformedRequest`] is the reply to each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The DER is over [`REQUEST_BYTES_MAX`], or the path over [`GET_PATH_BYTES_MAX`].
    #[error(
        "an OCSP request has at most {REQUEST_BYTES_MAX} octets, and the path of one at most \
         {GET_PATH_BYTES_MAX}: ask for fewer certificates at once"
    )]
    TooLong,
    /// More than [`CERT_IDS_MAX`].
    #[error("an OCSP request asks for at most {CERT_IDS_MAX} certificates: send several requests")]
    TooManyCertIds,
    /// An empty requestList.
    #[error("the OCSP request asks for no certificate")]
    NoCertId,
    /// Not an OCSPRequest in DER; the field that is wrong.
    #[error("not an OCSPRequest in DER: {0}")]
    NotDer(&'static str),
    /// Another version than 1.
    #[error("the OCSP request is not of version 1")]
    Version,
    /// A critical extension that nobody here understands (RFC 6960, 4.1.2).
    #[error("the OCSP request has a critical extension that is not known here")]
    CriticalExtension,
    /// A nonce out of the range of RFC 9654.
    #[error("the nonce of an OCSP request has 1 to {NONCE_OCTETS_MAX} octets")]
    NonceLength,
    /// Two nonces: an answer can hold one.
    #[error("the OCSP request has more than one nonce")]
    NonceTwice,
    /// An escape without two hexadecimal digits in the path.
    #[error("the path of the OCSP request has a % without two hexadecimal digits behind it")]
    NotEscaped,
    /// Not base64 in the path.
    #[error("the path of the OCSP request is not base64")]
    NotBase64,
}

/// Reads an OCSPRequest (RFC 6960, 4.1.1), the body of a POST or what [`decode_get_path`] gives.
///
/// See the head of this module for what is taken and what is refused.
///
/// # Errors
/// [`BadRequest`]: answer with [`ErrorStatus::MalformedRequest`].
pub fn parse_request(der: &[u8]) -> Result<Request<'_>, BadRequest> {
    request::parse(der)
}

/// Decodes the path of a GET request behind `/ocsp/`, undecoded as it came, without query.
///
/// RFC 6960, A.1 and RFC 5019, 5 want base64 with `+`, `/` and `=` escaped as `%2B`, `%2F` and `%3D`.
/// Clients send more than that, and all of it is taken, in any mixture: escapes in either case, of any
/// character, or none; an escaped text escaped once more; base64url; no padding; a blank where form
/// decoding made one of `+`; line breaks within and white space at the end; slashes before the text,
/// which come from a URL that ends in one.
///
/// Not mended: a proxy that makes one slash of two (nginx does unless told `merge_slashes off`) destroys
/// base64 that holds `//` unescaped, and where a slash is missing cannot be known for certain. Such a
/// request is refused; clients that escape are not hurt.
///
/// # Errors
/// [`BadRequest::TooLong`], [`BadRequest::NotEscaped`] or [`BadRequest::NotBase64`]: answer with
/// [`ErrorStatus::MalformedRequest`].
pub fn decode_get_path(path: &str) -> Result<Vec<u8>, BadRequest> {
    path::decode(path)
}

/// Writes an unsigned OCSPRequest for these CertIDs (whole DER each), with a nonce if there is one.
///
/// The nonce is given bare and written in an OCTET STRING (RFC 9654, 2.1).
#[must_use]
pub fn request(cert_ids: &[&[u8]], nonce: Option<&[u8]>) -> Vec<u8> {
    encode::request(cert_ids, nonce)
}

//------ Responses -------------------------------------------------------------------

/// Who answers (RFC 6960, 4.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponderId {
    /// The subject Name of the responder's certificate, DER.
    ByName(Vec<u8>),
    /// SHA-1 of the contents of the public key BIT STRING in the responder's certificate.
    ByKey([u8; 20]),
}

impl ResponderId {
    /// The responder by the subject of its certificate (DER).
    ///
    /// # Errors
    /// [`NotACertificate`]: do not answer with this certificate.
    pub fn by_name(certificate: &[u8]) -> Result<Self, NotACertificate> {
        let (subject, _) = cert_id::subject_and_key(certificate)?;
        Ok(Self::ByName(subject.to_vec()))
    }

    /// The responder by the key in its certificate (DER).
    ///
    /// # Errors
    /// [`NotACertificate`]: do not answer with this certificate.
    pub fn by_key(certificate: &[u8]) -> Result<Self, NotACertificate> {
        let (_, key) = cert_id::subject_and_key(certificate)?;
        Ok(Self::ByKey(cert_id::sha1(key)))
    }
}

/// What is said of one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SingleResponse<'a> {
    /// The CertID of the request, [`CertId::der`].
    pub cert_id: &'a [u8],
    /// The status. A reason of `unspecified` is left out, as on CRLs (RFC 5280, 5.3.1).
    pub status: CertStatus,
    /// When it was known to be so; written to the second, rounded down.
    pub this_update: UnixMillis,
    /// When more will be known at the latest; written to the second, rounded down.
    pub next_update: UnixMillis,
}

/// Writes the ResponseData (RFC 6960, 4.2.1): the octets to be signed.
///
/// The single responses stand in the order given, which is the request's. Times are GeneralizedTime
/// without fractions (RFC 5019, 2.2.4), at most the last second of 9999. The nonce is the request's.
#[must_use]
pub fn response_data(
    responder: &ResponderId,
    produced_at: UnixMillis,
    singles: &[SingleResponse<'_>],
    nonce: Option<Nonce<'_>>,
) -> Vec<u8> {
    encode::response_data(responder, produced_at, singles, nonce)
}

/// Joins signed ResponseData, signature and certificates (whole DER each) to a whole OCSPResponse.
///
/// Its status is `successful` and its type id-pkix-ocsp-basic. The certificates are for the client to
/// verify with: the responder's own first; none if the CA itself signed.
#[must_use]
pub fn successful(
    tbs: &[u8],
    algorithm: SignatureAlgorithm,
    signature: &[u8],
    certificates: &[&[u8]],
) -> Vec<u8> {
    encode::successful(tbs, algorithm, signature, certificates)
}

/// The answers that nobody signs (RFC 6960, 4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorStatus {
    /// The request is a [`BadRequest`].
    MalformedRequest,
    /// The responder is at fault; another one may know.
    InternalError,
    /// The responder cannot answer now.
    TryLater,
    /// The request must be signed. Never the case here.
    SigRequired,
    /// The responder does not answer for this issuer (RFC 5019, 2.2.3).
    Unauthorized,
}

impl ErrorStatus {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::MalformedRequest,
        Self::InternalError,
        Self::TryLater,
        Self::SigRequired,
        Self::Unauthorized,
    ];

    /// The whole OCSPResponse: `SEQUENCE { ENUMERATED }`.
    #[must_use]
    pub const fn der(self) -> &'static [u8; 5] {
        match self {
            Self::MalformedRequest => &[0x30, 3, 0x0a, 1, 1],
            Self::InternalError => &[0x30, 3, 0x0a, 1, 2],
            Self::TryLater => &[0x30, 3, 0x0a, 1, 3],
            Self::SigRequired => &[0x30, 3, 0x0a, 1, 5],
            Self::Unauthorized => &[0x30, 3, 0x0a, 1, 6],
        }
    }
}

/// A response that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParsedResponse<'a> {
    /// An unsigned answer: anybody on the way can have written it.
    Error(ErrorStatus),
    /// A signed answer, whose signature is the caller's to verify.
    Basic(BasicResponse<'a>),
}

/// A BasicOCSPResponse, borrowed from the response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasicResponse<'a> {
    /// The octets that are signed: the whole ResponseData.
    pub tbs: &'a [u8],
    /// The algorithm that signed.
    pub algorithm: SignatureAlgorithm,
    /// The signature, as [`crate::signature::PublicKey::verify`] takes it.
    pub signature: &'a [u8],
    /// The certificates that came along, whole DER each.
    pub certificates: Vec<&'a [u8]>,
    /// Who answers.
    pub responder: ResponderId,
    /// When it was signed.
    pub produced_at: UnixMillis,
    /// What is said, at least one.
    pub singles: Vec<ParsedSingle<'a>>,
    /// The nonce. Compare [`Nonce::octets`] with what was sent.
    pub nonce: Option<Nonce<'a>>,
}

/// What a response says of one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedSingle<'a> {
    /// The certificate.
    pub cert_id: CertId<'a>,
    /// Its status.
    pub status: CertStatus,
    /// When it was known to be so.
    pub this_update: UnixMillis,
    /// When more is known at the latest; none if the responder always knows the newest.
    pub next_update: Option<UnixMillis>,
}

/// Why octets are not an OCSPResponse; the field that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an OCSPResponse: {0}")]
pub struct NotAResponse(pub &'static str);

/// Reads an OCSPResponse strictly: DER, version 1, known algorithms, no unknown critical extension.
///
/// Extensions that are not critical are passed over. The signature is the caller's to verify, over
/// [`BasicResponse::tbs`], as are the responder's right to answer, the CertIDs and the times.
///
/// # Errors
/// [`NotAResponse`] names the field: do not use the response.
pub fn read_response(der: &[u8]) -> Result<ParsedResponse<'_>, NotAResponse> {
    read::response(der)
}

//------ What the parts share --------------------------------------------------------

/// A context-specific, constructed tag: an explicit one, or an implicit one of a SEQUENCE.
const fn context(number: u32) -> Tag {
    Tag::ContextSpecific {
        constructed: true,
        number: TagNumber(number),
    }
}

/// The contents of the next value, which must have this tag.
fn value<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let header = Header::decode(reader)?;
    header.tag().assert_eq(tag)?;
    reader.read_slice(header.length())
}

/// The contents of the next value if it has this tag; nothing is consumed otherwise.
fn optional<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<Option<&'a [u8]>> {
    if reader.is_finished() || Tag::peek(reader)? != tag {
        return Ok(None);
    }
    value(reader, tag).map(Some)
}

/// Reads octets that are exactly one value of this tag, and gives its contents.
fn only(octets: &[u8], tag: Tag) -> der::Result<&[u8]> {
    let mut reader = SliceReader::new(octets)?;
    let contents = value(&mut reader, tag)?;
    reader.finish()?;
    Ok(contents)
}

#[cfg(test)]
mod interop;
#[cfg(test)]
mod tests;
