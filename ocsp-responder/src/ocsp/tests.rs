//! Messages put together by hand, and any octets.

mod paths;
mod requests;
mod responses;

use super::*;
use crate::RevocationReason;
use crate::signature::tlv;
use base64ct::{Base64, Base64Unpadded, Base64Url, Base64UrlUnpadded, Encoding};
use paths::escaped;
use proptest::prelude::*;

/// A SEQUENCE.
fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv::wrap(tlv::SEQUENCE, parts)
}

/// An explicit tag.
fn tagged(number: u8, parts: &[&[u8]]) -> Vec<u8> {
    tlv::wrap(tlv::CONTEXT_0 + number, parts)
}

/// An OCTET STRING.
fn octets(contents: &[u8]) -> Vec<u8> {
    tlv::wrap(tlv::OCTET_STRING, &[contents])
}

/// The AlgorithmIdentifier of SHA-1 with parameters NULL.
const SHA1_NULL: &[u8] = &[0x30, 9, 6, 5, 0x2b, 0x0e, 3, 2, 0x1a, 5, 0];

/// A CertID with this AlgorithmIdentifier and these octets of a serial.
fn cert_id(algorithm: &[u8], serial: &[u8]) -> Vec<u8> {
    let serial = tlv::wrap(tlv::INTEGER, &[serial]);
    sequence(&[algorithm, &octets(&[1; 20]), &octets(&[2; 20]), &serial])
}

/// A CertID of SHA-1 with a serial of our form.
fn an_id() -> Vec<u8> {
    cert_id(SHA1_NULL, &[0x5a; 16])
}

/// An Extension: contents of the OID, what stands for the criticality, the extnValue.
fn extension(oid: &[u8], criticality: &[u8], value: &[u8]) -> Vec<u8> {
    let oid = tlv::wrap(tlv::OBJECT_IDENTIFIER, &[oid]);
    sequence(&[&oid, criticality, &octets(value)])
}

/// `critical TRUE`.
const CRITICAL: &[u8] = &[1, 1, 0xff];
/// An OID that nobody knows, contents.
const NOVEL: &[u8] = &[0x2a, 3, 4];

/// The parts of an OCSPRequest, to be put together with one of them changed.
struct Parts {
    version: Vec<u8>,
    requestor: Vec<u8>,
    list: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    signature: Vec<u8>,
}

impl Parts {
    /// A request for one certificate, with these changes.
    fn with(change: impl FnOnce(&mut Self)) -> Vec<u8> {
        let mut parts = Self {
            version: Vec::new(),
            requestor: Vec::new(),
            list: sequence(&[&sequence(&[&an_id()])]),
            extensions: Vec::new(),
            signature: Vec::new(),
        };
        change(&mut parts);
        let extensions: Vec<&[u8]> = parts.extensions.iter().map(Vec::as_slice).collect();
        let extensions = match extensions[..] {
            [] => Vec::new(),
            _ => tagged(2, &[&sequence(&extensions)]),
        };
        let tbs = [&parts.version, &parts.requestor, &parts.list, &extensions];
        let tbs = sequence(&tbs.map(Vec::as_slice));
        sequence(&[&tbs, &parts.signature])
    }

    /// One with these extensions.
    fn extended(extensions: &[Vec<u8>]) -> Vec<u8> {
        Self::with(|parts| parts.extensions = extensions.to_vec())
    }

    /// One with this extnValue as its nonce.
    fn nonce(value: &[u8]) -> Vec<u8> {
        Self::extended(&[extension(NONCE, &[], value)])
    }

    /// One for so many certificates.
    fn many(count: usize) -> Vec<u8> {
        let request = sequence(&[&an_id()]);
        Self::with(|parts| parts.list = sequence(&vec![&request[..]; count]))
    }
}

/// A responder by key.
const KEY: ResponderId = ResponderId::ByKey([0xab; 20]);
/// 2023-11-14T22:13:20Z and a bit.
const AT: UnixMillis = UnixMillis(1_700_000_000_999);
/// A CertID for responses.
static ID: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(an_id);

/// A single response about [`ID`].
fn single(status: CertStatus) -> SingleResponse<'static> {
    SingleResponse {
        cert_id: &ID,
        status,
        this_update: AT,
        next_update: UnixMillis(AT.0 + 600_000),
    }
}

//------ Any octets ------------------------------------------------------------------

prop_compose! {
    /// A status that is written as it is.
    fn any_status()(
        kind in 0..3_u8,
        seconds in 0..=253_402_300_799_u64,
        reason in proptest::option::of(
            proptest::sample::select(vec![1, 2, 3, 4, 5, 6, 9, 10])),
    ) -> CertStatus {
        match kind {
            0 => CertStatus::Good,
            1 => CertStatus::Unknown,
            _ => CertStatus::Revoked {
                at: UnixMillis::from_seconds(seconds),
                reason: reason.and_then(RevocationReason::from_code),
            },
        }
    }
}

proptest! {
    #[test]
    fn any_request_that_is_written_is_read(
        serials in proptest::collection::vec(
            proptest::collection::vec(any::<u8>(), 1..=SERIAL_OCTETS_MAX), 1..=CERT_IDS_MAX),
        nonce in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..=NONCE_OCTETS_MAX)),
    ) {
        let ids: Vec<_> = serials.iter().map(|serial| cert_id(SHA1_NULL, serial)).collect();
        let slices: Vec<&[u8]> = ids.iter().map(Vec::as_slice).collect();
        let der = request(&slices, nonce.as_deref());
        let read = parse_request(&der).unwrap();
        prop_assert_eq!(read.nonce.map(Nonce::octets), nonce.as_deref());
        prop_assert_eq!(read.cert_ids.len(), serials.len());
        for (id, serial) in read.cert_ids.iter().zip(&serials) {
            prop_assert_eq!(id.serial, serial);
        }
        prop_assert_eq!(read.cert_ids.iter().map(|id| id.der).collect::<Vec<_>>(), slices);
    }

    #[test]
    fn any_octets_come_through_a_path(der in proptest::collection::vec(any::<u8>(), 0..200)) {
        // A path may begin with slashes that are not meant; a request never does.
        let der = [&[0x30][..], &der].concat();
        for text in [
            Base64::encode_string(&der),
            Base64Unpadded::encode_string(&der),
            Base64Url::encode_string(&der),
            escaped(&Base64::encode_string(&der)),
            escaped(&escaped(&Base64::encode_string(&der))),
        ] {
            prop_assert_eq!(decode_get_path(&text), Ok(der.clone()));
        }
    }

    #[test]
    fn any_response_that_is_written_is_read(
        statuses in proptest::collection::vec(any_status(), 1..CERT_IDS_MAX),
        nonce in proptest::option::of(proptest::collection::vec(any::<u8>(), 1..100)),
        key in any::<[u8; 20]>(),
    ) {
        let singles: Vec<_> = statuses.iter().map(|&status| single(status)).collect();
        let nonce = nonce.as_deref().and_then(|octets| Nonce::new(octets).ok());
        let tbs = response_data(&ResponderId::ByKey(key), AT, &singles, nonce);
        let response = successful(&tbs, SignatureAlgorithm::EcdsaSha256, &[7; 70], &[]);
        let Ok(ParsedResponse::Basic(basic)) = read_response(&response) else {
            return Err(TestCaseError::fail("not read"));
        };
        prop_assert_eq!(basic.nonce, nonce);
        prop_assert_eq!(basic.responder, ResponderId::ByKey(key));
        let read: Vec<_> = basic.singles.iter().map(|single| single.status).collect();
        prop_assert_eq!(read, statuses);
    }

    #[test]
    fn random_octets_never_panic(
        octets in proptest::collection::vec(any::<u8>(), 0..300),
        path in ".{0,60}",
        at in any::<proptest::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let _ = (parse_request(&octets), read_response(&octets), decode_get_path(&path));
        let _ = IssuerHashes::of_certificate(&octets);
        let mut der = Parts::nonce(&[9; 20]);
        let len = der.len();
        der[at.index(len)] = octet;
        let _ = (parse_request(&der), parse_request(&der[..at.index(len)]));
    }
}
