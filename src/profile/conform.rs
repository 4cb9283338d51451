//! The profile's own rules, held against final bytes.
//!
//! Owns the second reading of every constraint of a profile: what `request` decided from a request is
//! judged again on the certificate as it will be signed, whatever each field came from. Shares the rules
//! with `request`, not its conclusions. Failure is a sentence; it means a fault of ours, never the
//! sender's, and nothing is signed.

use std::borrow::Cow;

use certstatus::signature::PublicKey;
use certstatus::{SerialNumber, UnixMillis};
use der::Encode;
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::ext::pkix::KeyUsages;
use x509_cert::ext::pkix::name::GeneralName;

use super::encode::{self, Criticality};
use super::grant::Granted;
use super::lint::{Marked, Read};
use super::rule::{AltNameKind, AltNameRule, Presence, RequestRule, Source};
use super::usage::{BasicConstraintsForm, names_of};
use super::{IssuerFacts, Lifetime, Period, Profile, Urls, request};
use crate::csr;

/// Refuses a certificate that is not what the profile says.
pub(super) fn check(
    profile: &Profile,
    certificate: &Read,
    granted: &Granted<'_>,
    issuer: &IssuerFacts,
    requested_key: &PublicKey,
    now: UnixMillis,
) -> Result<(), String> {
    if certificate.key != *requested_key {
        return Err("the public key is not the request's".to_owned());
    }
    profile.keys.check(certificate.key.kind())?;
    check_period(profile, certificate, issuer, now)?;
    check_subject(profile, certificate, granted)?;
    check_alt_names(profile, certificate, granted)?;
    check_usages(profile, certificate)?;
    let serial = certificate.tbs.serial_number().as_bytes();
    let serial = SerialNumber::from_slice(serial).map_err(|error| error.to_string())?;
    let urls = profile.pointers.of(issuer, serial)?;
    let read = Urls {
        crl: certificate.crl_url.as_deref().map(Cow::Borrowed),
        ocsp: certificate.ocsp_url.as_deref(),
        ca_issuers: certificate.ca_url.as_deref(),
    };
    if read != urls {
        return Err("the URLs are not the issuer's".to_owned());
    }
    Ok(())
}

/// The period is the profile's, and within the issuer's.
fn check_period(
    profile: &Profile,
    certificate: &Read,
    issuer: &IssuerFacts,
    now: UnixMillis,
) -> Result<(), String> {
    let validity = certificate.tbs.validity();
    let seconds = |time: x509_cert::time::Time| time.to_unix_duration().as_secs();
    let read = Period {
        not_before: UnixMillis::from_seconds(seconds(validity.not_before)),
        not_after: UnixMillis::from_seconds(seconds(validity.not_after)),
    };
    if read != Period::of(profile.validity, profile.backdate, now) {
        return Err("the validity is not the profile's".to_owned());
    }
    match profile.lifetime {
        Lifetime::WithinIssuer => read.ends_within(issuer),
        Lifetime::MayOutliveIssuer => Ok(()),
    }
}

/// The subject's attributes meet the rules in order; only an optional one may be left out.
fn check_subject(
    profile: &Profile,
    certificate: &Read,
    granted: &Granted<'_>,
) -> Result<(), String> {
    let mut left: &[&AttributeTypeAndValue] = &certificate.tbs.subject().iter().collect::<Vec<_>>();
    for rule in &profile.subject {
        let name = rule.attribute.name();
        let value = match left.split_first() {
            Some((first, rest)) if first.oid == rule.attribute.oid() => {
                left = rest;
                csr::text(&first.value)
            }
            _ => None,
        };
        match (&rule.source, value) {
            (Source::Made { template, .. }, value) => {
                if value != template.fill(|field| granted.value(field)).as_deref() {
                    return Err(format!(
                        "the subject's {name} is not what the profile makes"
                    ));
                }
            }
            (Source::Request(rule), Some(value)) => rule
                .check(value)
                .map_err(|problem| format!("the subject's {name}: {problem}"))?,
            (Source::Request(rule), None) if rule.presence == Presence::Optional => {}
            (Source::Request(_), None) => return Err(format!("the subject has no {name}")),
        }
    }
    match left.first() {
        None => Ok(()),
        Some(other) => Err(format!(
            "the subject's {} is in no rule of the profile",
            other.oid
        )),
    }
}

/// The alternative names are those that the profile makes, and others only as its rules take them.
fn check_alt_names(
    profile: &Profile,
    certificate: &Read,
    granted: &Granted<'_>,
) -> Result<(), String> {
    let names = certificate.alt_names.as_ref().map(|n| n.value.as_slice());
    let mut left: Vec<&GeneralName> = names.unwrap_or_default().iter().collect();
    let made = request::made_alt_names(profile, granted).map_err(|refused| refused.to_string())?;
    for expected in made.iter().flatten() {
        let expected = encode::general_name(expected);
        let is_expected = |name: &&GeneralName| name.to_der().is_ok_and(|der| der == expected);
        let at = left.iter().position(is_expected);
        left.remove(at.ok_or("subjectAltName lacks what the profile makes")?);
    }
    for rule in &profile.alt_names {
        if let AltNameRule::Of(kind, Source::Request(rule)) = rule {
            let (mine, others) = left.into_iter().partition(|name| is_of(name, *kind));
            left = others;
            check_taken(*kind, rule, &mine)?;
        }
    }
    match left.is_empty() {
        true => Ok(()),
        false => Err("subjectAltName has a name that is in no rule of the profile".to_owned()),
    }
}

/// Whether a name is of a kind that can be taken from a request.
const fn is_of(name: &GeneralName, kind: AltNameKind) -> bool {
    matches!(
        (name, kind),
        (GeneralName::DnsName(_), AltNameKind::Dns)
            | (GeneralName::UniformResourceIdentifier(_), AltNameKind::Uri)
            | (GeneralName::Rfc822Name(_), AltNameKind::Email)
            | (GeneralName::IpAddress(_), AltNameKind::Ip)
    )
}

/// The names that came from the request keep their rule.
fn check_taken(
    kind: AltNameKind,
    rule: &RequestRule,
    names: &[&GeneralName],
) -> Result<(), String> {
    let name = kind.name();
    if names.len() > rule.count_max || (names.is_empty() && rule.presence == Presence::Required) {
        return Err(format!(
            "subjectAltName has {} names of type {name}",
            names.len()
        ));
    }
    for general in names {
        let text = match general {
            GeneralName::DnsName(text)
            | GeneralName::UniformResourceIdentifier(text)
            | GeneralName::Rfc822Name(text) => text.as_str().to_owned(),
            GeneralName::IpAddress(octets) => {
                request::address(octets.as_bytes()).map_err(|refused| refused.to_string())?
            }
            _ => return Err(format!("subjectAltName has a name that is no {name}")),
        };
        rule.check(&text)
            .map_err(|problem| format!("subjectAltName {name}: {problem}"))?;
    }
    Ok(())
}

/// The extensions that are the same in all certificates of the profile.
fn check_usages(profile: &Profile, certificate: &Read) -> Result<(), String> {
    let usages = &profile.usages;
    let given = usages.of(certificate.key.kind());
    let same = |read: &Marked<Vec<KeyUsages>>| {
        let all = given.iter().all(|usage| read.value.contains(usage));
        read.criticality == usages.key_usage_critical && all && read.value.len() == given.len()
    };
    if !certificate.key_usage.as_ref().is_some_and(same) {
        return Err(format!(
            "keyUsage is not {}",
            names_of(given.iter().copied())
        ));
    }
    let extended = (!usages.extended.is_empty()).then(|| Marked {
        criticality: usages.extended_critical,
        value: usages.extended.clone(),
    });
    if certificate.extended != extended {
        return Err("extendedKeyUsage is not the profile's".to_owned());
    }
    let constraints = certificate.constraints.as_ref().map(|c| c.criticality);
    let form = match constraints {
        None => BasicConstraintsForm::Absent,
        Some(Criticality::NotCritical) => BasicConstraintsForm::NotCritical,
        Some(Criticality::Critical) => BasicConstraintsForm::Critical,
    };
    if form != usages.basic_constraints {
        return Err("basicConstraints are not in the profile's form".to_owned());
    }
    if certificate.policies != usages.policies {
        return Err("certificatePolicies are not the profile's".to_owned());
    }
    if certificate.ocsp_nocheck != usages.ocsp_nocheck {
        return Err("ocsp-nocheck is not as the profile says".to_owned());
    }
    Ok(())
}
