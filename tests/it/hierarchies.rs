//! Each kind of key and place, the whole way on a real token: the ceremony, the appliance, a device's certificate,
//! OpenSSL's opinion of chain and CRL, and the auditor's of the log.

use std::path::Path;
use std::process::Command;

use hyper::StatusCode;
use serde_json::Value;

use crate::harness::appliance::{pem, post};
use crate::harness::device::{Device, der};
use crate::harness::program::{openssl, run};
use crate::harness::{Appliance, Site, invariants, log};

/// What a ceremony makes that the quickstart's does not.
#[derive(Default)]
struct Hierarchy {
    /// CAs with another algorithm, and the word that OpenSSL has for their signatures.
    algorithms: &'static [(&'static str, &'static str, &'static str)],
    /// Whether there is a second device issuer, `device-2`.
    second_issuer: Second,
    /// What all keys are declared as, where not `never-extractable`.
    policy: Option<&'static str>,
    /// Where the log key is.
    log_key: LogKey,
}

/// Whether there is a second device issuer.
#[derive(Default, PartialEq)]
enum Second {
    #[default]
    No,
    Yes,
}

/// Where the log key is.
#[derive(Default, PartialEq)]
enum LogKey {
    #[default]
    File,
    Token,
}

/// The signature algorithms of the quickstart's CAs.
const QUICKSTART: [(&str, &str); 4] = [
    ("device-root", "ecdsa-with-SHA384"),
    ("device-1", "ecdsa-with-SHA256"),
    ("access-root", "ecdsa-with-SHA384"),
    ("access", "ecdsa-with-SHA256"),
];

impl Hierarchy {
    /// Writes it into the ceremony file and the configuration.
    fn declare(&self, site: &Site) {
        let path = site.path().join("ceremony.toml");
        let mut plan = std::fs::read_to_string(&path).unwrap();
        let mut config = std::fs::read_to_string(site.configuration()).unwrap();
        if self.second_issuer == Second::Yes {
            plan = with_second(&plan, "[[ca]]");
            config = with_second(&config, "[[issuer]]");
        }
        if self.log_key == LogKey::Token {
            let log = key_of(&config, "device-1").replace("object=device-1;", "object=log;");
            assert_eq!(config.matches("key_file = \"log.key\"").count(), 1);
            config = config.replace("key_file = \"log.key\"", &log);
        }
        for (ca, algorithm, _) in self.algorithms {
            plan = with_value(&plan, ca, "algorithm", algorithm);
        }
        for ca in self.cas() {
            let policy = self.policy.unwrap_or("never-extractable");
            plan = with_value(&plan, ca, "policy", policy);
        }
        std::fs::write(path, plan).unwrap();
        std::fs::write(site.configuration(), config).unwrap();
    }

    /// The names of all CAs.
    fn cas(&self) -> Vec<&'static str> {
        let mut all = QUICKSTART.map(|(name, _)| name).to_vec();
        if self.second_issuer == Second::Yes {
            all.push("device-2");
        }
        all
    }

    /// OpenSSL's word for a CA's signatures.
    fn signature(&self, ca: &str) -> &'static str {
        let declared = self.algorithms.iter().find(|(name, _, _)| *name == ca);
        let quickstart = || QUICKSTART.iter().find(|(name, _)| *name == ca).unwrap().1;
        declared.map_or_else(quickstart, |(_, _, signature)| signature)
    }

    /// Who signed a CA's certificate.
    fn parent(ca: &str) -> &'static str {
        match ca {
            "device-root" | "device-1" | "device-2" => "device-root",
            _ => "access-root",
        }
    }

    /// What the transcript must say of the keys.
    fn assert_transcript(&self, transcript: &Value) {
        let keys = transcript["keys"].as_array().unwrap();
        assert_eq!(keys.len(), self.cas().len(), "{keys:?}");
        let extractable = self.policy == Some("wrap-with-trusted");
        for key in keys {
            let attributes = &key["attributes"];
            for (name, value) in [
                ("CKA_TOKEN", true),
                ("CKA_LOCAL", true),
                ("CKA_SENSITIVE", true),
                ("CKA_ALWAYS_SENSITIVE", true),
                ("CKA_EXTRACTABLE", extractable),
                ("CKA_NEVER_EXTRACTABLE", !extractable),
                ("CKA_WRAP_WITH_TRUSTED", extractable),
            ] {
                assert_eq!(attributes[name], value.to_string(), "{name}: {key}");
            }
            assert_eq!(key["policy"], self.policy.unwrap_or("never-extractable"));
            let ca = key["issuer"].as_str().unwrap();
            if let Some((_, algorithm, _)) = self.algorithms.iter().find(|it| it.0 == ca) {
                assert_eq!(key["algorithm"], *algorithm, "{key}");
            }
        }
        let log_key = transcript["log"]["key"].as_str().unwrap();
        let on_token = self.log_key == LogKey::Token;
        assert_eq!(log_key.contains("object=log;"), on_token, "{log_key}");
        let attributes = &transcript["log"]["attributes"];
        assert_eq!(attributes["CKA_LABEL"] == "log", on_token, "{attributes}");
        assert_eq!(attributes["CKA_NEVER_EXTRACTABLE"] == "true", on_token);
    }
}

/// A TOML text with one of its tables, that of `device-1`, once more for `device-2`.
fn with_second(text: &str, header: &str) -> String {
    let table = text
        .split(header)
        .find(|table| table.contains("name = \"device-1\""))
        .unwrap();
    let second = table
        .replace("device-1", "device-2")
        .replace("Device Issuer 1", "Device Issuer 2");
    format!("{text}\n{header}{second}")
}

/// The line of the configuration that says where a CA's key is.
fn key_of<'a>(config: &'a str, ca: &str) -> &'a str {
    let object = format!("object={ca};");
    let mut lines = config.lines();
    lines
        .find(|line| line.starts_with("key = ") && line.contains(&object))
        .unwrap()
}

/// A ceremony file with another value of a CA's key.
fn with_value(plan: &str, ca: &str, key: &str, value: &str) -> String {
    let (head, rest) = plan.split_once(&format!("name = \"{ca}\"")).unwrap();
    let (between, rest) = rest.split_once(&format!("\n{key} = \"")).unwrap();
    assert!(!between.contains("[[ca]]"), "{ca} has no {key}");
    let (_old, rest) = rest.split_once('\n').unwrap();
    format!("{head}name = \"{ca}\"{between}\n{key} = \"{value}\"\n{rest}")
}

/// The first signature algorithm that OpenSSL's text of a certificate or CRL names.
fn signature_in(text: &str) -> &str {
    let (_, rest) = text.split_once("Signature Algorithm: ").unwrap();
    rest.lines().next().unwrap().trim()
}

/// Has OpenSSL verify a CA's certificate and its first CRL, and leaves both as PEM.
fn assert_openssl_accepts(path: &Path, hierarchy: &Hierarchy, ca: &str) {
    let root = Hierarchy::parent(ca);
    let (certificate, crl) = (format!("state/ca/{ca}.pem"), format!("{ca}.crl.pem"));
    let anchor = format!("state/ca/{root}.pem");
    let verified = openssl(
        path,
        &["verify", "-x509_strict", "-CAfile", &anchor, &certificate],
    );
    assert_eq!(verified.trim(), format!("{certificate}: OK"));
    let text = openssl(path, &["x509", "-in", &certificate, "-noout", "-text"]);
    assert_eq!(signature_in(&text), hierarchy.signature(root), "{ca}");

    let published = format!("public/crl/{ca}.crl");
    let mut command = Command::new("openssl");
    command.current_dir(path);
    command.args(["crl", "-inform", "DER", "-in", &published, "-text"]);
    command.args(["-CAfile", &certificate, "-out", &crl]);
    let output = run(&mut command);
    // It says so on standard error, and exits with 0 when it does not verify.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("verify OK"), "{ca}: {said}");
    let text = std::fs::read_to_string(path.join(&crl)).unwrap();
    assert_eq!(signature_in(&text), hierarchy.signature(ca), "{ca}");
    assert!(text.contains("No Revoked Certificates"), "{text}");
}

/// Has OpenSSL verify a device's certificate up to the root, against the issuer's CRL.
fn assert_openssl_trusts(path: &Path, hierarchy: &Hierarchy, issuer: &str, leaf: &[u8]) {
    let (file, untrusted) = (format!("by-{issuer}.pem"), format!("state/ca/{issuer}.pem"));
    std::fs::write(path.join(&file), pem(leaf)).unwrap();
    let crl = format!("{issuer}.crl.pem");
    let words = [
        "verify",
        "-x509_strict",
        "-purpose",
        "sslclient",
        "-crl_check",
    ];
    let files = [
        "-CAfile",
        "state/ca/device-root.pem",
        "-untrusted",
        &untrusted,
    ];
    let verified = openssl(
        path,
        &[&words[..], &files, &["-CRLfile", &crl, &file]].concat(),
    );
    assert_eq!(verified.trim(), format!("{file}: OK"));
    let text = openssl(path, &["x509", "-in", &file, "-noout", "-text"]);
    assert_eq!(signature_in(&text), hierarchy.signature(issuer));
}

/// The whole way of one hierarchy.
async fn the_whole_way(hierarchy: Hierarchy) {
    let site = Site::before_ceremony();
    hierarchy.declare(&site);
    let held = run(site
        .hallmark()
        .args(["ceremony", "run", "ceremony.toml", "--json"]));
    hierarchy.assert_transcript(&serde_json::from_slice(&held.stdout).unwrap());
    let path = site.path().to_owned();
    let events = log::entries(&path).into_iter();
    let keys = events.filter(|entry| entry.leaf["event"] == "key-generated");
    let on_token = usize::from(hierarchy.log_key == LogKey::Token);
    assert_eq!(keys.count(), hierarchy.cas().len() + on_token);
    let key_file = path.join("log.key").exists();
    assert_eq!(key_file, hierarchy.log_key == LogKey::File);
    for ca in hierarchy.cas() {
        assert_openssl_accepts(&path, &hierarchy, ca);
    }

    let mut appliance = Appliance::start(site);
    let line = appliance.line("line-1");
    let mut connection = appliance.connect(&line).await;
    for issuer in hierarchy.cas() {
        if !matches!(issuer, "device-1" | "device-2") {
            continue;
        }
        let open = [
            "order",
            "open",
            issuer,
            "--issuer",
            issuer,
            "--quantity",
            "1",
        ];
        let terms = ["--profile", "mqtt-device", "--device-id", "[a-z0-9-]+"];
        appliance.command(&[&open[..], &terms, &["--line", "line-1"]].concat());
        let device = Device::new(&path, &format!("of-{issuer}"));
        let order = format!("/v1/orders/{issuer}/certificates");
        let reply = post(&mut connection, &order, &device.request()).await;
        assert_eq!(reply.status, StatusCode::CREATED, "{issuer}: {reply:?}");
        let leaf = der(&reply.body);
        assert_openssl_trusts(&path, &hierarchy, issuer, &leaf);
        appliance.received.push(leaf);
    }
    invariants::assert_and_stop(&mut appliance);

    // Each first CRL binds the log: its anchor is a checkpoint that the log must contain.
    let mut audit = appliance.site.command("hallmark-audit");
    audit.args(["verify", "--published", "public", "--details", "private"]);
    audit.args(["--log-key", "state/log.vkey", "--json"]);
    for ca in hierarchy.cas() {
        audit.args(["--crl", &format!("public/crl/{ca}.crl")]);
    }
    let told: Value = serde_json::from_slice(&run(&mut audit).stdout).unwrap();
    assert_eq!(told["verified"], true, "{told}");
}

#[tokio::test]
async fn the_log_key_may_be_on_the_token() {
    the_whole_way(Hierarchy {
        log_key: LogKey::Token,
        ..Hierarchy::default()
    })
    .await;
}

#[tokio::test]
async fn keys_may_be_declared_for_wrapping() {
    the_whole_way(Hierarchy {
        policy: Some("wrap-with-trusted"),
        ..Hierarchy::default()
    })
    .await;
}

#[tokio::test]
async fn device_issuers_may_have_rsa_keys() {
    the_whole_way(Hierarchy {
        algorithms: &[
            ("device-root", "rsa4096", "sha256WithRSAEncryption"),
            ("device-1", "rsa3072", "sha256WithRSAEncryption"),
            ("device-2", "rsa3072-pss", "rsassaPss"),
        ],
        second_issuer: Second::Yes,
        ..Hierarchy::default()
    })
    .await;
}

#[tokio::test]
async fn every_issuer_may_have_an_ed25519_key() {
    the_whole_way(Hierarchy {
        algorithms: &[
            ("device-root", "ed25519", "ED25519"),
            ("device-1", "ed25519", "ED25519"),
            ("access-root", "ed25519", "ED25519"),
            ("access", "ed25519", "ED25519"),
        ],
        ..Hierarchy::default()
    })
    .await;
}

#[tokio::test]
async fn every_issuer_may_have_a_p384_key() {
    the_whole_way(Hierarchy {
        algorithms: &[
            ("device-1", "ecdsa-p384", "ecdsa-with-SHA384"),
            ("access", "ecdsa-p384", "ecdsa-with-SHA384"),
        ],
        ..Hierarchy::default()
    })
    .await;
}

/// CKA_WRAP_WITH_TRUSTED and CKA_EXTRACTABLE (PKCS#11 3.1, `pkcs11t.h`).
const WRAP_WITH_TRUSTED: u32 = 0x210;
const EXTRACTABLE: u32 = 0x162;

#[test]
fn a_token_that_does_not_keep_to_the_policy_is_told_of_in_the_ceremony() {
    for (fault, said, made) in [
        (
            format!("attribute-refused {WRAP_WITH_TRUSTED:#x}"),
            "the token does not take the policy wrap-with-trusted",
            None,
        ),
        (
            format!("attribute-ignored {WRAP_WITH_TRUSTED:#x}"),
            "CKA_WRAP_WITH_TRUSTED is false",
            Some("perhaps a key pair"),
        ),
        (
            format!("attribute-ignored {EXTRACTABLE:#x}"),
            "CKA_EXTRACTABLE is false",
            Some("perhaps a key pair"),
        ),
    ] {
        let (site, control) = Site::faulting_before_ceremony();
        let declared = Hierarchy {
            policy: Some("wrap-with-trusted"),
            ..Hierarchy::default()
        };
        declared.declare(&site);
        std::fs::write(control, format!("{fault}\n")).unwrap();
        let mut ceremony = site.hallmark();
        ceremony.args(["ceremony", "run", "ceremony.toml"]);
        let output = ceremony.output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{fault}");
        assert!(text.contains(said), "{fault}: {text}");
        let tells = text.contains("a key pair pkcs11:");
        assert_eq!(tells, made.is_some(), "{fault}: {text}");
        assert!(
            made.is_none_or(|made| text.contains(made)),
            "{fault}: {text}"
        );
    }
}
