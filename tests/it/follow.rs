//! Readers with the real programs: `hallmark-ocsp` follows an appliance over mTLS, an auditor copies it with curl, and
//! nobody reads with another's certificate.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::{Method, StatusCode};
use serde_json::Value;

use crate::harness::appliance::{LineIdentity, PATIENCE};
use crate::harness::client::{Call, Connection, Reply};
use crate::harness::device::{self, Device, serial_of};
use crate::harness::faults::Faults;
use crate::harness::log::entries;
use crate::harness::program::{openssl, run};
use crate::harness::responder::{Responder, certify_responders_for_a_minute};
use crate::harness::{Appliance, Site, invariants, leave_for_lint};
use crate::source::root;

/// Revocations whose visibility is measured.
const REVOCATIONS: usize = 8;

/// The certificate of the access root, and the chain of `device-1`, in the site's directory.
fn trust(appliance: &Appliance) {
    let directory = appliance.site.path();
    for name in ["device-1", "device-root"] {
        let (file, out) = (format!("public/ca/{name}.cer"), format!("{name}.pem"));
        let convert = ["x509", "-inform", "DER", "-in", &file, "-out", &out];
        openssl(directory, &convert);
    }
    let chain = ["device-1.pem", "device-root.pem"]
        .map(|name| std::fs::read_to_string(directory.join(name)).unwrap());
    std::fs::write(directory.join("chain.pem"), chain.concat()).unwrap();
    appliance.api(None);
}

/// A reader's new key, with a request for it in a file.
fn request(appliance: &Appliance, name: &str) -> (Device, PathBuf) {
    let device = Device::new(appliance.site.path(), name);
    let file = device.key_path().with_extension("csr");
    std::fs::write(&file, device.request()).unwrap();
    (device, file)
}

/// Approves the responder `ocsp-1`, also anew, and gives it a certificate for this key.
fn approve(appliance: &Appliance, key: &str, device: &Device, csr: &Path) -> LineIdentity {
    let certificate = appliance.site.path().join("ocsp-1-tls.pem");
    appliance.command(&[
        "responder",
        "approve",
        "ocsp-1",
        "--key",
        key,
        "--tls-csr",
        csr.to_str().unwrap(),
        "--out",
        certificate.to_str().unwrap(),
    ]);
    let file = appliance.site.path().join("ocsp-1-tls.key");
    std::fs::copy(device.key_path(), &file).unwrap();
    LineIdentity {
        name: "ocsp-1".to_owned(),
        certificate,
        key: file,
    }
}

/// Has a responder follow the appliance over mTLS instead of its directory.
fn follow_over_mtls(responder: &Responder, appliance: &Appliance) {
    let text = std::fs::read_to_string(&responder.config).unwrap();
    let source = "source = \"public\"";
    assert_eq!(text.matches(source).count(), 1);
    let https = format!(
        "source = \"{}/public/\"\nca_file = \"server-ca.pem\"\ncertificate_file = \"ocsp-1-tls.pem\"\n\
         key_file = \"ocsp-1-tls.key\"",
        appliance.site.api()
    );
    std::fs::write(&responder.config, text.replace(source, &https)).unwrap();
}

/// Adds an auditor with a key of its own.
fn auditor(appliance: &Appliance, name: &str) -> LineIdentity {
    let (device, csr) = request(appliance, name);
    let pem = appliance.command(&["auditor", "add", name, "--csr", csr.to_str().unwrap()]);
    let certificate = appliance.site.path().join(format!("{name}.pem"));
    std::fs::write(&certificate, pem).unwrap();
    LineIdentity {
        name: name.to_owned(),
        certificate,
        key: device.key_path(),
    }
}

/// Sends a request on a connection.
async fn send(connection: &mut Connection, method: Method, path: &str) -> Reply {
    let call = Call {
        method,
        path,
        content_type: "application/octet-stream",
        accept: "*/*",
        body: Bytes::new(),
    };
    connection.send(call).await.unwrap()
}

/// Status and problem type of an answer.
fn told(reply: &Reply) -> (u16, String) {
    let problem: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let urn = problem["type"].as_str().unwrap_or_default();
    let kind = urn.strip_prefix("urn:hallmark:problem:");
    (reply.status.as_u16(), kind.unwrap_or_default().to_owned())
}

/// Status and problem type of the answer to a GET on a new connection with a certificate.
async fn get(appliance: &Appliance, as_whom: &LineIdentity, path: &str) -> (u16, String) {
    let mut connection = appliance.connect(as_whom).await;
    told(&send(&mut connection, Method::GET, path).await)
}

/// What a responder says at a path of its loopback page.
fn ops(responder: &Responder, path: &str) -> String {
    let url = format!("http://127.0.0.1:{}{path}", responder.ops_port);
    let output = run(Command::new("curl").args(["--silent", "--max-time", "5", &url]));
    String::from_utf8(output.stdout).unwrap()
}

/// One of a responder's metrics; `name` with its labels.
fn metric(responder: &Responder, name: &str) -> Option<i64> {
    let text = ops(responder, "/metrics");
    let mut lines = text.lines();
    lines.find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Waits until a device's certificate has a status in OpenSSL's eyes; how long that took.
fn becomes(responder: &Responder, directory: &Path, file: &str, status: &str) -> Duration {
    let (began, line) = (Instant::now(), format!("{file}: {status}"));
    loop {
        let told = responder.status(directory, file);
        if told.contains(&line) {
            return began.elapsed();
        }
        assert!(began.elapsed() < PATIENCE, "not {status}: {told}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A new device's certificate in a file of the site's directory; its serial.
async fn issue(appliance: &mut Appliance, line: &LineIdentity, name: &str) -> String {
    let directory = appliance.site.path().to_owned();
    let device = Device::new(&directory, name);
    let reply = appliance.ask_anew(line, "demo", &device.request()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    std::fs::write(directory.join(format!("{name}.pem")), &reply.body).unwrap();
    serial_of(&directory, &device::der(&reply.body))
}

/// Whether anything is wrong with following the log.
fn faults(responder: &Responder) -> Vec<String> {
    let text = ops(responder, "/metrics");
    let faults = text
        .lines()
        .filter(|line| line.starts_with("hallmark_ocsp_log_fault{") && !line.ends_with(" 0"));
    faults.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_responder_follows_over_mtls_until_its_approval_ends() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(64);
    let directory = appliance.site.path().to_owned();
    trust(&appliance);
    let mut responder = Responder::beside(&appliance.site);
    let key = responder.key(&appliance.site);
    // Refused for its own key alone: the approval stands, and is told.
    let (_, foreign) = request(&appliance, "somebody");
    let (tls, csr) = request(&appliance, "ocsp-1");
    let words = [
        "responder",
        "approve",
        "ocsp-1",
        "--key",
        key,
        "--out",
        "x",
        "--tls-csr",
    ];
    let answers = [
        "req",
        "-new",
        "-key",
        "ocsp/answers.key",
        "-subj",
        "/CN=ocsp-1",
    ];
    openssl(
        &directory,
        &[&answers[..], &["-out", "answers.csr"]].concat(),
    );
    for (csr, told) in [
        (Path::new("answers.csr"), "make another key for TLS"),
        (&foreign, "ocsp-1 is approved, but"),
    ] {
        let refused = appliance.try_command(&[&words[..], &[csr.to_str().unwrap()]].concat());
        let problem = String::from_utf8(refused.stderr).unwrap();
        let code = refused.status.code();
        assert!(code == Some(1) && problem.contains(told), "{problem}");
    }
    let first = approve(&appliance, key, &tls, &csr);
    let pem = std::fs::read(&first.certificate).unwrap();
    leave_for_lint("responder-client.cer", &device::der(&pem));
    follow_over_mtls(&responder, &appliance);
    let certified = directory.join("public/responders/ocsp-1/device-1.cer");
    appliance.wait("certified", |_| certified.exists());
    responder.start(&mut appliance);

    // Good, then revoked, as soon as a poll allows.
    for number in 0..REVOCATIONS {
        let name = format!("sensor-{number}");
        let serial = issue(&mut appliance, &line, &name).await;
        let file = format!("{name}.pem");
        becomes(&responder, &directory, &file, "good");
        appliance.command(&["cert", "revoke", &serial]);
        becomes(&responder, &directory, &file, "revoked");
    }
    assert_eq!(faults(&responder), Vec::<String>::new());
    let left = "hallmark_ocsp_client_certificate_left_seconds{log=\"quickstart\"}";
    let days = metric(&responder, left).unwrap() / 86_400;
    assert!((363..=365).contains(&days), "{days} days left");

    // An operator renews the client certificate; the old one may end then.
    let (renewed, csr) = request(&appliance, "ocsp-1");
    let old = serial_of(&directory, &device::der(&pem));
    let second = approve(&appliance, key, &renewed, &csr);
    let list = appliance.json(&["responder", "list"]);
    assert_eq!(list[0]["client_certificates"].as_array().unwrap().len(), 2);
    appliance.command(&["cert", "revoke", &old, "--reason", "superseded"]);
    let list = appliance.json(&["responder", "list"]);
    assert_eq!(list[0]["client_certificates"].as_array().unwrap().len(), 1);
    let serial = issue(&mut appliance, &line, "after-renewal").await;
    becomes(&responder, &directory, "after-renewal.pem", "good");
    assert_eq!(faults(&responder), Vec::<String>::new());

    // The appliance is down: what is known is answered, also after a restart of the responder.
    appliance.stop();
    appliance.wait("unreachable", |_| {
        faults(&responder).join("").contains("unreachable")
    });
    becomes(&responder, &directory, "after-renewal.pem", "good");
    let started = responder.config.clone();
    let (port, ops_port) = (responder.port, responder.ops_port);
    let crl = format!("http://127.0.0.1:{port}/crl/device-1.crl");
    let served = || run(Command::new("curl").args(["--silent", "--fail", &crl])).stdout;
    let before = served();
    drop(responder);
    let mut responder = Responder::configured(started, port, ops_port);
    responder.start(&mut appliance);
    becomes(&responder, &directory, "sensor-0.pem", "revoked");
    assert_eq!(served(), before);

    // It returns.
    appliance.spawn();
    appliance.wait_until_ready();
    appliance.command(&["cert", "revoke", &serial]);
    becomes(&responder, &directory, "after-renewal.pem", "revoked");
    assert_eq!(faults(&responder), Vec::<String>::new());

    // Revoked, it is refused at once, on open connections too, and says so.
    let mut open = appliance.connect(&second).await;
    let checkpoint = "/public/log/checkpoint";
    assert_eq!(
        send(&mut open, Method::GET, checkpoint).await.status,
        StatusCode::OK
    );
    appliance.command(&["responder", "revoke", "ocsp-1"]);
    let refused = send(&mut open, Method::GET, checkpoint).await;
    assert_eq!(told(&refused), (403, "unknown-certificate".into()));
    let refused = "hallmark_ocsp_log_fault{log=\"quickstart\",kind=\"refused\"}";
    appliance.wait("refused", |_| metric(&responder, refused) == Some(1));
    let reasons = ops(&responder, "/readyz");
    assert!(
        reasons.contains("403") && reasons.contains("does not belong to any"),
        "{reasons}"
    );
    let logged = std::fs::read_to_string(directory.join("ocsp.log")).unwrap();
    assert_eq!(
        logged
            .matches("refuses this responder's client certificate")
            .count(),
        1,
        "{logged}"
    );
    // What it has counts until its end: it goes on telling what it knows.
    becomes(&responder, &directory, "sensor-0.pem", "revoked");
    drop(responder);
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn a_responder_s_certificate_is_renewed_over_mtls() {
    let site = Site::new();
    certify_responders_for_a_minute(&site);
    let mut appliance = Appliance::start(site);
    trust(&appliance);
    let mut responder = Responder::beside(&appliance.site);
    let key = responder.key(&appliance.site);
    let (tls, csr) = request(&appliance, "ocsp-1");
    approve(&appliance, key, &tls, &csr);
    follow_over_mtls(&responder, &appliance);
    responder.start(&mut appliance);
    let kept = appliance
        .site
        .path()
        .join("ocsp/quickstart/files/responder/device-1.cer");
    let first = std::fs::read(&kept).unwrap();
    appliance.wait("renewed at the responder", |_| {
        std::fs::read(&kept).is_ok_and(|now| now != first)
    });
    drop(responder);
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn each_certificate_reads_only_what_its_role_may() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(1);
    trust(&appliance);
    let auditor = auditor(&appliance, "audit-1");
    let key = Responder::beside(&appliance.site).key(&appliance.site);
    let (tls, csr) = request(&appliance, "ocsp-1");
    let responder = approve(&appliance, key, &tls, &csr);
    issue(&mut appliance, &line, "sensor-1").await;
    let device = LineIdentity {
        name: "sensor-1".to_owned(),
        certificate: appliance.site.path().join("sensor-1.pem"),
        key: std::fs::read_dir(appliance.site.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.to_str().unwrap().ends_with("-sensor-1.pem"))
            .unwrap(),
    };
    let public = "/public/log/checkpoint";
    // An intent's details are there from the ceremony on; how many there are by now, the checkpoint says.
    let size =
        std::fs::read_to_string(appliance.site.path().join("public/log/checkpoint")).unwrap();
    let size: u64 = size.lines().nth(1).unwrap().parse().unwrap();
    let private = format!("/private/details/000.p/{size}");
    let orders = "/v1/orders/demo/certificates";
    let ok = (200, String::new());
    let refused = |kind: &str| (403, kind.to_owned());
    for (who, expected) in [
        (&line, [refused("wrong-role"), refused("wrong-role")]),
        (&responder, [ok.clone(), refused("wrong-role")]),
        (&auditor, [ok.clone(), ok.clone()]),
        (
            &device,
            [
                refused("unknown-certificate"),
                refused("unknown-certificate"),
            ],
        ),
    ] {
        let found = [
            get(&appliance, who, public).await,
            get(&appliance, who, &private).await,
        ];
        assert_eq!(found, expected, "{}", who.name);
        if who.name != line.name {
            let mut connection = appliance.connect(who).await;
            let reply = send(&mut connection, Method::POST, orders).await;
            let expected = if who.name == "sensor-1" {
                "unknown-certificate"
            } else {
                "wrong-role"
            };
            assert_eq!(told(&reply), refused(expected), "{}", who.name);
        }
    }
    let mut nobody = Connection::open(&appliance.api(None)).await.unwrap();
    let reply = send(&mut nobody, Method::GET, public).await;
    assert_eq!(told(&reply), (401, "no-certificate".into()));

    // A hold ends it, a release brings it back, as with lines.
    let pem = std::fs::read(&auditor.certificate).unwrap();
    let serial = serial_of(appliance.site.path(), &device::der(&pem));
    let hold = ["cert", "revoke", &serial, "--reason", "certificate-hold"];
    appliance.command(&hold);
    assert_eq!(
        get(&appliance, &auditor, public).await,
        refused("unknown-certificate")
    );
    appliance.command(&["cert", "release", &serial]);
    assert_eq!(get(&appliance, &auditor, public).await, ok);
    appliance.command(&["auditor", "disable", "audit-1"]);
    assert_eq!(
        get(&appliance, &auditor, public).await,
        refused("reader-disabled")
    );
    // It stands so after a restart too.
    appliance.stop();
    appliance.start_again();
    assert_eq!(
        get(&appliance, &auditor, public).await,
        refused("reader-disabled")
    );
    assert_eq!(get(&appliance, &responder, public).await, ok);
    appliance.command(&["auditor", "enable", "audit-1"]);
    assert_eq!(get(&appliance, &auditor, public).await, ok);
    let listed = appliance.json(&["auditor", "list"]);
    assert_eq!(
        (&listed[0]["name"], &listed[0]["state"]),
        (&"audit-1".into(), &"enabled".into())
    );
    invariants::assert_and_stop(&mut appliance);
    // Each change is an entry with the operator's name; a restart changed nothing.
    let entries = entries(appliance.site.path());
    let data = entries.iter().map(|entry| &entry.detail["data"]);
    let changes: Vec<&Value> = data
        .filter(|it| it["change"]["reader"].is_object())
        .collect();
    let told = |change: &&Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        assert_eq!(change["operator"], "operator");
        (
            text(&change["change"]["change"]),
            text(&change["change"]["reader"]["name"]),
        )
    };
    let expected = [
        ("reader-certified", "audit-1"),
        ("reader-certified", "ocsp-1"),
        ("reader-decertified", "audit-1"),
        ("reader-certified", "audit-1"),
        ("reader-set", "audit-1"),
        ("reader-set", "audit-1"),
    ];
    let expected = expected.map(|(change, name)| (change.to_owned(), name.to_owned()));
    assert_eq!(changes.iter().map(told).collect::<Vec<_>>(), expected);
}

/// The guide's script that copies all that is published.
fn copy_script() -> String {
    let guide = std::fs::read_to_string(root().join("docs/READERS.md")).unwrap();
    let (_, from) = guide.split_once("```sh\n# copy").unwrap();
    let (script, _) = from.split_once("```").unwrap();
    format!("# copy{script}")
}

#[tokio::test]
async fn an_auditor_copies_everything_with_curl_and_verifies_the_copy() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(200);
    trust(&appliance);
    let auditor = auditor(&appliance, "audit-1");
    // More than one bundle, so that there are full ones, partial ones and a tile of the second level.
    let mut connection = appliance.connect(&line).await;
    for number in 0..150 {
        let device = Device::new(appliance.site.path(), &format!("sensor-{number}"));
        let reply = appliance
            .ask(&mut connection, "demo", &device.request())
            .await;
        assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    }
    appliance.wait("published", |appliance| {
        let log = &appliance.json(&["status"])["log"];
        log["published"] == log["size"]
    });
    let copy = appliance.site.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    let mut bash = Command::new("bash");
    bash.current_dir(&copy)
        .args(["-euo", "pipefail", "-c", &copy_script()]);
    bash.env("API", appliance.site.api())
        .env("CA", "../server-ca.pem");
    bash.env("CERT", &auditor.certificate)
        .env("KEY", &auditor.key);
    bash.env("ISSUERS", "device-root device-1 access-root access");
    run(&mut bash);
    let mut audit = appliance.site.command("hallmark-audit");
    audit.args([
        "verify",
        "--published",
        "copy/public",
        "--details",
        "copy/private",
    ]);
    let output = run(audit.args(["--log-key", "state/log.vkey", "--json"]));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["verified"], true, "{told}");
    let report = &told["report"];
    assert_eq!(
        report["certificates"]["issued"].as_u64().map(|n| n >= 150),
        Some(true),
        "{told}"
    );
    assert_eq!(report["details"]["signatures_unverified"], 0, "{told}");
    assert_eq!(report["tiles_missing"], 0, "{told}");
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn readers_are_answered_before_any_token_is_there() {
    let mut appliance = Appliance::start(Site::new());
    trust(&appliance);
    let auditor = auditor(&appliance, "audit-1");
    appliance.stop();
    appliance.spawn_daemon(&[]);
    appliance.wait("listening", |appliance| {
        appliance.try_command(&["status"]).status.success()
    });
    let path = "/public/log/checkpoint";
    assert_eq!(get(&appliance, &auditor, path).await, (200, String::new()));
    assert!(!appliance.is_ready());
    appliance.spawn_host();
    appliance.wait_until_ready();
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn readers_are_answered_while_nothing_can_be_issued() {
    let (mut appliance, faults) = Faults::appliance();
    trust(&appliance);
    let auditor = auditor(&appliance, "audit-1");
    appliance.wait("published", |appliance| {
        let log = &appliance.json(&["status"])["log"];
        log["published"] == log["size"]
    });
    faults.order_of_disk("lost 0 1000000 hallmark.db-wal");
    let halts = appliance.try_command(&["auditor", "disable", "audit-1"]);
    assert_eq!(halts.status.code(), Some(1), "{halts:?}");
    assert_eq!(appliance.json(&["status"])["log"]["state"], "halted");
    for path in [
        "/public/log/checkpoint",
        "/public/crl/device-1.crl",
        "/public/ca/device-1.cer",
    ] {
        assert_eq!(
            get(&appliance, &auditor, path).await,
            (200, String::new()),
            "{path}"
        );
    }
    faults.order_of_disk("");
    appliance.wait_until_ready();
    invariants::assert(appliance).await;
}
