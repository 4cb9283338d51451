//! The transcript: what a ceremony made, for people to print and sign and for machines to read.
//!
//! Owns [`Transcript`] and its printed form. Promises that everything in it was read back from the token or
//! the log, or computed from what was. Never holds a secret. It cannot fail.

use std::collections::BTreeMap;
use std::fmt;

use certstatus::UnixMillis;
use certstatus::log::{DetailHash, IssuerName};
use serde::Serialize;

use crate::hsm::{KeyAlgorithm, KeyPolicy};
use crate::signing_log::IssuerRole;

/// What a ceremony made.
#[derive(Clone, Debug, Serialize)]
pub struct Transcript {
    /// What it is called.
    pub title: String,
    /// Where it took place.
    pub place: Option<String>,
    /// Who took part.
    pub operators: Vec<String>,
    /// The program's name and version.
    pub product: String,
    /// When it began, milliseconds since 1970.
    pub began: UnixMillis,
    /// When everything was made.
    pub ended: UnixMillis,
    /// SHA-256 of the ceremony file.
    pub plan_sha256: DetailHash,
    /// SHA-256 of the product owner's public key (SubjectPublicKeyInfo).
    pub owner_key_sha256: Option<DetailHash>,
    /// The log.
    pub log: LogOfRecord,
    /// The tokens.
    pub tokens: Vec<TokenOfRecord>,
    /// The CA keys, in the order in which they were made.
    pub keys: Vec<KeyOfRecord>,
    /// The certificates, in the order in which they were made.
    pub certificates: Vec<CertificateOfRecord>,
    /// The requests for offline roots.
    pub requests: Vec<RequestOfRecord>,
    /// The ceremony file, whole.
    pub plan: String,
}

/// The log that was begun.
#[derive(Clone, Debug, Serialize)]
pub struct LogOfRecord {
    /// The origin line.
    pub origin: String,
    /// The verifier key.
    pub verifier_key: String,
    /// Where the log key is and how it came there.
    pub key: String,
    /// The attributes that the token reports of it; none of a key in a file.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, String>,
}

/// A token that took part.
#[derive(Clone, Debug, Serialize)]
pub struct TokenOfRecord {
    /// The configured name.
    pub name: String,
    /// Its label.
    pub label: String,
    /// Its serial number.
    pub serial: String,
}

/// A CA key that was made.
#[derive(Clone, Debug, Serialize)]
pub struct KeyOfRecord {
    /// Whose.
    pub issuer: IssuerName,
    /// Where: the PKCS#11 URI.
    pub uri: String,
    /// Its kind.
    pub algorithm: KeyAlgorithm,
    /// How far it may leave the token.
    pub policy: KeyPolicy,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: DetailHash,
    /// The attributes that the token reports of it.
    pub attributes: BTreeMap<String, String>,
}

/// A certificate that was made.
#[derive(Clone, Debug, Serialize)]
pub struct CertificateOfRecord {
    /// Whose.
    pub name: String,
    /// What for; `None` for the server's.
    pub role: Option<IssuerRole>,
    /// Who signed.
    pub issuer: IssuerName,
    /// SHA-256 of its DER.
    pub sha256: DetailHash,
    /// The certificate.
    pub pem: String,
}

/// A request that an offline root is to answer.
#[derive(Clone, Debug, Serialize)]
pub struct RequestOfRecord {
    /// Whose.
    pub issuer: IssuerName,
    /// Who is to sign.
    pub root: IssuerName,
    /// Where it was written.
    pub file: String,
    /// The request.
    pub pem: String,
}

/// The width of the column of names.
const COLUMN: usize = 14;

impl fmt::Display for Transcript {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let title = format!("Key ceremony: {}", self.title);
        writeln!(f, "{title}\n{}\n", "=".repeat(title.chars().count()))?;
        if let Some(place) = &self.place {
            row(f, "Place", place)?;
        }
        row(f, "Operators", &self.operators.join(", "))?;
        row(f, "Began", &self.began.to_string())?;
        row(f, "Ended", &self.ended.to_string())?;
        row(f, "Program", &self.product)?;
        row(f, "Ceremony file", &format!("SHA-256 {}", self.plan_sha256))?;
        if let Some(hash) = &self.owner_key_sha256 {
            row(f, "Owner's key", &format!("SHA-256 {hash}"))?;
        }
        heading(f, "Signing log")?;
        row(f, "Origin", &self.log.origin)?;
        row(f, "Verifier key", &self.log.verifier_key)?;
        row(f, "Log key", &self.log.key)?;
        if !self.log.attributes.is_empty() {
            reported(f, &self.log.attributes)?;
        }
        heading(f, "Tokens")?;
        for token in &self.tokens {
            let place = format!("label {:?}, serial number {:?}", token.label, token.serial);
            row(f, &token.name, &place)?;
        }
        for key in &self.keys {
            key.print(f)?;
        }
        for certificate in &self.certificates {
            certificate.print(f)?;
        }
        for request in &self.requests {
            heading(f, &format!("Request of {}", request.issuer))?;
            row(f, "For", &format!("the offline root {}", request.root))?;
            row(f, "File", &request.file)?;
            write!(f, "\n{}", request.pem)?;
        }
        heading(f, "The ceremony file")?;
        for line in self.plan.lines() {
            writeln!(f, "    {line}")?;
        }
        heading(f, "Signatures")?;
        for operator in &self.operators {
            writeln!(f, "\n\n{}\n{operator}", "_".repeat(40))?;
        }
        Ok(())
    }
}

impl KeyOfRecord {
    /// The key's section.
    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        heading(f, &format!("Key of {}", self.issuer))?;
        row(f, "Place", &self.uri)?;
        row(f, "Algorithm", &named(&self.algorithm))?;
        row(f, "Policy", &named(&self.policy))?;
        row(f, "Public key", &format!("SHA-256 {}", self.spki_sha256))?;
        reported(f, &self.attributes)
    }
}

impl CertificateOfRecord {
    /// The certificate's section.
    fn print(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        heading(f, &format!("Certificate of {}", self.name))?;
        if let Some(role) = &self.role {
            row(f, "Role", &named(role))?;
        }
        row(f, "Signed by", self.issuer.as_str())?;
        row(f, "Fingerprint", &format!("SHA-256 {}", self.sha256))?;
        write!(f, "\n{}", self.pem)
    }
}

/// A key's attributes, a line each.
fn reported(f: &mut fmt::Formatter<'_>, attributes: &BTreeMap<String, String>) -> fmt::Result {
    writeln!(f, "Attributes as the token reports them:")?;
    for (name, value) in attributes {
        writeln!(f, "    {name:<24} {value}")?;
    }
    Ok(())
}

/// The name that a value has in files.
fn named<T: Serialize>(value: &T) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        // Values here are fieldless enums, which serialise as strings.
        _ => String::new(),
    }
}

/// A section's heading.
fn heading(f: &mut fmt::Formatter<'_>, title: &str) -> fmt::Result {
    writeln!(f, "\n{title}\n{}", "-".repeat(title.chars().count()))
}

/// A name and its value.
fn row(f: &mut fmt::Formatter<'_>, name: &str, value: &str) -> fmt::Result {
    writeln!(f, "{name:<COLUMN$} {value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_printed() {
        let device: IssuerName = "device-1".parse().unwrap();
        let transcript = Transcript {
            title: "First keys".to_owned(),
            place: Some("Room 12".to_owned()),
            operators: vec!["shift-lead".to_owned(), "security-officer".to_owned()],
            product: "hallmark 0.1.0".to_owned(),
            began: UnixMillis::from_seconds(1_800_000_000),
            ended: UnixMillis::from_seconds(1_800_000_060),
            plan_sha256: DetailHash([1; 32]),
            owner_key_sha256: Some(DetailHash([2; 32])),
            log: LogOfRecord {
                origin: "log.example/p7".to_owned(),
                verifier_key: "log.example/p7+00000000+AAAA".to_owned(),
                key: "made on the token".to_owned(),
                attributes: [("CKA_LABEL".to_owned(), "log".to_owned())].into(),
            },
            tokens: vec![TokenOfRecord {
                name: "soft".to_owned(),
                label: "hallmark".to_owned(),
                serial: "0123".to_owned(),
            }],
            keys: vec![KeyOfRecord {
                issuer: device.clone(),
                uri: "pkcs11:token=hallmark".to_owned(),
                algorithm: KeyAlgorithm::EcdsaP256,
                policy: KeyPolicy::NeverExtractable,
                spki_sha256: DetailHash([3; 32]),
                attributes: [("CKA_SIGN".to_owned(), "true".to_owned())].into(),
            }],
            certificates: vec![CertificateOfRecord {
                name: "device-1".to_owned(),
                role: Some(IssuerRole::Device),
                issuer: "device-root".parse().unwrap(),
                sha256: DetailHash([4; 32]),
                pem: "-----BEGIN CERTIFICATE-----\n".to_owned(),
            }],
            requests: vec![RequestOfRecord {
                issuer: device,
                root: "device-root".parse().unwrap(),
                file: "/state/device-1.csr.pem".to_owned(),
                pem: "-----BEGIN CERTIFICATE REQUEST-----\n".to_owned(),
            }],
            plan: "version = 1\n".to_owned(),
        };
        let text = transcript.to_string();
        for part in [
            "Key ceremony: First keys\n========================\n",
            "Operators      shift-lead, security-officer\n",
            "Began          2027-01-15T08:00:00Z\n",
            &"01".repeat(32),
            &"02".repeat(32),
            &"03".repeat(32),
            &"04".repeat(32),
            "log.example/p7+00000000+AAAA",
            "label \"hallmark\", serial number \"0123\"",
            "Algorithm      ecdsa-p256\n",
            "Policy         never-extractable\n",
            "    CKA_SIGN                 true\n",
            "Log key        made on the token\n",
            "    CKA_LABEL                log\n",
            "Role           device\n",
            "-----BEGIN CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE REQUEST-----\n",
            "    version = 1\n",
            "______\nsecurity-officer\n",
        ] {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        assert!(serde_json::to_string(&transcript).is_ok());
    }
}
