//! Writing a TBSCertList: lengths first, then every octet once.
//!
//! Owns the encoding's order and sizes. Promises that the vector is allocated once, at its final size,
//! so a million entries take their 35 to 49 MB and no more. Cannot fail.

use super::{
    AUTHORITY_KEY_IDENTIFIER, CRL_NUMBER, CrlFields, GENERALIZED_FROM_SECONDS,
    ISSUING_DISTRIBUTION_POINT, LOG_ANCHOR, LogAnchor, ONLY_USER_CERTIFICATES, REASON_PREFIX,
    RevokedEntry, Scope, carried,
};
use crate::UnixMillis;
use crate::signature::tlv;
use std::time::Duration;

/// Version v2.
const VERSION: &[u8] = &[tlv::INTEGER, 1, 1];

/// Encodes the whole TBSCertList.
pub fn tbs_cert_list(fields: &CrlFields<'_>, revoked: &[RevokedEntry]) -> Vec<u8> {
    let extensions = crl_extensions(fields);
    let algorithm = fields.algorithm.identifier();
    let entries: usize = revoked
        .iter()
        .map(|entry| tlv::tlv_len(entry_len(entry)))
        .sum();
    let list = if revoked.is_empty() {
        0
    } else {
        tlv::tlv_len(entries)
    };
    let contents = VERSION.len()
        + algorithm.len()
        + fields.issuer.len()
        + time_len(fields.this_update)
        + time_len(fields.next_update)
        + list
        + extensions.len();
    let mut out = Vec::with_capacity(tlv::tlv_len(contents));
    tlv::push_header(&mut out, tlv::SEQUENCE, contents);
    out.extend_from_slice(VERSION);
    out.extend_from_slice(algorithm);
    out.extend_from_slice(fields.issuer);
    push_time(&mut out, fields.this_update);
    push_time(&mut out, fields.next_update);
    if !revoked.is_empty() {
        tlv::push_header(&mut out, tlv::SEQUENCE, entries);
        for entry in revoked {
            push_entry(&mut out, entry);
        }
    }
    out.extend_from_slice(&extensions);
    debug_assert_eq!(out.len(), tlv::tlv_len(contents), "measured as written");
    out
}

/// The contents length of an entry's SEQUENCE.
fn entry_len(entry: &RevokedEntry) -> usize {
    let serial = tlv::tlv_len(entry.serial.as_bytes().len());
    let reason = if carried_reason(entry).is_some() {
        REASON_PREFIX.len() + 1
    } else {
        0
    };
    serial + time_len(entry.revoked_at) + reason
}

/// The reason code to write, if any.
fn carried_reason(entry: &RevokedEntry) -> Option<u8> {
    // A code that a full CRL may not carry is left out and the serial stays listed: the revocation
    // counts more than its reason.
    entry.reason.filter(|&reason| carried(reason))
}

/// Appends one entry of revokedCertificates.
fn push_entry(out: &mut Vec<u8>, entry: &RevokedEntry) {
    tlv::push_header(out, tlv::SEQUENCE, entry_len(entry));
    tlv::push(out, tlv::INTEGER, entry.serial.as_bytes());
    push_time(out, entry.revoked_at);
    if let Some(reason) = carried_reason(entry) {
        out.extend_from_slice(REASON_PREFIX);
        out.push(reason);
    }
}

/// The octets of a whole Time.
const fn time_len(at: UnixMillis) -> usize {
    if at.seconds() < GENERALIZED_FROM_SECONDS {
        15
    } else {
        17
    }
}

/// Appends a Time: UTCTime until 2049, GeneralizedTime after (RFC 5280, 5.1.2.4).
fn push_time(out: &mut Vec<u8>, at: UnixMillis) {
    let seconds = at.min(UnixMillis::END_OF_TIME).seconds();
    // Seconds up to the year 9999 are always a date, so the fallback is never taken.
    let date = der::DateTime::from_unix_duration(Duration::from_secs(seconds))
        .unwrap_or(der::DateTime::INFINITY);
    let (century, year) = (date.year() / 100, date.year() % 100);
    if seconds < GENERALIZED_FROM_SECONDS {
        tlv::push_header(out, tlv::UTC_TIME, 13);
    } else {
        tlv::push_header(out, tlv::GENERALIZED_TIME, 15);
        push_two_digits(out, century);
    }
    push_two_digits(out, year);
    for part in [
        date.month(),
        date.day(),
        date.hour(),
        date.minutes(),
        date.seconds(),
    ] {
        push_two_digits(out, u16::from(part));
    }
    out.push(b'Z');
}

/// Appends a number below 100 as two decimal digits.
fn push_two_digits(out: &mut Vec<u8>, number: u16) {
    for digit in [number / 10 % 10, number % 10] {
        out.push(b'0' + digit.to_le_bytes()[0]);
    }
}

/// The field `crlExtensions [0]`, whole.
fn crl_extensions(fields: &CrlFields<'_>) -> Vec<u8> {
    let key = tlv::wrap(0x80, &[fields.authority_key_id]);
    let key = extension(AUTHORITY_KEY_IDENTIFIER, &tlv::wrap(tlv::SEQUENCE, &[&key]));
    let number = extension(CRL_NUMBER, &unsigned(fields.number));
    let scope = match fields.scope {
        Scope::Everything => Vec::new(),
        Scope::UserCertificates => extension(ISSUING_DISTRIBUTION_POINT, ONLY_USER_CERTIFICATES),
    };
    let anchor = extension(LOG_ANCHOR, &log_anchor(&fields.anchor));
    let all = tlv::wrap(tlv::SEQUENCE, &[&key, &number, &scope, &anchor]);
    tlv::wrap(tlv::CONTEXT_0, &[&all])
}

/// One Extension: OID and criticality as given, the value in an OCTET STRING.
fn extension(oid_and_criticality: &[u8], value: &[u8]) -> Vec<u8> {
    let value = tlv::wrap(tlv::OCTET_STRING, &[value]);
    tlv::wrap(tlv::SEQUENCE, &[oid_and_criticality, &value])
}

/// A LogAnchor.
fn log_anchor(anchor: &LogAnchor<'_>) -> Vec<u8> {
    let [origin, key, checkpoint] = [anchor.origin, anchor.log_key, anchor.checkpoint]
        .map(|text| tlv::wrap(tlv::UTF8_STRING, &[text.as_bytes()]));
    tlv::wrap(tlv::SEQUENCE, &[&origin, &key, &checkpoint])
}

/// An INTEGER that is not negative, in its shortest form.
fn unsigned(number: u64) -> Vec<u8> {
    let octets = number.to_be_bytes();
    let zeros = octets
        .iter()
        .take(7)
        .take_while(|octet| **octet == 0)
        .count();
    let digits = octets.get(zeros..).unwrap_or_default();
    // A topmost bit of 1 would read as negative.
    let sign: &[u8] = if digits.first().is_some_and(|first| *first >= 0x80) {
        &[0]
    } else {
        &[]
    };
    tlv::wrap(tlv::INTEGER, &[sign, digits])
}
