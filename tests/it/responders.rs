//! Responders with the real programs: a key is approved, certified, renewed and revoked, and `hallmark-ocsp` answers.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::harness::appliance::PATIENCE;
use crate::harness::device::{self, Device, serial_of};
use crate::harness::invariants::all_certificates;
use crate::harness::program::openssl;
use crate::harness::responder::{Responder, certify_responders_for_a_minute};
use crate::harness::{Appliance, Site, invariants, leave_for_lint};

/// By when a revocation must be in answers: the configuration promises 1 s after the log, on an idle machine.
const VISIBLE_WITHIN: Duration = Duration::from_secs(10);

/// Where the certificate of `ocsp-1` by `device-1` is published.
fn published(site: &Site) -> PathBuf {
    site.path().join("public/responders/ocsp-1/device-1.cer")
}

/// The certificates that were issued to responders.
fn certified(appliance: &Appliance) -> usize {
    let all = all_certificates(appliance);
    all.iter().filter(|c| c["why"] == "responder").count()
}

/// What an operator is told of a command that is refused.
fn refusal(appliance: &Appliance, words: &[&str]) -> String {
    let output = appliance.try_command(words);
    assert_eq!(output.status.code(), Some(1), "{words:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn an_approved_responder_answers_good_and_revoked_until_its_own_approval_ends() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(1);
    let directory = appliance.site.path().to_owned();
    for name in ["device-1", "device-root"] {
        let file = format!("public/ca/{name}.cer");
        let out = format!("{name}.pem");
        openssl(
            &directory,
            &["x509", "-inform", "DER", "-in", &file, "-out", &out],
        );
    }
    let chain = ["device-1.pem", "device-root.pem"]
        .map(|name| std::fs::read_to_string(directory.join(name)).unwrap());
    std::fs::write(directory.join("chain.pem"), chain.concat()).unwrap();
    let mut responder = Responder::beside(&appliance.site);
    let key = responder.key(&appliance.site);

    // Only public keys are approved.
    let approve = ["responder", "approve", "ocsp-1", "--key"];
    let told = refusal(&appliance, &[&approve[..], &["device-1.pem"]].concat());
    assert!(told.contains("not a public key"), "{told}");
    assert_eq!(appliance.json(&["responder", "list"]), json!([]));

    let approval = [&approve[..], &[key]].concat();
    let approved = appliance.json(&approval);
    assert!(approved["entry"].is_u64(), "{approved}");
    let again = appliance.json(&approval);
    assert_eq!(
        (&again["sha256"], &again["entry"]),
        (&approved["sha256"], &Value::Null)
    );
    openssl(
        &directory,
        &[
            "pkey",
            "-in",
            line.key.to_str().unwrap(),
            "-pubout",
            "-out",
            "other.pem",
        ],
    );
    let told = refusal(&appliance, &[&approve[..], &["other.pem"]].concat());
    assert!(told.contains("revoke it first"), "{told}");

    let file = published(&appliance.site);
    appliance.wait("certified", |_| file.exists());
    let der = std::fs::read(&file).unwrap();
    leave_for_lint("responder.cer", &der);
    let text = openssl(
        &directory,
        &[
            "x509",
            "-inform",
            "DER",
            "-in",
            file.to_str().unwrap(),
            "-noout",
            "-text",
        ],
    );
    for part in ["OCSP Signing", "OCSP No Check", "CN = ocsp-1"] {
        assert!(text.contains(part), "no {part} in\n{text}");
    }

    responder.start(&mut appliance);
    let device = Device::new(&directory, "sensor-1");
    let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    std::fs::write(directory.join("device.pem"), &reply.body).unwrap();
    let serial = serial_of(&directory, &device::der(&reply.body));
    let becomes = |status: &str| {
        let ends = Instant::now() + VISIBLE_WITHIN;
        let line = format!("device.pem: {status}");
        loop {
            let told = responder.status(&directory, "device.pem");
            if told.contains(&line) {
                return told;
            }
            assert!(Instant::now() < ends, "not {status}: {told}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    becomes("good");
    appliance.command(&["cert", "revoke", &serial, "--reason", "key-compromise"]);
    let told = becomes("revoked");
    assert!(told.contains("Reason: keyCompromise"), "{told}");

    // A start keeps what stands published.
    appliance.stop();
    appliance.spawn();
    appliance.wait_until_ready();
    appliance.wait("known again", |appliance| {
        let list = appliance.json(&["responder", "list"]);
        list[0]["certificates"][0]["not_after"].is_u64()
    });
    assert_eq!(std::fs::read(&file).unwrap(), der);
    assert_eq!(certified(&appliance), 1);

    let revoked = appliance.json(&["responder", "revoke", "ocsp-1"]);
    assert!(revoked["certificates_until"].is_u64(), "{revoked}");
    appliance.wait("removed", |_| !file.parent().unwrap().exists());
    assert_eq!(appliance.json(&["responder", "list"]), json!([]));
    let told = refusal(&appliance, &["responder", "revoke", "ocsp-1"]);
    assert!(told.contains("no responder ocsp-1"), "{told}");
    // What it has counts until its end: it goes on telling the truth.
    becomes("revoked");
    drop(responder);
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn certificates_are_renewed_in_time_and_never_after_the_approval_ended() {
    let site = Site::new();
    certify_responders_for_a_minute(&site);
    let mut appliance = Appliance::start(site);
    let key = Responder::beside(&appliance.site).key(&appliance.site);
    appliance.command(&["responder", "approve", "ocsp-1", "--key", key]);
    let file = published(&appliance.site);
    appliance.wait("certified", |_| file.exists());
    let first = std::fs::read(&file).unwrap();
    // A third of its life is left when the next one is there.
    let ends = Instant::now() + PATIENCE;
    while std::fs::read(&file).unwrap() == first {
        assert!(Instant::now() < ends, "never renewed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let list = appliance.json(&["responder", "list"]);
    let state = &list[0]["certificates"][0];
    assert_eq!(state["problem"], Value::Null, "{list}");

    appliance.command(&["responder", "revoke", "ocsp-1"]);
    appliance.wait("removed", |_| !file.exists());
    let made = certified(&appliance);
    assert!(made >= 2, "{made}");
    // Without a valid certificate published, a start would have it made in the same round as another's.
    appliance.stop();
    appliance.spawn();
    appliance.wait_until_ready();
    appliance.command(&["responder", "approve", "ocsp-2", "--key", key]);
    let other = appliance
        .site
        .path()
        .join("public/responders/ocsp-2/device-1.cer");
    appliance.wait("another is certified", |_| other.exists());
    assert_eq!((certified(&appliance), file.exists()), (made + 1, false));
    // A key has one name at a time. Approved again, it is certified again.
    let again = ["responder", "approve", "ocsp-1", "--key", key];
    assert!(refusal(&appliance, &again).contains("is approved as ocsp-2 already"));
    appliance.command(&["responder", "revoke", "ocsp-2"]);
    appliance.command(&["responder", "approve", "ocsp-1", "--key", key]);
    appliance.wait("certified again", |_| file.exists());
    invariants::assert(appliance).await;
}
