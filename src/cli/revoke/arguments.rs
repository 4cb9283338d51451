//! The arguments of `cert revoke` and `cert release`, and the selections that they name.
//!
//! Promises that a list of any length is asked for in parts that fit into a request. Never reads a private key.
//! Failure story: a file or time that cannot be read is told with its argument.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use certstatus::log::entry::Slug;
use certstatus::log::{DetailHash, IssuerName};
use certstatus::{RevocationReason, SerialNumber, UnixMillis};
use clap::{Args, ValueEnum};
use der::{Decode as _, Encode as _};

use crate::cli::{CliError, moment, serial};
use crate::csr::Csr;
use crate::limits;
use crate::signing_log::{CertificateKind, Selection};

/// The longest file with a key or a list: 2 million device ids.
const FILE_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// `cert revoke`.
#[derive(Debug, Args)]
pub(in crate::cli) struct RevokeArguments {
    #[command(flatten)]
    pub(super) which: Which,
    /// The certificate of this issuer, by its parent: the issuer then issues nothing
    #[arg(long, value_name = "ISSUER", conflicts_with = "criteria")]
    pub(super) issuer_certificate: Option<IssuerName>,
    /// Why (RFC 5280, 5.3.1): unspecified, key-compromise, ca-compromise, affiliation-changed, superseded,
    /// cessation-of-operation, certificate-hold, privilege-withdrawn or aa-compromise
    #[arg(long, default_value = "unspecified", value_parser = reason)]
    pub(super) reason: RevocationReason,
    #[command(flatten)]
    pub(super) how: How,
}

/// `cert release`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ReleaseArguments {
    #[command(flatten)]
    pub(super) which: Which,
    /// The certificate of this issuer, which then issues again
    #[arg(long, value_name = "ISSUER", conflicts_with = "criteria")]
    pub(super) issuer_certificate: Option<IssuerName>,
    #[command(flatten)]
    pub(super) how: How,
}

/// How it is done.
#[derive(Debug, Args)]
pub(super) struct How {
    /// Words for the log, beside who and why
    #[arg(long, value_name = "TEXT")]
    pub(super) comment: Option<String>,
    /// Only show what it would be done to
    #[arg(long, conflicts_with_all = ["yes", "token"])]
    pub(super) dry_run: bool,
    /// Do it without asking; the exit code is 1 where nothing matches, or a device id that was named does not
    #[arg(long)]
    pub(super) yes: bool,
    /// Do it to exactly the selection that was shown with this token
    #[arg(long = "selection", value_name = "TOKEN")]
    pub(super) token: Option<String>,
}

/// Which certificates.
#[derive(Debug, Args)]
#[group(id = "criteria", multiple = true)]
pub(super) struct Which {
    /// These: 32 hex digits each, also as `openssl x509 -serial` writes them
    #[arg(value_parser = serial, required_unless_present_any = [
        "order", "line", "issuer", "kind", "device_id", "device_ids", "device_id_from", "device_id_to",
        "device_id_pattern", "issued_from", "issued_until", "key", "issuer_certificate",
    ])]
    pub(super) serials: Vec<SerialNumber>,
    /// Of this order
    #[arg(long)]
    pub(super) order: Option<Slug>,
    /// That this line asked for
    #[arg(long)]
    pub(super) line: Option<Slug>,
    /// By this issuer
    #[arg(long)]
    pub(super) issuer: Option<IssuerName>,
    /// What they are for; devices' where neither serials nor --key say which
    #[arg(long, value_enum)]
    pub(super) kind: Option<Kind>,
    /// Of this device id; give it once for each
    #[arg(long, value_name = "ID")]
    pub(super) device_id: Vec<String>,
    /// Of the device ids in this file: one a line, or a JSON array
    #[arg(long, value_name = "FILE")]
    pub(super) device_ids: Option<PathBuf>,
    /// Of device ids from this one on, in ASCII order of lower-case letters, itself included
    #[arg(long, value_name = "ID")]
    pub(super) device_id_from: Option<String>,
    /// Of device ids up to this one, itself included
    #[arg(long, value_name = "ID")]
    pub(super) device_id_to: Option<String>,
    /// Of device ids that match this regular expression as a whole
    #[arg(long, value_name = "PATTERN")]
    pub(super) device_id_pattern: Option<String>,
    /// Issued at this time or later: 2026-10-01T06:00:00Z, or 36h for so long ago
    #[arg(long, value_name = "TIME")]
    pub(super) issued_from: Option<String>,
    /// Issued before this time
    #[arg(long, value_name = "TIME")]
    pub(super) issued_until: Option<String>,
    /// For this public key: a file with the key, a request or a certificate (PEM or DER), or the SHA-256 of the
    /// SubjectPublicKeyInfo, 64 hex digits
    #[arg(long, value_name = "FILE")]
    pub(super) key: Option<String>,
}

/// What certificates are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// Devices'
    Device,
    /// Lines' own
    Line,
    /// Those that responders and auditors fetch published files with
    Reader,
    /// The API's
    Server,
    /// Responders'
    Responder,
}

impl From<Kind> for CertificateKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Device => Self::Device,
            Kind::Line => Self::Line,
            Kind::Reader => Self::Reader,
            Kind::Server => Self::Server,
            Kind::Responder => Self::Responder,
        }
    }
}

/// A reason that revokes.
fn reason(text: &str) -> Result<RevocationReason, String> {
    match text.parse() {
        Ok(RevocationReason::RemoveFromCrl) => {
            Err("a release is another command: cert release".to_owned())
        }
        Ok(reason) => Ok(reason),
        // The names that there are, without the one that is refused above.
        Err(_) => {
            let reasons = RevocationReason::ALL.into_iter();
            let reasons = reasons.filter(|reason| *reason != RevocationReason::RemoveFromCrl);
            let names: Vec<_> = reasons.map(RevocationReason::name).collect();
            Err(format!("it is one of {}", names.join(", ")))
        }
    }
}

impl Which {
    /// The one serial, where nothing else is said.
    pub(super) fn one(&self) -> Option<SerialNumber> {
        match self.serials.as_slice() {
            [serial] if self.only_serials() => Some(*serial),
            _ => None,
        }
    }

    /// Whether nothing but serials says which.
    pub(super) const fn only_serials(&self) -> bool {
        self.order.is_none()
            && self.line.is_none()
            && self.issuer.is_none()
            && self.kind.is_none()
            && self.device_id.is_empty()
            && self.device_ids.is_none()
            && self.device_id_from.is_none()
            && self.device_id_to.is_none()
            && self.device_id_pattern.is_none()
            && self.issued_from.is_none()
            && self.issued_until.is_none()
            && self.key.is_none()
    }

    /// The selections to ask for, one after the other; together they are what the arguments name.
    ///
    /// # Errors
    /// [`CliError`] names the argument or the file.
    pub(super) fn selections(&self, now: UnixMillis) -> Result<Vec<Selection>, CliError> {
        let time = |argument, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| moment::past(argument, text, now))
                .transpose()
        };
        let common = Selection {
            order: self.order.clone(),
            line: self.line.clone(),
            issuer: self.issuer.clone(),
            kind: self.kind.map(CertificateKind::from),
            device_id_from: self.device_id_from.clone(),
            device_id_to: self.device_id_to.clone(),
            device_id_pattern: self.device_id_pattern.clone(),
            issued_from: time("--issued-from", &self.issued_from)?,
            issued_until: time("--issued-until", &self.issued_until)?,
            spki: self.key.as_deref().map(key).transpose()?,
            ..Selection::default()
        };
        let mut ids: BTreeSet<String> = self.device_id.iter().map(|id| fold(id)).collect();
        if let Some(path) = &self.device_ids {
            ids.extend(list(path)?);
        }
        let serials: BTreeSet<_> = self.serials.iter().copied().collect();
        let serials: Vec<_> = serials.into_iter().collect();
        let ids: Vec<_> = ids.into_iter().collect();
        if serials.is_empty() && ids.is_empty() {
            return Ok(vec![common]);
        }
        // Both lists: a certificate must be in each, so every part of one is asked with every part of the other.
        let mut selections = Vec::new();
        for serials in parts(&serials) {
            for ids in parts(&ids) {
                selections.push(Selection {
                    serials: serials.to_vec(),
                    device_ids: ids.to_vec(),
                    ..common.clone()
                });
            }
        }
        Ok(selections)
    }
}

/// Parts that fit into a request; one empty part of an empty list.
fn parts<T>(list: &[T]) -> Vec<&[T]> {
    if list.is_empty() {
        return vec![list];
    }
    list.chunks(limits::SELECTION_NAMES_MAX).collect()
}

/// A device id as the appliance compares it.
pub(super) fn fold(id: &str) -> String {
    id.to_ascii_lowercase()
}

/// Reads a file that is not too long.
fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let failed = |source| CliError::Read {
        path: path.to_owned(),
        source,
    };
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > FILE_BYTES_MAX {
        let fault = format!("it has more than {FILE_BYTES_MAX} bytes");
        return Err(failed(std::io::Error::other(fault)));
    }
    std::fs::read(path).map_err(failed)
}

/// The device ids in a file: a JSON array, or one a line.
fn list(path: &Path) -> Result<BTreeSet<String>, CliError> {
    let refused = |problem: String| CliError::Argument {
        argument: "--device-ids",
        problem: format!("{}: {problem}", path.display()),
    };
    let octets = read(path)?;
    let text = String::from_utf8(octets).map_err(|_| refused("is not text".to_owned()))?;
    let ids: Vec<String> = if text.trim_start().starts_with('[') {
        serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?
    } else {
        text.lines().map(|line| line.trim().to_owned()).collect()
    };
    let ids: BTreeSet<_> = ids
        .iter()
        .filter(|id| !id.is_empty())
        .map(|id| fold(id))
        .collect();
    if ids.is_empty() {
        // Without this an empty list would be no criterion at all.
        return Err(refused("names no device id".to_owned()));
    }
    Ok(ids)
}

/// The SHA-256 of a SubjectPublicKeyInfo: as given, or of what a file holds.
fn key(text: &str) -> Result<DetailHash, CliError> {
    if text.len() == 64
        && let Ok(hash) = serde_json::from_value(serde_json::json!(text.to_ascii_lowercase()))
    {
        return Ok(hash);
    }
    let octets = read(Path::new(text))?;
    let refused = |problem: &str| CliError::Argument {
        argument: "--key",
        problem: format!("{text}: {problem}"),
    };
    let spki = match der::pem::decode_vec(first_pem(&octets)) {
        Ok(("PUBLIC KEY", spki)) => Some(spki),
        Ok(("CERTIFICATE", der)) => spki_of(&der),
        Ok((label, _)) if label.contains("PRIVATE") => {
            return Err(refused(
                "is a private key, which is nobody's business: name the public one",
            ));
        }
        Ok(_) => None,
        // DER is told by what parses.
        Err(_) => spki_of(&octets).or_else(|| public_key(&octets)),
    };
    if let Some(spki) = spki {
        return Ok(DetailHash::of(&spki));
    }
    let csr = Csr::parse(first_pem(&octets)).and_then(Csr::verify);
    let csr = csr.map_err(|_| refused("is neither a public key, a request nor a certificate"))?;
    Ok(csr.spki_sha256())
}

/// The first of several PEM blocks: of a chain, the certificate itself. As it came, where it is no PEM.
fn first_pem(octets: &[u8]) -> &[u8] {
    let first = || {
        let text = std::str::from_utf8(octets).ok()?;
        let block = text.get(text.find("-----BEGIN ")?..)?;
        let end = block.find("-----END ")?;
        let line = block.get(end..)?.lines().next()?;
        Some(block.get(..end + line.len())?.as_bytes())
    };
    first().unwrap_or(octets)
}

/// The key in a certificate.
fn spki_of(der: &[u8]) -> Option<Vec<u8>> {
    let certificate = x509_cert::Certificate::from_der(der).ok()?;
    let spki = certificate.tbs_certificate().subject_public_key_info();
    spki.to_der().ok()
}

/// A key by itself.
fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    certstatus::signature::PublicKey::parse(der).ok()?;
    Some(der.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments of a selection.
    fn which(change: impl FnOnce(&mut Which)) -> Which {
        let mut which = Which {
            serials: Vec::new(),
            order: None,
            line: None,
            issuer: None,
            kind: None,
            device_id: Vec::new(),
            device_ids: None,
            device_id_from: None,
            device_id_to: None,
            device_id_pattern: None,
            issued_from: None,
            issued_until: None,
            key: None,
        };
        change(&mut which);
        which
    }

    #[test]
    fn long_lists_are_asked_for_in_parts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ids");
        let ids: Vec<String> = (0..1201).map(|n| format!("Dev-{n}")).collect();
        for text in [ids.join("\r\n"), serde_json::json!(ids).to_string()] {
            std::fs::write(&path, text).unwrap();
            let which = which(|w| {
                w.device_ids = Some(path.clone());
                w.device_id = vec!["DEV-7".into(), "other".into()];
            });
            let selections = which.selections(UnixMillis(0)).unwrap();
            let lengths: Vec<_> = selections.iter().map(|s| s.device_ids.len()).collect();
            assert_eq!(lengths, [500, 500, 202]);
        }
        std::fs::write(&path, "\n \n").unwrap();
        let empty = which(|w| w.device_ids = Some(path.clone()));
        assert!(empty.selections(UnixMillis(0)).is_err());
    }

    #[test]
    fn a_reason_that_is_refused_is_not_offered() {
        let refused = reason("stolen").unwrap_err();
        assert!(refused.contains("key-compromise"), "{refused}");
        assert!(!refused.contains("remove-from-crl"), "{refused}");
        let release = reason("remove-from-crl").unwrap_err();
        assert!(release.contains("cert release"), "{release}");
    }

    #[test]
    fn a_key_is_named_by_its_hash_or_by_what_holds_it() {
        use rcgen::PublicKeyData as _;
        let dir = tempfile::tempdir().unwrap();
        let pair = rcgen::KeyPair::generate().unwrap();
        let hash = DetailHash::of(&pair.subject_public_key_info());
        let params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        let certificate = params.self_signed(&pair).unwrap();
        let request = params.serialize_request(&pair).unwrap();
        let another = rcgen::KeyPair::generate().unwrap();
        let other = params.self_signed(&another).unwrap();
        let files = [
            pair.public_key_pem().into_bytes(),
            pair.subject_public_key_info(),
            certificate.pem().into_bytes(),
            // A chain begins with the certificate itself.
            [certificate.pem(), other.pem()].concat().into_bytes(),
            [certificate.pem(), other.pem()]
                .join("\r\n# its issuer\r\n")
                .into_bytes(),
            certificate.der().to_vec(),
            request.pem().unwrap().into_bytes(),
            request.der().to_vec(),
        ];
        let path = dir.path().join("key");
        for (place, octets) in files.iter().enumerate() {
            std::fs::write(&path, octets).unwrap();
            assert_eq!(key(path.to_str().unwrap()).unwrap(), hash, "{place}");
        }
        assert_eq!(key(&certstatus::hex::encode(&hash.0)).unwrap(), hash);
        std::fs::write(&path, pair.serialize_pem()).unwrap();
        let refused = key(path.to_str().unwrap()).unwrap_err();
        assert!(refused.to_string().contains("private"), "{refused}");
    }
}
