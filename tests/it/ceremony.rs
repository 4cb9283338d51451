//! Ceremonies on a real token: what they refuse before anything is made, and a root that is elsewhere.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::harness::device::{Device, der};
use crate::harness::log::sha256;
use crate::harness::program::{openssl, run};
use crate::harness::{Appliance, Site, invariants};
use crate::interop::assert_signed_as_logged;
use crate::witnesses;

/// Runs the site's ceremony file with further words; standard error of a run that must fail.
fn refused(site: &Site, more: &[&str]) -> String {
    let mut command = site.hallmark();
    let output = command
        .args(["ceremony", "run", "ceremony.toml"])
        .args(more)
        .output()
        .unwrap();
    assert!(!output.status.success(), "it succeeded");
    String::from_utf8(output.stderr).unwrap()
}

/// Runs the site's ceremony file.
fn hold(site: &Site) {
    run(site.hallmark().args(["ceremony", "run", "ceremony.toml"]));
}

/// Changes the ceremony file: the text is there exactly once and is replaced.
fn replan(site: &Site, from: &str, to: &str) {
    let path = site.path().join("ceremony.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches(from).count(), 1, "{from:?} in\n{text}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// Verifies the published log with its details.
fn verify(site: &Site) -> String {
    let output = run(site
        .command("hallmark-audit")
        .args(["verify", "--published", "public", "--details", "private"])
        .args(["--log-key", "state/log.vkey"]));
    String::from_utf8(output.stdout).unwrap()
}

/// Whether a ceremony has made anything.
fn untouched(site: &Site) -> bool {
    ["state", "public", "private", "log.key"]
        .iter()
        .all(|name| !site.path().join(name).exists())
}

#[test]
fn a_rehearsal_makes_nothing_and_a_ceremony_is_held_once() {
    let site = Site::before_ceremony();
    let rehearse = ["ceremony", "run", "ceremony.toml", "--dry-run"];
    let text = run(site.hallmark().args(rehearse)).stdout;
    let told = run(site.hallmark().args(rehearse).arg("--json")).stdout;
    let told: Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(told["title"], "Quickstart");
    // The same steps, for people and for programs.
    let steps = told["steps"].as_array().unwrap();
    let text = String::from_utf8(text).unwrap();
    let listed = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(". "));
    let listed: Vec<&str> = listed.map(|(_number, step)| step).collect();
    assert_eq!(listed, *steps, "{text}");
    assert!(listed.iter().any(|step| step.contains("object=device-1;")));
    assert!(untouched(&site));
    hold(&site);
    // The root's own signature is in the log like every other: five certificates with the server's.
    let verified = verify(&site);
    assert!(
        verified.contains("certificate 5 in 5 attempts"),
        "{verified}"
    );
    assert!(
        verified.contains("CRL         4 in 4 attempts"),
        "{verified}"
    );
    openssl(
        &site.path().join("state"),
        &[
            "verify",
            "-x509_strict",
            "-CAfile",
            "ca/access-root.pem",
            "-untrusted",
            "ca/access.pem",
            "server.pem",
        ],
    );
    let transcript = site.path().join("state/ceremony/transcript.txt");
    let transcript = std::fs::read_to_string(transcript).unwrap();
    assert!(transcript.contains("CKA_NEVER_EXTRACTABLE    true"));

    let before = std::fs::read(site.path().join("public/log/checkpoint")).unwrap();
    let said = refused(&site, &[]);
    assert!(said.contains("must be empty"), "{said}");
    let after = std::fs::read(site.path().join("public/log/checkpoint")).unwrap();
    assert_eq!(before, after, "the log is as it was");

    // The files are gone, the keys are not: that is seen before anything is made.
    for name in ["state", "public", "private"] {
        std::fs::remove_dir_all(site.path().join(name)).unwrap();
    }
    std::fs::remove_file(site.path().join("log.key")).unwrap();
    for more in [&["--dry-run"][..], &[]] {
        let said = refused(&site, more);
        assert!(
            said.contains("object=device-root;type=private: the label is taken"),
            "{said}"
        );
        assert!(untouched(&site));
    }
}

#[test]
fn a_rejected_pin_ends_a_ceremony_before_it_begins() {
    let site = Site::before_ceremony();
    let right = std::fs::read_to_string(site.path().join("pin")).unwrap();
    std::fs::write(site.path().join("pin"), "1234\n").unwrap();
    let said = refused(&site, &[]);
    assert!(said.contains("the PIN was rejected"), "{said}");
    assert!(untouched(&site));
    // One try was taken and no more: the token is not locked.
    std::fs::write(site.path().join("pin"), right).unwrap();
    hold(&site);
}

#[test]
fn a_failure_midway_tells_what_exists() {
    let (site, control) = Site::faulting_before_ceremony();
    // The first signature is the self-test of the first key.
    std::fs::write(control, "sign wrong 1\n").unwrap();
    let said = refused(&site, &[]);
    for part in [
        "failed while testing the key of device-root",
        "- the database in ",
        "/state\n",
        "- the log key in ",
        "/log.key\n",
        "- the published log in ",
        "- a key pair pkcs11:token=hallmark;serial=",
        "object=device-root;type=private\n",
        "does not verify",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    assert!(!said.contains("object=access-root"), "{said}");
    // What happened is in the log, which is whole.
    let verified = verify(&site);
    assert!(verified.contains("certificates issued     0"), "{verified}");
}

/// Makes the device root with OpenSSL and lets the ceremony hand out a request to it.
fn with_offline_root(site: &Site) {
    let path = site.path();
    let text = std::fs::read_to_string(site.configuration()).unwrap();
    let key = text
        .lines()
        .find(|line| line.starts_with("key = ") && line.contains("object=device-root;"))
        .unwrap();
    site.reconfigure(key, "");
    let plan = std::fs::read_to_string(path.join("ceremony.toml")).unwrap();
    let (head, rest) = plan.split_once("[[ca]]\nname = \"device-root\"").unwrap();
    let (_root, rest) = rest.split_once("[[ca]]").unwrap();
    std::fs::write(path.join("ceremony.toml"), format!("{head}[[ca]]{rest}")).unwrap();
    let root = "parent = \"offline\"\noffline_parent = \"device-root\"\n\
                offline_parent_subject = \"CN=Offline Root,O=Example\"\n";
    replan(site, "parent = \"device-root\"", root);
    let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout root.key -out root.pem \
                -days 9000 -addext keyUsage=critical,keyCertSign,cRLSign -subj";
    let mut words: Vec<&str> = make.split(' ').filter(|word| !word.is_empty()).collect();
    words.push("/O=Example/CN=Offline Root");
    openssl(path, &words);
}

/// Lets the root answer the request.
fn answer(path: &Path) {
    let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
                      subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
    std::fs::write(path.join("extensions"), extensions).unwrap();
    let sign = "x509 -req -in state/ceremony/device-1.csr.pem -CA root.pem -CAkey root.key \
                -set_serial 0x4f01020304050607 -days 3650 -extfile extensions -out issuer.pem";
    let words: Vec<&str> = sign.split(' ').filter(|word| !word.is_empty()).collect();
    openssl(path, &words);
    let read = |name: &str| std::fs::read_to_string(path.join(name)).unwrap();
    std::fs::write(
        path.join("answer.pem"),
        read("issuer.pem") + &read("root.pem"),
    )
    .unwrap();
}

#[test]
fn an_offline_root_answers_later() {
    let (site, trace) = Site::traced_before_ceremony();
    with_offline_root(&site);
    hold(&site);
    assert!(!site.path().join("public/ca/device-1.cer").exists());
    // A log in which a key waits for its certificate is whole.
    verify(&site);
    answer(site.path());
    let accept = |file: &str| {
        let mut command = site.hallmark();
        command.args(["ceremony", "accept", "device-1", file]);
        command
    };
    // The issuer's certificate alone is not enough to believe in its root.
    let output = accept("issuer.pem").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("it has 1"),
        "{said}"
    );
    // Nothing is appended to an older copy of the log.
    let configuration = std::fs::read_to_string(site.configuration()).unwrap();
    let published = || std::fs::read(site.path().join("public/log/checkpoint")).unwrap();
    let before = published();
    witnesses::configure(
        &site,
        "dmz",
        witnesses::claims(&site, 1000),
        &witnesses::nobodys_key(),
    );
    let output = accept("answer.pem").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("has seen 1000 entries"),
        "{said}"
    );
    assert_eq!(published(), before);
    std::fs::write(site.configuration(), configuration).unwrap();
    run(&mut accept("answer.pem"));
    // A second time changes nothing that counts.
    let told = run(accept("answer.pem").arg("--json")).stdout;
    let told: Value = serde_json::from_slice(&told).unwrap();
    let fingerprint = |name: &str| sha256(&der(&std::fs::read(site.path().join(name)).unwrap()));
    let expected = json!({
        "issuer": "device-1", "sha256": fingerprint("issuer.pem"),
        "root": "device-root", "root_sha256": fingerprint("root.pem"),
    });
    assert_eq!(told, expected);
    openssl(
        site.path(),
        &[
            "verify",
            "-x509_strict",
            "-CAfile",
            "state/ca/device-root.pem",
            "state/ca/device-1.pem",
        ],
    );
    let crl = [
        "crl",
        "-inform",
        "DER",
        "-in",
        "public/crl/device-1.crl",
        "-noout",
    ];
    openssl(
        site.path(),
        &[&crl[..], &["-CAfile", "state/ca/device-1.pem"]].concat(),
    );
    let verified = verify(&site);
    assert!(
        verified.contains("request     1 in 1 attempts"),
        "{verified}"
    );
    assert!(
        verified.contains("certificate 3 in 3 attempts"),
        "{verified}"
    );
    // The token signed the request, once, and nothing else that the log does not know.
    let signed = assert_signed_as_logged(site.path(), &trace);
    assert_eq!(signed.get("request"), Some(&1), "{signed:?}");
}

/// Puts the device root on a token of its own; the directory of that token.
fn with_root_elsewhere(site: &Site) -> PathBuf {
    let tokens = || -> BTreeSet<PathBuf> {
        let all = std::fs::read_dir(site.path().join("tokens")).unwrap();
        all.map(|token| token.unwrap().path()).collect()
    };
    let before = tokens();
    let serial = site.add_token("vault");
    let text = std::fs::read_to_string(site.configuration()).unwrap();
    let key = text
        .lines()
        .find(|line| line.starts_with("key = ") && line.contains("object=device-root;"))
        .unwrap();
    let elsewhere =
        format!("key = \"pkcs11:token=vault;serial={serial};object=device-root;type=private\"");
    site.reconfigure(key, &elsewhere);
    let added: Vec<PathBuf> = tokens().difference(&before).cloned().collect();
    let [token] = added.as_slice() else {
        panic!("not one token more: {added:?}");
    };
    token.clone()
}

#[tokio::test]
async fn a_root_on_another_token_is_locked_away_after_the_ceremony() {
    let site = Site::before_ceremony();
    let vault = with_root_elsewhere(&site);
    let held = run(site
        .hallmark()
        .args(["ceremony", "run", "ceremony.toml", "--json"]));
    let told: Value = serde_json::from_slice(&held.stdout).unwrap();
    let tokens = told["tokens"].as_array().unwrap();
    let named: Vec<&Value> = tokens.iter().map(|token| &token["name"]).collect();
    assert_eq!(named, ["soft", "vault"]);
    for key in told["keys"].as_array().unwrap() {
        let place = key["uri"].as_str().unwrap();
        let on_vault = place.contains(tokens[1]["serial"].as_str().unwrap());
        assert_eq!(on_vault, key["issuer"] == "device-root", "{key}");
        assert_eq!(on_vault, place.contains("token=vault;"), "{key}");
    }
    openssl(
        &site.path().join("state/ca"),
        &[
            "verify",
            "-x509_strict",
            "-CAfile",
            "device-root.pem",
            "device-1.pem",
        ],
    );
    // Locked away: the appliance issues without it, from its start on.
    std::fs::rename(&vault, site.path().join("vault/locked-away")).unwrap();
    let mut appliance = Appliance::stopped(site);
    appliance.spawn();
    let usable = |appliance: &Appliance, issuer: &str| {
        let status = appliance.json(&["status"]);
        let mut issuers = status["issuers"].as_array().unwrap().iter();
        issuers.any(|told| told["issuer"] == issuer && told["usable"] == true)
    };
    appliance.wait("ready without the root", |appliance| {
        appliance.is_ready() && usable(appliance, "device-1") && usable(appliance, "access")
    });
    assert!(!usable(&appliance, "device-root"));
    let line = appliance.line_and_order(1);
    let device = Device::new(appliance.site.path(), "without-root");
    let reply = appliance.ask_until_issued(&line, &device).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    invariants::assert(appliance).await;
}

#[test]
fn a_ceremonys_process_forbids_core_dumps_before_it_starts_anything() {
    let site = Site::before_ceremony();
    let own = site.path().join("programs");
    std::fs::create_dir(&own).unwrap();
    // Copied and written by other processes: a file that this one has open for writing cannot be run.
    let hallmark = site.command("hallmark").get_program().to_owned();
    run(Command::new("cp").arg(&hallmark).arg(own.join("hallmark")));
    // In the place of the token host: its limits are those of the process that starts it.
    let host =
        "printf '#!/bin/sh\nulimit -H -c >core-limit\n' >hallmark-token && chmod +x hallmark-token";
    run(Command::new("sh").args(["-c", host]).current_dir(&own));
    let mut ceremony = Command::new(own.join("hallmark"));
    ceremony.current_dir(site.path());
    ceremony.arg("--config").arg(site.configuration());
    let told = ceremony
        .args(["ceremony", "run", "ceremony.toml", "--dry-run"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    let limit = std::fs::read_to_string(site.path().join("core-limit"));
    assert_eq!(limit.expect(&told), "0\n", "{told}");
}
