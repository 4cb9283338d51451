//! Independent eyes: OpenSSL on every kind of certificate and CRL, and a trace of what the token was asked for.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::digest::{SHA256, SHA384, digest};
use base64ct::Encoding as _;

use crate::harness::appliance::pem;
use crate::harness::device::{Device, der};
use crate::harness::program::{openssl, run};
use crate::harness::{Appliance, Site, invariants, leave_for_lint, log, with_appliance};

#[tokio::test]
async fn openssl_verifies_every_ca_certificate_and_crl() {
    with_appliance(async |appliance| {
        let path = appliance.site.path().to_owned();
        for (root, issuer) in [("device-root", "device-1"), ("access-root", "access")] {
            for name in [root, issuer] {
                std::fs::write(
                    path.join(format!("{name}.pem")),
                    pem(&appliance.site.ca(name)),
                )
                .unwrap();
            }
            let (root, issuer) = (format!("{root}.pem"), format!("{issuer}.pem"));
            let strict = ["verify", "-x509_strict", "-CAfile", &root];
            for file in [&root, &issuer] {
                let printed = openssl(&path, &[&strict[..], &[file]].concat());
                assert_eq!(printed.trim(), format!("{file}: OK"));
            }
        }
        for (crl, issuer) in [
            ("device-root", "device-root"),
            ("device-1", "device-1"),
            ("access-root", "access-root"),
            ("access", "access"),
        ] {
            let file = format!("public/crl/{crl}.crl");
            let (certificate, arguments) = (
                format!("{issuer}.pem"),
                ["crl", "-inform", "DER", "-noout", "-in"],
            );
            let more = [&file, "-CAfile", &certificate, "-text"];
            let mut command = Command::new("openssl");
            command.current_dir(&path).args(arguments).args(more);
            let output = run(&mut command);
            // It says so on standard error, and exits with 0 when it does not verify.
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(said.contains("verify OK"), "{crl}: {said}");
        }
    })
    .await;
}

#[tokio::test]
async fn openssl_accepts_the_servers_and_the_lines_certificate() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(1);
        let path = appliance.site.path().to_owned();
        std::fs::write(
            path.join("root.pem"),
            pem(&appliance.site.ca("access-root")),
        )
        .unwrap();
        std::fs::write(path.join("issuer.pem"), pem(&appliance.site.ca("access"))).unwrap();
        let purpose = [
            "verify",
            "-x509_strict",
            "-purpose",
            "sslclient",
            "-CAfile",
            "root.pem",
        ];
        let certificate = line.certificate.to_str().unwrap();
        let printed = openssl(
            &path,
            &[&purpose[..], &["-untrusted", "issuer.pem", certificate]].concat(),
        );
        assert!(printed.trim().ends_with(": OK"), "{printed}");
        let address = appliance.site.api().replace("https://", "");
        let mut client = Command::new("openssl");
        client.current_dir(&path).stdin(std::process::Stdio::null());
        client.args([
            "s_client",
            "-connect",
            &address,
            "-servername",
            "hallmark.example",
        ]);
        client.args([
            "-CAfile",
            "root.pem",
            "-x509_strict",
            "-verify_return_error",
        ]);
        client
            .args([
                "-verify_hostname",
                "hallmark.example",
                "-cert",
                certificate,
                "-key",
            ])
            .arg(&line.key);
        let said = String::from_utf8(run(&mut client).stdout).unwrap();
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        let server = &said[said.find("-----BEGIN CERTIFICATE-----").unwrap()..];
        leave_for_lint("server.cer", &der(server.as_bytes()));
    })
    .await;
}

/// A successful `C_Sign` with an output buffer: the data that was signed, hexadecimal.
fn signed_digests(trace: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(trace).unwrap();
    let mut found = Vec::new();
    for call in text.split("\n\n") {
        let named = call
            .lines()
            .next()
            .is_some_and(|line| line.ends_with(": C_Sign"));
        let (input, output) = call.split_once("[out] pSignature").unwrap_or((call, ""));
        let written = output
            .lines()
            .next()
            .is_some_and(|line| line.contains(" / "));
        if named && written && call.contains("Returned:  0 CKR_OK") {
            found.push(hexadecimal(input));
        }
    }
    found
}

/// The octets of a dump: lines of an offset, octets in hexadecimal, and their text after two spaces.
fn hexadecimal(dump: &str) -> String {
    dump.lines()
        .filter_map(|line| line.strip_prefix("    "))
        .filter_map(|line| line.split_once("  "))
        .filter(|(offset, _)| offset.len() == 8)
        .map(|(_, rest)| rest.split("  ").next().unwrap_or_default())
        .flat_map(str::split_whitespace)
        .collect::<String>()
        .to_ascii_lowercase()
}

/// Octets in hexadecimal.
fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Asserts that a trace has the signatures that the log accounts for, class by class, and no other; how many.
pub fn assert_signed_as_logged(site: &Path, trace: &Path) -> BTreeMap<String, u64> {
    let entries = log::entries(site);
    // What each digest that may be signed belongs to, and how often the log says that it was signed.
    let mut class_of = BTreeMap::new();
    let mut logged: BTreeMap<String, u64> = BTreeMap::new();
    for entry in &entries {
        let class = entry.leaf["class"].as_str().unwrap_or_default();
        match entry.leaf["kind"].as_str() {
            Some("intent") => {
                let tbs = entry.detail["tbs"].as_str().unwrap();
                let tbs = base64ct::Base64::decode_vec(tbs).unwrap();
                for algorithm in [&SHA256, &SHA384] {
                    class_of.insert(hex(digest(algorithm, &tbs).as_ref()), class);
                }
            }
            Some("outcome") => {
                *logged.entry(class.to_owned()).or_default() +=
                    entry.leaf["attempts"].as_u64().unwrap_or(0);
            }
            _ => {}
        }
    }
    let mut signed: BTreeMap<String, u64> = BTreeMap::new();
    for digest in signed_digests(trace) {
        let class = class_of.get(&digest);
        let class =
            class.unwrap_or_else(|| panic!("the token signed {digest}, which is not in the log"));
        *signed.entry((*class).to_owned()).or_default() += 1;
    }
    assert_eq!(signed, logged);
    signed
}

#[tokio::test]
async fn the_token_signed_exactly_what_the_log_accounts_for() {
    let (site, trace) = Site::traced();
    let mut appliance = Appliance::start(site);
    let line = appliance.line_and_order(20);
    for number in 0..12 {
        let device = Device::new(appliance.site.path(), &format!("traced-{number}"));
        let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
        assert!(reply.status.is_success(), "{reply:?}");
        // The retry must not reach the token.
        appliance.ask_anew(&line, "demo", &device.request()).await;
    }
    appliance.stop();
    let signed = assert_signed_as_logged(appliance.site.path(), &trace);
    assert!(signed["certificate"] >= 12 + 4, "{signed:?}");
    assert!(signed["crl"] >= 4 && signed["self-test"] >= 1, "{signed:?}");
    appliance.start_again();
    invariants::assert(appliance).await;
}

#[test]
fn a_trace_is_read_as_the_tool_writes_it() {
    let directory = tempfile::tempdir().unwrap();
    let trace = directory.path().join("trace");
    let text = "13: C_SignInit\nReturned:  0 CKR_OK\n\n14: C_Sign\n2026-01-01 00:00:00.000\n[in] hSession = 0x1\n\
        [in] pData[ulDataLen] 00007ffe555e0620 / 20\n    00000000  53 B3 0D 30 69 A8 6F CA CC 90 4F 72 40 1C 6E ED  S..0i.o...Or@.n.\n\
        \x20   00000010  9D 86 FA 70                                      ...p\n[out] pSignature[*pulSignatureLen] 00007ffe555e0420 / 4\n\
        \x20   00000000  8B 91 F5 43  ...C\nReturned:  0 CKR_OK\n\n15: C_Sign\n[in] pData[ulDataLen] 00007ffe555e0620 / 1\n\
        \x20   00000000  53  S\n[out] pSignature[*pulSignatureLen] NULL [size : 0x40 (64)]\nReturned:  0 CKR_OK\n\n";
    std::fs::write(&trace, text).unwrap();
    assert_eq!(
        signed_digests(&trace),
        ["53b30d3069a86fcacc904f72401c6eed9d86fa70"]
    );
}
