//! The command line: exit codes, and what is printed where.

use std::path::Path;
use std::process::{Command, Output};

use crate::forge::{Forge, write};

/// Runs `hallmark-audit verify` in a directory.
fn verify(base: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hallmark-audit"))
        .current_dir(base)
        .arg("verify")
        .args(arguments)
        .output()
        .unwrap()
}

const PLAIN: [&str; 6] = [
    "--published",
    "public",
    "--details",
    "private",
    "--log-key",
    "log.vkey",
];

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_directory_that_is_not_the_one_meant_is_no_fault_of_the_log() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path();
    let (forge, _) = Forge::standard();
    forge.published().write(base);
    let rows = [
        (
            ["public/log", "private"],
            "is not there: is this the directory that holds log/?",
        ),
        (
            ["public", "private/details"],
            "there is no directory details/ in it",
        ),
    ];
    for ([published, details], said) in rows {
        let key = ["--log-key", "log.vkey"];
        let given = ["--published", published, "--details", details];
        let output = verify(base, &[&given[..], &key].concat());
        assert_eq!(output.status.code(), Some(2));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn a_log_that_verifies_exits_with_0() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path();
    let (forge, _) = Forge::standard();
    let published = forge.published();
    published.write(base);
    write(
        base,
        "older",
        forge.sign_head(&published.leaves[..100]).as_bytes(),
    );
    write(base, "kept.crl", &published.crls["device-1"]);
    let pem = der::pem::encode_string(
        "X509 CRL",
        der::pem::LineEnding::LF,
        &published.crls["device-1"],
    );
    write(base, "kept.pem", pem.unwrap().as_bytes());
    let output = verify(base, &PLAIN);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    for line in ["VERIFIED", "594", "certificates issued     5", "demo: 3"] {
        assert!(text.contains(line), "{text}");
    }
    assert!(
        output.stderr.is_empty(),
        "no progress where there is no terminal"
    );
    let more = [
        "--checkpoint",
        "older",
        "--crl",
        "kept.crl",
        "--crl",
        "kept.pem",
        "--json",
    ];
    let output = verify(base, &[&PLAIN[..], &more].concat());
    assert_eq!(output.status.code(), Some(0));
    let report = &json(&output)["report"];
    assert_eq!(report["entries"], 594);
    assert_eq!(report["certificates"]["issued"], 5);
    assert_eq!(report["classes"]["certificate"]["attempts"], 7);
    assert_eq!(report["orders"]["demo"], 3);
    assert_eq!(report["agrees_with"].as_array().unwrap().len(), 4);
    assert_eq!(report["root"].as_str().unwrap().len(), 64);
}

#[test]
fn a_fault_exits_with_1_and_names_the_entry() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path();
    let (forge, marks) = Forge::standard();
    let mut published = forge.published();
    published.details[marks.intent_b.0 as usize] = None;
    published.write(base);
    let output = verify(base, &PLAIN);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains(&format!("entry {}: its detail is missing", marks.intent_b)),
        "{text}"
    );
    let output = verify(base, &[&PLAIN[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(json(&output)["verified"], false);
    assert_eq!(json(&output)["fault"]["index"], marks.intent_b.0);
    let output = verify(base, &[&PLAIN[..], &["--json", "--allow-erased"]].concat());
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(json(&output)["report"]["details"]["erased"], 1);
}

#[test]
fn what_cannot_be_used_exits_with_2() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path();
    Forge::standard().0.published().write(base);
    write(base, "bad.vkey", b"not a key\n");
    let cases: [&[&str]; 6] = [
        &["--published", "elsewhere", "--log-key", "log.vkey"],
        &["--published", "public", "--log-key", "elsewhere"],
        &["--published", "public", "--log-key", "bad.vkey"],
        &[
            "--published",
            "public",
            "--log-key",
            "log.vkey",
            "--checkpoint",
            "elsewhere",
        ],
        &[
            "--published",
            "public",
            "--log-key",
            "log.vkey",
            "--crl",
            "elsewhere",
        ],
        &["--log-key", "log.vkey"],
    ];
    for arguments in cases {
        let output = verify(base, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(
            output.stdout.is_empty() && !output.stderr.is_empty(),
            "{arguments:?}"
        );
    }
}

#[test]
fn help_shows_an_example() {
    let output = verify(Path::new("."), &["--help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("hallmark-audit verify --published /media/usb/public"),
        "{text}"
    );
}

#[test]
fn starts_that_witnesses_did_not_confirm_stand_in_the_summary() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path();
    let (mut forge, _) = Forge::standard();
    let data = serde_json::json!({ "size": 3, "witnesses": [] });
    let entries = [(); 2].map(|()| forge.event("unwitnessed-start", data.clone()).0);
    forge.published().write(base);
    // Leaves alone tell it: without details, too.
    let blind = ["--published", "public", "--log-key", "log.vkey"];
    for given in [&PLAIN[..], &blind] {
        let text = String::from_utf8(verify(base, given).stdout).unwrap();
        assert_eq!(text.matches("UNWITNESSED START").count(), 2, "{text}");
        assert!(text.contains(&format!("entry {}:", entries[1])), "{text}");
        let told = json(&verify(base, &[given, &["--json"]].concat()));
        let starts = &told["report"]["unwitnessed_starts"];
        assert_eq!(*starts, serde_json::json!(entries), "{told}");
    }
}

#[test]
fn a_fifo_is_told_and_not_waited_for() {
    let base = tempfile::tempdir().unwrap();
    let base = base.path();
    let (forge, _) = Forge::standard();
    forge.published().write(base);
    let checkpoint = base.join("public/log/checkpoint");
    std::fs::remove_file(&checkpoint).unwrap();
    let made = Command::new("mkfifo").arg(&checkpoint).status().unwrap();
    assert!(made.success());
    let output = Command::new("timeout")
        .current_dir(base)
        .args(["20", env!("CARGO_BIN_EXE_hallmark-audit"), "verify"])
        .args(PLAIN)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("not a regular file"), "{text}");
}
