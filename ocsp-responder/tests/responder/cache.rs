//! Kept answers: used while they are right, gone the moment they are not, and bounded.

use base64ct::{Base64, Encoding as _};
use certstatus::CertStatus;
use certstatus::ocsp::{HashAlgorithm, IssuerHashes, ParsedResponse, read_response, request};

use super::site::{EC, Running, Site, get, issuer, send, serial, until};

/// A site with certificates 0 to `count`, and its responder.
fn running(count: u64, ocsp: &str) -> (Site, Running, IssuerHashes) {
    let mut site = Site::new("log.example/cache", &[("device-1", EC)]);
    for n in 0..count {
        site.issue("device-1", n);
    }
    site.publish();
    let config = site.config("", ocsp, "");
    site.approve(&config, "device-1");
    let running = Running::start(&config);
    running.ready();
    let der = std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
    (site, running, IssuerHashes::of_certificate(&der).unwrap())
}

/// The request for a serial.
fn asked(hashes: &IssuerHashes, hash: HashAlgorithm, n: u64) -> Vec<u8> {
    request(&[&hashes.cert_id(hash, serial(n).as_bytes())], None)
}

/// The path of a request.
fn path(request: &[u8]) -> String {
    format!("/ocsp/{}", Base64::encode_string(request))
}

/// The status in an answer.
fn status(body: &[u8]) -> CertStatus {
    match read_response(body) {
        Ok(ParsedResponse::Basic(basic)) => basic.singles[0].status,
        other => panic!("not a signed answer: {other:?}"),
    }
}

#[test]
fn a_revocation_drops_every_form_of_the_answer() {
    let (mut site, running, hashes) = running(3, "");
    let ways: Vec<(String, Vec<u8>)> = HashAlgorithm::ALL
        .into_iter()
        .flat_map(|hash| {
            let der = asked(&hashes, hash, 1);
            let plain = path(&der);
            let escaped = plain.replace('=', "%3D").replace('+', "%2b");
            [(plain, der.clone()), (escaped, der)]
        })
        .collect();
    let by_get = |way: &(String, Vec<u8>)| get(running.address, &way.0).body;
    let by_post = |way: &(String, Vec<u8>)| send(running.address, "POST", "/ocsp", "", &way.1).body;
    let before: Vec<Vec<u8>> = ways.iter().map(by_get).collect();
    for (way, before) in ways.iter().zip(&before) {
        assert_eq!(status(before), CertStatus::Good);
        assert_eq!(
            by_get(way),
            *before,
            "the same octets again: ECDSA signs no two alike"
        );
        assert_eq!(by_post(way), *before, "the same answer by POST");
    }
    assert!(running.metric("hallmark_ocsp_cache_hits_total").unwrap() >= 16.0);
    site.revoke("device-1", 1);
    site.publish();
    until("revoked", || {
        matches!(status(&by_get(&ways[0])), CertStatus::Revoked { .. })
    });
    for way in &ways {
        for answer in [by_get(way), by_post(way)] {
            assert!(
                matches!(status(&answer), CertStatus::Revoked { .. }),
                "{}",
                way.0
            );
        }
    }
    let neighbour = path(&asked(&hashes, HashAlgorithm::Sha1, 2));
    assert_eq!(
        status(&get(running.address, &neighbour).body),
        CertStatus::Good
    );
}

#[test]
fn a_release_from_hold_drops_the_answer_too() {
    let (mut site, running, hashes) = running(1, "");
    let path = path(&asked(&hashes, HashAlgorithm::Sha1, 0));
    let now = || status(&get(running.address, &path).body);
    assert_eq!(now(), CertStatus::Good);
    let hold = certstatus::RevocationReason::CertificateHold;
    site.log
        .revoke(&issuer("device-1"), serial(0), hold)
        .unwrap();
    site.publish();
    until(
        "on hold",
        || matches!(now(), CertStatus::Revoked { reason: Some(reason), .. } if reason == hold),
    );
    let released = certstatus::RevocationReason::RemoveFromCrl;
    site.log
        .revoke(&issuer("device-1"), serial(0), released)
        .unwrap();
    site.publish();
    until("good again", || now() == CertStatus::Good);
}

#[test]
fn what_is_unknown_is_never_kept() {
    let (mut site, running, hashes) = running(1, "");
    let path = path(&asked(&hashes, HashAlgorithm::Sha1, 5));
    let answer = get(running.address, &path);
    assert_eq!(
        (status(&answer.body), answer.header("cache-control")),
        (CertStatus::Unknown, Some("no-store"))
    );
    site.issue("device-1", 5);
    site.publish();
    until("good", || {
        status(&get(running.address, &path).body) == CertStatus::Good
    });
}

#[test]
fn memory_is_bounded_whoever_asks_for_what() {
    let (_site, running, hashes) = running(1500, "cache_mib = 1");
    for n in 0..1500 {
        let plain = path(&asked(&hashes, HashAlgorithm::Sha1, n));
        assert_eq!(status(&get(running.address, &plain).body), CertStatus::Good);
        // The same question in many forms.
        let escaped = plain.replacen('A', "%41", usize::try_from(n % 7).unwrap());
        assert_eq!(get(running.address, &escaped).status, 200);
    }
    let octets = running.metric("hallmark_ocsp_cache_bytes").unwrap();
    assert!((100_000.0..=1_048_576.0).contains(&octets), "{octets}");
    assert!(running.metric("hallmark_ocsp_cache_serials").unwrap() > 100.0);
    assert!(running.metric("hallmark_ocsp_cache_paths").unwrap() > 50.0);
}
