//! Writing requests and responses.
//!
//! Owns the order and the sizes. Promises DER, a response of one allocation once its parts are there,
//! and CertIDs, nonces and certificates octet for octet as they were given. Cannot fail.

use super::{BASIC, NONCE, Nonce, ResponderId, SingleResponse};
use crate::signature::{SignatureAlgorithm, tlv};
use crate::{CertStatus, RevocationReason, UnixMillis};
use std::borrow::Cow;
use std::time::Duration;

/// Context-specific 1, constructed: a responder by name, a revocation, the responseExtensions.
const CONTEXT_1: u8 = 0xa1;
/// Context-specific 2, constructed: a responder by key, the requestExtensions.
const CONTEXT_2: u8 = 0xa2;
/// `certStatus good`: `[0] IMPLICIT NULL`.
const GOOD: &[u8] = &[0x80, 0];
/// `certStatus unknown`: `[2] IMPLICIT NULL`.
const UNKNOWN: &[u8] = &[0x82, 0];
/// Everything of a revocationReason before its code: `[0] EXPLICIT ENUMERATED`.
const REASON_PREFIX: &[u8] = &[tlv::CONTEXT_0, 3, 0x0a, 1];
/// `responseStatus successful`: ENUMERATED 0.
const SUCCESSFUL: &[u8] = &[0x0a, 1, 0];

/// Writes an OCSPRequest.
pub fn request(cert_ids: &[&[u8]], nonce: Option<&[u8]>) -> Vec<u8> {
    let mut list = Vec::new();
    for id in cert_ids {
        tlv::push(&mut list, tlv::SEQUENCE, id);
    }
    let list = tlv::wrap(tlv::SEQUENCE, &[&list]);
    let extensions = nonce.map_or_else(Vec::new, |octets| {
        nonce_extension(CONTEXT_2, &tlv::wrap(tlv::OCTET_STRING, &[octets]))
    });
    let tbs = tlv::wrap(tlv::SEQUENCE, &[&list, &extensions]);
    tlv::wrap(tlv::SEQUENCE, &[&tbs])
}

/// The extensions of a message under their tag: a nonce alone.
fn nonce_extension(tag: u8, extn_value: &[u8]) -> Vec<u8> {
    let oid = tlv::wrap(tlv::OBJECT_IDENTIFIER, &[NONCE]);
    let value = tlv::wrap(tlv::OCTET_STRING, &[extn_value]);
    let extension = tlv::wrap(tlv::SEQUENCE, &[&oid, &value]);
    tlv::wrap(tag, &[&tlv::wrap(tlv::SEQUENCE, &[&extension])])
}

/// Writes a ResponseData; version 1 is the default and stays out.
pub fn response_data(
    responder: &ResponderId,
    produced_at: UnixMillis,
    singles: &[SingleResponse<'_>],
    nonce: Option<Nonce<'_>>,
) -> Vec<u8> {
    let responder = match responder {
        ResponderId::ByName(name) => tlv::wrap(CONTEXT_1, &[name]),
        ResponderId::ByKey(hash) => tlv::wrap(CONTEXT_2, &[&tlv::wrap(tlv::OCTET_STRING, &[hash])]),
    };
    // Status, reason and three times take 63 octets at most, and the headers 4 in any usual case.
    let room = |single: &SingleResponse<'_>| single.cert_id.len() + 67;
    let mut list = Vec::with_capacity(singles.iter().map(room).sum());
    for single in singles {
        push_single(&mut list, single);
    }
    let list = tlv::wrap(tlv::SEQUENCE, &[&list]);
    let extensions = nonce.map_or_else(Vec::new, |nonce| nonce_extension(CONTEXT_1, nonce.0));
    tlv::wrap(
        tlv::SEQUENCE,
        &[&responder, &time(produced_at), &list, &extensions],
    )
}

/// Appends a SingleResponse.
fn push_single(out: &mut Vec<u8>, single: &SingleResponse<'_>) {
    let status = match single.status {
        CertStatus::Good => Cow::Borrowed(GOOD),
        CertStatus::Unknown => Cow::Borrowed(UNKNOWN),
        CertStatus::Revoked { at, reason } => Cow::Owned(revoked(at, reason)),
    };
    let this_update = time(single.this_update);
    let next_update = tlv::wrap(tlv::CONTEXT_0, &[&time(single.next_update)]);
    let parts = [single.cert_id, &status, &this_update, &next_update];
    tlv::push_header(
        out,
        tlv::SEQUENCE,
        parts.iter().map(|part| part.len()).sum(),
    );
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// `certStatus revoked`: `[1] IMPLICIT RevokedInfo`.
fn revoked(at: UnixMillis, reason: Option<RevocationReason>) -> Vec<u8> {
    let at = time(at);
    match reason {
        // As on a CRL (RFC 5280, 5.3.1): the first says nothing, the second is no revocation.
        None | Some(RevocationReason::Unspecified | RevocationReason::RemoveFromCrl) => {
            tlv::wrap(CONTEXT_1, &[&at])
        }
        Some(reason) => tlv::wrap(CONTEXT_1, &[&at, REASON_PREFIX, &[reason.code()]]),
    }
}

/// A GeneralizedTime in whole seconds, 17 octets (RFC 5280, 4.1.2.5.2).
fn time(at: UnixMillis) -> Vec<u8> {
    let seconds = at.min(UnixMillis::END_OF_TIME).seconds();
    // Seconds up to the year 9999 are always a date, so the fallback is never taken.
    let date = der::DateTime::from_unix_duration(Duration::from_secs(seconds))
        .unwrap_or(der::DateTime::INFINITY);
    let [century, year] =
        [date.year() / 100, date.year() % 100].map(|two| u8::try_from(two).unwrap_or_default());
    let mut out = Vec::with_capacity(17);
    tlv::push_header(&mut out, tlv::GENERALIZED_TIME, 15);
    for two in [
        century,
        year,
        date.month(),
        date.day(),
        date.hour(),
        date.minutes(),
        date.seconds(),
    ] {
        out.extend([b'0' + two / 10 % 10, b'0' + two % 10]);
    }
    out.push(b'Z');
    out
}

/// Joins the parts of a successful OCSPResponse: lengths first, from the inside out.
pub fn successful(
    tbs: &[u8],
    algorithm: SignatureAlgorithm,
    signature: &[u8],
    certificates: &[&[u8]],
) -> Vec<u8> {
    let identifier = algorithm.identifier();
    let bits = signature.len() + 1;
    let chain: usize = certificates.iter().map(|der| der.len()).sum();
    let certs = match certificates {
        [] => 0,
        _ => tlv::tlv_len(tlv::tlv_len(chain)),
    };
    let basic = tbs.len() + identifier.len() + tlv::tlv_len(bits) + certs;
    let bytes = tlv::tlv_len(BASIC.len()) + tlv::tlv_len(tlv::tlv_len(basic));
    let response = SUCCESSFUL.len() + tlv::tlv_len(tlv::tlv_len(bytes));
    let mut out = Vec::with_capacity(tlv::tlv_len(response));
    tlv::push_header(&mut out, tlv::SEQUENCE, response);
    out.extend_from_slice(SUCCESSFUL);
    tlv::push_header(&mut out, tlv::CONTEXT_0, tlv::tlv_len(bytes));
    tlv::push_header(&mut out, tlv::SEQUENCE, bytes);
    tlv::push(&mut out, tlv::OBJECT_IDENTIFIER, BASIC);
    tlv::push_header(&mut out, tlv::OCTET_STRING, tlv::tlv_len(basic));
    tlv::push_header(&mut out, tlv::SEQUENCE, basic);
    out.extend_from_slice(tbs);
    out.extend_from_slice(identifier);
    tlv::push_header(&mut out, tlv::BIT_STRING, bits);
    out.push(0); // unused bits
    out.extend_from_slice(signature);
    if !certificates.is_empty() {
        tlv::push_header(&mut out, tlv::CONTEXT_0, tlv::tlv_len(chain));
        tlv::push_header(&mut out, tlv::SEQUENCE, chain);
        certificates
            .iter()
            .for_each(|der| out.extend_from_slice(der));
    }
    debug_assert_eq!(out.len(), tlv::tlv_len(response), "measured as written");
    out
}
