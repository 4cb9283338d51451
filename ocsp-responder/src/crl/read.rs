//! Reading a CRL of ours back, strictly: the mirror of `encode`.
//!
//! Owns the refusal of everything that the encoder does not write. Promises to read each octet once and
//! to hold one [`RevokedEntry`] for each entry. Each failure names its field.

use super::encode::issuing_distribution_point;
use super::{
    AUTHORITY_KEY_IDENTIFIER, CRL_NUMBER, EXPIRED_CERTS_ON_CRL, GENERALIZED_FROM_SECONDS,
    ISSUING_DISTRIBUTION_POINT, LOG_ANCHOR, NotACrl, ParsedCrl, REASON_PREFIX, RevokedEntry, Scope,
    carried,
};
use crate::signature::{SignatureAlgorithm, tlv};
use crate::{SerialNumber, UnixMillis};
use der::asn1::{BitStringRef, GeneralizedTime, OctetStringRef, UtcTime, Utf8StringRef};
use der::{Decode, Header, Reader, SliceReader, Tag, TagNumber};

/// `crlExtensions [0]`.
const CRL_EXTENSIONS: Tag = Tag::ContextSpecific {
    constructed: true,
    number: TagNumber(0),
};
/// `keyIdentifier [0]`.
const KEY_IDENTIFIER: Tag = Tag::ContextSpecific {
    constructed: false,
    number: TagNumber(0),
};

/// What is to become of revokedCertificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entries {
    /// They are read.
    Read,
    /// They are read and counted.
    Count,
    /// They are not looked at.
    PassOver,
    /// There must be none.
    Refuse,
}

/// `distributionPoint [0]`, and `fullName [0]` within it.
const DISTRIBUTION_POINT: Tag = Tag::ContextSpecific {
    constructed: true,
    number: TagNumber(0),
};
/// `uniformResourceIdentifier [6]`.
const URI: Tag = Tag::ContextSpecific {
    constructed: false,
    number: TagNumber(6),
};

/// Reads a CRL.
pub fn crl(der: &[u8], entries: Entries) -> Result<ParsedCrl, NotACrl> {
    let (tbs, identifier) = tlv::whole_sequence(der, |reader| {
        let tbs = tlv::raw(reader, Tag::Sequence)?;
        let identifier = tlv::raw(reader, Tag::Sequence)?;
        let signature = BitStringRef::decode(reader)?;
        match signature.as_bytes() {
            Some(_) => Ok((tbs, identifier)),
            None => Err(Tag::BitString.value_error().into()),
        }
    })
    .map_err(|_| NotACrl("not a DER SEQUENCE of list, algorithm and signature"))?;
    let algorithm =
        SignatureAlgorithm::parse(identifier).map_err(|_| NotACrl("signatureAlgorithm"))?;
    if identifier != algorithm.identifier() {
        return Err(NotACrl("signatureAlgorithm"));
    }
    let mut reader = SliceReader::new(tbs).map_err(|_| NotACrl("tbsCertList"))?;
    let list = contents(&mut reader, Tag::Sequence, "tbsCertList")?;
    tbs_cert_list(list, algorithm, entries)
}

/// Reads a TBSCertList by itself that lists nothing.
pub fn frame(tbs: &[u8]) -> Result<ParsedCrl, NotACrl> {
    let mut reader = SliceReader::new(tbs).map_err(|_| NotACrl("tbsCertList"))?;
    let list = contents(&mut reader, Tag::Sequence, "tbsCertList")?;
    if !reader.is_finished() {
        return Err(NotACrl("octets after the tbsCertList"));
    }
    let mut ahead = list.clone();
    let algorithm = u8::decode(&mut ahead)
        .and_then(|_version| tlv::raw(&mut ahead, Tag::Sequence))
        .ok()
        .and_then(|identifier| SignatureAlgorithm::parse(identifier).ok())
        .ok_or(NotACrl("signature"))?;
    tbs_cert_list(list, algorithm, Entries::Refuse)
}

/// The contents of a TBSCertList that lists nothing: what stands before revokedCertificates, and what stands after it.
pub fn halves(tbs: &[u8]) -> Option<(&[u8], &[u8])> {
    let octets = value(&mut SliceReader::new(tbs).ok()?, Tag::Sequence).ok()?;
    let mut fields = SliceReader::new(octets).ok()?;
    // Version, algorithm, issuer, thisUpdate, nextUpdate.
    for _ in 0..5 {
        fields.tlv_bytes().ok()?;
    }
    let after = usize::try_from(fields.remaining_len()).ok()?;
    octets.split_at_checked(octets.len().checked_sub(after)?)
}

/// Reads the contents of the TBSCertList.
fn tbs_cert_list(
    mut list: SliceReader<'_>,
    algorithm: SignatureAlgorithm,
    entries: Entries,
) -> Result<ParsedCrl, NotACrl> {
    if u8::decode(&mut list) != Ok(1) {
        return Err(NotACrl("version"));
    }
    if tlv::raw(&mut list, Tag::Sequence) != Ok(algorithm.identifier()) {
        return Err(NotACrl("signature: not the algorithm that stands outside"));
    }
    let issuer = tlv::raw(&mut list, Tag::Sequence)
        .map_err(|_| NotACrl("issuer"))?
        .to_vec();
    let this_update = time(&mut list, "thisUpdate")?;
    let next_update = time(&mut list, "nextUpdate")?;
    let mut revoked = Vec::new();
    let listed = match (Tag::peek(&list), entries) {
        (Ok(Tag::Sequence), Entries::Read) => {
            let listed = each_revoked(&mut list, |entry| revoked.push(entry))?;
            refuse_twice(&revoked)?;
            listed
        }
        (Ok(Tag::Sequence), Entries::Count) => each_revoked(&mut list, |_| {})?,
        (Ok(Tag::Sequence), Entries::PassOver) => {
            value(&mut list, Tag::Sequence).map_err(|_| NotACrl("revokedCertificates"))?;
            0
        }
        (Ok(Tag::Sequence), Entries::Refuse) => {
            return Err(NotACrl("revokedCertificates: not absent"));
        }
        _ => 0,
    };
    let mut tagged = contents(&mut list, CRL_EXTENSIONS, "crlExtensions")?;
    let mut extensions = contents(&mut tagged, Tag::Sequence, "crlExtensions")?;
    if !tagged.is_finished() || !list.is_finished() {
        return Err(NotACrl("octets after the crlExtensions"));
    }
    let authority_key_id = authority_key_id(&mut extensions)?;
    let number = crl_number(&mut extensions)?;
    let scope = scope(&mut extensions)?;
    let expired_since = expired_since(&mut extensions)?;
    let anchor = log_anchor(&mut extensions)?;
    if !extensions.is_finished() {
        return Err(NotACrl(
            "crlExtensions: one that is not known here, or not in its place",
        ));
    }
    Ok(ParsedCrl {
        issuer,
        authority_key_id,
        algorithm,
        scope,
        number,
        this_update,
        next_update,
        expired_since,
        revoked,
        listed,
        anchor,
    })
}

/// The contents of the next value, which must have this tag.
fn contents<'a>(
    reader: &mut SliceReader<'a>,
    tag: Tag,
    field: &'static str,
) -> Result<SliceReader<'a>, NotACrl> {
    let octets = value(reader, tag).map_err(|_| NotACrl(field))?;
    SliceReader::new(octets).map_err(|_| NotACrl(field))
}

/// The octets of the next value, which must have this tag.
fn value<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    let header = Header::decode(reader)?;
    header.tag().assert_eq(tag)?;
    reader.read_slice(header.length())
}

/// Reads a Time in the form that its year asks for.
fn time(reader: &mut SliceReader<'_>, field: &'static str) -> Result<UnixMillis, NotACrl> {
    let refused = |_| NotACrl(field);
    let seconds = match Tag::peek(reader).map_err(refused)? {
        Tag::UtcTime => UtcTime::decode(reader)
            .map_err(refused)?
            .to_unix_duration()
            .as_secs(),
        _ => {
            let time = GeneralizedTime::decode(reader).map_err(refused)?;
            let seconds = time.to_unix_duration().as_secs();
            if seconds < GENERALIZED_FROM_SECONDS {
                return Err(NotACrl(field));
            }
            seconds
        }
    };
    Ok(UnixMillis::from_seconds(seconds))
}

/// Reads revokedCertificates, at least one entry, and counts them.
fn each_revoked(
    list: &mut SliceReader<'_>,
    mut take: impl FnMut(RevokedEntry),
) -> Result<usize, NotACrl> {
    let mut entries = contents(list, Tag::Sequence, "revokedCertificates")?;
    if entries.is_finished() {
        return Err(NotACrl("revokedCertificates: empty instead of absent"));
    }
    let mut count = 0;
    while !entries.is_finished() {
        take(entry(&mut entries)?);
        count += 1;
    }
    Ok(count)
}

/// Refuses a serial that is listed twice.
fn refuse_twice(revoked: &[RevokedEntry]) -> Result<(), NotACrl> {
    let mut serials: Vec<SerialNumber> = revoked.iter().map(|entry| entry.serial).collect();
    serials.sort_unstable();
    let twice = |pair: &[SerialNumber]| matches!(pair, [one, other] if one == other);
    if serials.windows(2).any(twice) {
        return Err(NotACrl("revokedCertificates: a serial listed twice"));
    }
    Ok(())
}

/// Reads one entry.
fn entry(entries: &mut SliceReader<'_>) -> Result<RevokedEntry, NotACrl> {
    let mut reader = contents(entries, Tag::Sequence, "revokedCertificates: an entry")?;
    let serial = value(&mut reader, Tag::Integer)
        .ok()
        .and_then(|octets| SerialNumber::from_slice(octets).ok())
        .ok_or(NotACrl("revokedCertificates: userCertificate"))?;
    let revoked_at = time(&mut reader, "revokedCertificates: revocationDate")?;
    let rest = reader.remaining_len();
    let rest = reader.read_slice(rest).unwrap_or_default();
    let reason = match (rest, rest.strip_prefix(REASON_PREFIX)) {
        ([], _) => None,
        (_, Some(&[reason])) if carried(reason) => Some(reason),
        _ => return Err(NotACrl("revokedCertificates: crlEntryExtensions")),
    };
    Ok(RevokedEntry {
        serial,
        revoked_at,
        reason,
    })
}

/// The value of the next extension if it has this OID and criticality; otherwise nothing is consumed.
fn extension<'a>(reader: &mut SliceReader<'a>, oid_and_criticality: &[u8]) -> Option<&'a [u8]> {
    let mut ahead = reader.clone();
    let octets = value(&mut ahead, Tag::Sequence)
        .ok()?
        .strip_prefix(oid_and_criticality)?;
    let value = <&OctetStringRef>::from_der(octets).ok()?.as_bytes();
    *reader = ahead;
    Some(value)
}

/// Reads the authorityKeyIdentifier: the key identifier alone.
fn authority_key_id(extensions: &mut SliceReader<'_>) -> Result<Vec<u8>, NotACrl> {
    let refused = NotACrl("authorityKeyIdentifier");
    let Some(octets) = extension(extensions, AUTHORITY_KEY_IDENTIFIER) else {
        return Err(refused);
    };
    tlv::whole_sequence(octets, |reader| {
        value(reader, KEY_IDENTIFIER).map(<[u8]>::to_vec)
    })
    .map_err(|_| refused)
}

/// Reads the cRLNumber.
fn crl_number(extensions: &mut SliceReader<'_>) -> Result<u64, NotACrl> {
    extension(extensions, CRL_NUMBER)
        .and_then(|octets| u64::from_der(octets).ok())
        .ok_or(NotACrl("cRLNumber"))
}

/// Reads the issuingDistributionPoint, which may be absent.
fn scope(extensions: &mut SliceReader<'_>) -> Result<Scope, NotACrl> {
    let Some(octets) = extension(extensions, ISSUING_DISTRIBUTION_POINT) else {
        return Ok(Scope::Everything);
    };
    let scope = match partition_url(octets) {
        Some(url) => Scope::Partition(url),
        None => Scope::UserCertificates,
    };
    // Written anew it must be the same: so nothing else is in it.
    match issuing_distribution_point(&scope) {
        Some(written) if written == octets => Ok(scope),
        _ => Err(NotACrl("issuingDistributionPoint")),
    }
}

/// The one URL of a distribution point, if that is what an issuingDistributionPoint begins with.
fn partition_url(octets: &[u8]) -> Option<String> {
    let mut whole = SliceReader::new(octets).ok()?;
    let mut nested = value(&mut whole, Tag::Sequence).ok()?;
    for _ in ["distributionPoint", "fullName"] {
        nested = value(&mut SliceReader::new(nested).ok()?, DISTRIBUTION_POINT).ok()?;
    }
    let url = value(&mut SliceReader::new(nested).ok()?, URI).ok()?;
    let url = std::str::from_utf8(url).ok()?;
    let printable = !url.is_empty() && url.bytes().all(|octet| octet.is_ascii_graphic());
    printable.then(|| url.to_owned())
}

/// Reads expiredCertsOnCRL, which may be absent: a GeneralizedTime whatever the year.
fn expired_since(extensions: &mut SliceReader<'_>) -> Result<Option<UnixMillis>, NotACrl> {
    let Some(octets) = extension(extensions, EXPIRED_CERTS_ON_CRL) else {
        return Ok(None);
    };
    let time = GeneralizedTime::from_der(octets).map_err(|_| NotACrl("expiredCertsOnCRL"))?;
    Ok(Some(UnixMillis::from_seconds(
        time.to_unix_duration().as_secs(),
    )))
}

/// Reads the log anchor, which may be absent: origin, verifier key, checkpoint.
fn log_anchor(
    extensions: &mut SliceReader<'_>,
) -> Result<Option<(String, String, String)>, NotACrl> {
    let Some(octets) = extension(extensions, LOG_ANCHOR) else {
        return Ok(None);
    };
    let text = |reader: &mut SliceReader<'_>| {
        Utf8StringRef::decode(reader).map(|text| text.as_str().to_owned())
    };
    tlv::whole_sequence(octets, |reader| {
        Ok((text(reader)?, text(reader)?, text(reader)?))
    })
    .map(Some)
    .map_err(|_| NotACrl("log anchor"))
}
