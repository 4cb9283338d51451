//! GnuTLS as a relying party: `ocsptool --ask`. It exits with 0 for a revoked certificate, and tells no reasons.

use std::path::Path;
use std::process::Command;

use super::place::Leaf;
use super::verdict::{Verdict, seconds};

/// Asks a responder about a certificate, with or without a nonce. The issuer is the trust anchor: GnuTLS takes no root
/// above it.
pub fn ask(site: &Path, url: &str, leaf: &Leaf, nonce: bool) -> Verdict {
    let issuer = format!("{}.pem", leaf.issuer);
    let mut command = Command::new("ocsptool");
    command.current_dir(site).arg(format!("--ask={url}"));
    command.args(["--load-issuer", &issuer, "--load-trust", &issuer]);
    command.args(["--load-cert", &leaf.file]);
    if nonce {
        command.arg("--nonce");
    }
    let output = command.output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let value = |name: &str| {
        let mut lines = printed.lines().map(str::trim);
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    };
    let status = value("Response Status").unwrap_or_else(|| panic!("{leaf:?}: {output:?}"));
    if status != "Successful" {
        return Verdict::Refused(status.to_owned());
    }
    assert_eq!(
        value("Verifying OCSP Response"),
        Some("Success."),
        "{leaf:?}: {printed}"
    );
    assert_eq!(value("Nonce").is_some(), nonce, "{printed}");
    match value("Certificate Status").unwrap() {
        "good" => Verdict::Good,
        "unknown" => Verdict::Unknown,
        "revoked" => {
            // `Sun Nov 22 05:46:38 UTC 2026`
            let time = value("Revocation time").unwrap();
            let words: Vec<&str> = time.split_whitespace().collect();
            Verdict::revoked(seconds([words[1], words[2], words[3], words[5]]), "")
        }
        other => panic!("{other}: {printed}"),
    }
}

/// Whether `certtool --verify` takes a certificate with its issuer's up to the device root, with CRLs (PEM).
pub fn verify(site: &Path, leaf: &Leaf, crls: &str) -> bool {
    let mut command = Command::new("certtool");
    command
        .current_dir(site)
        .args(["--verify", "--infile", &leaf.chain]);
    command.args([
        "--load-ca-certificate",
        "device-root.pem",
        "--load-crl",
        crls,
    ]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // What it says of each certificate stands before.
    let chain = said.split_once("Chain verification output: ");
    let (_, chain) = chain.unwrap_or_else(|| panic!("{leaf:?}: {output:?}"));
    let taken = chain.starts_with("Verified. The certificate is trusted.");
    let revoked = chain.contains("The certificate chain is revoked.");
    assert_ne!(taken, revoked, "{leaf:?}: {said}");
    taken
}
