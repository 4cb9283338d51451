//! Issuing end to end: a CSR made by OpenSSL in, a certificate that OpenSSL accepts out, and what is refused.

use hyper::StatusCode;
use serde_json::Value;

use crate::harness::appliance::{pem, post};
use crate::harness::client::Call;
use crate::harness::device::{Device, DeviceKey, der, serial_of};
use crate::harness::dice::Dice;
use crate::harness::program::openssl;
use crate::harness::{Appliance, Connection, OrderTerms, Reply, leave_for_lint, with_appliance};

/// The one path of an order named `demo`.
const DEMO: &str = "/v1/orders/demo/certificates";

/// Asserts that an answer is a problem document of this status and type.
fn assert_problem(reply: &Reply, status: StatusCode, kind: &str) {
    let text = String::from_utf8_lossy(&reply.body);
    assert_eq!(reply.status, status, "{text}");
    assert_eq!(reply.headers["content-type"], "application/problem+json");
    let problem: Value = serde_json::from_slice(&reply.body).unwrap();
    assert_eq!(problem["status"], status.as_u16());
    assert_eq!(
        problem["type"],
        format!("urn:hallmark:problem:{kind}"),
        "{text}"
    );
    for member in ["title", "detail"] {
        assert!(
            problem[member].as_str().is_some_and(|t| !t.is_empty()),
            "{member}: {text}"
        );
    }
}

/// Has OpenSSL verify a leaf up to the device root, strictly.
fn assert_openssl_verifies(appliance: &Appliance, leaf: &[u8]) {
    let path = appliance.site.path();
    for (file, certificate) in [
        ("root.pem", appliance.site.ca("device-root")),
        ("issuer.pem", appliance.site.ca("device-1")),
        ("leaf.pem", leaf.to_vec()),
    ] {
        std::fs::write(path.join(file), pem(&certificate)).unwrap();
    }
    let verify = [
        "verify",
        "-x509_strict",
        "-CAfile",
        "root.pem",
        "-untrusted",
        "issuer.pem",
        "leaf.pem",
    ];
    assert_eq!(openssl(path, &verify).trim(), "leaf.pem: OK");
}

#[tokio::test]
async fn a_request_of_each_kind_of_key_becomes_a_certificate_that_openssl_verifies() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(10);
        let kinds = [
            ("p256", DeviceKey::P256),
            ("p384", DeviceKey::P384),
            ("rsa-2048", DeviceKey::Rsa(2048)),
            ("rsa-3072", DeviceKey::Rsa(3072)),
            ("ed25519", DeviceKey::Ed25519),
        ];
        let mut connection = appliance.connect(&line).await;
        for (name, kind) in kinds {
            let device = Device::with_key(appliance.site.path(), name, kind);
            let reply = appliance
                .ask(&mut connection, "demo", &device.request())
                .await;
            assert_eq!(reply.status, StatusCode::CREATED, "{name}: {reply:?}");
            let leaf = der(&reply.body);
            assert_openssl_verifies(appliance, &leaf);
            let text = openssl(
                appliance.site.path(),
                &["x509", "-in", "leaf.pem", "-noout", "-subject", "-text"],
            );
            assert!(text.contains(&format!("CN = {name}")), "{text}");
            assert!(text.contains("TLS Web Client Authentication"), "{text}");
            leave_for_lint(&format!("mqtt-device-{name}.cer"), &leaf);
        }
        leave_for_lint("line.cer", &der(&std::fs::read(&line.certificate).unwrap()));
    })
    .await;
}

#[tokio::test]
async fn an_initial_device_identity_is_valid_for_ever() {
    with_appliance(async |appliance| {
        let line = appliance.line("line-1");
        appliance.order(&OrderTerms {
            name: "demo",
            lines: &[&line],
            quantity: 1,
            more: &["--profile", "idevid"],
        });
        let device = Device::new(appliance.site.path(), "SN-0001");
        // It has no common name, so the device id stands in the URL.
        let request = device.request_with("/serialNumber=SN-0001/OU=Pump", &[]);
        let path = format!("{DEMO}?device_id=SN-0001");
        let mut connection = appliance.connect(&line).await;
        let reply = post(&mut connection, &path, &request).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
        let leaf = der(&reply.body);
        appliance.received.push(leaf.clone());
        assert_openssl_verifies(appliance, &leaf);
        let arguments = ["x509", "-in", "leaf.pem", "-noout", "-subject", "-enddate"];
        let text = openssl(appliance.site.path(), &arguments);
        assert!(text.contains("serialNumber = SN-0001"), "{text}");
        assert!(text.contains("Dec 31 23:59:59 9999 GMT"), "{text}");
        leave_for_lint("idevid.cer", &leaf);
    })
    .await;
}

#[tokio::test]
async fn the_answer_has_the_chain_and_every_form_that_is_offered() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(10);
        let device = Device::new(appliance.site.path(), "forms");
        let request = device.request();
        let first = appliance.ask_anew(&line, "demo", &request).await;
        let text = String::from_utf8(first.body.to_vec()).unwrap();
        let blocks: Vec<&str> = text
            .split_inclusive("-----END CERTIFICATE-----\n")
            .collect();
        let [leaf, issuer] = blocks.as_slice() else {
            panic!("not a chain of two: {text}");
        };
        let leaf = der(leaf.as_bytes());
        assert_eq!(der(issuer.as_bytes()), appliance.site.ca("device-1"));
        let serial = serial_of(appliance.site.path(), &leaf);
        assert_eq!(first.headers["hallmark-serial"], serial.as_str());
        let mut connection = appliance.connect(&line).await;
        for form in [
            "application/x-pem-file",
            "application/pkix-cert",
            "application/pkcs7-mime",
            "application/json",
        ] {
            let call = Call {
                method: hyper::Method::POST,
                path: DEMO,
                content_type: "application/x-pem-file",
                accept: form,
                body: request.clone().into(),
            };
            let reply = connection.send(call).await.unwrap();
            assert_eq!(reply.status, StatusCode::OK, "{form}");
            let content_type = reply.headers["content-type"].to_str().unwrap();
            assert!(content_type.starts_with(form), "{content_type}");
            match form {
                "application/x-pem-file" => assert_eq!(reply.body, first.body),
                "application/pkix-cert" => assert_eq!(reply.body, leaf),
                "application/json" => {
                    let told: Value = serde_json::from_slice(&reply.body).unwrap();
                    assert_eq!(
                        (&told["serial"], &told["origin"]),
                        (&serial.as_str().into(), &"repeated".into())
                    );
                }
                _ => {
                    let file = appliance.site.path().join("chain.p7");
                    std::fs::write(&file, &reply.body).unwrap();
                    let arguments = [
                        "pkcs7",
                        "-inform",
                        "DER",
                        "-in",
                        "chain.p7",
                        "-print_certs",
                        "-noout",
                    ];
                    let printed = openssl(appliance.site.path(), &arguments);
                    assert_eq!(printed.matches("subject=").count(), 2, "{printed}");
                }
            }
        }
    })
    .await;
}

#[tokio::test]
async fn the_same_request_signed_anew_gets_the_same_certificate() {
    with_appliance(async |appliance| {
        // The last unit too: a retry takes none.
        let line = appliance.line_and_order(1);
        let device = Device::new(appliance.site.path(), "again");
        let (one, other) = (device.request(), device.request());
        assert_ne!(one, other, "ECDSA makes each request different");
        let first = appliance.ask_anew(&line, "demo", &one).await;
        let second = appliance.ask_anew(&line, "demo", &other).await;
        assert_eq!(
            (first.status, second.status),
            (StatusCode::CREATED, StatusCode::OK)
        );
        assert_eq!(first.body, second.body);
        appliance.stop();
        appliance.start_again();
        let third = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_eq!((third.status, third.body), (StatusCode::OK, first.body));
    })
    .await;
}

#[tokio::test]
async fn the_same_request_twice_at_once_makes_one_certificate() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let device = Device::new(appliance.site.path(), "twin");
        let mut connections: Vec<Connection> = Vec::new();
        for _ in 0..4 {
            connections.push(appliance.connect(&line).await);
        }
        let requests: Vec<Vec<u8>> = connections.iter().map(|_| device.request()).collect();
        let sent = connections
            .into_iter()
            .zip(requests)
            .map(|(mut connection, request)| {
                tokio::spawn(async move { post(&mut connection, DEMO, &request).await })
            });
        let sent: Vec<_> = sent.collect();
        let mut bodies = std::collections::BTreeSet::new();
        let mut created = 0;
        for reply in sent {
            let reply = reply.await.unwrap();
            assert!(reply.status.is_success(), "{reply:?}");
            created += usize::from(reply.status == StatusCode::CREATED);
            appliance.received.push(der(&reply.body));
            bodies.insert(reply.body);
        }
        assert_eq!((bodies.len(), created), (1, 1));
    })
    .await;
}

#[tokio::test]
async fn a_key_and_a_device_id_belong_together_once() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let device = Device::new(appliance.site.path(), "unique");
        appliance.ask_anew(&line, "demo", &device.request()).await;
        let impostor = Device::new(appliance.site.path(), "UNIQUE");
        let reply = appliance.ask_anew(&line, "demo", &impostor.request()).await;
        assert_problem(&reply, StatusCode::CONFLICT, "device-id-used");
        let renamed = device.request_with("/CN=renamed", &[]);
        let reply = appliance.ask_anew(&line, "demo", &renamed).await;
        assert_problem(&reply, StatusCode::CONFLICT, "key-used");
    })
    .await;
}

#[tokio::test]
async fn an_order_is_for_its_lines_its_dates_and_its_quantity() {
    with_appliance(async |appliance| {
        let (line, other) = (appliance.line("line-1"), appliance.line("line-2"));
        let lines = [&line];
        let past = [
            "--from",
            "2020-01-01T00:00:00Z",
            "--until",
            "2021-01-01T00:00:00Z",
        ];
        let rows: [(&str, u64, &[&str]); 4] = [
            ("demo", 1, &[]),
            ("past", 5, &past),
            ("named", 5, &["--device-id", "sn-[0-9]{4}"]),
            ("closed", 5, &[]),
        ];
        for (name, quantity, more) in rows {
            appliance.order(&OrderTerms {
                name,
                lines: &lines,
                quantity,
                more,
            });
        }
        appliance.command(&["order", "close", "closed"]);
        let request = |id: &str| Device::new(appliance.site.path(), id).request();
        let (first, second, third) = (request("d-1"), request("d-2"), request("sn-12"));
        let reply = appliance.ask_anew(&other, "demo", &first).await;
        assert_problem(&reply, StatusCode::NOT_FOUND, "no-such-order");
        let reply = appliance.ask_anew(&line, "nowhere", &first).await;
        assert_problem(&reply, StatusCode::NOT_FOUND, "no-such-order");
        let reply = appliance.ask_anew(&line, "past", &first).await;
        assert_problem(&reply, StatusCode::CONFLICT, "order-outside-dates");
        let reply = appliance.ask_anew(&line, "closed", &first).await;
        assert_problem(&reply, StatusCode::CONFLICT, "order-closed");
        let reply = appliance.ask_anew(&line, "named", &third).await;
        assert_problem(
            &reply,
            StatusCode::UNPROCESSABLE_ENTITY,
            "device-id-pattern",
        );
        let reply = appliance.ask_anew(&line, "demo", &first).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        let reply = appliance.ask_anew(&line, "demo", &second).await;
        assert_problem(&reply, StatusCode::CONFLICT, "order-used-up");
        // What was refused took nothing: another order still issues for the same request.
        appliance.command(&["order", "reopen", "closed"]);
        let reply = appliance.ask_anew(&line, "closed", &second).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    })
    .await;
}

#[tokio::test]
async fn a_disabled_line_is_refused_on_its_open_connection() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let mut connection = appliance.connect(&line).await;
        let device = Device::new(appliance.site.path(), "before");
        let reply = appliance
            .ask(&mut connection, "demo", &device.request())
            .await;
        assert_eq!(reply.status, StatusCode::CREATED);
        appliance.command(&["line", "disable", "line-1"]);
        let device = Device::new(appliance.site.path(), "after");
        let reply = appliance
            .ask(&mut connection, "demo", &device.request())
            .await;
        assert_problem(&reply, StatusCode::FORBIDDEN, "line-disabled");
        appliance.command(&["line", "enable", "line-1"]);
        // That answer was the connection's last.
        let mut connection = appliance.connect(&line).await;
        let reply = appliance
            .ask(&mut connection, "demo", &device.request())
            .await;
        assert_eq!(reply.status, StatusCode::CREATED);
    })
    .await;
}

#[tokio::test]
async fn a_closed_order_is_refused_on_an_open_connection() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let mut connection = appliance.connect(&line).await;
        let before = Device::new(appliance.site.path(), "before").request();
        let reply = appliance.ask(&mut connection, "demo", &before).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        appliance.command(&["order", "close", "demo"]);
        let after = Device::new(appliance.site.path(), "after").request();
        let reply = appliance.ask(&mut connection, "demo", &after).await;
        assert_problem(&reply, StatusCode::CONFLICT, "order-closed");
        appliance.command(&["order", "reopen", "demo"]);
        let reply = appliance.ask(&mut connection, "demo", &after).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    })
    .await;
}

#[tokio::test]
async fn whoever_is_no_line_is_refused() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let device = Device::new(appliance.site.path(), "stranger");
        let mut connection = Connection::open(&appliance.api(None)).await.unwrap();
        let reply = appliance
            .ask(&mut connection, "demo", &device.request())
            .await;
        assert_problem(&reply, StatusCode::UNAUTHORIZED, "no-certificate");
        // A certificate with the line's name, made by itself.
        let path = appliance.site.path().to_owned();
        let arguments = [
            "req",
            "-x509",
            "-new",
            "-subj",
            "/CN=line-1",
            "-days",
            "30",
            "-key",
        ];
        let key = device.key_path();
        let made = openssl(&path, &[&arguments[..], &[key.to_str().unwrap()]].concat());
        std::fs::write(path.join("self.pem"), made).unwrap();
        let mut impostor = line.clone();
        (impostor.certificate, impostor.key) = (path.join("self.pem"), key.clone());
        let reply = appliance
            .ask_anew(&impostor, "demo", &device.request())
            .await;
        assert_problem(&reply, StatusCode::FORBIDDEN, "unknown-certificate");
        // A device's certificate is no line's, although this appliance issued it.
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        std::fs::write(path.join("device.pem"), &reply.body).unwrap();
        impostor.certificate = path.join("device.pem");
        let other = Device::new(&path, "by-device");
        let reply = appliance
            .ask_anew(&impostor, "demo", &other.request())
            .await;
        assert_problem(&reply, StatusCode::FORBIDDEN, "unknown-certificate");
    })
    .await;
}

#[tokio::test]
async fn a_revoked_certificate_is_not_given_out_again() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let device = Device::new(appliance.site.path(), "revoked");
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        let serial = serial_of(appliance.site.path(), &der(&reply.body));
        appliance.command(&["cert", "revoke", &serial, "--reason", "key-compromise"]);
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_problem(&reply, StatusCode::CONFLICT, "revoked-before");
        assert_eq!(
            appliance.json(&["cert", "show", &serial])["status"],
            "revoked"
        );
    })
    .await;
}

#[tokio::test]
async fn a_revoked_line_certificate_is_revoked_and_authenticates_no_more() {
    with_appliance(async |appliance| {
        let path = appliance.site.path().to_owned();
        // Three certificates of one line, the last one's file not that of the next.
        let line = ["one", "two", "three"].map(|name| {
            let mut identity = appliance.line("line-1");
            let kept = path.join(format!("{name}.pem"));
            std::fs::rename(&identity.certificate, &kept).unwrap();
            identity.certificate = kept;
            identity
        });
        appliance.order(&OrderTerms {
            name: "demo",
            lines: &[&line[0]],
            quantity: 5,
            more: &[],
        });
        let serials = line.each_ref().map(|identity| {
            let pem = std::fs::read(&identity.certificate).unwrap();
            serial_of(&path, &der(&pem))
        });
        let status = |appliance: &Appliance, serial: &str| {
            appliance.json(&["cert", "show", serial])["status"].clone()
        };
        let revoke = ["cert", "revoke", &serials[0], "--reason", "superseded"];
        appliance.command(&revoke);
        assert_eq!(status(appliance, &serials[0]), "revoked");
        let request = Device::new(&path, "after").request();
        let reply = appliance.ask_anew(&line[0], "demo", &request).await;
        assert_problem(&reply, StatusCode::FORBIDDEN, "unknown-certificate");
        let reply = appliance.ask_anew(&line[1], "demo", &request).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");

        // Whoever has the key may have the others' too.
        let revoke = ["cert", "revoke", &serials[1], "--reason", "key-compromise"];
        let revoked = appliance.json(&revoke);
        assert_eq!(revoked["line_disabled"], "line-1", "{revoked}");
        assert_eq!(revoked["withdrawn"], serde_json::json!([serials[2]]));
        assert_eq!(status(appliance, &serials[1]), "revoked");
        appliance.command(&["line", "enable", "line-1"]);
        for identity in &line {
            let reply = appliance.ask_anew(identity, "demo", &request).await;
            assert_problem(&reply, StatusCode::FORBIDDEN, "unknown-certificate");
        }

        // That a key was stolen may be known only after its certificate was revoked for another reason.
        let renewed = appliance.line("line-1");
        let renewed = serial_of(&path, &der(&std::fs::read(&renewed.certificate).unwrap()));
        let again = appliance.json(&revoke);
        assert_eq!(again["line_disabled"], Value::Null, "{again}");
        let late = ["cert", "revoke", &serials[0], "--reason", "key-compromise"];
        let late = appliance.json(&late);
        assert_eq!(late["line_disabled"], "line-1", "{late}");
        assert_eq!(late["withdrawn"], serde_json::json!([renewed]));
    })
    .await;
}

#[tokio::test]
async fn a_release_certifies_nothing_from_before_a_compromise() {
    with_appliance(async |appliance| {
        let path = appliance.site.path().to_owned();
        let renewed = |appliance: &mut Appliance, name: &str| {
            let mut identity = appliance.line("line-1");
            let kept = path.join(format!("{name}.pem"));
            std::fs::rename(&identity.certificate, &kept).unwrap();
            let serial = serial_of(&path, &der(&std::fs::read(&kept).unwrap()));
            identity.certificate = kept;
            (identity, serial)
        };
        let (held, on_hold) = renewed(appliance, "held");
        let (released, free) = renewed(appliance, "released");
        let (_, stolen) = renewed(appliance, "stolen");
        appliance.order(&OrderTerms {
            name: "demo",
            lines: &[&held],
            quantity: 5,
            more: &[],
        });
        for serial in [&on_hold, &free] {
            appliance.command(&["cert", "revoke", serial, "--reason", "certificate-hold"]);
        }
        appliance.command(&["cert", "release", &free]);
        let request = Device::new(&path, "after").request();
        let reply = appliance.ask_anew(&released, "demo", &request).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");

        appliance.command(&["cert", "revoke", &stolen, "--reason", "key-compromise"]);
        appliance.command(&["line", "enable", "line-1"]);
        for (identity, serial) in [(&held, &on_hold), (&released, &free)] {
            let told = appliance.json(&["cert", "release", serial]);
            let problem = told["uncertified"][0]["problem"].as_str().unwrap_or("");
            assert!(problem.contains("key-compromise"), "{told}");
            let reply = appliance.ask_anew(identity, "demo", &request).await;
            assert_problem(&reply, StatusCode::FORBIDDEN, "unknown-certificate");
        }
        // What the line was given since is held and released like any other.
        let (later, serial) = renewed(appliance, "later");
        appliance.command(&["cert", "revoke", &serial, "--reason", "certificate-hold"]);
        let told = appliance.json(&["cert", "release", &serial]);
        assert_eq!(told["uncertified"], Value::Null, "{told}");
        let request = Device::new(&path, "last").request();
        let reply = appliance.ask_anew(&later, "demo", &request).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    })
    .await;
}

#[tokio::test]
async fn a_batch_answers_each_request_in_order() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(3);
        let path = appliance.site.path().to_owned();
        let devices: Vec<Device> = ["b-0", "b-1", "b-2", "b-3"]
            .map(|id| Device::new(&path, id))
            .into();
        let request = |i: usize| String::from_utf8(devices[i].request()).unwrap();
        let rows = [
            serde_json::json!({"id": "first", "csr": request(0)}),
            serde_json::json!({"csr": "not a request"}),
            serde_json::json!({"csr": request(1)}),
            serde_json::json!({"csr": request(0)}),
            serde_json::json!({"csr": request(2)}),
            serde_json::json!({"csr": request(3)}),
        ];
        let body: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let mut connection = appliance.connect(&line).await;
        let reply = post(&mut connection, "/v1/orders/demo/batches", body.as_bytes()).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        let read = |line| serde_json::from_str(line).unwrap();
        let results: Vec<Value> = text.lines().map(read).collect();
        assert_eq!(results.len(), rows.len(), "{text}");
        assert_eq!(results[0]["id"], "first");
        assert_eq!(results[1]["problem"]["status"], 400);
        assert_eq!(
            results[0]["serial"], results[3]["serial"],
            "the same request, one certificate"
        );
        let mut without = 0;
        for (index, result) in results.iter().enumerate() {
            assert_eq!(result["index"], index);
            match result["chain"].as_str() {
                Some(chain) => appliance.received.push(der(chain.as_bytes())),
                None if index == 1 => {}
                // Requests of a batch are worked on side by side: any of the four may come too late.
                None => {
                    without += usize::from(index != 3);
                    let kind = &result["problem"]["type"];
                    assert_eq!(kind, "urn:hallmark:problem:order-used-up", "{result}");
                }
            }
        }
        assert_eq!(without, 1, "four devices, three units: {text}");
    })
    .await;
}

#[tokio::test]
async fn bad_requests_are_refused_with_a_sentence() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let path = appliance.site.path().to_owned();
        let device = Device::new(&path, "bad");
        let good = der(&device.request());
        let mut forged = good.clone();
        *forged.last_mut().unwrap() ^= 1;
        let mut connection = appliance.connect(&line).await;
        let nested = [0x30_u8, 0x80].repeat(4000);
        let long = vec![b'A'; 1 << 20];
        let mut dice = Dice::thrown();
        let random: Vec<Vec<u8>> = (1..=16).map(|n| dice.octets(n * n * 4)).collect();
        let truncated = &good[..good.len() - 20];
        let tailed = [&good[..], b"tail"].concat();
        let refused = "csr-refused";
        let mut rows: Vec<(&[u8], u16, &str, Option<&str>)> = vec![
            (b"", 400, refused, Some("request-empty")),
            (b"hello", 400, refused, Some("request-encoding")),
            (truncated, 400, refused, Some("request-truncated")),
            (&tailed, 400, refused, Some("request-trailing-bytes")),
            (&forged, 400, refused, Some("signature-wrong")),
            (&nested, 400, refused, Some("request-not-der")),
            (&long, 413, "too-long", None),
        ];
        rows.splice(
            3..3,
            random
                .iter()
                .map(|octets| (&octets[..], 400, refused, None)),
        );
        // The connection lasts through all of them; only the answer to the last one, too long, ends it.
        for (body, status, kind, rule) in rows {
            let reply = connection.send(call(body)).await;
            let reply = reply.unwrap_or_else(|error| panic!("{kind} {rule:?}: {error:?}"));
            assert_problem(&reply, StatusCode::from_u16(status).unwrap(), kind);
            let problem: Value = serde_json::from_slice(&reply.body).unwrap();
            assert!(rule.is_none_or(|rule| problem["rule"] == rule), "{problem}");
        }
        let weak = Device::with_key(&path, "weak", DeviceKey::Rsa(1024));
        let reply = appliance.ask_anew(&line, "demo", &weak.request()).await;
        assert_problem(&reply, StatusCode::BAD_REQUEST, "csr-refused");
        let extra = ["-addext", "subjectAltName=DNS:broker.example"];
        let greedy = device.request_with("/CN=bad", &extra);
        let reply = appliance.ask_anew(&line, "demo", &greedy).await;
        assert_problem(&reply, StatusCode::UNPROCESSABLE_ENTITY, "field-refused");
        // None of them took the device's id or key.
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
    })
    .await;
}

/// A call with this body to the order `demo`.
fn call(body: &[u8]) -> Call<'_> {
    Call {
        method: hyper::Method::POST,
        path: DEMO,
        content_type: "application/pkcs10",
        accept: "*/*",
        body: body.to_vec().into(),
    }
}
