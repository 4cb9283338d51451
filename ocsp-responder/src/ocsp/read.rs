//! Reading a response strictly, for clients.
//!
//! Owns the refusal of everything that RFC 6960 does not allow in a signed answer. Promises to borrow
//! from the response, and that the octets to verify are those that were read. Each failure names its
//! field.

use super::extension;
use super::{
    BASIC, BasicResponse, ErrorStatus, NONCE, Nonce, NotAResponse, ParsedResponse, ParsedSingle,
    ResponderId, cert_id, context, only, optional, value,
};
use crate::signature::{SignatureAlgorithm, tlv};
use crate::{CertStatus, RevocationReason, UnixMillis};
use der::asn1::{BitStringRef, GeneralizedTime};
use der::{Decode, Reader, SliceReader, Tag, TagNumber};

/// `certStatus good`.
const GOOD: Tag = primitive(0);
/// `certStatus unknown`.
const UNKNOWN: Tag = primitive(2);

/// A context-specific, primitive tag.
const fn primitive(number: u32) -> Tag {
    Tag::ContextSpecific {
        constructed: false,
        number: TagNumber(number),
    }
}

/// The refusal that names a field.
fn wrong(field: &'static str) -> impl FnOnce(der::Error) -> NotAResponse {
    move |_| NotAResponse(field)
}

/// Reads an OCSPResponse.
pub fn response(der: &[u8]) -> Result<ParsedResponse<'_>, NotAResponse> {
    if let Some(status) = ErrorStatus::ALL
        .into_iter()
        .find(|status| status.der() == der)
    {
        return Ok(ParsedResponse::Error(status));
    }
    let (status, bytes) = tlv::whole_sequence(der, |reader| {
        let status = value(reader, Tag::Enumerated)?;
        Ok((status, optional(reader, context(0))?))
    })
    .map_err(wrong("not a DER SEQUENCE of status and bytes"))?;
    if status != [0] {
        return Err(NotAResponse("responseStatus"));
    }
    let bytes = bytes.ok_or(NotAResponse("responseBytes"))?;
    let basic = tlv::whole_sequence(bytes, |reader| {
        let kind = value(reader, Tag::ObjectIdentifier)?;
        Ok((kind, value(reader, Tag::OctetString)?))
    });
    match basic.map_err(wrong("responseBytes"))? {
        (BASIC, basic) => self::basic(basic).map(ParsedResponse::Basic),
        _ => Err(NotAResponse("responseType: not id-pkix-ocsp-basic")),
    }
}

/// Reads a BasicOCSPResponse.
fn basic(der: &[u8]) -> Result<BasicResponse<'_>, NotAResponse> {
    let (tbs, identifier, bits, certs) = tlv::whole_sequence(der, |reader| {
        Ok((
            tlv::raw(reader, Tag::Sequence)?,
            tlv::raw(reader, Tag::Sequence)?,
            BitStringRef::decode(reader)?,
            optional(reader, context(0))?,
        ))
    })
    .map_err(wrong("BasicOCSPResponse"))?;
    let algorithm = SignatureAlgorithm::parse(identifier)
        .map_err(|_| NotAResponse("signatureAlgorithm: not one that is accepted here"))?;
    let signature = bits.as_bytes().ok_or(NotAResponse("signature"))?;
    let certificates = match certs {
        None => Vec::new(),
        Some(certs) => certificates(certs).map_err(wrong("certs"))?,
    };
    let data = only(tbs, Tag::Sequence).map_err(wrong("tbsResponseData"))?;
    let mut reader = SliceReader::new(data).map_err(wrong("tbsResponseData"))?;
    let responder = responder(&mut reader)?;
    let produced_at = time(&mut reader).map_err(wrong("producedAt"))?;
    let list = value(&mut reader, Tag::Sequence).map_err(wrong("responses"))?;
    let extensions = optional(&mut reader, context(1)).map_err(wrong("responseExtensions"))?;
    reader.finish().map_err(wrong("responseExtensions"))?;
    Ok(BasicResponse {
        tbs,
        algorithm,
        signature,
        certificates,
        responder,
        produced_at,
        singles: singles(list)?,
        nonce: match extensions {
            None => None,
            Some(extensions) => nonce(extensions)?,
        },
    })
}

/// Reads the certificates, each left as it is.
fn certificates(certs: &[u8]) -> der::Result<Vec<&[u8]>> {
    tlv::whole_sequence(certs, |reader| {
        let mut certificates = Vec::new();
        while !reader.is_finished() {
            certificates.push(tlv::raw(reader, Tag::Sequence)?);
        }
        Ok(certificates)
    })
}

/// Reads the responderID. A version before it is not 1, or is a default that DER leaves out.
fn responder(reader: &mut SliceReader<'_>) -> Result<ResponderId, NotAResponse> {
    let refused = "responderID, or a version before it";
    if let Some(name) = optional(reader, context(1)).map_err(wrong(refused))? {
        only(name, Tag::Sequence).map_err(wrong(refused))?;
        return Ok(ResponderId::ByName(name.to_vec()));
    }
    value(reader, context(2))
        .and_then(|key| only(key, Tag::OctetString))
        .ok()
        .and_then(|key| key.try_into().ok())
        .map(ResponderId::ByKey)
        .ok_or(NotAResponse(refused))
}

/// Reads a GeneralizedTime in whole seconds.
fn time(reader: &mut SliceReader<'_>) -> der::Result<UnixMillis> {
    let seconds = GeneralizedTime::decode(reader)?
        .to_unix_duration()
        .as_secs();
    Ok(UnixMillis::from_seconds(seconds))
}

/// Reads octets that are exactly one GeneralizedTime.
fn whole_time(octets: &[u8]) -> der::Result<UnixMillis> {
    let mut reader = SliceReader::new(octets)?;
    let at = time(&mut reader)?;
    reader.finish()?;
    Ok(at)
}

/// Reads the single responses, at least one.
fn singles(list: &[u8]) -> Result<Vec<ParsedSingle<'_>>, NotAResponse> {
    let mut reader = SliceReader::new(list).map_err(wrong("responses"))?;
    let mut singles = Vec::new();
    while !reader.is_finished() {
        let octets = value(&mut reader, Tag::Sequence).map_err(wrong("responses"))?;
        singles.push(single(octets)?);
    }
    if singles.is_empty() {
        return Err(NotAResponse("responses: none"));
    }
    Ok(singles)
}

/// Reads the contents of a SingleResponse.
fn single(octets: &[u8]) -> Result<ParsedSingle<'_>, NotAResponse> {
    let mut reader = SliceReader::new(octets).map_err(wrong("responses"))?;
    let cert_id = cert_id::read(&mut reader).map_err(wrong("responses: certID"))?;
    let status = status(&mut reader)?;
    let this_update = time(&mut reader).map_err(wrong("responses: thisUpdate"))?;
    let next_update = optional(&mut reader, context(0))
        .and_then(|time| time.map(whole_time).transpose())
        .map_err(wrong("responses: nextUpdate"))?;
    let extensions = optional(&mut reader, context(1)).map_err(wrong("singleExtensions"))?;
    reader.finish().map_err(wrong("singleExtensions"))?;
    if let Some(extensions) = extensions {
        passed_over(extensions, "singleExtensions", |_| Ok(false))?;
    }
    Ok(ParsedSingle {
        cert_id,
        status,
        this_update,
        next_update,
    })
}

/// Reads a CertStatus.
fn status(reader: &mut SliceReader<'_>) -> Result<CertStatus, NotAResponse> {
    let refused = "responses: certStatus";
    let tag = Tag::peek(reader).map_err(wrong(refused))?;
    let contents = value(reader, tag).map_err(wrong(refused))?;
    match (tag, contents) {
        (GOOD, []) => Ok(CertStatus::Good),
        (UNKNOWN, []) => Ok(CertStatus::Unknown),
        _ if tag == context(1) => revoked(contents).map_err(wrong(refused)),
        _ => Err(NotAResponse(refused)),
    }
}

/// Reads the contents of a RevokedInfo.
fn revoked(octets: &[u8]) -> der::Result<CertStatus> {
    let mut reader = SliceReader::new(octets)?;
    let at = time(&mut reader)?;
    let reason = match optional(&mut reader, context(0))? {
        None => None,
        Some([0x0a, 1, code]) => match RevocationReason::from_code(*code) {
            None => return Err(Tag::Enumerated.value_error().into()),
            known => known,
        },
        Some(_) => return Err(Tag::Enumerated.value_error().into()),
    };
    reader.finish()?;
    Ok(CertStatus::Revoked { at, reason })
}

/// Reads the responseExtensions and gives the nonce.
fn nonce(extensions: &[u8]) -> Result<Option<Nonce<'_>>, NotAResponse> {
    let mut nonce = None;
    passed_over(extensions, "responseExtensions", |extension| {
        if extension.oid != NONCE {
            return Ok(false);
        }
        let read = Nonce::new(extension.value).map_err(|_| NotAResponse("nonce: its length"))?;
        match nonce.replace(read) {
            None => Ok(true),
            Some(_) => Err(NotAResponse("nonce: twice")),
        }
    })?;
    Ok(nonce)
}

/// Reads extensions, at least one; those that `known` does not take must not be critical.
fn passed_over<'a>(
    extensions: &'a [u8],
    field: &'static str,
    mut known: impl FnMut(extension::Extension<'a>) -> Result<bool, NotAResponse>,
) -> Result<(), NotAResponse> {
    let count = extension::each(extensions, NotAResponse(field), |extension| {
        match known(extension)? {
            false if extension.critical => Err(NotAResponse("a critical extension")),
            _ => Ok(()),
        }
    })?;
    if count == 0 {
        return Err(NotAResponse(field));
    }
    Ok(())
}
