//! What a request asks for, held against the profile.
//!
//! Owns the default of refusal: every attribute of the subject, every extension and every name in a
//! request is matched to a rule that allows it, or the request is refused with the field's name. Promises
//! that only values that passed their rule come out. Failure is a [`BuildRefused::Request`].

use certstatus::signature::KeyKind;
use der::asn1::ObjectIdentifier;
use der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier};

use super::grant::Granted;
use super::rule::{
    AltName, AltNameKind, AltNameRule, Attribute, Presence, RequestRule, Source, SubjectRule,
    server_name,
};
use super::usage::names_of;
use super::{BuildRefused, Profile, encode, oid};
use crate::csr::{self, VerifiedCsr};

/// The names that a certificate will have.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The subject's attributes, one in each RDN.
    pub subject: Vec<(Attribute, String)>,
    /// The subject alternative names.
    pub alt_names: Vec<AltName>,
}

/// Holds a request against a profile: what comes out is what the certificate will say.
pub(super) fn judge(
    profile: &Profile,
    csr: &VerifiedCsr,
    granted: &Granted<'_>,
) -> Result<Names, BuildRefused> {
    for extension in csr.extensions() {
        judge_extension(profile, csr, extension)?;
    }
    Ok(Names {
        subject: subject(profile, csr, granted)?,
        alt_names: alt_names(profile, csr, granted)?,
    })
}

/// A refusal of a field.
fn refused(field: impl Into<String>, rule: impl Into<String>) -> BuildRefused {
    BuildRefused::Request {
        field: field.into(),
        rule: rule.into(),
    }
}

//------ Subject ------------------------------------------------------------

/// The attributes of the subject, each from its rule.
fn subject(
    profile: &Profile,
    csr: &VerifiedCsr,
    granted: &Granted<'_>,
) -> Result<Vec<(Attribute, String)>, BuildRefused> {
    let asked = asked_subject(profile, csr)?;
    let mut taken = Vec::with_capacity(profile.subject.len());
    for (index, rule) in profile.subject.iter().enumerate() {
        let kind = rule.attribute;
        // The n-th rule for a kind meets the n-th attribute of the kind.
        let before = profile.subject.iter().take(index);
        let nth = before.filter(|other| other.attribute == kind).count();
        let value = asked.iter().filter(|(asked, _)| *asked == kind).nth(nth);
        let value = value.map(|(_, value)| *value);
        if let Some(value) = subject_value(rule, value, granted)? {
            taken.push((kind, value));
        }
    }
    Ok(taken)
}

/// The field's name in refusals.
fn subject_field(attribute: &str) -> String {
    format!("subject {attribute}")
}

/// The attributes that the request's subject has; refuses those that no rule names.
fn asked_subject<'a>(
    profile: &Profile,
    csr: &'a VerifiedCsr,
) -> Result<Vec<(Attribute, &'a str)>, BuildRefused> {
    let mut asked: Vec<(Attribute, &str)> = Vec::new();
    for rdn in csr.subject().iter_rdn() {
        if rdn.len() > 1 {
            let rule = "an RDN has several attributes: give each an RDN of its own";
            return Err(refused("subject", rule));
        }
        for attribute in rdn.iter() {
            let kind = Attribute::from_oid(attribute.oid);
            let name = kind.map_or_else(|| attribute.oid.to_string(), |k| k.name().to_owned());
            let rules = profile.subject.iter().filter(|r| Some(r.attribute) == kind);
            let (Some(kind), rules @ 1..) = (kind, rules.count()) else {
                return Err(not_allowed(profile, subject_field(&name)));
            };
            let before = asked.iter().filter(|(other, _)| *other == kind).count();
            if before >= rules {
                let rule = format!("it is there more than {rules} times");
                return Err(refused(subject_field(&name), rule));
            }
            let value = csr::text(&attribute.value).ok_or_else(|| {
                let rule = "it is not a UTF8String, PrintableString or IA5String of its characters";
                refused(subject_field(&name), rule)
            })?;
            asked.push((kind, value));
        }
    }
    Ok(asked)
}

/// The refusal of what no rule names.
fn not_allowed(profile: &Profile, field: String) -> BuildRefused {
    let rule = format!(
        "the profile {} does not allow it in a request",
        profile.name
    );
    refused(field, rule)
}

/// The value of one attribute, by its rule; none where it is optional and not asked for.
fn subject_value(
    rule: &SubjectRule,
    asked: Option<&str>,
    granted: &Granted<'_>,
) -> Result<Option<String>, BuildRefused> {
    let field = || subject_field(rule.attribute.name());
    let value = match (&rule.source, asked) {
        (Source::Made { template, .. }, Some(asked)) => {
            let made = template.fill(|f| granted.value(f));
            let made = made.ok_or_else(|| refused(field(), NOT_GRANTED))?;
            if made != asked {
                return Err(refused(field(), format!("it must be {made:?}")));
            }
            made
        }
        (
            Source::Made {
                template,
                in_request,
            },
            None,
        ) => {
            let made = template.fill(|f| granted.value(f));
            let made = made.ok_or_else(|| refused(field(), NOT_GRANTED))?;
            if *in_request == Presence::Required {
                return Err(refused(
                    field(),
                    format!("it is missing: it must be {made:?}"),
                ));
            }
            made
        }
        (Source::Request(rule), Some(asked)) => {
            rule.check(asked)
                .map_err(|problem| refused(field(), problem))?;
            asked.to_owned()
        }
        (Source::Request(rule), None) => {
            return match rule.presence {
                Presence::Required => Err(refused(field(), "it is missing")),
                Presence::Optional => Ok(None),
            };
        }
    };
    rule.attribute
        .check(&value)
        .map_err(|problem| refused(field(), problem))?;
    Ok(Some(value))
}

/// A template names what this grant lacks: the profile was checked against its purpose, so it cannot be.
const NOT_GRANTED: &str = "the grant does not say what stands here";

//------ Subject alternative names ------------------------------------------

/// The subject alternative names, rule by rule.
fn alt_names(
    profile: &Profile,
    csr: &VerifiedCsr,
    granted: &Granted<'_>,
) -> Result<Vec<AltName>, BuildRefused> {
    let made = made_alt_names(profile, granted)?;
    let made_der: Vec<Vec<u8>> = made.iter().flatten().map(encode::general_name).collect();
    let mut asked = Vec::new();
    for name in csr.alt_names() {
        if !made_der.contains(&name.to_der().unwrap_or_default()) {
            asked.push(asked_alt_name(name)?);
        }
    }
    let mut names = Vec::new();
    for (rule, made) in profile.alt_names.iter().zip(made) {
        names.extend(made);
        if let AltNameRule::Of(kind, Source::Request(rule)) = rule {
            let (mine, others) = asked.into_iter().partition(|(k, _)| k == kind);
            asked = others;
            names.extend(taken_alt_names(*kind, rule, mine)?);
        }
    }
    if let Some((kind, _)) = asked.first() {
        return Err(not_allowed(profile, alt_name_field(kind.name())));
    }
    Ok(names)
}

/// The field's name in refusals.
fn alt_name_field(kind: &str) -> String {
    format!("subjectAltName {kind}")
}

/// For each rule the names that it makes, whatever the request says.
pub(super) fn made_alt_names(
    profile: &Profile,
    granted: &Granted<'_>,
) -> Result<Vec<Vec<AltName>>, BuildRefused> {
    let made = |rule: &AltNameRule| match rule {
        AltNameRule::Of(kind, Source::Made { template, .. }) => {
            let field = || alt_name_field(kind.name());
            let text = template.fill(|f| granted.value(f));
            let text = text.ok_or_else(|| refused(field(), NOT_GRANTED))?;
            let name = kind
                .make(&text)
                .map_err(|problem| refused(field(), problem))?;
            Ok(vec![name])
        }
        AltNameRule::Of(_, Source::Request(_)) => Ok(Vec::new()),
        AltNameRule::ServerNames => granted
            .server_names()
            .iter()
            .map(|name| server_name(name).map_err(|problem| refused("server names", problem)))
            .collect(),
    };
    profile.alt_names.iter().map(made).collect()
}

/// The kind and text of a name in a request; refuses kinds that no profile can take from one.
fn asked_alt_name(name: &GeneralName) -> Result<(AltNameKind, String), BuildRefused> {
    let (kind, text) = match name {
        GeneralName::DnsName(text) => (AltNameKind::Dns, text.as_str().to_owned()),
        GeneralName::UniformResourceIdentifier(text) => {
            (AltNameKind::Uri, text.as_str().to_owned())
        }
        GeneralName::Rfc822Name(text) => (AltNameKind::Email, text.as_str().to_owned()),
        GeneralName::IpAddress(octets) => (AltNameKind::Ip, address(octets.as_bytes())?),
        GeneralName::OtherName(_) => return Err(no_such_name("otherName")),
        GeneralName::DirectoryName(_) => return Err(no_such_name("directoryName")),
        GeneralName::EdiPartyName(_) => return Err(no_such_name("ediPartyName")),
        GeneralName::RegisteredId(_) => return Err(no_such_name("registeredID")),
    };
    Ok((kind, text))
}

/// The refusal of a name that is not exactly what the profile makes.
fn no_such_name(kind: &str) -> BuildRefused {
    refused(
        alt_name_field(kind),
        "it is not what the profile makes, and none is taken from a request",
    )
}

/// The text of an address of 4 or 16 octets.
pub(super) fn address(octets: &[u8]) -> Result<String, BuildRefused> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Ok(std::net::Ipv4Addr::from(v4).to_string());
    }
    match <[u8; 16]>::try_from(octets) {
        Ok(v6) => Ok(std::net::Ipv6Addr::from(v6).to_string()),
        Err(_) => Err(refused(
            alt_name_field("ip"),
            "it has neither 4 nor 16 octets",
        )),
    }
}

/// The names that a rule takes from the request.
fn taken_alt_names(
    kind: AltNameKind,
    rule: &RequestRule,
    asked: Vec<(AltNameKind, String)>,
) -> Result<Vec<AltName>, BuildRefused> {
    let field = || alt_name_field(kind.name());
    if asked.is_empty() && rule.presence == Presence::Required {
        return Err(refused(field(), "it is missing"));
    }
    if asked.len() > rule.count_max {
        let rule = format!(
            "there are {}, the profile takes at most {}",
            asked.len(),
            rule.count_max
        );
        return Err(refused(field(), rule));
    }
    let mut names = Vec::with_capacity(asked.len());
    for (_, text) in asked {
        rule.check(&text)
            .map_err(|problem| refused(field(), problem))?;
        let name = kind
            .make(&text)
            .map_err(|problem| refused(field(), problem))?;
        if names.contains(&name) {
            return Err(refused(field(), "the same name is there twice"));
        }
        names.push(name);
    }
    Ok(names)
}

//------ Other extensions ---------------------------------------------------

/// Refuses an extension unless it asks for no more than the profile gives anyway.
///
/// Whether the request marks it critical does not matter: criticality is no permission.
fn judge_extension(
    profile: &Profile,
    csr: &VerifiedCsr,
    extension: &Extension,
) -> Result<(), BuildRefused> {
    let value = extension.extn_value.as_bytes();
    let kind = csr.public_key().kind();
    match extension.extn_id {
        // Judged name by name.
        oid::SUBJECT_ALT_NAME => match csr.alt_names().is_empty() {
            true => Err(refused("subjectAltName", "it has no name")),
            false => Ok(()),
        },
        oid::KEY_USAGE => judge_key_usage(profile, kind, value),
        oid::EXTENDED_KEY_USAGE => judge_extended_key_usage(profile, value),
        oid::BASIC_CONSTRAINTS => match BasicConstraints::from_der(value) {
            Ok(BasicConstraints {
                ca: false,
                path_len_constraint: None,
            }) => Ok(()),
            Ok(_) => Err(refused(
                "basicConstraints",
                "it asks for a CA certificate: only CA:FALSE is given",
            )),
            Err(_) => Err(unreadable("basicConstraints")),
        },
        oid::SUBJECT_KEY_ID => match SubjectKeyIdentifier::from_der(value) {
            Ok(id) if id.0.as_bytes() == csr.public_key().key_identifier() => Ok(()),
            Ok(_) => Err(refused(
                "subjectKeyIdentifier",
                "it is not the SHA-1 of the public key, which is what certificates get",
            )),
            Err(_) => Err(unreadable("subjectKeyIdentifier")),
        },
        other => Err(not_allowed(profile, extension_field(other))),
    }
}

/// The name of an extension in refusals.
fn extension_field(oid: ObjectIdentifier) -> String {
    format!("extension {oid}")
}

/// The refusal of an extension whose value cannot be read.
fn unreadable(field: &str) -> BuildRefused {
    refused(field, "its value cannot be read")
}

/// Refuses key usages that the profile does not give to this kind of key.
fn judge_key_usage(profile: &Profile, kind: KeyKind, value: &[u8]) -> Result<(), BuildRefused> {
    let asked = KeyUsage::from_der(value).map_err(|_| unreadable("keyUsage"))?;
    let given = profile.usages.of(kind);
    match asked.0.into_iter().find(|usage| !given.contains(usage)) {
        None => Ok(()),
        Some(usage) => Err(refused(
            "keyUsage",
            format!(
                "it asks for {}, the profile gives {kind} keys {} only",
                names_of([usage]),
                names_of(given.iter().copied())
            ),
        )),
    }
}

/// Refuses extended key usages that the profile does not give.
fn judge_extended_key_usage(profile: &Profile, value: &[u8]) -> Result<(), BuildRefused> {
    let asked = ExtendedKeyUsage::from_der(value).map_err(|_| unreadable("extendedKeyUsage"))?;
    let given = &profile.usages.extended;
    match asked.0.iter().find(|usage| !given.contains(usage)) {
        None => Ok(()),
        Some(usage) => Err(refused(
            "extendedKeyUsage",
            format!(
                "it asks for {usage}, which the profile {} does not give",
                profile.name
            ),
        )),
    }
}
