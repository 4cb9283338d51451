//! `hallmark-audit status`: what one certificate is worth, and that nothing is said of a log that lies.

use std::path::Path;

use certstatus::log::checkpoint::VerifierKey;

use crate::forge::{Forge, ORIGIN, Published, serial, write};
use crate::proofs::{json, run, text};

/// The log key's options.
const LOG: [&str; 4] = ["--published", "public", "--log-key", "log.vkey"];

/// Asks for the status of a serial: the exit code, and what is said.
fn status(base: &Path, n: u8, more: &[&str]) -> (Option<i32>, String) {
    let serial = serial(n).to_string();
    let output = run(base, &[&["status", &serial][..], &LOG, more].concat());
    (output.status.code(), text(&output))
}

#[test]
fn each_status_has_its_exit_code_and_its_entries() {
    let base = tempfile::tempdir().unwrap();
    let (forge, marks) = Forge::standard();
    forge.published().write(base.path());
    let rows = [
        (11, 3, "REVOKED\n", "key-compromise"),
        (12, 0, "GOOD\n", "outcome: issued"),
        (13, 3, "REVOKED\n", "a signature may exist"),
        (14, 4, "UNKNOWN\n", "abandoned"),
        (15, 0, "GOOD\n", "outcome: issued"),
        (16, 4, "UNKNOWN\n", "intent of a certificate"),
        (99, 4, "UNKNOWN\n", "never had this serial"),
    ];
    for (n, code, heading, said) in rows {
        let (exit, text) = status(base.path(), n, &[]);
        assert_eq!(exit, Some(code), "{n}: {text}");
        assert!(text.starts_with(heading) && text.contains(said), "{text}");
        assert!(text.contains("594 entries"), "{text}");
    }
    let (_, text) = status(base.path(), 11, &[]);
    for index in [marks.intent_a.0, marks.intent_a.0 + 1, marks.revoked.0] {
        assert!(text.contains(&format!("entry {index} ")), "{text}");
    }
    assert!(text.contains("crl/device-1.crl"), "{text}");
}

#[test]
fn programs_get_the_same_as_json() {
    let base = tempfile::tempdir().unwrap();
    let (forge, marks) = Forge::standard();
    forge.published().write(base.path());
    let serial = serial(11).to_string();
    let output = run(
        base.path(),
        &[&["status", &serial, "--json"][..], &LOG].concat(),
    );
    let standing = &json(&output)["standing"];
    assert_eq!(standing["serial"], serial);
    assert_eq!(standing["status"]["is"], "revoked");
    assert_eq!(standing["status"]["reason"], "key-compromise");
    assert_eq!(standing["issuer"], "device-1");
    assert_eq!(standing["size"], 594);
    let entries = standing["entries"].as_array().unwrap();
    let acts: Vec<&str> = entries
        .iter()
        .map(|it| it["act"].as_str().unwrap())
        .collect();
    assert_eq!(acts, ["intent", "issued", "revoked"]);
    assert_eq!(entries[2]["index"], marks.revoked.0);
    assert_eq!(standing["status"]["at"], entries[2]["revoked_at"]);
}

#[test]
fn a_serial_is_read_as_other_programs_write_it() {
    let base = tempfile::tempdir().unwrap();
    Forge::standard().0.published().write(base.path());
    let octets = serial(12);
    let written: Vec<String> = octets
        .as_bytes()
        .iter()
        .map(|it| format!("{it:02X}"))
        .collect();
    let output = run(
        base.path(),
        &[&["status", &written.join(":")][..], &LOG].concat(),
    );
    assert_eq!(output.status.code(), Some(0));
    let output = run(base.path(), &[&["status", "12"][..], &LOG].concat());
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn another_issuers_certificate_is_unknown() {
    let base = tempfile::tempdir().unwrap();
    Forge::standard().0.published().write(base.path());
    let (exit, _) = status(base.path(), 12, &["--issuer", "device-1"]);
    assert_eq!(exit, Some(0));
    let (exit, text) = status(base.path(), 12, &["--issuer", "root"]);
    assert_eq!(exit, Some(4));
    assert!(text.contains("device-1, not root"), "{text}");
}

#[test]
fn a_hold_can_be_lifted() {
    let base = tempfile::tempdir().unwrap();
    let (mut forge, _) = Forge::standard();
    forge.revoke(12, 6);
    forge.published().write(base.path());
    let (exit, text) = status(base.path(), 12, &[]);
    assert_eq!(exit, Some(3));
    assert!(text.contains("certificate-hold"), "{text}");
    forge.revoke(12, 8);
    forge.published().write(base.path());
    let (exit, text) = status(base.path(), 12, &[]);
    assert_eq!(exit, Some(0));
    assert!(text.contains("released from its hold"), "{text}");
}

/// Expects a fault, and no word of a status.
fn expect_fault(published: &Published, more: &[&str], said: &str) {
    let base = tempfile::tempdir().unwrap();
    published.write(base.path());
    let newer = Forge::standard().0;
    write(base.path(), "newer", newer.head().as_bytes());
    let (exit, text) = status(base.path(), 11, more);
    assert_eq!(exit, Some(1), "{text}");
    assert!(text.starts_with("FAULT\n") && text.contains(said), "{text}");
    assert!(!text.contains("GOOD"), "{text}");
}

#[test]
fn a_log_that_does_not_verify_says_nothing_of_a_certificate() {
    let (forge, marks) = Forge::standard();
    let honest = forge.published();
    // An entry about the certificate is edited.
    let mut tampered = honest.clone();
    let at = marks.revoked.0 as usize;
    let leaf = String::from_utf8(tampered.leaves[at].clone()).unwrap();
    tampered.leaves[at] = leaf.replace("\"reason\":1", "\"reason\":4").into_bytes();
    expect_fault(&tampered, &[], "it was edited or moved");
    // An entry that is about something else altogether counts as much.
    let mut tampered = honest.clone();
    let leaf = String::from_utf8(tampered.leaves[400].clone()).unwrap();
    tampered.leaves[400] = leaf.replace("\"v\":1", "\"v\":2").into_bytes();
    expect_fault(&tampered, &[], "entry 400");
    let mut tampered = honest.clone();
    tampered.hashes.as_mut().unwrap()[300][0] ^= 1;
    expect_fault(&tampered, &[], "the hash tile");
    let mut tampered = honest.clone();
    tampered.log_key = VerifierKey::new(ORIGIN, [9; 32]).unwrap();
    expect_fault(&tampered, &[], "not one that the log key signed");
}

#[test]
fn an_old_copy_that_hides_a_revocation_is_found_by_a_newer_head() {
    let (mut forge, marks) = Forge::standard();
    forge.entries.truncate(marks.revoked.0 as usize);
    forge.details.truncate(marks.revoked.0 as usize);
    let mut old = forge.published();
    old.crls.clear();
    let base = tempfile::tempdir().unwrap();
    old.write(base.path());
    // By itself it is a true copy, and its answer says what it holds for.
    let (exit, text) = status(base.path(), 11, &[]);
    assert_eq!(exit, Some(0), "{text}");
    assert!(
        text.contains(&format!("{} entries", marks.revoked)),
        "{text}"
    );
    expect_fault(&old, &["--checkpoint", "newer"], "the log is truncated");
}
