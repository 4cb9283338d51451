//! OpenSSL as a relying party: `openssl ocsp` by POST, its requests by GET with curl, and `openssl verify` with CRLs.
//! Its exit codes say little: what it prints is read.

use std::path::Path;
use std::process::Command;

use base64ct::Encoding as _;

use super::place::Leaf;
use super::verdict::{Verdict, seconds};
use crate::harness::leave_for_lint;
use crate::harness::program::run;

/// How something is asked.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The site's directory.
    pub site: &'a Path,
    /// The responder.
    pub url: &'a str,
    /// The issuer that is named; `ISSUER-chain.pem` is trusted.
    pub issuer: &'a str,
    /// More options: the hash, the nonce.
    pub options: &'a [&'a str],
    /// The name under which `tests/lint.sh` shall find the response, if it shall, without its end.
    pub left_as: Option<&'a str>,
}

impl Question<'_> {
    /// Asks about certificates in one request, by POST.
    pub fn post(&self, leaves: &[&Leaf]) -> Vec<Verdict> {
        let response = self.file();
        let mut command = self.command(leaves);
        command
            .args(["-url", self.url, "-respout"])
            .arg(response.path());
        let verdicts = self.verdicts(leaves, &mut command);
        self.leave(response.path());
        verdicts
    }

    /// Asks about one certificate by GET (RFC 6960, A.1) with curl.
    pub fn get(&self, leaf: &Leaf) -> Verdict {
        let (request, response) = (self.file(), self.file());
        run(self.command(&[leaf]).arg("-reqout").arg(request.path()));
        let der = std::fs::read(request.path()).unwrap();
        let path = base64ct::Base64::encode_string(&der)
            .replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D");
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--fail", "--output"]);
        curl.arg(response.path());
        run(curl.arg(format!("{}/{path}", self.url)));
        let mut command = self.command(&[leaf]);
        // It would compare the answer's nonce with that of a request which it never sent.
        command.arg("-no_nonce").arg("-respin").arg(response.path());
        let verdicts = self.verdicts(&[leaf], &mut command);
        self.leave(response.path());
        verdicts.into_iter().next().unwrap()
    }

    /// A file in the site's directory.
    fn file(&self) -> tempfile::NamedTempFile {
        tempfile::NamedTempFile::new_in(self.site).unwrap()
    }

    /// The command with certificates and options: each option stands before the certificates that it is for.
    fn command(&self, leaves: &[&Leaf]) -> Command {
        let mut command = Command::new("openssl");
        command.current_dir(self.site).args(["ocsp", "-resp_text"]);
        command.args(self.options);
        command.args(["-issuer", &format!("{}.pem", self.issuer)]);
        command.args(["-CAfile", &format!("{}-chain.pem", self.issuer)]);
        for leaf in leaves {
            command.args(["-cert", &leaf.file]);
        }
        command
    }

    /// What it prints of each certificate.
    fn verdicts(&self, leaves: &[&Leaf], command: &mut Command) -> Vec<Verdict> {
        let output = command.output().unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        if let Some((_, error)) = printed.split_once("Responder Error: ") {
            let error = error.split(' ').next().unwrap();
            return vec![Verdict::Refused(error.trim().to_owned()); leaves.len()];
        }
        assert!(errors.contains("Response verify OK"), "{self:?}: {errors}");
        assert!(!errors.contains("WARNING"), "{self:?}: {errors}");
        let of = |leaf: &&Leaf| verdict(&printed, leaf);
        leaves.iter().map(of).collect()
    }

    /// Leaves a response to be linted.
    fn leave(&self, response: &Path) {
        if let Some(name) = self.left_as {
            leave_for_lint(&format!("{name}.ocsp"), &std::fs::read(response).unwrap());
        }
    }
}

/// What is printed of a certificate.
fn verdict(printed: &str, leaf: &Leaf) -> Verdict {
    let (_, rest) = printed.split_once(&format!("{}: ", leaf.file)).unwrap();
    let (status, rest) = rest.split_once('\n').unwrap();
    let mut lines = rest.lines().take_while(|line| line.starts_with('\t'));
    let value = |name: &str| {
        let found = lines.clone().find(|line| line.trim().starts_with(name));
        found.map(|line| line.split_once(": ").unwrap().1.to_owned())
    };
    assert!(value("This Update").is_some() && value("Next Update").is_some());
    match status {
        "good" => Verdict::Good,
        "unknown" => Verdict::Unknown,
        "revoked" => {
            let time = value("Revocation Time").unwrap();
            let words: Vec<&str> = time.split_whitespace().collect();
            let reason = match value("Reason") {
                None => "unspecified".to_owned(),
                // OpenSSL 3.0 has no names for the last two (crypto/ocsp/ocsp_prn.c); the text has their numbers.
                Some(reason) if reason == "(UNKNOWN)" => number_of_reason(printed, leaf),
                Some(reason) => reason,
            };
            Verdict::revoked(seconds(words[..4].try_into().unwrap()), &reason)
        }
        _ => panic!("{status}: {:?}", lines.next()),
    }
}

/// The name of a reason that OpenSSL has none for, from its number in the text of a response (RFC 5280, 5.3.1).
fn number_of_reason(printed: &str, leaf: &Leaf) -> String {
    let serial = format!("Serial Number: {}\n", leaf.serial.to_ascii_uppercase());
    let (_, rest) = printed.split_once(&serial).unwrap();
    let (_, rest) = rest.split_once("Revocation Reason: (UNKNOWN) ").unwrap();
    match rest.lines().next().unwrap() {
        "(0x9)" => "privilegeWithdrawn".to_owned(),
        "(0xa)" => "aACompromise".to_owned(),
        other => panic!("reason {other}"),
    }
}

/// What `openssl verify` says of a leaf with CRLs (PEM, one file), the check being `-crl_check` or `-crl_check_all`.
pub fn verify(site: &Path, leaf: &Leaf, check: &str, crls: &str) -> String {
    let mut verify = Command::new("openssl");
    verify.current_dir(site);
    verify.args(["verify", "-x509_strict", check]);
    verify.args(["-CAfile", "device-root.pem", "-CRLfile", crls]);
    verify.args(["-untrusted", &format!("{}.pem", leaf.issuer)]);
    let output = verify.arg(&leaf.file).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}
