//! Java's PKIX revocation checker as a relying party, through `Status.java`.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::place::Leaf;
use super::verdict::Verdict;
use crate::harness::program::run;
use crate::source::root;

/// The program, compiled into a site's directory.
pub struct Java {
    site: PathBuf,
}

/// How a status is looked up.
#[derive(Clone, Copy, Debug)]
pub enum By<'a> {
    /// By OCSP, as Java does where nothing else is said: GET, at the URL in the certificate.
    Get,
    /// By OCSP with POST and a nonce, at this URL.
    PostWithNonce(&'a str),
    /// By the CRLs that the certificates of the chain name.
    Crl,
    /// By OCSP where a certificate names a responder, else by its CRL: the leaf and its issuer.
    Both,
}

impl Java {
    /// Compiles the program.
    pub fn compile(site: &Path) -> Self {
        let mut compiler = Command::new("javac");
        compiler.args(["-Xlint:all", "-Werror", "-d"]).arg(site);
        run(compiler.arg(root().join("tests/it/relying/Status.java")));
        let site = site.to_owned();
        Self { site }
    }

    /// What it says of each certificate, its chain being checked up to the device root.
    pub fn ask(&self, by: By<'_>, leaves: &[&Leaf]) -> Vec<Verdict> {
        self.ask_below("device-root.pem", by, leaves)
    }

    /// The same up to another root.
    pub fn ask_below(&self, root: &str, by: By<'_>, leaves: &[&Leaf]) -> Vec<Verdict> {
        let mut command = Command::new("java");
        // It starts faster so: the program is short.
        command.args(["-XX:TieredStopAtLevel=1", "-cp", "."]);
        let words = match by {
            By::Get => ["ocsp", "-", "-"],
            By::PostWithNonce(url) => {
                command.arg("-Dcom.sun.security.ocsp.useget=false");
                ["ocsp", url, "nonce"]
            }
            By::Crl => {
                command.arg("-Dcom.sun.security.enableCRLDP=true");
                ["crl", "-", "-"]
            }
            By::Both => {
                command.arg("-Dcom.sun.security.enableCRLDP=true");
                ["both", "-", "-"]
            }
        };
        command.current_dir(&self.site).arg("Status").args(words);
        command.arg(root);
        command.args(leaves.iter().map(|leaf| &leaf.chain));
        let printed = String::from_utf8(run(&mut command).stdout).unwrap();
        let lines: Vec<&str> = printed.lines().collect();
        assert_eq!(lines.len(), leaves.len(), "{printed}");
        let of = |(line, leaf): (&&str, &&Leaf)| verdict(line.strip_prefix(&leaf.chain).unwrap());
        lines.iter().zip(leaves).map(of).collect()
    }
}

/// The program's words about a certificate; where it is about one above the leaf, they stay as they are.
fn verdict(said: &str) -> Verdict {
    let words: Vec<&str> = said.split_whitespace().collect();
    match words.as_slice() {
        ["GOOD"] => Verdict::Good,
        ["REVOKED", "0", reason, at] => Verdict::revoked(at.parse().unwrap(), reason),
        ["REFUSED", "0", "UNDETERMINED_REVOCATION_STATUS", ..] if said.ends_with("is unknown") => {
            Verdict::Unknown
        }
        _ => Verdict::Refused(said.trim().to_owned()),
    }
}
