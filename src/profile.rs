//! Profiles: what a certificate says, and the lint on what it came to say.
//!
//! Owns [`Profile`] and [`Tbs`]. Promises that every [`Tbs`] obeys its profile and RFC 5280 whatever the
//! source of each field, because policy and lint read the final bytes. Never copies a field of a request
//! that the profile does not name: it refuses. Failure story: a refusal names the field and the rule.
//!
//! The road of a certificate: [`Profile::build`] judges the request (`request`), writes the bytes
//! (`encode`), then reads them anew and judges them by RFC 5280 (`lint`) and by the profile (`conform`),
//! as if somebody else had written them. `docs/PROFILES.md` says what a profile file may contain.

mod authority;
mod conform;
mod encode;
mod file;
mod grant;
mod lint;
mod oid;
mod request;
mod rule;
mod syntax;
mod usage;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use certstatus::log::{DetailHash, IssuerName};
use certstatus::signature::{PublicKey, SignatureAlgorithm};
use certstatus::{SerialNumber, UnixMillis};
use x509_cert::name::Name;

use crate::config::{self, PartitionUrl};
use crate::csr::VerifiedCsr;
use crate::ra::Grant;
use encode::Criticality;
use grant::Granted;
use rule::{AltNameRule, SubjectRule};
use usage::{KeyRule, Usages};

/// A typed profile. Cheap to share; cloning copies a few kilobytes.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The file's stem.
    name: String,
    /// What its certificates are for.
    purpose: ProfilePurpose,
    /// The kinds of keys that it certifies.
    keys: KeyRule,
    /// The subject, attribute by attribute, in order.
    subject: Vec<SubjectRule>,
    /// The subject alternative names, in order.
    alt_names: Vec<AltNameRule>,
    /// How long.
    validity: Validity,
    /// How long before now.
    backdate: Duration,
    /// Whether its certificates may be valid longer than their issuer.
    lifetime: Lifetime,
    /// Key usages, and whatever else is the same in all its certificates.
    usages: Usages,
    /// Which of the issuer's URLs it names.
    pointers: Pointers,
}

/// What a profile's certificates are for: a grant for one purpose never meets a profile for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfilePurpose {
    /// Devices: units of production orders.
    Device,
    /// Lines: stations and gateways that ask for device certificates.
    Line,
    /// The appliance's own API.
    Server,
    /// OCSP responders.
    OcspSigning,
}

/// Whether a certificate may outlive its issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lifetime {
    /// It is refused.
    WithinIssuer,
    /// The profile's author wants it.
    MayOutliveIssuer,
}

/// Which of the issuer's URLs stand in the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pointers {
    /// cRLDistributionPoints.
    crl: Pointer,
    /// authorityInfoAccess, OCSP.
    ocsp: Pointer,
    /// authorityInfoAccess, caIssuers.
    ca_issuers: Pointer,
}

/// Whether a URL of the issuer stands in the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Pointer {
    /// The issuer must have it.
    Required,
    /// Where the issuer has it.
    IfConfigured,
    /// Never.
    Never,
}

/// What certificates say about their issuer, and what the issuer's certificate allows them to say.
#[derive(Clone, Debug)]
pub struct IssuerFacts {
    /// The name in the log.
    pub name: IssuerName,
    /// The issuer certificate, DER.
    pub certificate: Vec<u8>,
    /// The subject Name of the issuer certificate, DER: the issuer field of what it signs.
    pub subject: Vec<u8>,
    /// Its subject key identifier: the AKI of what it signs.
    pub key_id: Vec<u8>,
    /// Its public key: verifies what it signs.
    pub public_key: PublicKey,
    /// What it signs with.
    pub algorithm: SignatureAlgorithm,
    /// The end of its validity: nothing that it signs outlives it.
    pub not_after: UnixMillis,
    /// pathLenConstraint.
    pub path_len: Option<u8>,
    /// The CRL distribution point of its certificates, where it has no CRL partitions.
    pub crl_url: Option<String>,
    /// The CRL partitions: each certificate names the URL of its own.
    pub crl_partitions: Option<CrlPartitions>,
    /// The OCSP responder.
    pub ocsp_url: Option<String>,
    /// The caIssuers URL.
    pub ca_url: Option<String>,
}

/// The CRL partitions of an issuer, fixed for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlPartitions {
    /// How many.
    pub count: NonZeroU32,
    /// Where each is.
    pub url: PartitionUrl,
}

/// What a CA certificate is to say (ceremony).
#[derive(Clone, Debug)]
pub struct CaSpec {
    /// The subject.
    pub subject: Name,
    /// How long it is valid.
    pub validity: Validity,
    /// pathLenConstraint.
    pub path_len: Option<u8>,
}

/// How long a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From now (less the back-date) for this long.
    For(Duration),
    /// Until 99991231235959Z (IEEE 802.1AR, 8.7).
    Forever,
}

/// Who signs a CA certificate.
#[derive(Clone, Copy)]
pub enum CaSigner<'a> {
    /// Another CA.
    Parent(&'a IssuerFacts),
    /// Itself: a root, with this name in the log.
    Itself {
        /// Its own name in the log.
        name: &'a IssuerName,
        /// What it signs with.
        algorithm: SignatureAlgorithm,
    },
}

/// A TBSCertificate that obeys its profile and passed the lint. Made only here.
#[derive(Debug)]
pub struct Tbs {
    pub(crate) der: Vec<u8>,
    pub(crate) issuer: IssuerName,
    pub(crate) issuer_key: PublicKey,
    pub(crate) algorithm: SignatureAlgorithm,
    pub(crate) serial: SerialNumber,
    pub(crate) not_before: UnixMillis,
    pub(crate) not_after: UnixMillis,
    pub(crate) profile: String,
    pub(crate) spki: DetailHash,
    pub(crate) requested: DetailHash,
    pub(crate) device_id: Option<String>,
}

/// Why a profile file is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the profile {}", path.display())]
    Read {
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{}: not a valid profile", path.display())]
    Toml {
        /// The file.
        path: std::path::PathBuf,
        /// Line, column and key.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// Values that contradict each other or RFC 5280.
    #[error("{}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: std::path::PathBuf,
        /// The key.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Why a certificate is not built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildRefused {
    /// The request asks for something that the profile does not allow; the sender's fault.
    #[error("{field}: {rule}")]
    Request {
        /// The field of the request.
        field: String,
        /// The rule in a sentence for the line's operator.
        rule: String,
    },
    /// The final certificate breaks a rule that no request can cause: the profile's or issuer's fault.
    #[error("the profile {profile} makes a certificate that breaks a rule: {rule}")]
    Lint {
        /// The profile.
        profile: String,
        /// The rule and its source.
        rule: String,
    },
}

impl Tbs {
    /// The DER TBSCertificate, for reading: only the log turns it into an intent.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }
}

impl Profile {
    /// Reads and validates a profile file; its name is the file's stem.
    ///
    /// # Errors
    /// [`ProfileError`] names the file and the key: correct it there.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        file::load(path)
    }

    /// Like [`Self::load`], from the text that stands in the file `path`, which is not opened.
    ///
    /// # Errors
    /// [`ProfileError`] names the file and the key: correct it there.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ProfileError> {
        file::parse(path, text)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its certificates are for.
    #[must_use]
    pub const fn purpose(&self) -> ProfilePurpose {
        self.purpose
    }

    /// The end of a certificate made now, where that is after the end of an issuer that it must not outlive.
    #[must_use]
    pub fn outlives(&self, issuer_not_after: UnixMillis, now: UnixMillis) -> Option<UnixMillis> {
        let end = Period::of(self.validity, self.backdate, now).not_after;
        (self.lifetime == Lifetime::WithinIssuer && end > issuer_not_after).then_some(end)
    }

    /// Builds the final TBSCertificate for a request under a grant, and lints it.
    ///
    /// # Errors
    /// [`BuildRefused`] says whose fault it is: [`BuildRefused::Request`] is for the sender,
    /// [`BuildRefused::Lint`] for whoever wrote the profile or configured the issuer.
    pub fn build(
        &self,
        csr: &VerifiedCsr,
        grant: &Grant,
        issuer: &IssuerFacts,
        serial: SerialNumber,
        now: UnixMillis,
    ) -> Result<Tbs, BuildRefused> {
        let unfit = |rule| self.unfit(rule);
        let granted = Granted::of(grant, self.purpose).map_err(unfit)?;
        let key = csr.public_key();
        self.keys
            .check(key.kind())
            .map_err(|rule| BuildRefused::Request {
                field: "public key".to_owned(),
                rule,
            })?;
        let names = request::judge(self, csr, &granted)?;
        let period = self.period(issuer, now).map_err(unfit)?;
        let subject = encode::name(&names.subject);
        let pointers = self.pointers.of(issuer, serial).map_err(unfit)?;
        let extensions = self.extensions(key, issuer, &names, &pointers);
        let der = encode::tbs(&encode::Fields {
            serial,
            algorithm: issuer.algorithm,
            issuer: &issuer.subject,
            not_before: period.not_before,
            not_after: period.not_after,
            subject: &subject,
            key,
            extensions: &extensions,
        });
        let tbs = Tbs {
            der,
            issuer: issuer.name.clone(),
            issuer_key: issuer.public_key.clone(),
            algorithm: issuer.algorithm,
            serial,
            not_before: period.not_before,
            not_after: period.not_after,
            profile: self.name.clone(),
            spki: csr.spki_sha256(),
            requested: csr.requested(grant.device_id().unwrap_or_default()),
            device_id: grant.device_id().map(str::to_owned),
        };
        let certificate = lint::end_entity(&tbs, &issuer.subject, &issuer.key_id).map_err(unfit)?;
        conform::check(self, &certificate, &granted, issuer, key, now).map_err(unfit)?;
        Ok(tbs)
    }

    /// A refusal that no request can cause.
    fn unfit(&self, rule: String) -> BuildRefused {
        BuildRefused::Lint {
            profile: self.name.clone(),
            rule,
        }
    }

    /// From when until when, to the second.
    fn period(&self, issuer: &IssuerFacts, now: UnixMillis) -> Result<Period, String> {
        let period = Period::of(self.validity, self.backdate, now);
        if self.lifetime == Lifetime::WithinIssuer {
            period.ends_within(issuer)?;
        }
        Ok(period)
    }

    /// The extensions one after the other.
    fn extensions(
        &self,
        key: &PublicKey,
        issuer: &IssuerFacts,
        names: &request::Names,
        pointers: &Urls<'_>,
    ) -> Vec<u8> {
        let mut extensions = encode::authority_key_id(&issuer.key_id);
        extensions.extend(encode::subject_key_id(key));
        extensions.extend_from_slice(self.usages.encoded(key.kind()));
        if !names.alt_names.is_empty() {
            // RFC 5280, 4.2.1.6: critical if there is no other name.
            let critical = match names.subject.is_empty() {
                true => Criticality::Critical,
                false => Criticality::NotCritical,
            };
            extensions.extend(encode::alt_names(&names.alt_names, critical));
        }
        extensions.extend(pointers.encoded());
        extensions
    }
}

/// From when until when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Period {
    /// notBefore.
    not_before: UnixMillis,
    /// notAfter.
    not_after: UnixMillis,
}

impl Period {
    /// From now less the back-date, to whole seconds, because certificates know no others.
    fn of(validity: Validity, backdate: Duration, now: UnixMillis) -> Self {
        let now = UnixMillis::from_seconds(now.seconds());
        let not_after = match validity {
            Validity::For(duration) => now.saturating_add(duration),
            Validity::Forever => UnixMillis::END_OF_TIME,
        };
        Self {
            not_before: now.saturating_sub(backdate),
            not_after: UnixMillis::from_seconds(not_after.seconds()),
        }
    }

    /// Refuses to outlive the issuer, rather than to make the certificate shorter than asked for.
    fn ends_within(self, issuer: &IssuerFacts) -> Result<(), String> {
        if self.not_after <= issuer.not_after {
            return Ok(());
        }
        Err(format!(
            "the certificate would be valid until {}, but the issuer {} only until {}: shorten the \
             validity or renew the issuer",
            self.not_after, issuer.name, issuer.not_after
        ))
    }
}

/// The issuer's URLs that a certificate names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Urls<'a> {
    /// cRLDistributionPoints.
    crl: Option<Cow<'a, str>>,
    /// authorityInfoAccess, OCSP.
    ocsp: Option<&'a str>,
    /// authorityInfoAccess, caIssuers.
    ca_issuers: Option<&'a str>,
}

impl Pointers {
    /// The URLs that an issuer has for these switches, in the certificate with this serial.
    fn of(self, issuer: &IssuerFacts, serial: SerialNumber) -> Result<Urls<'_>, String> {
        let crl = match &issuer.crl_partitions {
            Some(partitions) => Some(Cow::Owned(partitions.url_of(serial))),
            None => issuer.crl_url.as_deref().map(Cow::Borrowed),
        };
        Ok(Urls {
            crl: self.crl.of(crl, "crl_url")?,
            ocsp: self.ocsp.of(issuer.ocsp_url.as_deref(), "ocsp_url")?,
            ca_issuers: self.ca_issuers.of(issuer.ca_url.as_deref(), "ca_url")?,
        })
    }
}

impl Pointer {
    /// The URL, if it is to stand in the certificate.
    fn of<T>(self, url: Option<T>, key: &str) -> Result<Option<T>, String> {
        match (self, url) {
            (Self::Never, _) => Ok(None),
            (Self::Required, None) => Err(format!(
                "the profile requires the issuer's {key}, which is not configured"
            )),
            (_, url) => Ok(url),
        }
    }
}

impl Urls<'_> {
    /// The extensions that name the URLs.
    fn encoded(&self) -> Vec<u8> {
        let mut extensions = self
            .crl
            .as_deref()
            .map(encode::crl_distribution_point)
            .unwrap_or_default();
        let access = encode::authority_info_access(self.ocsp, self.ca_issuers);
        extensions.extend(access.unwrap_or_default());
        extensions
    }
}

impl CrlPartitions {
    /// The URL of the partition that lists a certificate with this serial, if it is revoked.
    #[must_use]
    pub fn url_of(&self, serial: SerialNumber) -> String {
        self.url.of(serial.partition(self.count.get()))
    }
}

/// Builds a CA certificate's TBS (ceremony), and lints it.
///
/// A parent's CRL, OCSP and caIssuers URLs stand in it where the parent has them; a root has none.
///
/// # Errors
/// [`BuildRefused::Lint`]: correct the ceremony file.
pub fn build_ca(
    spec: &CaSpec,
    key: &PublicKey,
    signer: CaSigner<'_>,
    serial: SerialNumber,
    now: UnixMillis,
) -> Result<Tbs, BuildRefused> {
    authority::build(spec, key, signer, serial, now).map_err(authority::unfit)
}

impl IssuerFacts {
    /// Reads the facts from a CA certificate; checks basicConstraints, keyUsage, SKI and validity form.
    ///
    /// The URLs are `None`: they come from the configuration. The signature is not verified: who installed
    /// the certificate vouches for it.
    ///
    /// # Errors
    /// [`BuildRefused::Lint`] names what makes the certificate unfit to sign with.
    pub fn from_certificate(
        name: IssuerName,
        certificate: &[u8],
        algorithm: SignatureAlgorithm,
    ) -> Result<Self, BuildRefused> {
        authority::facts(name, certificate, algorithm).map_err(authority::unfit)
    }

    /// Takes the URLs that certificates of this issuer name from its configuration.
    pub fn take_urls(&mut self, configured: &config::Issuer) {
        self.crl_url.clone_from(&configured.crl_url);
        self.ocsp_url.clone_from(&configured.ocsp_url);
        self.ca_url.clone_from(&configured.ca_url);
    }
}
