//! What OpenSSL and curl get: every status, over GET and POST, from issuers of every kind.

use std::process::Command;

use base64ct::{Base64, Encoding as _};
use certstatus::CertStatus;
use certstatus::ocsp::{
    ErrorStatus, HashAlgorithm, IssuerHashes, ParsedResponse, read_response, request,
};
use certstatus::signature::PublicKey;

use super::site::{EC, RSA, Running, Site, get, send, serial, until};

/// A site with an EC and an RSA issuer, two certificates of each, one of them revoked, and its responder.
fn running(ocsp: &str) -> (Site, Running) {
    let mut site = Site::new(
        "log.example/answers",
        &[("root", EC), ("device-1", EC), ("device-2", RSA)],
    );
    for name in ["device-1", "device-2"] {
        site.issue(name, 1);
        site.issue(name, 2);
        site.revoke(name, 2);
    }
    site.publish();
    let config = site.config("", ocsp, "");
    site.approve(&config, "device-1");
    site.approve(&config, "device-2");
    let running = Running::start(&config);
    running.ready();
    (site, running)
}

/// What the issuer is called in CertIDs.
fn hashes(site: &Site, name: &str) -> IssuerHashes {
    let der = std::fs::read(site.public().join(format!("ca/{name}.cer"))).unwrap();
    IssuerHashes::of_certificate(&der).unwrap()
}

#[test]
fn openssl_gets_every_status_by_post() {
    for ocsp in ["", "responder_id = \"byName\""] {
        let (site, running) = running(ocsp);
        for issuer in ["device-1", "device-2"] {
            for more in [
                "-no_nonce",
                "-nonce",
                "-no_nonce -sha256",
                "-nonce -sha384",
                "-no_nonce -sha512",
            ] {
                let ask = |n| site.ask(&running.url(), issuer, &serial(n).to_string(), more);
                for (n, expected) in [(1, ": good"), (2, ": revoked"), (3, ": unknown")] {
                    let told = ask(n);
                    assert!(
                        told.contains("Response verify OK") && told.contains(expected),
                        "{more} {n}: {told}"
                    );
                    assert!(
                        !told.contains("WARNING: no nonce") || more.contains("no_nonce"),
                        "{told}"
                    );
                    assert!(!told.contains("Status times invalid"), "{told}");
                }
                assert!(ask(2).contains("Reason: keyCompromise"), "{}", ask(2));
            }
        }
        let told = site.ask(&running.url(), "device-1", "05", "-no_nonce");
        assert!(
            told.contains(": unknown"),
            "a serial that is not of our form: {told}"
        );
        assert!(running.stop().success());
    }
}

#[test]
fn curl_gets_the_same_by_get() {
    let (site, running) = running("");
    let issuer = hashes(&site, "device-1");
    for (n, good) in [(1, true), (2, false)] {
        let id = issuer.cert_id(HashAlgorithm::Sha1, serial(n).as_bytes());
        let base64 = Base64::encode_string(&request(&[&id], None));
        let escaped = base64
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        for (path, version) in [(&base64, "--http1.1"), (&escaped, "--http1.0")] {
            let url = format!("{}/{path}", running.url());
            let output = Command::new("curl")
                .args(["-sS", "-f", version, &url])
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{}",
                String::from_utf8_lossy(&output.stderr)
            );
            let Ok(ParsedResponse::Basic(answer)) = read_response(&output.stdout) else {
                panic!("not an answer: {:?}", output.stdout);
            };
            assert_eq!(answer.singles[0].status == CertStatus::Good, good);
            assert_eq!(answer.singles[0].cert_id.der, id);
        }
    }
    let heads = get(running.ops, "/metrics");
    assert_eq!(heads.status, 200);
    assert!(running.metric("hallmark_ocsp_cache_hits_total").unwrap() >= 2.0);
}

#[test]
fn who_is_not_served_is_told_so_without_a_signature() {
    let (site, running) = running("");
    let ask = |ids: &[Vec<u8>]| {
        let ids: Vec<&[u8]> = ids.iter().map(Vec::as_slice).collect();
        send(
            running.address,
            "POST",
            "/ocsp",
            "content-type: application/ocsp-request\r\n",
            &request(&ids, None),
        )
    };
    let id =
        |name: &str, n| hashes(&site, name).cert_id(HashAlgorithm::Sha256, serial(n).as_bytes());
    let other = Site::new("log.example/other", &[("device-1", EC)]);
    let strange = hashes(&other, "device-1").cert_id(HashAlgorithm::Sha1, serial(1).as_bytes());
    for ids in [
        vec![strange.clone()],
        vec![id("device-1", 1), strange],
        vec![id("device-1", 1), id("device-2", 1)],
        vec![id("root", 1)],
    ] {
        let answer = ask(&ids);
        assert_eq!(
            (answer.status, answer.body.as_slice()),
            (200, &ErrorStatus::Unauthorized.der()[..])
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
    let answer = ask(&[id("device-1", 1), id("device-1", 2), id("device-1", 3)]);
    let Ok(ParsedResponse::Basic(basic)) = read_response(&answer.body) else {
        panic!("{answer:?}");
    };
    let good: Vec<bool> = basic
        .singles
        .iter()
        .map(|single| single.status == CertStatus::Good)
        .collect();
    assert_eq!(good, [true, false, false]);
    assert_eq!(basic.singles[2].status, CertStatus::Unknown);
    let key = PublicKey::parse(
        &der::pem::decode_vec(&site.responder_key(&site.path().join("ocsp.toml")))
            .unwrap()
            .1,
    )
    .unwrap();
    assert_eq!(
        key.verify(basic.algorithm, basic.tbs, basic.signature),
        Ok(())
    );
}

#[test]
fn several_logs_are_answered_by_one_responder() {
    let mut one = Site::new("log.example/one", &[("device-1", EC)]);
    let mut two = Site::new("log.example/two", &[("device-1", RSA)]);
    one.issue("device-1", 1);
    two.issue("device-1", 2);
    one.publish();
    two.publish();
    let config = one.path().join("ocsp.toml");
    let text = format!(
        "{}{}{}",
        super::site::head("", ""),
        one.log_config("one", ""),
        two.log_config("two", "")
    );
    std::fs::write(&config, text).unwrap();
    one.approve(&config, "device-1");
    two.approve(&config, "device-1");
    let running = Running::start(&config);
    running.ready();
    for (site, n, unknown) in [(&one, 1, 2), (&two, 2, 1)] {
        let ask = |n| {
            site.ask(
                &running.url(),
                "device-1",
                &serial(n).to_string(),
                "-no_nonce",
            )
        };
        assert!(ask(n).contains(": good"), "{}", ask(n));
        assert!(ask(unknown).contains(": unknown"), "{}", ask(unknown));
        let head = format!("/checkpoint/{}", site.log.key().name());
        assert!(
            String::from_utf8(get(running.address, &head).body)
                .unwrap()
                .starts_with(site.log.key().name())
        );
    }
    let file = |path: &str| get(running.address, path).body;
    let published = |site: &Site| std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
    assert_eq!(
        file("/ca/device-1.cer"),
        published(&one),
        "the first log has the short path"
    );
    assert_eq!(file("/two/ca/device-1.cer"), published(&two));
    until("both heads are told", || {
        running
            .metric("hallmark_ocsp_log_entries{log=\"two\"}")
            .is_some()
    });
}

#[test]
fn an_origin_gets_its_share_of_signatures() {
    let (site, running) = running("signatures_per_origin = 1");
    let issuer = hashes(&site, "device-1");
    let ask = |nonce: Option<&[u8]>| {
        let id = issuer.cert_id(HashAlgorithm::Sha256, serial(1).as_bytes());
        let body = request(&[&id], nonce);
        send(running.address, "POST", "/ocsp", "", &body).body
    };
    let kept = ask(None);
    assert!(read_response(&kept).is_ok_and(|read| matches!(read, ParsedResponse::Basic(_))));
    // Each nonce takes a signature; each request has a connection of its own.
    until("it has had its share", || {
        ask(Some(b"once")) == ErrorStatus::TryLater.der()
    });
    assert_eq!(ask(None), kept, "what is kept is everybody's");
    let refused = running.metric("hallmark_ocsp_signatures_refused_total");
    assert!(refused.unwrap() >= 1.0);
    let from = std::net::Ipv4Addr::new(127, 0, 0, 7);
    let mut other = super::site::connect_from(from, running.address);
    let id = issuer.cert_id(HashAlgorithm::Sha384, serial(1).as_bytes());
    let path = Base64::encode_string(&request(&[&id], None));
    let asked = format!("GET /ocsp/{path} HTTP/1.0\r\n\r\n");
    std::io::Write::write_all(&mut other, asked.as_bytes()).unwrap();
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut other, &mut answer).unwrap();
    let answer = super::site::Answer::parse(&answer);
    let read = read_response(&answer.body);
    assert!(matches!(read, Ok(ParsedResponse::Basic(_))), "{answer:?}");
}
