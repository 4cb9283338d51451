//! HTTP around OCSP: caching headers, nonces, methods, checkpoints.

use base64ct::{Base64, Encoding as _};
use certstatus::log::checkpoint::Checkpoint;
use certstatus::ocsp::{
    ErrorStatus, HashAlgorithm, IssuerHashes, ParsedResponse, read_response, request,
};

use super::site::{EC, Running, Site, get, send, serial, until};

/// A site with one good certificate, its responder, and the CertID of that certificate.
fn running() -> (Site, Running, Vec<u8>) {
    let mut site = Site::new("log.example/http", &[("device-1", EC)]);
    site.issue("device-1", 1);
    site.publish();
    let config = site.config("", "", "");
    site.approve(&config, "device-1");
    let running = Running::start(&config);
    running.ready();
    let der = std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
    let hashes = IssuerHashes::of_certificate(&der).unwrap();
    (
        site,
        running,
        hashes.cert_id(HashAlgorithm::Sha1, serial(1).as_bytes()),
    )
}

#[test]
fn the_caching_headers_are_those_of_rfc_5019() {
    let (_site, running, id) = running();
    let path = format!("/ocsp/{}", Base64::encode_string(&request(&[&id], None)));
    let answer = get(running.address, &path);
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("content-type"),
        Some("application/ocsp-response")
    );
    let control = answer.header("cache-control").unwrap();
    let (age, rest) = control
        .strip_prefix("max-age=")
        .unwrap()
        .split_once(", ")
        .unwrap();
    assert_eq!(rest, "public, no-transform, must-revalidate");
    let age: u64 = age.parse().unwrap();
    assert!((540..=600).contains(&age), "{control}");
    for name in ["date", "expires", "last-modified"] {
        assert!(
            answer.header(name).unwrap().ends_with(" GMT"),
            "{name}: {answer:?}"
        );
    }
    let etag = answer.header("etag").unwrap();
    let known = send(
        running.address,
        "GET",
        &path,
        &format!("if-none-match: {etag}\r\n"),
        b"",
    );
    assert_eq!((known.status, known.body.len()), (304, 0));
    let head = send(running.address, "HEAD", &path, "", b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(
        head.header("content-length"),
        answer.header("content-length")
    );
    assert_eq!(head.header("etag"), Some(etag));
}

#[test]
fn a_nonce_comes_back_and_is_never_kept() {
    let (_site, running, id) = running();
    for length in [1, 16, 32, 128] {
        let nonce = vec![7; length];
        let der = request(&[&id], Some(&nonce));
        let path = format!("/ocsp/{}", Base64::encode_string(&der));
        let answers = [
            send(running.address, "POST", "/ocsp", "", &der),
            get(running.address, &path),
            get(running.address, &path),
        ];
        for answer in &answers {
            assert_eq!(answer.header("cache-control"), Some("no-store"));
            let Ok(ParsedResponse::Basic(basic)) = read_response(&answer.body) else {
                panic!("{answer:?}");
            };
            assert_eq!(basic.nonce.unwrap().octets(), nonce);
        }
        assert_ne!(
            answers[1].body, answers[2].body,
            "each is signed for itself"
        );
    }
    for length in [0, 129] {
        let der = request(&[&id], Some(&vec![7; length]));
        let answer = send(running.address, "POST", "/ocsp", "", &der);
        assert_eq!(
            (answer.status, &answer.body[..]),
            (200, &ErrorStatus::MalformedRequest.der()[..])
        );
    }
}

#[test]
fn http_1_0_and_keep_alive_work() {
    let (_site, running, id) = running();
    let path = format!("/ocsp/{}", Base64::encode_string(&request(&[&id], None)));
    let old = super::site::exchange(
        running.address,
        format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes(),
    );
    let old = super::site::Answer::parse(&old);
    assert_eq!(old.status, 200);
    assert!(read_response(&old.body).is_ok(), "{old:?}");
    let both = format!(
        "GET {path} HTTP/1.1\r\nhost: x\r\n\r\nGET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    );
    let both = super::site::exchange(running.address, both.as_bytes());
    let count = both
        .windows(15)
        .filter(|part| *part == b"HTTP/1.1 200 OK")
        .count();
    assert_eq!(count, 2, "two requests on one connection");
}

#[test]
fn other_methods_and_paths_are_refused() {
    let (_site, running, _) = running();
    for (method, path, status) in [
        ("PUT", "/ocsp", 405),
        ("POST", "/crl/x.crl", 405),
        ("DELETE", "/", 405),
        ("GET", "/x", 404),
    ] {
        assert_eq!(
            send(running.address, method, path, "", b"").status,
            status,
            "{method} {path}"
        );
    }
    for path in ["/ocsp", "/ocsp/", "/ocsp/%", "/ocsp/AAAA", "/ocsp/x?y"] {
        let answer = get(running.address, path);
        assert_eq!(
            (answer.status, &answer.body[..]),
            (200, &ErrorStatus::MalformedRequest.der()[..]),
            "{path}"
        );
        assert_eq!(answer.header("cache-control"), Some("no-store"));
    }
}

#[test]
fn the_verified_head_is_served_cosigned() {
    let (mut site, running, _) = running();
    let fetch =
        || String::from_utf8(get(running.address, "/checkpoint/log.example%2Fhttp").body).unwrap();
    let before = fetch();
    assert_eq!(
        Checkpoint::verify(&before, site.log.key()),
        Ok(site.log.head())
    );
    assert!(
        before
            .lines()
            .last()
            .unwrap()
            .starts_with("\u{2014} ocsp.example/1 "),
        "{before}"
    );
    assert_eq!(fetch(), before, "signed once for each head");
    site.issue("device-1", 2);
    site.publish();
    let newer = || Checkpoint::verify(&fetch(), site.log.key()) == Ok(site.log.head());
    until("the newer head", newer);
    assert_eq!(
        get(running.address, "/checkpoint/log.example/none").status,
        404
    );
}

#[test]
fn a_checkpoint_is_served_with_the_lines_of_the_log_and_of_this_witness_alone() {
    let site = Site::new("log.example/http", &[]);
    let config = site.config("", "", "");
    // Of a responder that follows no log yet, its witness's name and key ID.
    std::fs::rename(site.public(), site.path().join("away")).unwrap();
    let running = Running::start(&config);
    let status = get(running.ops, "/status").body;
    let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
    let witness = status["witness"].as_str().unwrap();
    let [name, id, _] = witness.splitn(3, '+').collect::<Vec<_>>()[..] else {
        panic!("{witness}");
    };
    let id = u32::from_str_radix(id, 16).unwrap().to_be_bytes();
    let false_line = |name: &str, id: &[u8], length| {
        let octets = [id, &vec![1; length]].concat();
        format!("\u{2014} {name} {}\n", Base64::encode_string(&octets))
    };
    // A false cosignature by that key before the log's own line, and two hundred kilobytes after it.
    let own = false_line(name, &id, 72);
    let other = false_line("other.example", &[0; 4], 150_000);
    let note = site.note();
    let (text, line) = note.split_once("\n\n").unwrap();
    let checkpoint = site.path().join("away/log/checkpoint");
    std::fs::write(&checkpoint, format!("{text}\n\n{own}{line}{other}")).unwrap();
    std::fs::rename(site.path().join("away"), site.public()).unwrap();
    let path = "/checkpoint/log.example%2Fhttp";
    until("the head", || get(running.address, path).status == 200);
    let served = String::from_utf8(get(running.address, path).body).unwrap();
    let added = served.strip_prefix(&note).unwrap();
    assert!(!served.contains(&own), "{served}");
    let lines: Vec<_> = added.lines().collect();
    assert!(
        matches!(lines[..], [line] if line.starts_with(&format!("\u{2014} {name} "))),
        "{served}"
    );
}
