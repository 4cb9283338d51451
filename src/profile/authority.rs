//! CA certificates: making their TBS in the ceremony, and reading the facts of one that signs.
//!
//! Owns what a CA certificate of ours says (RFC 5280, 4.2.1.9, 4.2.1.3): basicConstraints and keyUsage
//! critical, keyCertSign and cRLSign and nothing else. Promises that path lengths and validity nest.
//! Failure is a sentence about the ceremony file or the certificate.

use certstatus::log::IssuerName;
use certstatus::signature::{PublicKey, SignatureAlgorithm, split};
use certstatus::{SerialNumber, UnixMillis};
use der::{Decode, Encode};
use x509_cert::Certificate;
use x509_cert::ext::pkix::KeyUsages;

use super::encode::{self, Criticality};
use super::{
    BuildRefused, CaSigner, CaSpec, IssuerFacts, Period, Pointer, Pointers, Tbs, Urls, lint,
};
use crate::csr::{VerifiedCsr, name_der};
use crate::limits;

/// What stands for the profile's name in entries and refusals.
const PROFILE: &str = "ca";
/// A parent's URLs stand in what it signs, where it has them.
const POINTERS: Pointers = Pointers {
    crl: Pointer::IfConfigured,
    ocsp: Pointer::IfConfigured,
    ca_issuers: Pointer::IfConfigured,
};
/// What CA keys are for.
const USAGES: [KeyUsages; 2] = [KeyUsages::KeyCertSign, KeyUsages::CRLSign];

/// A sentence as a refusal.
pub(super) fn unfit(rule: String) -> BuildRefused {
    BuildRefused::Lint {
        profile: PROFILE.to_owned(),
        rule,
    }
}

/// Who signs, as the new certificate says it.
struct IssuedBy<'a> {
    /// The name in the log.
    name: &'a IssuerName,
    /// The subject Name, DER.
    subject: Vec<u8>,
    /// The subject key identifier.
    key_id: Vec<u8>,
    /// The key.
    key: &'a PublicKey,
    /// What it signs with.
    algorithm: SignatureAlgorithm,
    /// Its URLs.
    urls: Urls<'a>,
}

/// Builds a CA certificate's TBS, and lints it.
pub(super) fn build(
    spec: &CaSpec,
    key: &PublicKey,
    signer: CaSigner<'_>,
    serial: SerialNumber,
    now: UnixMillis,
) -> Result<Tbs, String> {
    if spec.subject.is_empty() {
        return Err("a CA certificate has an empty subject (RFC 5280, 4.1.2.6)".to_owned());
    }
    let period = Period::of(spec.validity, limits::CA_BACKDATE, now);
    let subject = name_der(&spec.subject);
    let by = issued_by(spec, key, signer, &subject, (serial, period))?;
    let mut extensions = encode::authority_key_id(&by.key_id);
    extensions.extend(encode::subject_key_id(key));
    extensions.extend(encode::key_usage(&USAGES, Criticality::Critical));
    extensions.extend(encode::a_ca(spec.path_len));
    extensions.extend(by.urls.encoded());
    let request = VerifiedCsr::own_key(spec.subject.clone(), key.clone());
    let tbs = Tbs {
        der: encode::tbs(&encode::Fields {
            serial,
            algorithm: by.algorithm,
            issuer: &by.subject,
            not_before: period.not_before,
            not_after: period.not_after,
            subject: &subject,
            key,
            extensions: &extensions,
        }),
        issuer: by.name.clone(),
        issuer_key: by.key.clone(),
        algorithm: by.algorithm,
        serial,
        not_before: period.not_before,
        not_after: period.not_after,
        profile: PROFILE.to_owned(),
        spki: request.spki_sha256(),
        requested: request.requested(""),
        device_id: None,
    };
    let read = lint::authority(&tbs, &by.subject, &by.key_id)?;
    if read.subject != subject || path_len(&read) != spec.path_len {
        return Err("subject or path length are not those of the ceremony file".to_owned());
    }
    Ok(tbs)
}

/// The signer's facts, once what it signs nests in it.
fn issued_by<'a>(
    spec: &CaSpec,
    key: &'a PublicKey,
    signer: CaSigner<'a>,
    subject: &[u8],
    (serial, period): (SerialNumber, Period),
) -> Result<IssuedBy<'a>, String> {
    match signer {
        CaSigner::Itself { name, algorithm } => Ok(IssuedBy {
            name,
            subject: subject.to_vec(),
            key_id: key.key_identifier().to_vec(),
            key,
            algorithm,
            urls: Urls {
                crl: None,
                ocsp: None,
                ca_issuers: None,
            },
        }),
        CaSigner::Parent(parent) => {
            period.ends_within(parent)?;
            check_path(spec.path_len, parent)?;
            if parent.subject == subject {
                // RFC 5280, 6.1: such a certificate is self-issued and does not count for path lengths.
                return Err("the subject is that of the issuer".to_owned());
            }
            Ok(IssuedBy {
                name: &parent.name,
                subject: parent.subject.clone(),
                key_id: parent.key_id.clone(),
                key: &parent.public_key,
                algorithm: parent.algorithm,
                urls: POINTERS.of(parent, serial)?,
            })
        }
    }
}

/// RFC 5280, 4.2.1.9: the path below is shorter than the parent's.
fn check_path(path_len: Option<u8>, parent: &IssuerFacts) -> Result<(), String> {
    let name = &parent.name;
    match (parent.path_len, path_len) {
        (None, _) => Ok(()),
        (Some(0), _) => Err(format!(
            "{name} may sign no CA certificate: its path length is 0"
        )),
        (Some(most), Some(length)) if length < most => Ok(()),
        (Some(most), _) => Err(format!(
            "the path length must be at most {}: that of {name} is {most}",
            most.saturating_sub(1)
        )),
    }
}

/// pathLenConstraint.
fn path_len(read: &lint::Read) -> Option<u8> {
    read.constraints
        .as_ref()
        .and_then(|c| c.value.path_len_constraint)
}

/// The facts of a CA certificate that is fit to sign.
pub(super) fn facts(
    name: IssuerName,
    certificate: &[u8],
    algorithm: SignatureAlgorithm,
) -> Result<IssuerFacts, String> {
    let parsed = Certificate::from_der(certificate);
    let parsed = parsed.map_err(|e| format!("it is not a certificate: {e}"))?;
    if parsed.to_der().ok().as_deref() != Some(certificate) {
        return Err("it is not in DER".to_owned());
    }
    let (tbs, _, _) = split(certificate).map_err(|fault| fault.to_string())?;
    let read = lint::read_foreign(tbs)?;
    lint::can_sign(&read)?;
    let validity = read.tbs.validity();
    for (time, field) in [
        (validity.not_before, "notBefore"),
        (validity.not_after, "notAfter"),
    ] {
        lint::check_time_form(time, field)?;
    }
    lint::algorithm_fits(algorithm, read.key.kind())?;
    Ok(IssuerFacts {
        name,
        certificate: certificate.to_vec(),
        key_id: read
            .subject_key_id
            .clone()
            .ok_or("subjectKeyIdentifier is missing (RFC 5280, 4.2.1.2)")?,
        algorithm,
        not_after: UnixMillis::from_seconds(validity.not_after.to_unix_duration().as_secs()),
        path_len: path_len(&read),
        subject: read.subject,
        public_key: read.key,
        crl_url: None,
        crl_partitions: None,
        ocsp_url: None,
        ca_url: None,
    })
}
