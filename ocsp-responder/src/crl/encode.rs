//! Writing a TBSCertList: the entries first, as they come, then what stands around them.
//!
//! Owns the encoding's order and sizes. Promises that the vector is allocated once where the number of entries
//! was told, so a million entries take their 35 to 49 MB and no more. Cannot fail.

use super::{
    AUTHORITY_KEY_IDENTIFIER, CRL_NUMBER, CrlFields, DISTRIBUTION_POINT, EXPIRED_CERTS_ON_CRL,
    GENERALIZED_FROM_SECONDS, ISSUING_DISTRIBUTION_POINT, LOG_ANCHOR, LogAnchor,
    ONLY_USER_CERTIFICATES, REASON_PREFIX, RevokedEntry, Scope, TbsCrlBuilder, URI, carried,
};
use crate::UnixMillis;
use crate::signature::tlv;
use std::time::Duration;

/// Version v2.
const VERSION: &[u8] = &[tlv::INTEGER, 1, 1];

/// Octets kept free before the entries: everything that stands there, for Names of up to about 900 octets. Longer
/// ones cost moving the entries.
const ROOM_BEFORE: usize = 1024;

/// Octets for what stands after the entries: the extensions, of which the log anchor is the largest.
const ROOM_AFTER: usize = 4096;

/// The octets of an entry with a reason code and a UTCTime.
const ENTRY_LEN: usize = 49;

/// A list without entries, with room for so many.
pub fn begin(entries: usize) -> TbsCrlBuilder {
    let room = ROOM_BEFORE + entries.saturating_mul(ENTRY_LEN) + ROOM_AFTER;
    let mut out = Vec::with_capacity(room);
    out.resize(ROOM_BEFORE, 0);
    TbsCrlBuilder { out, entries: 0 }
}

/// A TBSCertList without revokedCertificates.
pub fn frame(fields: &CrlFields<'_>) -> Vec<u8> {
    let mut before = Vec::with_capacity(ROOM_BEFORE);
    before.extend_from_slice(VERSION);
    before.extend_from_slice(fields.algorithm.identifier());
    before.extend_from_slice(fields.issuer);
    push_time(&mut before, fields.this_update);
    push_time(&mut before, fields.next_update);
    tlv::wrap(tlv::SEQUENCE, &[&before, &crl_extensions(fields)])
}

/// Puts a TBSCertList without revokedCertificates, in its two halves, around the entries.
pub fn surround(builder: TbsCrlBuilder, (before, after): (&[u8], &[u8])) -> Vec<u8> {
    let TbsCrlBuilder { mut out, entries } = builder;
    let list = out.len() - ROOM_BEFORE;
    let mut list_header = Vec::new();
    if entries > 0 {
        tlv::push_header(&mut list_header, tlv::SEQUENCE, list);
    }
    let contents = before.len() + list_header.len() + list + after.len();
    let mut front = Vec::with_capacity(ROOM_BEFORE);
    tlv::push_header(&mut front, tlv::SEQUENCE, contents);
    front.extend_from_slice(before);
    front.append(&mut list_header);
    out.extend_from_slice(after);
    out.splice(..ROOM_BEFORE, front);
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
pub fn push_entry(out: &mut Vec<u8>, entry: &RevokedEntry) {
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
    let utc_time = at.seconds() < GENERALIZED_FROM_SECONDS;
    push_date(out, at, utc_time);
}

/// Appends a UTCTime or a GeneralizedTime.
fn push_date(out: &mut Vec<u8>, at: UnixMillis, utc_time: bool) {
    let seconds = at.min(UnixMillis::END_OF_TIME).seconds();
    // Seconds up to the year 9999 are always a date, so the fallback is never taken.
    let date = der::DateTime::from_unix_duration(Duration::from_secs(seconds))
        .unwrap_or(der::DateTime::INFINITY);
    let (century, year) = (date.year() / 100, date.year() % 100);
    if utc_time {
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
    let scope = issuing_distribution_point(&fields.scope)
        .map(|point| extension(ISSUING_DISTRIBUTION_POINT, &point))
        .unwrap_or_default();
    let expired = fields.expired_since.map(|since| {
        let mut time = Vec::new();
        // X.509, 9.5.2.8: a GeneralizedTime whatever the year.
        push_date(&mut time, since, false);
        extension(EXPIRED_CERTS_ON_CRL, &time)
    });
    let expired = expired.unwrap_or_default();
    let anchor = extension(LOG_ANCHOR, &log_anchor(&fields.anchor));
    let all = tlv::wrap(tlv::SEQUENCE, &[&key, &number, &scope, &expired, &anchor]);
    tlv::wrap(tlv::CONTEXT_0, &[&all])
}

/// The issuingDistributionPoint of a scope (RFC 5280, 5.2.5), if it has one.
pub fn issuing_distribution_point(scope: &Scope) -> Option<Vec<u8>> {
    match scope {
        Scope::Everything => None,
        Scope::UserCertificates => Some(tlv::wrap(tlv::SEQUENCE, &[ONLY_USER_CERTIFICATES])),
        Scope::Partition(url) => {
            let url = tlv::wrap(URI, &[url.as_bytes()]);
            let full_name = tlv::wrap(DISTRIBUTION_POINT, &[&url]);
            let point = tlv::wrap(DISTRIBUTION_POINT, &[&full_name]);
            Some(tlv::wrap(tlv::SEQUENCE, &[&point, ONLY_USER_CERTIFICATES]))
        }
    }
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
