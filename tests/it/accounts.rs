//! What the log accounts for, read by its documented format: the ceremony's own acts, operators' changes, refusals.

use base64ct::{Base64, Encoding as _};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::harness::appliance::post;
use crate::harness::client::Connection;
use crate::harness::device::{Device, der, serial_of};
use crate::harness::log::{Entry, entries, sha256};
use crate::harness::program::{openssl, run};
use crate::harness::{Appliance, OrderTerms, Site, invariants};

/// What the detail of an entry says.
fn data(entry: &Entry) -> &Value {
    &entry.detail["data"]
}

/// The data of all events of a name, in order.
fn events<'a>(entries: &'a [Entry], name: &str) -> Vec<&'a Value> {
    let found = entries.iter().filter(|entry| entry.leaf["event"] == name);
    found.map(data).collect()
}

/// A site whose ceremony is told a place and the owner's key; the key's SubjectPublicKeyInfo.
fn owned_site() -> (Site, Vec<u8>) {
    let site = Site::before_ceremony();
    let owner = Device::new(site.path(), "owner");
    let key = owner.key_path();
    let words = ["pkey", "-pubout", "-out", "owner.pub.pem", "-in"];
    openssl(
        site.path(),
        &[&words[..], &[key.to_str().unwrap()]].concat(),
    );
    let plan = site.path().join("ceremony.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    let title = "title = \"Quickstart\"\n";
    assert_eq!(text.matches(title).count(), 1);
    let more = "place = \"Room 12\"\nowner_key = \"owner.pub.pem\"\n";
    std::fs::write(&plan, text.replace(title, &format!("{title}{more}"))).unwrap();
    let public = std::fs::read(site.path().join("owner.pub.pem")).unwrap();
    (site, der(&public))
}

#[test]
fn the_log_holds_what_the_transcript_tells_and_pins_the_owners_key() {
    let (site, owner_key) = owned_site();
    let held = run(site
        .hallmark()
        .args(["ceremony", "run", "ceremony.toml", "--json"]));
    let told: Value = serde_json::from_slice(&held.stdout).unwrap();
    let entries = entries(site.path());

    let genesis = &entries[0];
    assert_eq!(genesis.leaf["kind"], "genesis");
    assert_eq!(genesis.leaf["origin"], told["log"]["origin"]);
    assert_eq!(genesis.leaf["log_key"], told["log"]["verifier_key"]);
    let plan = std::fs::read(site.path().join("ceremony.toml")).unwrap();
    let said = json!({
        "log_key": told["log"]["key"],
        "operators": ["operator"],
        "owner_key": Base64::encode_string(&owner_key),
        "place": "Room 12",
        "plan_sha256": sha256(&plan),
        "product": told["product"],
        "title": "Quickstart",
        "tokens": told["tokens"],
    });
    assert_eq!(*data(genesis), said);
    assert_eq!(told["owner_key_sha256"], sha256(&owner_key));
    assert_eq!(told["tokens"].as_array().unwrap().len(), 1, "{told}");

    keys_are_logged(&entries, &told);
    certificates_are_logged(&entries, &told);

    let paper = site.path().join("state/ceremony/transcript.txt");
    let paper = std::fs::read(paper).unwrap();
    let finished = json!({
        "operators": ["operator"],
        "title": "Quickstart",
        "transcript_sha256": sha256(&paper),
    });
    assert_eq!(events(&entries, "ceremony-finished"), [&finished]);
    let paper = String::from_utf8(paper).unwrap();
    assert!(paper.contains(&sha256(&owner_key)), "{paper}");
}

/// Each key of the transcript stands in an entry of its own, in the same order.
fn keys_are_logged(entries: &[Entry], told: &Value) {
    let logged = events(entries, "key-generated");
    let keys = told["keys"].as_array().unwrap();
    assert_eq!((keys.len(), logged.len()), (4, 4));
    for (key, logged) in keys.iter().zip(logged) {
        for field in ["algorithm", "attributes", "issuer", "policy", "spki_sha256"] {
            assert_eq!(logged[field], key[field], "{field}");
        }
        let spki = Base64::decode_vec(logged["spki_der"].as_str().unwrap()).unwrap();
        assert_eq!(key["spki_sha256"], sha256(&spki));
        assert_eq!(key["attributes"]["CKA_SENSITIVE"], "true");
        assert_eq!(logged["operator"], "operator");
        let uri = key["uri"].as_str().unwrap();
        for (part, field) in [
            ("token", "token_label"),
            ("serial", "token_serial"),
            ("object", "key_label"),
        ] {
            let part = format!("{part}={}", logged[field].as_str().unwrap());
            assert!(uri.contains(&part), "{part}: {uri}");
        }
    }
}

/// Each certificate of the transcript is an issued one of the log, and a CA's is bound to its name.
fn certificates_are_logged(entries: &[Entry], told: &Value) {
    let certificates = told["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 5);
    for certificate in certificates {
        let octets = der(certificate["pem"].as_str().unwrap().as_bytes());
        assert_eq!(certificate["sha256"], sha256(&octets));
        let name = &certificate["name"];
        let outcome = entries
            .iter()
            .find(|entry| entry.detail["sha256"] == certificate["sha256"]);
        let outcome = outcome.unwrap_or_else(|| panic!("{name} is not in the log"));
        assert_eq!(outcome.leaf["outcome"], "issued");
        assert_eq!(outcome.leaf["issuer"], certificate["issuer"]);
        let mut bound = entries
            .iter()
            .filter(|entry| entry.leaf["kind"] == "issuer" && entry.leaf["issuer"] == *name);
        if certificate["role"].is_null() {
            // The server's certificate makes no issuer.
            assert!(bound.next().is_none());
            continue;
        }
        let bound = bound.next().unwrap();
        assert_eq!(bound.leaf["certificate"], certificate["sha256"]);
        let logged = data(bound);
        assert_eq!(logged["role"], certificate["role"]);
        assert_eq!(logged["certificate"], Base64::encode_string(&octets));
    }
}

/// Milliseconds of a date that the tests use.
const FROM: (&str, u64) = ("2026-01-01T00:00:00Z", 1_767_225_600_000);

/// As [`FROM`].
const UNTIL: (&str, u64) = ("2090-01-01T00:00:00Z", 3_786_912_000_000);

#[tokio::test]
async fn each_change_names_its_operator_and_what_it_changed() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line("line-1");
    let certificate = der(&std::fs::read(&line.certificate).unwrap());
    let serial = serial_of(appliance.site.path(), &certificate);
    appliance.command(&["line", "disable", "line-1"]);
    appliance.command(&["line", "enable", "line-1"]);
    appliance.order(&OrderTerms {
        name: "demo",
        lines: &[&line],
        quantity: 7,
        more: &["--from", FROM.0, "--until", UNTIL.0],
    });
    appliance.command(&["order", "close", "demo"]);
    // What is so already is no change.
    appliance.command(&["order", "close", "demo"]);
    appliance.command(&["order", "reopen", "demo"]);
    let reason = ["--reason", "superseded"];
    appliance.command(&[&["cert", "revoke", &serial][..], &reason].concat());
    invariants::assert_and_stop(&mut appliance);

    let entries = entries(appliance.site.path());
    let changes = entries.iter().filter(|entry| {
        let changed = &data(entry)["change"];
        assert!(changed.is_null() || changed["change"] == entry.leaf["event"]);
        !changed.is_null()
    });
    let mut changes: Vec<Value> = changes.map(|entry| data(entry).clone()).collect();
    // The certificate's validity is the profile's.
    let validity = changes[1]["change"]["certificate"].as_object_mut().unwrap();
    let (from, until) = (validity.remove("not_before"), validity.remove("not_after"));
    assert!(from.unwrap().as_u64() < until.unwrap().as_u64());
    let certified = json!({"serial": serial, "sha256": sha256(&certificate)});
    let terms = json!({
        "order": "demo", "profile": "mqtt-device", "issuer": "device-1", "lines": ["line-1"],
        "quantity": 7, "from": FROM.1, "until": UNTIL.1, "device_id_pattern": "[A-Za-z0-9-]+",
    });
    let expected = [
        json!({"change": "line-added", "line": "line-1"}),
        json!({"change": "line-certified", "line": "line-1", "certificate": certified}),
        json!({"change": "line-set", "line": "line-1", "state": "disabled"}),
        json!({"change": "line-set", "line": "line-1", "state": "enabled"}),
        json!({"change": "order-opened", "terms": terms}),
        json!({"change": "order-set", "order": "demo", "state": "closed"}),
        json!({"change": "order-set", "order": "demo", "state": "open"}),
        json!({"change": "line-decertified", "line": "line-1", "serial": serial}),
    ];
    let expected = expected.map(|change| json!({"change": change, "operator": "operator"}));
    assert_eq!(changes, expected);
    let revoked: Vec<&Entry> = entries
        .iter()
        .filter(|entry| entry.leaf["kind"] == "revoked")
        .collect();
    assert_eq!(revoked.len(), 1);
    assert_eq!(revoked[0].leaf["serial"], serial);
    assert_eq!(revoked[0].leaf["reason"], 4, "superseded (RFC 5280, 5.3.1)");
    assert_eq!(data(revoked[0])["operator"], "operator");
    let intent = entries
        .iter()
        .find(|entry| entry.leaf["kind"] == "intent" && entry.leaf["serial"] == serial)
        .unwrap();
    assert_eq!(intent.detail["operator"], "operator");
}

#[tokio::test]
async fn each_refusal_of_a_line_is_told_and_a_strangers_is_counted() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(5);
    let path = appliance.site.path().to_owned();
    let peer = sha256(&der(&std::fs::read(&line.certificate).unwrap()));
    let device = Device::new(&path, "refused");
    let greedy = ["-addext", "subjectAltName=DNS:broker.example"];
    let greedy = device.request_with("/CN=refused", &greedy);
    let good = device.request();
    let mut connection = appliance.connect(&line).await;
    let asked: [(&str, &[u8], StatusCode); 3] = [
        (
            "/v1/orders/demo/certificates?device_id=named",
            b"garbage",
            StatusCode::BAD_REQUEST,
        ),
        (
            "/v1/orders/demo/certificates",
            &greedy,
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            "/v1/orders/nowhere/certificates",
            &good,
            StatusCode::NOT_FOUND,
        ),
    ];
    for (path, body, status) in asked {
        let reply = post(&mut connection, path, body).await;
        assert_eq!(reply.status, status, "{reply:?}");
    }
    for _ in 0..2 {
        let mut stranger = Connection::open(&appliance.api(None)).await.unwrap();
        let reply = appliance.ask(&mut stranger, "demo", &good).await;
        assert_eq!(reply.status, StatusCode::UNAUTHORIZED);
    }
    invariants::assert_and_stop(&mut appliance);

    let entries = entries(&path);
    let of_line = |rule: &str, order: &str| {
        json!({
            "certificate_sha256": peer, "line": "line-1", "order": order, "rule": rule,
        })
    };
    let mut garbage = of_line("request-encoding", "demo");
    garbage["device_id"] = json!("named");
    let expected = [
        garbage,
        of_line("field-refused", "demo"),
        of_line("no-such-order", "nowhere"),
    ];
    assert_eq!(
        events(&entries, "refused"),
        expected.iter().collect::<Vec<_>>()
    );
    let counted = json!({"strangers": {"no-certificate": 2}, "lines": {}, "other_lines": {}});
    assert_eq!(events(&entries, "refusals-counted"), [&counted]);
    // Neither says more than its name to whom details are not shown.
    let leaf = entries
        .iter()
        .find(|entry| entry.leaf["event"] == "refused")
        .unwrap();
    let shown: Vec<&String> = leaf.leaf.as_object().unwrap().keys().collect();
    assert_eq!(shown, ["detail", "event", "index", "kind", "time", "v"]);
}
