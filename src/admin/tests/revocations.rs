//! Revocations as operators ask for them.

use super::*;

#[tokio::test]
async fn a_revoked_line_certificate_authenticates_no_more() {
    let appliance = Appliance::start(own_uid()).await;
    let (log, line) = (&appliance.log, "line-1".parse::<Slug>().unwrap());
    let certificate = PartyCertificate {
        serial: SerialNumber::from_random([9; 16]),
        sha256: DetailHash::of(b"certificate"),
        not_before: UnixMillis(0),
        not_after: UnixMillis::END_OF_TIME,
    };
    let serial = certificate.serial;
    for change in [
        Change::LineAdded { line: line.clone() },
        Change::LineCertified {
            line,
            certificate,
            renews: None,
        },
    ] {
        log.record_change("shift-lead", change).await.unwrap();
    }
    let now = UnixMillis::from_seconds(1_800_000_000);
    assert!(
        log.registry()
            .authenticate(Some(b"certificate"), now)
            .is_ok()
    );
    let path = format!("/v1/certificates/{serial}/revoke");
    // The log knows no such certificate, because none was issued here; the registry's part comes first.
    let reason = json!({"reason": "key-compromise"});
    let refused = appliance.refused("POST", &path, reason).await;
    assert_eq!(refused, (404, "missing".to_owned()));
    assert!(
        log.registry()
            .authenticate(Some(b"certificate"), now)
            .is_err()
    );
}

#[tokio::test]
async fn revocations_of_many_are_judged_before_anything_is_logged() {
    let appliance = Appliance::start(own_uid()).await;
    appliance.add_line().await;
    let size = appliance.log.status().size;
    let serial = |tag: u8| SerialNumber::from_random([tag; 16]).to_string();
    let serials: Vec<String> = (0..=255).map(serial).collect();
    let one_more = [&serials[..], &[format!("7f{}", "1".repeat(30))]].concat();
    let many = json!({"serials": one_more, "reason": "superseded"});
    let (select, revoke) = ("/v1/revocations/selection", "/v1/revocations");
    let rows = [
        (
            revoke,
            json!({"serials": [], "reason": "superseded"}),
            422,
            "value-refused",
        ),
        (revoke, many, 422, "value-refused"),
        (
            revoke,
            json!({"serials": [serial(1)], "reason": "bored"}),
            400,
            "body-refused",
        ),
        (revoke, json!({"serials": [serial(1)]}), 400, "body-refused"),
        (
            revoke,
            json!({"serials": [serial(1)], "reason": "superseded", "comment": "a\nb"}),
            422,
            "value-refused",
        ),
        (select, json!({"selection": {}}), 422, "value-refused"),
        (
            select,
            json!({"selection": {"order": "none"}}),
            404,
            "missing",
        ),
        (
            select,
            json!({"selection": {"colour": "red"}}),
            400,
            "body-refused",
        ),
        (
            select,
            json!({"selection": {"device_id_pattern": "("}}),
            422,
            "value-refused",
        ),
        (
            "/v1/issuers/none/revoke",
            json!({"reason": "superseded"}),
            404,
            "missing",
        ),
        (
            "/v1/issuers/device-1/revoke",
            json!({"reason": "superseded"}),
            409,
            "authority",
        ),
    ];
    for (path, body, status, kind) in rows {
        let refused = appliance.refused("POST", path, body.clone()).await;
        assert_eq!(refused, (status, kind.to_owned()), "{path} {body}");
    }
    let one = format!("/v1/certificates/{}", serial(1));
    let reason = json!({"reason": "remove-from-crl"});
    let refused = appliance
        .refused("POST", &format!("{one}/revoke"), reason)
        .await;
    assert_eq!(refused, (422, "value-refused".to_owned()));
    let refused = appliance
        .refused("POST", &format!("{one}/release"), json!({}))
        .await;
    assert_eq!(refused, (404, "missing".to_owned()));
    // Nothing of these was issued: each is refused by itself, and the answer says so.
    let body = json!({"serials": [serial(1), serial(2), serial(1)], "reason": "superseded"});
    let (status, done) = appliance.send("POST", revoke, body).await;
    assert_eq!(
        (status, &done["changed"], &done["unchanged"]),
        (200, &json!(0), &json!(0))
    );
    assert_eq!(done["refused"].as_array().unwrap().len(), 2, "{done}");
    let body = json!({"selection": {"issuer": "device-1"}});
    let (status, page) = appliance.send("POST", select, body).await;
    assert_eq!(
        (status, &page["next"], &page["entries"]),
        (200, &Value::Null, &json!(size))
    );
    assert_eq!(appliance.log.status().size, size, "nothing is in the log");
}

#[tokio::test]
async fn an_issuers_certificate_is_revoked_alone_and_where_its_parents_key_is() {
    let appliance = Appliance::start(own_uid()).await;
    // Signed by a root of which the log knows no signature: an offline one.
    let octets = SerialNumber::from_random([5; 16]);
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.serial_number = Some(octets.as_bytes().to_vec().into());
    let mut record = issuer("device-2", IssuerRole::Device);
    record.certificate = params.self_signed(&key).unwrap().der().to_vec();
    record.parent = "offline-root".parse().unwrap();
    appliance.log.record_issuer(record).await.unwrap();
    let size = appliance.log.status().size;
    let one = json!({"reason": "ca-compromise"});
    let path = "/v1/issuers/device-2/revoke";
    let (status, problem) = appliance.send("POST", path, one.clone()).await;
    let detail = problem["detail"].as_str().unwrap();
    assert_eq!(status, 409, "{detail}");
    assert!(
        detail.contains("offline-root") && detail.contains("not at hand"),
        "{detail}"
    );
    let path = format!("/v1/certificates/{octets}/revoke");
    assert_eq!(appliance.refused("POST", &path, one).await.1, "authority");
    let other = SerialNumber::from_random([6; 16]);
    let many = json!({"serials": [other, octets], "reason": "superseded"});
    let (status, problem) = appliance.send("POST", "/v1/revocations", many).await;
    let detail = problem["detail"].as_str().unwrap();
    assert_eq!(status, 409, "{detail}");
    assert!(detail.contains("--issuer-certificate device-2"), "{detail}");
    assert_eq!(appliance.log.status().size, size, "nothing is in the log");
}

#[tokio::test]
async fn a_compromised_line_key_ends_all_of_the_lines_certificates() {
    let appliance = Appliance::start(own_uid()).await;
    appliance.add_line().await;
    let (log, line) = (&appliance.log, "line-1".parse::<Slug>().unwrap());
    let certificate = |tag: u8| PartyCertificate {
        serial: SerialNumber::from_random([tag; 16]),
        sha256: DetailHash::of(&[tag]),
        not_before: UnixMillis(0),
        not_after: UnixMillis::END_OF_TIME,
    };
    for tag in [1, 2] {
        let certified = Change::LineCertified {
            line: line.clone(),
            certificate: certificate(tag),
            renews: None,
        };
        log.record_change("shift-lead", certified).await.unwrap();
    }
    let path = format!("/v1/certificates/{}/revoke", certificate(1).serial);
    let reason = json!({"reason": "key-compromise"});
    // As above: the lines' part comes first.
    let refused = appliance.refused("POST", &path, reason).await;
    assert_eq!(refused, (404, "missing".to_owned()));
    let record = log.registry().line(&line).unwrap();
    assert_eq!(record.state, crate::ra::PartyState::Disabled);
    assert!(record.certificates.is_empty(), "also once it is enabled");
}
