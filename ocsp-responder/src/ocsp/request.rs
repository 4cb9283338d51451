//! Reading a request, whoever sent it.
//!
//! Owns the limits and the refusals. Promises to look at the length before anything else, to read each
//! octet once and to hold nothing but the list of CertIDs, which is bounded. Failure is a
//! [`BadRequest`] without a word of the request in it.

use super::extension::{self, Extension};
use super::{
    ACCEPTABLE_RESPONSES, BASIC, BadRequest, CERT_IDS_MAX, CertId, NONCE, Nonce, REQUEST_BYTES_MAX,
    Request, cert_id, context, only, optional, value,
};
use crate::signature::tlv;
use der::{Reader, SliceReader, Tag};

/// The refusal that names a field.
fn not_der(field: &'static str) -> impl FnOnce(der::Error) -> BadRequest {
    move |_| BadRequest::NotDer(field)
}

/// Reads an OCSPRequest.
pub fn parse(der: &[u8]) -> Result<Request<'_>, BadRequest> {
    if der.len() > REQUEST_BYTES_MAX {
        return Err(BadRequest::TooLong);
    }
    let tbs = tlv::whole_sequence(der, |reader| {
        let tbs = value(reader, Tag::Sequence)?;
        // A signature is passed over: the answer is the same for everyone.
        if let Some(signature) = optional(reader, context(0))? {
            only(signature, Tag::Sequence)?;
        }
        Ok(tbs)
    })
    .map_err(not_der("OCSPRequest"))?;
    let mut reader = SliceReader::new(tbs).map_err(not_der("tbsRequest"))?;
    version(&mut reader)?;
    optional(&mut reader, context(1)).map_err(not_der("requestorName"))?;
    let list = value(&mut reader, Tag::Sequence).map_err(not_der("requestList"))?;
    let extensions = optional(&mut reader, context(2)).map_err(not_der("requestExtensions"))?;
    reader.finish().map_err(not_der("tbsRequest"))?;
    Ok(Request {
        cert_ids: cert_ids(list)?,
        nonce: match extensions {
            None => None,
            Some(extensions) => nonce(extensions)?,
        },
    })
}

/// Reads the version, which is 1 (by the number 0), written out or not.
fn version(reader: &mut SliceReader<'_>) -> Result<(), BadRequest> {
    match optional(reader, context(0)).map_err(not_der("version"))? {
        None | Some([tlv::INTEGER, 1, 0]) => Ok(()),
        Some(_) => Err(BadRequest::Version),
    }
}

/// Reads the requestList.
fn cert_ids(list: &[u8]) -> Result<Vec<CertId<'_>>, BadRequest> {
    let mut reader = SliceReader::new(list).map_err(not_der("requestList"))?;
    let mut ids = Vec::new();
    while !reader.is_finished() {
        if ids.len() == CERT_IDS_MAX {
            return Err(BadRequest::TooManyCertIds);
        }
        ids.push(single(&mut reader)?);
    }
    if ids.is_empty() {
        return Err(BadRequest::NoCertId);
    }
    Ok(ids)
}

/// Reads one Request of the list.
fn single<'a>(list: &mut SliceReader<'a>) -> Result<CertId<'a>, BadRequest> {
    let octets = value(list, Tag::Sequence).map_err(not_der("requestList: a Request"))?;
    let mut reader = SliceReader::new(octets).map_err(not_der("requestList: a Request"))?;
    let id = cert_id::read(&mut reader).map_err(not_der("requestList: a CertID"))?;
    let refused = "requestList: singleRequestExtensions";
    let extensions = optional(&mut reader, context(0)).map_err(not_der(refused))?;
    reader.finish().map_err(not_der(refused))?;
    if let Some(extensions) = extensions {
        // None is known here: the service locator (RFC 6960, 4.4.6) asks for a relay.
        extension::each(extensions, BadRequest::NotDer(refused), ignored)?;
    }
    Ok(id)
}

/// Passes over an extension that is not known, unless it must be understood (RFC 6960, 4.1.2).
fn ignored(extension: Extension<'_>) -> Result<(), BadRequest> {
    if extension.critical {
        return Err(BadRequest::CriticalExtension);
    }
    Ok(())
}

/// Reads the requestExtensions and gives the nonce.
fn nonce(extensions: &[u8]) -> Result<Option<Nonce<'_>>, BadRequest> {
    let refused = BadRequest::NotDer("requestExtensions");
    let mut nonce = None;
    extension::each(extensions, refused, |extension| match extension.oid {
        NONCE if nonce.is_some() => Err(BadRequest::NonceTwice),
        NONCE => {
            nonce = Some(Nonce::new(extension.value)?);
            Ok(())
        }
        ACCEPTABLE_RESPONSES if basic_is_acceptable(extension.value) => Ok(()),
        _ => ignored(extension),
    })?;
    Ok(nonce)
}

/// Whether id-pkix-ocsp-basic is among the acceptable response types (RFC 6960, 4.4.3).
fn basic_is_acceptable(types: &[u8]) -> bool {
    tlv::whole_sequence(types, |reader| {
        let mut found = false;
        while !reader.is_finished() {
            found |= value(reader, Tag::ObjectIdentifier)? == BASIC;
        }
        Ok(found)
    })
    .unwrap_or(false)
}
