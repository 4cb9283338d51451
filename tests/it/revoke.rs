//! Revoking, holding and releasing with the real programs: one, many, lines' and issuers' certificates.

use std::path::Path;
use std::process::{Output, Stdio};

use base64ct::{Base64, Encoding as _};
use hyper::StatusCode;
use serde_json::{Value, json};

use crate::harness::appliance::{LineIdentity, post};
use crate::harness::device::{Device, der, serial_of};
use crate::harness::invariants::all_certificates;
use crate::harness::program::openssl;
use crate::harness::{Appliance, Site, invariants, with_appliance};

/// Certificates of the bulk: 8 transactions of revocations.
const MANY: usize = 2048;

/// CSRs in one batch.
const BATCH: usize = 512;

/// Issues certificates for the devices `dev-00000` and so on under `demo`.
async fn issue_many(appliance: &mut Appliance, line: &LineIdentity, count: usize) {
    let mut connection = appliance.connect(line).await;
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(BATCH) {
        let rows = part.iter().map(|number| {
            let key = rcgen::KeyPair::generate().unwrap();
            let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name = rcgen::DistinguishedName::new();
            let id = format!("dev-{number:05}");
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, id);
            let csr = params.serialize_request(&key).unwrap();
            format!("{}\n", json!({ "csr": Base64::encode_string(csr.der()) }))
        });
        let body: String = rows.collect();
        let path = "/v1/orders/demo/batches";
        let reply = post(&mut connection, path, body.as_bytes()).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        let text = String::from_utf8(reply.body.to_vec()).unwrap();
        assert!(text.lines().all(|row| row.contains("\"serial\"")), "{text}");
    }
}

/// The JSON that a command wrote, whatever became of it.
fn told(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)))
}

/// The size that the published checkpoint states.
fn published_size(site: &Path) -> u64 {
    let note = std::fs::read_to_string(site.join("public/log/checkpoint")).unwrap();
    note.lines().nth(1).unwrap().parse().unwrap()
}

/// Devices that stand so.
fn devices(appliance: &Appliance, status: &str) -> usize {
    let all = all_certificates(appliance);
    let of = |c: &&Value| c["why"] == "device" && c["status"] == status;
    all.iter().filter(of).count()
}

#[tokio::test]
async fn a_bulk_that_is_killed_in_the_middle_goes_on_and_revokes_nothing_twice() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(u64::try_from(MANY).unwrap());
    issue_many(&mut appliance, &line, MANY).await;
    let criteria = [
        "cert",
        "revoke",
        "--order",
        "demo",
        "--reason",
        "superseded",
    ];

    let look = appliance.json(&[&criteria[..], &["--dry-run"]].concat());
    assert_eq!(look["shown"], 20);
    assert_eq!(
        (&look["matched"], &look["done"]),
        (&json!(MANY), &json!(false))
    );
    assert_eq!(look["statuses"], json!({ "issued": MANY }));
    assert_eq!(look["certificates"].as_array().unwrap().len(), 20);
    assert_eq!(devices(&appliance, "revoked"), 0, "a look changes nothing");
    let token = look["selection"].as_str().unwrap().to_owned();
    let exactly = [&criteria[..], &["--selection", &token]].concat();

    let size = published_size(appliance.site.path());
    let mut command = appliance.site.hallmark();
    command.args(&exactly).arg("--json");
    let running = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let running = running.unwrap();
    let path = appliance.site.path().to_owned();
    appliance.wait("at work", |_| published_size(&path) > size + 256);
    appliance.kill();
    let ended = running.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let first = told(&ended);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(
        said.contains("run the same command again to go on"),
        "{said}"
    );
    assert_eq!(first["done"], false);
    let answered = first["changed"].as_u64().unwrap();
    assert!(answered > 0 && answered < MANY as u64, "{first}");

    appliance.start_again();
    let so_far = devices(&appliance, "revoked");
    // The part whose answer was lost may be durable.
    assert!(
        (answered as usize..=answered as usize + 256).contains(&so_far),
        "{so_far}, {first}"
    );
    let second = appliance.json(&exactly);
    assert_eq!(second["changed"], MANY - so_far, "{second}");
    assert_eq!(second["unchanged"], so_far);
    assert_eq!(
        (&second["done"], &second["newer"]),
        (&json!(true), &json!(0))
    );
    assert_eq!(second["visible"]["published"], true);
    assert_eq!(devices(&appliance, "revoked"), MANY);
    appliance.wait("on the CRL, and the log at rest", |appliance| {
        let status = appliance.json(&["status"]);
        let mut crls = status["crls"].as_array().unwrap().iter();
        let log = &status["log"];
        crls.any(|crl| crl["issuer"] == "device-1" && crl["listed"] == MANY)
            && log["published"] == log["size"]
    });
    let entries = published_size(appliance.site.path());
    let third = appliance.json(&exactly);
    assert_eq!(
        (&third["changed"], &third["unchanged"]),
        (&json!(0), &json!(MANY))
    );
    assert_eq!(
        published_size(appliance.site.path()),
        entries,
        "nothing is logged twice"
    );
    // The auditor counts them too, and verifies every entry.
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn what_is_done_is_what_was_shown() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(100);
        issue_many(appliance, &line, 20).await;
        let range = [
            "cert",
            "revoke",
            "--device-id-from",
            "dev-00005",
            "--device-id-to",
            "DEV-00009",
        ];
        let hold = ["--reason", "certificate-hold", "--dry-run"];
        let look = appliance.json(&[&range[..], &hold].concat());
        assert_eq!(look["matched"], 5);
        let token = look["selection"].as_str().unwrap().to_owned();
        // Another reason, other criteria and no token at all are not what was shown.
        for other in [
            [
                &range[..],
                &["--reason", "superseded", "--selection", &token],
            ]
            .concat(),
            vec![
                "cert",
                "revoke",
                "--order",
                "demo",
                "--reason",
                "certificate-hold",
                "--selection",
                &token,
            ],
            [&range[..], &["--selection", "x"]].concat(),
        ] {
            let refused = appliance.try_command(&other);
            assert_eq!(refused.status.code(), Some(1), "{other:?}");
        }
        // Issued after the look: within the range, and left alone.
        let device = Device::new(appliance.site.path(), "dev-00007b");
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_eq!(reply.status, StatusCode::CREATED);
        let hold = [
            &range[..],
            &["--reason", "certificate-hold", "--selection", &token],
        ]
        .concat();
        let done = appliance.json(&hold);
        assert_eq!((&done["changed"], &done["newer"]), (&json!(5), &json!(1)));
        assert_eq!(devices(appliance, "on-hold"), 5);

        let list = appliance.site.path().join("ids.json");
        std::fs::write(
            &list,
            json!(["dev-00005", "DEV-00006", "dev-00001"]).to_string(),
        )
        .unwrap();
        let list = list.to_str().unwrap();
        let released =
            appliance.try_command(&["cert", "release", "--device-ids", list, "--yes", "--json"]);
        assert_eq!(
            released.status.code(),
            Some(1),
            "one of them is not on hold"
        );
        let released = told(&released);
        assert_eq!(
            (&released["changed"], &released["done"]),
            (&json!(2), &json!(true))
        );
        assert_eq!(released["refused"].as_array().unwrap().len(), 1);
        assert_eq!(devices(appliance, "on-hold"), 3);
        let unasked = appliance.try_command(&["cert", "revoke", "--device-ids", list]);
        let text = String::from_utf8_lossy(&unasked.stdout).into_owned();
        assert!(
            text.contains("nothing was done") && text.contains("--selection"),
            "{text}"
        );
        assert_eq!(unasked.status.code(), Some(3), "nobody said yes");
        for unknown in [
            ["--order", "none", "--yes"],
            ["--line", "none", "--yes"],
            ["--issuer", "none", "--yes"],
            ["--issuer", "none", "--dry-run"],
            ["--issuer-certificate", "none", "--dry-run"],
        ] {
            let none = appliance.try_command(&[&["cert", "revoke"][..], &unknown].concat());
            let said = String::from_utf8_lossy(&none.stderr).into_owned();
            assert_eq!(none.status.code(), Some(1), "{unknown:?}");
            assert!(said.contains("there is no "), "{said}");
        }
    })
    .await;
}

#[tokio::test]
async fn what_matches_nothing_is_told_and_a_look_never_revokes() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(10);
        issue_many(appliance, &line, 4).await;
        let issued = appliance.json(&["cert", "list", "--order", "demo"]);
        let serial = issued[0]["serial"].as_str().unwrap().to_owned();

        // A list that has come to one serial, as the documented script calls it, and as openssl writes it.
        let openssl_form = format!("serial={}", serial.to_uppercase());
        for form in [&serial, &openssl_form] {
            let look = appliance.json(&["cert", "revoke", form, "--dry-run"]);
            assert_eq!((&look["matched"], &look["shown"]), (&json!(1), &json!(1)));
            assert!(look["selection"].is_string(), "{look}");
        }
        assert_eq!(devices(appliance, "revoked"), 0, "a look changes nothing");
        let held = ["--reason", "certificate-hold"];
        let one = appliance.json(&[&["cert", "revoke", &openssl_form][..], &held].concat());
        assert_eq!(
            (&one["serial"], &one["status"]),
            (&json!(serial), &json!("on-hold"))
        );
        let one = appliance.json(&["cert", "release", &serial]);
        assert_eq!(one["status"], "issued");

        // A list with an id that nothing has.
        let list = appliance.site.path().join("ids");
        std::fs::write(&list, "dev-00001\nDEV-00002\ndev-0000x\n").unwrap();
        let revoke = ["cert", "revoke", "--device-ids", list.to_str().unwrap()];
        let unmatched = json!({"count": 1, "device_ids": ["dev-0000x"]});
        let look = appliance.json(&[&revoke[..], &["--dry-run"]].concat());
        assert_eq!(
            (&look["matched"], &look["unmatched"]),
            (&json!(2), &unmatched)
        );
        let done = appliance.try_command(&[&revoke[..], &["--yes", "--json"]].concat());
        assert_eq!(done.status.code(), Some(1), "not all was done");
        let done = told(&done);
        assert_eq!(
            (&done["changed"], &done["unmatched"]),
            (&json!(2), &unmatched)
        );
        assert_eq!(devices(appliance, "revoked"), 2);

        // Nothing at all: no token, and no success.
        let none = ["cert", "revoke", "--device-id", "dev-none"];
        let look = appliance.json(&[&none[..], &["--dry-run"]].concat());
        assert_eq!(
            (&look["matched"], &look["selection"]),
            (&json!(0), &Value::Null)
        );
        let done = appliance.try_command(&[&none[..], &["--yes"]].concat());
        assert_eq!(done.status.code(), Some(1));

        // A list that was cut off says so, beside the JSON.
        let listed = appliance.try_command(&["cert", "list", "--limit", "2", "--json"]);
        assert_eq!(told(&listed).as_array().unwrap().len(), 2);
        let said = String::from_utf8_lossy(&listed.stderr).into_owned();
        assert!(said.contains("there are more: --after "), "{said}");
        let listed = appliance.try_command(&["cert", "list", "--limit", "1000", "--json"]);
        assert!(listed.stderr.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_held_certificate_is_given_out_again_once_it_is_released() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let device = Device::new(appliance.site.path(), "held");
        let first = appliance.ask_anew(&line, "demo", &device.request()).await;
        let serial = serial_of(appliance.site.path(), &der(&first.body));
        let held = appliance.json(&["cert", "revoke", &serial, "--reason", "certificate-hold"]);
        assert_eq!(
            (&held["reason"], &held["changed"]),
            (&json!("certificate-hold"), &json!(true))
        );
        let visible = &held["visible"];
        let at = |name: &str| visible[name].as_u64().unwrap();
        assert_eq!(at("ocsp_cached"), at("log") + 601_000, "{visible}");
        assert_eq!(
            (at("ocsp"), at("crl")),
            (at("log") + 1000, at("log") + 5000)
        );
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_eq!(reply.status, StatusCode::CONFLICT);
        let problem: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(problem["type"], "urn:hallmark:problem:held-before");
        let released = appliance.json(&["cert", "release", &serial]);
        assert_eq!(released["reason"], "remove-from-crl");
        let again = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_eq!(der(&again.body), der(&first.body), "the same certificate");
        let refused = appliance.try_command(&["cert", "release", &"4".repeat(32)]);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            !refused.status.success() && said.contains("that was issued"),
            "{said}"
        );

        // A line's own: it authenticates no more while it is on hold.
        let lines = appliance.json(&["line", "list"]);
        let own = lines[0]["certificates"][0]["serial"]
            .as_str()
            .unwrap()
            .to_owned();
        appliance.command(&["cert", "revoke", &own, "--reason", "certificate-hold"]);
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_eq!(reply.status, StatusCode::FORBIDDEN);
        appliance.command(&["cert", "release", &own]);
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert_eq!(reply.status, StatusCode::OK);
    })
    .await;
}

#[tokio::test]
async fn an_issuer_is_revoked_by_its_parent_and_issues_nothing_from_then_on() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(5);
    let device = Device::new(appliance.site.path(), "early");
    appliance.ask_anew(&line, "demo", &device.request()).await;
    let root = [
        "cert",
        "revoke",
        "--issuer-certificate",
        "device-root",
        "--yes",
    ];
    let refused = appliance.try_command(&root);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("is a root"),
        "{said}"
    );
    let words = [
        "cert",
        "revoke",
        "--issuer-certificate",
        "device-1",
        "--reason",
        "ca-compromise",
    ];
    let asked = appliance.try_command(&[&words[..], &["--json"]].concat());
    assert_eq!(asked.status.code(), Some(3), "nobody said yes");
    assert_eq!(told(&asked)["done"], false, "it asks first");
    let done = appliance.json(&[&words[..], &["--yes"]].concat());
    assert_eq!(
        (&done["reason"], &done["changed"]),
        (&json!("ca-compromise"), &json!(true))
    );
    // No responder answers for what a root signed.
    let visible = &done["visible"];
    assert_eq!(visible["ocsp"], Value::Null, "{visible}");
    assert!(visible["crl"].is_u64(), "{visible}");

    let refused_now = async |appliance: &mut Appliance| {
        let late = Device::new(appliance.site.path(), "late");
        let reply = appliance.ask_anew(&line, "demo", &late.request()).await;
        assert_eq!(reply.status, StatusCode::CONFLICT, "{reply:?}");
        let problem: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(problem["type"], "urn:hallmark:problem:issuer-revoked");
        let status = appliance.json(&["status"]);
        let issuers = status["issuers"].as_array().unwrap();
        let device = issuers.iter().find(|issuer| issuer["issuer"] == "device-1");
        assert_eq!(device.unwrap()["revoked"]["reason"], "ca-compromise");
        assert_eq!(
            status["ready"], false,
            "no device certificate can be issued"
        );
    };
    refused_now(&mut appliance).await;
    appliance.kill();
    appliance.spawn();
    appliance.wait("up again", |appliance| {
        let output = appliance.try_command(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let issuers = status["issuers"].as_array().cloned().unwrap_or_default();
        issuers.len() == 4 && issuers.iter().all(|issuer| issuer["usable"] == true)
    });
    refused_now(&mut appliance).await;

    // The access issuer too: its root's CRL tells so.
    let words = ["cert", "revoke", "--issuer-certificate", "access", "--yes"];
    assert_eq!(appliance.json(&words)["changed"], true);
    let serial = serial_of(appliance.site.path(), &appliance.site.ca("access")).to_uppercase();
    let directory = appliance.site.path().join("public/crl");
    appliance.wait("on the root's CRL", |_| {
        let show = [
            "crl",
            "-inform",
            "DER",
            "-in",
            "access-root.crl",
            "-noout",
            "-text",
        ];
        openssl(&directory, &show).contains(&serial)
    });
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn a_revocation_without_the_token_says_that_its_crl_waits() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(2);
    issue_many(&mut appliance, &line, 1).await;
    let issued = appliance.json(&["cert", "list", "--order", "demo"]);
    let serial = issued[0]["serial"].as_str().unwrap().to_owned();
    appliance.stop();
    // The daemon alone: no token can sign.
    appliance.spawn_daemon(&[]);
    appliance.wait("the log runs", |appliance| {
        let output = appliance.try_command(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let issuers = status["issuers"].as_array();
        status["log"]["state"] == "running" && issuers.is_some_and(|all| all.len() == 4)
    });
    let revoke = ["cert", "revoke", &serial, "--reason", "superseded"];
    let told = appliance.json(&revoke);
    let visible = &told["visible"];
    assert_eq!(
        (&told["changed"], &visible["published"]),
        (&true.into(), &true.into()),
        "{told}"
    );
    assert!(
        visible["ocsp"].is_u64() && visible["ocsp_cached"].is_u64(),
        "{told}"
    );
    assert_eq!(visible["crl"], Value::Null, "{told}");
    let waits = visible["crl_waits"].as_array().unwrap();
    assert_eq!(
        (waits.len(), &waits[0]["issuer"]),
        (1, &"device-1".into()),
        "{told}"
    );
    let text = appliance.command(&revoke);
    assert!(
        text.contains("CRL of device-1 NOT YET: its token cannot sign"),
        "{text}"
    );

    appliance.spawn_host();
    appliance.wait_until_ready();
    appliance.wait("the CRL followed", |appliance| {
        let again = appliance.json(&revoke);
        again["visible"]["crl"].is_u64() && again["visible"]["crl_waits"] == Value::Null
    });
    invariants::assert(appliance).await;
}
