//! OCSP requests, the paths of GET, and responses.

use base64ct::{Base64, Encoding as _};
use certstatus::ocsp::{
    BasicResponse, CERT_IDS_MAX, GET_PATH_BYTES_MAX, IssuerHashes, NONCE_OCTETS_MAX, Nonce,
    ParsedResponse, REQUEST_BYTES_MAX, ResponderId, SERIAL_OCTETS_MAX, SingleResponse,
    decode_get_path, parse_request, read_response, request, response_data, successful,
};
use certstatus::signature::split;
use certstatus::{CertStatus, UnixMillis};

use super::signatures::after_header;

/// A request: what is read lies in it as it was sent, and an answer repeats it.
pub fn ocsp_request(bytes: &[u8]) {
    let Ok(read) = parse_request(bytes) else {
        return;
    };
    assert!(bytes.len() <= REQUEST_BYTES_MAX);
    assert!((1..=CERT_IDS_MAX).contains(&read.cert_ids.len()));
    for id in &read.cert_ids {
        assert!(id.der.ends_with(id.serial));
        assert!((1..=SERIAL_OCTETS_MAX).contains(&id.serial.len()));
        if let Some(serial) = id.serial_number() {
            assert_eq!(serial.as_bytes(), id.serial);
        }
    }
    // Written without anything else, it asks the same.
    let ids: Vec<&[u8]> = read.cert_ids.iter().map(|id| id.der).collect();
    let octets = read.nonce.map(Nonce::octets);
    assert!(octets.is_none_or(|nonce| (1..=NONCE_OCTETS_MAX).contains(&nonce.len())));
    let again = request(&ids, octets);
    let again = parse_request(&again).expect("no longer than it was");
    assert_eq!(again.cert_ids, read.cert_ids);
    assert_eq!(again.nonce.map(Nonce::octets), octets);
    let at = UnixMillis::from_seconds(1_700_000_000);
    let said = |cert_id| SingleResponse {
        cert_id,
        status: CertStatus::Unknown,
        this_update: at,
        next_update: at,
    };
    let singles: Vec<_> = ids.into_iter().map(said).collect();
    let tbs = response_data(&ResponderId::ByKey([0; 20]), at, &singles, read.nonce);
    let algorithm = certstatus::signature::SignatureAlgorithm::Ed25519;
    let answer = successful(&tbs, algorithm, &[], &[]);
    let Ok(ParsedResponse::Basic(answer)) = read_response(&answer) else {
        panic!("an answer to it is not read");
    };
    assert_eq!(answer.nonce, read.nonce);
    let ids: Vec<_> = answer.singles.iter().map(|single| single.cert_id).collect();
    assert_eq!(ids, read.cert_ids);
}

/// The path of a GET: whatever it says, plain base64 says too; and what it says is a request or none.
pub fn ocsp_get_path(bytes: &[u8]) {
    let Ok(path) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(der) = decode_get_path(path) else {
        return;
    };
    assert!(path.len() <= GET_PATH_BYTES_MAX && der.len() <= path.len());
    let plain = Base64::encode_string(&der);
    // A slash before the text says nothing, so octets that begin with one have no plain text.
    if plain.len() <= GET_PATH_BYTES_MAX && !plain.starts_with('/') {
        assert_eq!(decode_get_path(&plain), Ok(der.clone()));
    }
    ocsp_request(&der);
}

/// A response: what is read is all that it says, so written again it is the same.
pub fn ocsp_response(bytes: &[u8]) {
    // The issuer's certificate comes along in most of them.
    let _ = IssuerHashes::of_certificate(bytes);
    let basic = match read_response(bytes) {
        Err(_) => return,
        Ok(ParsedResponse::Error(status)) => return assert_eq!(status.der(), bytes),
        Ok(ParsedResponse::Basic(basic)) => basic,
    };
    for certificate in &basic.certificates {
        let _ = (
            IssuerHashes::of_certificate(certificate),
            ResponderId::by_name(certificate),
        );
    }
    let Some(tbs) = written_again(&basic) else {
        return;
    };
    // A single response may hold what is not written here: other extensions, reasons that say nothing.
    if tbs.len() != basic.tbs.len() {
        assert!(tbs.len() < basic.tbs.len());
        return;
    }
    assert_eq!(tbs, basic.tbs);
    let whole = successful(&tbs, basic.algorithm, basic.signature, &basic.certificates);
    // An identifier in one of its other permitted forms makes a difference, and an empty list of
    // certificates.
    if whole.len() == bytes.len() {
        assert_eq!(whole, bytes);
    }
    let signed = certstatus::signature::assemble(basic.tbs, basic.algorithm, basic.signature);
    assert_eq!(
        split(&signed),
        Ok((basic.tbs, basic.algorithm, basic.signature))
    );
    assert!(after_header(&signed).starts_with(basic.tbs));
}

/// The ResponseData again; none where a nextUpdate is missing, which is never written.
fn written_again(basic: &BasicResponse<'_>) -> Option<Vec<u8>> {
    let singles: Option<Vec<_>> = basic
        .singles
        .iter()
        .map(|single| {
            Some(SingleResponse {
                cert_id: single.cert_id.der,
                status: single.status,
                this_update: single.this_update,
                next_update: single.next_update?,
            })
        })
        .collect();
    let (responder, nonce) = (&basic.responder, basic.nonce);
    Some(response_data(
        responder,
        basic.produced_at,
        &singles?,
        nonce,
    ))
}
