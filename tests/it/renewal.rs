//! Renewals end to end: a line's certificate over mutual TLS, many lines at once, and the server's own.

use std::process::Command;
use std::time::Instant;

use hyper::StatusCode;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use serde_json::Value;

use crate::harness::appliance::{LineIdentity, PATIENCE, pem, post};
use crate::harness::device::{Device, DeviceKey, der, serial_of};
use crate::harness::program::{openssl, run};
use crate::harness::{Appliance, Connection, Reply, Site, invariants, log, with_appliance};

/// Where a line renews its certificate.
const RENEWAL: &str = "/v1/line/certificate";

/// The valid certificates that a line may have (docs/LINES.md).
const CERTIFICATES_MAX: usize = 8;

/// Asks for a renewal on a connection of its own.
async fn renew(appliance: &Appliance, line: &LineIdentity, request: &[u8]) -> Reply {
    let mut connection = appliance.connect(line).await;
    post(&mut connection, RENEWAL, request).await
}

/// The type of a problem document.
fn problem(reply: &Reply) -> String {
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    let document: Value = serde_json::from_slice(&reply.body).unwrap();
    let kind = document["type"].as_str().unwrap();
    kind.trim_start_matches("urn:hallmark:problem:").to_owned()
}

/// The identity of a line with a renewed certificate.
fn renewed(line: &LineIdentity, key: &Device, chain: &[u8]) -> LineIdentity {
    let certificate = key.key_path().with_extension("chain.pem");
    std::fs::write(&certificate, chain).unwrap();
    LineIdentity {
        name: line.name.clone(),
        certificate,
        key: key.key_path(),
    }
}

/// The serial of a line's certificate.
fn serial(appliance: &Appliance, line: &LineIdentity) -> String {
    let certificate = der(&std::fs::read(&line.certificate).unwrap());
    serial_of(appliance.site.path(), &certificate)
}

/// Asserts that an identity gets a device's certificate.
async fn assert_works(appliance: &mut Appliance, line: &LineIdentity, device: &str) {
    let device = Device::new(appliance.site.path(), device);
    let reply = appliance.ask_anew(line, "demo", &device.request()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
}

/// The certificates that a line has in the registry.
fn certificates(appliance: &Appliance) -> usize {
    let lines = appliance.json(&["line", "list"]);
    lines[0]["certificates"].as_array().unwrap().len()
}

#[tokio::test]
async fn a_line_renews_its_certificate_with_a_new_key_and_uses_it_at_once() {
    with_appliance(async |appliance| {
        let old = appliance.line_and_order(10);
        let key = Device::new(appliance.site.path(), "line-1");
        let reply = renew(appliance, &old, &key.request()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        appliance.received.push(der(&reply.body));
        let new = renewed(&old, &key, &reply.body);
        assert_works(appliance, &new, "by-new").await;
        assert_works(appliance, &old, "by-old").await;
        let path = appliance.site.path().to_owned();
        for (file, name) in [("root.pem", "access-root"), ("issuer.pem", "access")] {
            std::fs::write(path.join(file), pem(&appliance.site.ca(name))).unwrap();
        }
        let strict = ["verify", "-x509_strict", "-purpose", "sslclient"];
        let files = ["-CAfile", "root.pem", "-untrusted", "issuer.pem"];
        let certificate = new.certificate.to_str().unwrap();
        openssl(&path, &[&strict[..], &files, &[certificate]].concat());

        // The same renewal, signed anew, also after a power cut: the same certificate.
        for _ in 0..2 {
            let again = renew(appliance, &old, &key.request()).await;
            assert_eq!((again.status, &again.body), (StatusCode::OK, &reply.body));
            assert_eq!(
                again.headers["hallmark-entry"],
                reply.headers["hallmark-entry"]
            );
            appliance.kill();
            appliance.start_again();
        }
        // Of the new certificate it is another renewal, and the key may stay.
        let next = renew(appliance, &new, &key.request()).await;
        assert_eq!(next.status, StatusCode::CREATED, "{next:?}");
        assert_ne!(next.body, reply.body);
        let again = renew(appliance, &old, &key.request()).await;
        assert_eq!((again.status, again.body), (StatusCode::OK, reply.body));
        assert_eq!(certificates(appliance), 3);
        // One that was revoked is not given out again.
        appliance.command(&[
            "cert",
            "revoke",
            &serial(appliance, &new),
            "--reason",
            "superseded",
        ]);
        let again = renew(appliance, &new, &key.request()).await;
        assert_eq!(problem(&again), "unknown-certificate");
        let again = renew(appliance, &old, &key.request()).await;
        assert_eq!((again.status, again.body), (StatusCode::OK, next.body));

        let renewals: Vec<(String, String)> = log::entries(&path)
            .into_iter()
            .filter_map(|entry| {
                let change = &entry.detail["data"]["change"];
                let renews = change["renews"].as_str()?.to_owned();
                let serial = change["certificate"]["serial"].as_str()?.to_owned();
                Some((renews, serial))
            })
            .collect();
        let (old, new) = (serial(appliance, &old), serial(appliance, &new));
        assert_eq!(renewals.len(), 2, "{renewals:?}");
        assert_eq!(renewals[0], (old, new.clone()));
        assert_eq!(renewals[1].0, new);
    })
    .await;
}

#[tokio::test]
async fn a_disabled_line_renews_nothing() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(1);
        let mut open = appliance.connect(&line).await;
        let key = Device::new(appliance.site.path(), "line-1");
        appliance.command(&["line", "disable", "line-1"]);
        let reply = post(&mut open, RENEWAL, &key.request()).await;
        assert_eq!(
            (reply.status, problem(&reply).as_str()),
            (StatusCode::FORBIDDEN, "line-disabled")
        );
        let reply = renew(appliance, &line, &key.request()).await;
        assert_eq!(problem(&reply), "line-disabled");
        assert_eq!(certificates(appliance), 1);
        appliance.command(&["line", "enable", "line-1"]);
        let reply = renew(appliance, &line, &key.request()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        // What was renewed before is not given out to a disabled line either.
        appliance.command(&["line", "disable", "line-1"]);
        let reply = renew(appliance, &line, &key.request()).await;
        assert_eq!(problem(&reply), "line-disabled");
    })
    .await;
}

#[tokio::test]
async fn a_line_with_too_many_valid_certificates_is_refused() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(10);
        let kinds = [DeviceKey::P384, DeviceKey::Ed25519, DeviceKey::Rsa(2048)];
        let mut first = None;
        for number in 1..CERTIFICATES_MAX {
            let kind = kinds.get(number - 1).copied().unwrap_or(DeviceKey::P256);
            let key = Device::with_key(appliance.site.path(), "line-1", kind);
            let reply = renew(appliance, &line, &key.request()).await;
            assert_eq!(reply.status, StatusCode::CREATED, "{kind:?}: {reply:?}");
            let identity = renewed(&line, &key, &reply.body);
            assert_works(appliance, &identity, &format!("d-{number}")).await;
            first.get_or_insert((key, reply));
        }
        assert_eq!(certificates(appliance), CERTIFICATES_MAX);
        let key = Device::new(appliance.site.path(), "line-1");
        let refused = renew(appliance, &line, &key.request()).await;
        assert_eq!(refused.status, StatusCode::CONFLICT, "{refused:?}");
        assert_eq!(problem(&refused), "too-many-certificates");
        // A retry adds none, so it is answered; and the line goes on with what it has.
        let (key, reply) = first.unwrap();
        let again = renew(appliance, &line, &key.request()).await;
        assert_eq!((again.status, again.body), (StatusCode::OK, reply.body));
        assert_works(appliance, &line, "d-9").await;
    })
    .await;
}

/// Lines that renew at the same time, each with as many keys as it may have certificates, which is one too many.
const LINES: usize = 25;

/// A renewal with a key of its own that is sent until there is an answer other than "busy".
struct Asking {
    line: usize,
    request: Vec<u8>,
}

/// A request for a new key, DER.
fn request_for_new_key() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params.serialize_request(&key).unwrap().der().to_vec()
}

/// Sends a renewal until it is no longer answered with "busy"; asserts that each such answer says when to retry.
async fn ask_on(connection: &mut Connection, request: &[u8]) -> Reply {
    let ends = Instant::now() + PATIENCE;
    loop {
        let reply = post(connection, RENEWAL, request).await;
        if reply.status != StatusCode::SERVICE_UNAVAILABLE {
            assert!(!reply.status.is_server_error(), "{reply:?}");
            return reply;
        }
        assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
        assert!(Instant::now() < ends, "still {reply:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn two_hundred_renewals_at_once_are_each_made_or_refused() {
    with_appliance(async |appliance| {
        let lines: Vec<LineIdentity> = (0..LINES)
            .map(|number| appliance.line(&format!("line-{number}")))
            .collect();
        let mut asking = Vec::new();
        for (line, identity) in lines.iter().enumerate() {
            for _ in 0..CERTIFICATES_MAX {
                let connection = appliance.connect(identity).await;
                let request = request_for_new_key();
                asking.push((connection, Asking { line, request }));
            }
        }
        let asked: Vec<_> = asking
            .into_iter()
            .map(|(mut connection, asking)| {
                tokio::spawn(async move {
                    let reply = ask_on(&mut connection, &asking.request).await;
                    // Sent again at once, while others of the same line are in work.
                    let again = ask_on(&mut connection, &asking.request).await;
                    (asking.line, reply, again)
                })
            })
            .collect();
        let mut made = [0; LINES];
        for asked in asked {
            let (line, reply, again) = asked.await.unwrap();
            if reply.status == StatusCode::CREATED {
                made[line] += 1;
                assert_eq!(
                    (again.status, again.body),
                    (StatusCode::OK, reply.body.clone())
                );
                if made[line] == 1 {
                    appliance.received.push(der(&reply.body));
                }
            } else {
                assert_eq!(problem(&reply), "too-many-certificates");
                assert_eq!(problem(&again), "too-many-certificates");
            }
        }
        assert_eq!(made, [CERTIFICATES_MAX - 1; LINES]);
    })
    .await;
}

/// The certificate that the API shows, as its chain verifies up to the access root.
fn shown_by_server(appliance: &Appliance) -> Vec<u8> {
    let path = appliance.site.path();
    std::fs::write(
        path.join("root.pem"),
        pem(&appliance.site.ca("access-root")),
    )
    .unwrap();
    let address = appliance.site.api().replace("https://", "");
    let mut client = Command::new("openssl");
    client.current_dir(path).stdin(std::process::Stdio::null());
    client.args(["s_client", "-connect", &address, "-CAfile", "root.pem"]);
    client.args(["-x509_strict", "-verify_return_error"]);
    client.args(["-verify_hostname", "hallmark.example"]);
    let said = String::from_utf8(run(&mut client).stdout).unwrap();
    assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
    let begins = said.find("-----BEGIN CERTIFICATE-----").unwrap();
    der(&said.as_bytes()[begins..])
}

#[tokio::test]
async fn the_servers_certificate_renews_itself() {
    let site = Site::before_ceremony();
    // Dated back so far that two thirds of its life are over when the ceremony ends.
    let profile = site.path().join("profiles/tls-server.toml");
    let text = std::fs::read_to_string(&profile).unwrap();
    let short = text
        .replace("for = \"90d\"", "for = \"10m\"")
        .replace("backdate = \"5m\"", "backdate = \"30m\"");
    assert_ne!(text, short);
    std::fs::write(&profile, short).unwrap();
    run(site.hallmark().args(["ceremony", "run", "ceremony.toml"]));
    let file = site.path().join("state/server.pem");
    let written = move || der(&std::fs::read(&file).unwrap());
    let mut shown = vec![written()];
    let mut appliance = Appliance::stopped(site);
    for _ in 0..2 {
        appliance.start_again();
        let last = shown.last().unwrap().clone();
        appliance.wait("renewed", |appliance| shown_by_server(appliance) != last);
        let now = shown_by_server(&appliance);
        assert_eq!(now, written(), "the file holds what is shown");
        shown.push(now);
        invariants::assert_and_stop(&mut appliance);
    }
    let path = appliance.site.path().to_owned();
    let public_key = |certificate: &Vec<u8>| {
        std::fs::write(path.join("shown.pem"), pem(certificate)).unwrap();
        openssl(
            &path,
            &[
                "x509",
                "-in",
                "shown.pem",
                "-noout",
                "-pubkey",
                "-ext",
                "subjectAltName",
            ],
        )
    };
    let keys: Vec<String> = shown.iter().map(public_key).collect();
    assert!(keys.windows(2).all(|pair| pair[0] == pair[1]), "{keys:?}");
    // One renewal for each start: the new certificate is not due again.
    let intents = log::entries(&path)
        .into_iter()
        .filter(|entry| entry.leaf["kind"] == "intent" && entry.detail["profile"] == "tls-server")
        .map(|entry| entry.detail["operator"].clone());
    let operators: Vec<Value> = intents.collect();
    assert_eq!(operators, ["operator", "appliance", "appliance"]);
}
