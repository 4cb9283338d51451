//! RFC 5280's rules, held against final bytes.
//!
//! Owns the reading of a TBSCertificate anew, with a parser that shares no code with the writer, and every
//! rule that holds whatever the profile says. Promises that a certificate that passes is one that strict
//! relying parties take. Never looks at what the bytes were made of. Failure is a sentence with its source.

mod names;

use certstatus::log::DetailHash;
use certstatus::signature::{KeyKind, PublicKey, SignatureAlgorithm};
use der::asn1::ObjectIdentifier;
use der::{Decode, Encode};
use x509_cert::certificate::{TbsCertificate, Version};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::{DistributionPointName, GeneralName, GeneralNames};
use x509_cert::ext::pkix::{
    AuthorityInfoAccessSyntax, AuthorityKeyIdentifier, BasicConstraints, CertificatePolicies,
    CrlDistributionPoints, ExtendedKeyUsage, KeyUsage, KeyUsages, SubjectKeyIdentifier,
};
use x509_cert::time::Time;

use super::encode::Criticality;
use super::usage::{self, KeyFamily, NoCheck};
use super::{Tbs, oid, syntax};

/// A TBSCertificate as a relying party reads it.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// All of it.
    pub tbs: TbsCertificate,
    /// The issuer Name, DER.
    pub issuer: Vec<u8>,
    /// The subject Name, DER.
    pub subject: Vec<u8>,
    /// The subject's key.
    pub key: PublicKey,
    /// authorityKeyIdentifier, keyIdentifier.
    pub authority_key_id: Option<Vec<u8>>,
    /// subjectKeyIdentifier.
    pub subject_key_id: Option<Vec<u8>>,
    /// keyUsage.
    pub key_usage: Option<Marked<Vec<KeyUsages>>>,
    /// extendedKeyUsage.
    pub extended: Option<Marked<Vec<ObjectIdentifier>>>,
    /// basicConstraints.
    pub constraints: Option<Marked<BasicConstraints>>,
    /// subjectAltName.
    pub alt_names: Option<Marked<GeneralNames>>,
    /// certificatePolicies.
    pub policies: Vec<ObjectIdentifier>,
    /// The URL of cRLDistributionPoints.
    pub crl_url: Option<String>,
    /// The OCSP URL of authorityInfoAccess.
    pub ocsp_url: Option<String>,
    /// The caIssuers URL of authorityInfoAccess.
    pub ca_url: Option<String>,
    /// id-pkix-ocsp-nocheck.
    pub ocsp_nocheck: NoCheck,
}

/// The value of an extension that may or may not be critical.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marked<T> {
    /// Its criticality.
    pub criticality: Criticality,
    /// Its value.
    pub value: T,
}

/// Reads a TBSCertificate and holds it against the rules for end entities.
///
/// Errors are sentences for whoever wrote the profile or configured the issuer.
pub(super) fn end_entity(
    tbs: &Tbs,
    issuer_subject: &[u8],
    issuer_key_id: &[u8],
) -> Result<Read, String> {
    let read = everyone(tbs, issuer_subject, issuer_key_id)?;
    let usages = &read.key_usage.as_ref().ok_or("keyUsage is missing")?.value;
    if usages.contains(&KeyUsages::KeyCertSign) || usages.contains(&KeyUsages::CRLSign) {
        return Err("keyUsage lets it sign certificates or CRLs (RFC 5280, 4.2.1.3)".to_owned());
    }
    if let Some(constraints) = &read.constraints
        && (constraints.value.ca || constraints.value.path_len_constraint.is_some())
    {
        return Err("basicConstraints make it a CA (RFC 5280, 4.2.1.9)".to_owned());
    }
    let extended = read.extended.as_ref().map(|e| e.value.as_slice());
    usage::check_extended(extended.unwrap_or_default(), usages)?;
    Ok(read)
}

/// Reads a TBSCertificate and holds it against the rules for CAs.
pub(super) fn authority(
    tbs: &Tbs,
    issuer_subject: &[u8],
    issuer_key_id: &[u8],
) -> Result<Read, String> {
    let read = everyone(tbs, issuer_subject, issuer_key_id)?;
    can_sign(&read)?;
    if read.extended.is_some() || read.ocsp_nocheck == NoCheck::Present {
        return Err("a CA certificate has extended key usages or ocsp-nocheck".to_owned());
    }
    Ok(read)
}

/// Whether a certificate entitles its key to sign certificates and CRLs.
pub(super) fn can_sign(read: &Read) -> Result<(), String> {
    let constraints = read
        .constraints
        .as_ref()
        .ok_or("basicConstraints are missing")?;
    // RFC 5280, 4.2.1.9: MUST be critical in certificates that verify certificates.
    if constraints.criticality != Criticality::Critical || !constraints.value.ca {
        return Err(
            "basicConstraints are not critical or not CA:TRUE (RFC 5280, 4.2.1.9)".to_owned(),
        );
    }
    let usage = read.key_usage.as_ref().ok_or("keyUsage is missing")?;
    if usage.criticality != Criticality::Critical {
        return Err("keyUsage is not critical (RFC 5280, 4.2.1.3)".to_owned());
    }
    for needed in [KeyUsages::KeyCertSign, KeyUsages::CRLSign] {
        if !usage.value.contains(&needed) {
            return Err(format!("keyUsage lacks {needed:?} (RFC 5280, 4.2.1.3)"));
        }
    }
    if read.tbs.subject().is_empty() {
        return Err("a CA certificate has an empty subject (RFC 5280, 4.1.2.6)".to_owned());
    }
    Ok(())
}

/// The rules for all certificates that we make.
fn everyone(tbs: &Tbs, issuer_subject: &[u8], issuer_key_id: &[u8]) -> Result<Read, String> {
    let read = read(&tbs.der)?;
    if read.tbs.serial_number().as_bytes() != tbs.serial.as_bytes() {
        return Err("the serial number is not the one that was drawn".to_owned());
    }
    if read.tbs.signature().to_der().ok().as_deref() != Some(tbs.algorithm.identifier()) {
        return Err("the signature algorithm is not the issuer's".to_owned());
    }
    algorithm_fits(tbs.algorithm, tbs.issuer_key.kind())?;
    // RFC 5280, 4.1.2.4: MUST be the issuer's subject, octet for octet.
    if read.issuer != issuer_subject || read.tbs.issuer().is_empty() {
        return Err("the issuer is not the subject of the issuer's certificate".to_owned());
    }
    if read.authority_key_id.as_deref() != Some(issuer_key_id) {
        return Err("authorityKeyIdentifier is not the issuer's subjectKeyIdentifier".to_owned());
    }
    if read.subject_key_id.as_deref() != Some(&read.key.key_identifier()) {
        return Err("subjectKeyIdentifier is not the SHA-1 of the key".to_owned());
    }
    if DetailHash(read.key.sha256()) != tbs.spki {
        return Err("the public key is not the request's".to_owned());
    }
    check_period(tbs, &read)?;
    check_usage(&read)?;
    names::subject(read.tbs.subject())?;
    names::alternatives(&read)?;
    Ok(read)
}

/// Whether the issuer's key can sign with the algorithm.
pub(super) fn algorithm_fits(algorithm: SignatureAlgorithm, key: KeyKind) -> Result<(), String> {
    use SignatureAlgorithm as A;
    let fits = match algorithm {
        A::EcdsaSha256 | A::EcdsaSha384 => matches!(key, KeyKind::P256 | KeyKind::P384),
        // Accepted in requests only.
        A::EcdsaSha512 => false,
        A::Ed25519 => matches!(key, KeyKind::Ed25519),
        _ => matches!(key, KeyKind::Rsa(_)),
    };
    if fits {
        return Ok(());
    }
    Err(format!(
        "the issuer's {key} key does not sign with {algorithm:?}"
    ))
}

/// RFC 5280, 4.1.2.5: the forms of times, and that what they say is what was decided.
fn check_period(tbs: &Tbs, read: &Read) -> Result<(), String> {
    let validity = read.tbs.validity();
    for (time, decided, field) in [
        (validity.not_before, tbs.not_before, "notBefore"),
        (validity.not_after, tbs.not_after, "notAfter"),
    ] {
        check_time_form(time, field)?;
        if time.to_unix_duration().as_secs() != decided.seconds() {
            return Err(format!("{field} is not what was decided"));
        }
    }
    if tbs.not_before >= tbs.not_after {
        return Err("it ends before it begins".to_owned());
    }
    Ok(())
}

/// UTCTime until 2049, GeneralizedTime after.
pub(super) fn check_time_form(time: Time, field: &str) -> Result<(), String> {
    let fits = match time {
        Time::UtcTime(_) => true,
        Time::GeneralTime(general) => general.to_date_time().year() >= 2050,
    };
    if fits {
        return Ok(());
    }
    Err(format!(
        "{field} is a GeneralizedTime before 2050 (RFC 5280, 4.1.2.5)"
    ))
}

/// Usages that fit the key, and not none of them.
fn check_usage(read: &Read) -> Result<(), String> {
    let family = KeyFamily::of(read.key.kind());
    let usages = &read.key_usage.as_ref().ok_or("keyUsage is missing")?.value;
    if usages.is_empty() {
        return Err("keyUsage has no bit (RFC 5280, 4.2.1.3)".to_owned());
    }
    if let Some(unfit) = usages.iter().find(|usage| !family.can(**usage)) {
        return Err(format!(
            "keyUsage has {unfit:?}, which a {} key cannot",
            family.name()
        ));
    }
    let empty = |e: &Marked<Vec<ObjectIdentifier>>| e.value.is_empty();
    if read.extended.as_ref().is_some_and(empty) {
        return Err("extendedKeyUsage is empty (RFC 5280, 4.2.1.12)".to_owned());
    }
    Ok(())
}

//------ Reading ------------------------------------------------------------

/// Reads a TBSCertificate: DER to the last octet, version 3, no extension but those that we make.
fn read(der: &[u8]) -> Result<Read, String> {
    let (read, unknown) = read_known(der)?;
    match unknown.first() {
        None => Ok(read),
        Some(oid) => Err(format!("extension {oid}: no profile makes it")),
    }
}

/// Reads the TBSCertificate of a CA that others may have made: it may have more extensions, if they are
/// not critical.
pub(super) fn read_foreign(der: &[u8]) -> Result<Read, String> {
    let (read, unknown) = read_known(der)?;
    let extensions = read.tbs.extensions().map(Vec::as_slice).unwrap_or_default();
    let critical = |e: &&Extension| e.critical && unknown.contains(&e.extn_id);
    match extensions.iter().find(critical) {
        None => Ok(read),
        Some(e) => Err(format!(
            "extension {}: it is critical and not known here",
            e.extn_id
        )),
    }
}

/// Reads a TBSCertificate, and gives the extensions that are not known.
fn read_known(der: &[u8]) -> Result<(Read, Vec<ObjectIdentifier>), String> {
    let tbs = TbsCertificate::from_der(der).map_err(|e| format!("it is not a certificate: {e}"))?;
    if tbs.to_der().ok().as_deref() != Some(der) {
        return Err("it is not in DER".to_owned());
    }
    if tbs.version() != Version::V3 {
        return Err("its version is not 3".to_owned());
    }
    let serial = tbs.serial_number().as_bytes();
    // RFC 5280, 4.1.2.2: positive, at most 20 octets.
    if serial.len() > 20 || serial.iter().all(|o| *o == 0) || serial.first() >= Some(&0x80) {
        return Err("the serial number is not positive or has over 20 octets".to_owned());
    }
    if tbs.issuer_unique_id().is_some() || tbs.subject_unique_id().is_some() {
        return Err("it has a unique identifier (RFC 5280, 4.1.2.8)".to_owned());
    }
    let encoded = |field: der::Result<Vec<u8>>| field.map_err(|e| e.to_string());
    let spki = encoded(tbs.subject_public_key_info().to_der())?;
    let key = PublicKey::parse(&spki).map_err(|fault| fault.to_string())?;
    let mut read = Read {
        issuer: encoded(tbs.issuer().to_der())?,
        subject: encoded(tbs.subject().to_der())?,
        key,
        authority_key_id: None,
        subject_key_id: None,
        key_usage: None,
        extended: None,
        constraints: None,
        alt_names: None,
        policies: Vec::new(),
        crl_url: None,
        ocsp_url: None,
        ca_url: None,
        ocsp_nocheck: NoCheck::Absent,
        tbs,
    };
    let extensions = read.tbs.extensions().cloned().unwrap_or_default();
    let mut seen = Vec::with_capacity(extensions.len());
    let mut unknown = Vec::new();
    for extension in &extensions {
        let oid = extension.extn_id;
        if seen.contains(&oid) {
            return Err(format!("it has the extension {oid} twice (RFC 5280, 4.2)"));
        }
        seen.push(oid);
        let taken = read.take(extension);
        if taken.map_err(|problem| format!("extension {oid}: {problem}"))? == Taken::Unknown {
            unknown.push(oid);
        }
    }
    Ok((read, unknown))
}

/// Whether an extension is one that is read here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    /// It is.
    Known,
    /// It is not.
    Unknown,
}

/// Decodes the value of an extension, which must be DER.
fn value<T>(extension: &Extension) -> Result<T, String>
where
    T: for<'a> Decode<'a, Error = der::Error> + Encode,
{
    let der = extension.extn_value.as_bytes();
    let value = T::from_der(der).map_err(|e| e.to_string())?;
    if value.to_der().ok().as_deref() != Some(der) {
        return Err("its value is not in DER".to_owned());
    }
    Ok(value)
}

/// Refuses a critical extension that RFC 5280 or RFC 6960 wants not critical.
fn not_critical(extension: &Extension) -> Result<(), String> {
    if extension.critical {
        return Err("it is critical and must not be".to_owned());
    }
    Ok(())
}

impl Read {
    /// Takes in one extension.
    fn take(&mut self, extension: &Extension) -> Result<Taken, String> {
        let criticality = Criticality::from(extension.critical);
        match extension.extn_id {
            oid::AUTHORITY_KEY_ID => {
                not_critical(extension)?;
                let id: AuthorityKeyIdentifier = value(extension)?;
                self.authority_key_id = id.key_identifier.map(|id| id.as_bytes().to_vec());
            }
            oid::SUBJECT_KEY_ID => {
                not_critical(extension)?;
                let id: SubjectKeyIdentifier = value(extension)?;
                self.subject_key_id = Some(id.0.as_bytes().to_vec());
            }
            oid::KEY_USAGE => {
                let usage: KeyUsage = value(extension)?;
                let value = usage.0.into_iter().collect();
                self.key_usage = Some(Marked { criticality, value });
            }
            oid::EXTENDED_KEY_USAGE => {
                let usage: ExtendedKeyUsage = value(extension)?;
                let value = usage.0;
                self.extended = Some(Marked { criticality, value });
            }
            oid::BASIC_CONSTRAINTS => {
                let value = value(extension)?;
                self.constraints = Some(Marked { criticality, value });
            }
            oid::SUBJECT_ALT_NAME => {
                let value = value(extension)?;
                self.alt_names = Some(Marked { criticality, value });
            }
            oid::CERTIFICATE_POLICIES => {
                let policies: CertificatePolicies = value(extension)?;
                self.policies = policies.0.iter().map(|p| p.policy_identifier).collect();
            }
            oid::CRL_DISTRIBUTION_POINTS => {
                not_critical(extension)?;
                self.crl_url = Some(crl_url(&value(extension)?)?);
            }
            oid::AUTHORITY_INFO_ACCESS => {
                not_critical(extension)?;
                self.take_access(&value(extension)?)?;
            }
            oid::OCSP_NOCHECK => {
                not_critical(extension)?;
                let _: der::asn1::Null = value(extension)?;
                self.ocsp_nocheck = NoCheck::Present;
            }
            _ => return Ok(Taken::Unknown),
        }
        Ok(Taken::Known)
    }

    /// Takes in authorityInfoAccess.
    fn take_access(&mut self, access: &AuthorityInfoAccessSyntax) -> Result<(), String> {
        for description in &access.0 {
            let place = match description.access_method {
                oid::AD_OCSP => &mut self.ocsp_url,
                oid::AD_CA_ISSUERS => &mut self.ca_url,
                other => return Err(format!("it has the access method {other}")),
            };
            if place.replace(url(&description.access_location)?).is_some() {
                return Err("it has an access method twice".to_owned());
            }
        }
        if access.0.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(())
    }
}

/// The one URL of the one distribution point.
fn crl_url(points: &CrlDistributionPoints) -> Result<String, String> {
    let [point] = points.0.as_slice() else {
        return Err("it has not exactly one distribution point".to_owned());
    };
    if point.reasons.is_some() || point.crl_issuer.is_some() {
        return Err("its distribution point has reasons or another issuer".to_owned());
    }
    match &point.distribution_point {
        Some(DistributionPointName::FullName(names)) => match names.as_slice() {
            [name] => url(name),
            _ => Err("its distribution point has not exactly one name".to_owned()),
        },
        _ => Err("its distribution point has no full name".to_owned()),
    }
}

/// A name that is an HTTP URL.
fn url(name: &GeneralName) -> Result<String, String> {
    let GeneralName::UniformResourceIdentifier(url) = name else {
        return Err("it has a name that is no URL".to_owned());
    };
    syntax::http_url(url.as_str()).map_err(|problem| format!("{url}: {problem}"))?;
    Ok(url.as_str().to_owned())
}
