//! Profile files: what serde sees, and the one road from there to a [`Profile`].
//!
//! Owns the format (`version = 1`, unknown keys refused; `docs/PROFILES.md`). Promises that a profile that
//! loads can make a certificate: contradictions are found here, not at the first request. Failure is a
//! [`ProfileError`] that names the file and the key.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use der::asn1::ObjectIdentifier;
use regex::RegexBuilder;
use serde::Deserialize;
use x509_cert::ext::pkix::KeyUsages;

use super::encode::Criticality;
use super::rule::{
    AltNameKind, AltNameRule, Attribute, Presence, RequestRule, Source, SubjectRule, Template,
};
use super::usage::{
    self, BasicConstraintsForm, EXTENDED_NAMES, KEY_USAGE_NAMES, KeyFamily, KeyRule, NoCheck,
    Usages,
};
use super::{Lifetime, Pointer, Pointers, Profile, ProfileError, ProfilePurpose, Validity, oid};
use crate::limits;

/// The one version of the format.
const VERSION: u32 = 1;
/// The back-date where the file does not say: clocks on a factory floor are minutes off.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// The shortest validity: the log and the network need their time.
const VALIDITY_MIN: Duration = Duration::from_secs(60);
/// The only date that `validity.until` takes (IEEE 802.1AR, 8.7).
const FOREVER: &str = "99991231235959Z";
/// What a compiled pattern may take in bytes.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The version alone, read first, so that a later format is not called an unknown key.
#[derive(Deserialize)]
struct Head {
    /// Must be 1.
    version: u32,
}

/// A profile file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct V1 {
    /// Must be 1.
    #[serde(rename = "version")]
    _version: u32,
    /// What the certificates are for.
    purpose: ProfilePurpose,
    /// `[key]`.
    #[serde(default)]
    key: KeyTable,
    /// `[validity]`.
    validity: ValidityTable,
    /// `[[subject]]`.
    #[serde(default)]
    subject: Vec<SubjectTable>,
    /// `[[san]]`.
    #[serde(default)]
    san: Vec<SanTable>,
    /// `[usage]`.
    usage: UsageTable,
    /// `[pointers]`.
    #[serde(default)]
    pointers: PointersTable,
}

/// `[key]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct KeyTable {
    /// The families.
    allowed: Vec<KeyFamily>,
    /// The smallest RSA key in bits.
    rsa_bits_min: u32,
    /// The largest RSA key in bits.
    rsa_bits_max: u32,
}

impl Default for KeyTable {
    fn default() -> Self {
        Self {
            allowed: vec![
                KeyFamily::P256,
                KeyFamily::P384,
                KeyFamily::Rsa,
                KeyFamily::Ed25519,
            ],
            rsa_bits_min: 2048,
            rsa_bits_max: 4096,
        }
    }
}

/// `[validity]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValidityTable {
    /// How long: a duration with units.
    r#for: Option<String>,
    /// Until when: 99991231235959Z.
    until: Option<String>,
    /// How long before now it begins: a duration with units.
    backdate: Option<String>,
    /// Whether it may end after the issuer's.
    #[serde(default)]
    may_outlive_issuer: bool,
}

/// `[[subject]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubjectTable {
    /// The kind.
    attribute: Attribute,
    /// A template.
    value: Option<String>,
    /// Whether the request must say the same.
    in_request: Option<Presence>,
    /// Taken from the request.
    from_request: Option<Presence>,
    /// The longest in characters.
    max_chars: Option<usize>,
    /// A regular expression for the whole value.
    pattern: Option<String>,
}

/// `[[san]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SanTable {
    /// The kind.
    r#type: SanType,
    /// A template.
    value: Option<String>,
    /// Taken from the request.
    from_request: Option<Presence>,
    /// The longest in characters.
    max_chars: Option<usize>,
    /// How many at most.
    max_count: Option<usize>,
    /// A regular expression for the whole value.
    pattern: Option<String>,
    /// hwType of a hardwareModuleName.
    hardware_type: Option<String>,
}

/// The kinds of `[[san]]`.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SanType {
    /// dNSName.
    Dns,
    /// uniformResourceIdentifier.
    Uri,
    /// rfc822Name.
    Email,
    /// iPAddress.
    Ip,
    /// hardwareModuleName.
    HardwareModule,
    /// All names of the server.
    ServerNames,
}

/// `[usage]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsageTable {
    /// keyUsage.
    key_usage: Vec<String>,
    /// keyUsage of RSA keys, where it differs.
    rsa_key_usage: Option<Vec<String>>,
    /// Whether keyUsage is critical.
    #[serde(default = "yes")]
    key_usage_critical: bool,
    /// extendedKeyUsage: names or OIDs.
    #[serde(default)]
    extended_key_usage: Vec<String>,
    /// Whether extendedKeyUsage is critical.
    #[serde(default)]
    extended_key_usage_critical: bool,
    /// basicConstraints.
    #[serde(default = "critical_constraints")]
    basic_constraints: BasicConstraintsForm,
    /// certificatePolicies: OIDs.
    #[serde(default)]
    certificate_policies: Vec<String>,
    /// id-pkix-ocsp-nocheck.
    #[serde(default)]
    ocsp_nocheck: bool,
}

/// The default of `key_usage_critical` (RFC 5280, 4.2.1.3: SHOULD).
const fn yes() -> bool {
    true
}

/// The default of `basic_constraints`.
const fn critical_constraints() -> BasicConstraintsForm {
    BasicConstraintsForm::Critical
}

/// `[pointers]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PointersTable {
    /// The CRL's URL.
    crl: Pointer,
    /// The OCSP responder's URL.
    ocsp: Pointer,
    /// The issuer certificate's URL.
    ca_issuers: Pointer,
}

impl Default for PointersTable {
    fn default() -> Self {
        Self {
            crl: Pointer::IfConfigured,
            ocsp: Pointer::IfConfigured,
            ca_issuers: Pointer::IfConfigured,
        }
    }
}

/// A key whose value cannot be.
#[derive(Debug)]
struct Fault {
    /// The dotted key.
    key: String,
    /// What is wrong and what would be right.
    problem: String,
}

/// A fault at a key.
fn fault(key: impl Into<String>, problem: impl Into<String>) -> Fault {
    Fault {
        key: key.into(),
        problem: problem.into(),
    }
}

/// Reads and validates a profile file.
pub(super) fn load(path: &Path) -> Result<Profile, ProfileError> {
    let read_failed = |source| ProfileError::Read {
        path: path.to_owned(),
        source,
    };
    let file = std::fs::File::open(path).map_err(read_failed)?;
    let mut text = String::new();
    file.take(limits::PROFILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(read_failed)?;
    parse(path, &text)
}

/// Like [`load`], from the text.
///
/// # Errors
/// [`ProfileError`].
pub(super) fn parse(path: &Path, text: &str) -> Result<Profile, ProfileError> {
    let not_toml = |source| ProfileError::Toml {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let wrong = |fault: Fault| ProfileError::Value {
        path: path.to_owned(),
        key: fault.key,
        problem: fault.problem,
    };
    let head: Head = toml::from_str(text).map_err(not_toml)?;
    if head.version != VERSION {
        let problem = format!("it is {}, this release reads {VERSION}", head.version);
        return Err(wrong(fault("version", problem)));
    }
    let name = profile_name(path).map_err(wrong)?;
    let file: V1 = toml::from_str(text).map_err(not_toml)?;
    profile(name, file).map_err(wrong)
}

/// The file's stem: what orders call the profile.
fn profile_name(path: &Path) -> Result<String, Fault> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    match stem.map(|stem| (stem, stem.parse::<certstatus::log::entry::Slug>())) {
        Some((stem, Ok(_))) => Ok(stem.to_owned()),
        _ => Err(fault(
            "the file's name",
            "a profile's name has 1 to 40 characters of a-z, 0-9 and '-', and then .toml",
        )),
    }
}

/// Validates a whole file.
fn profile(name: String, file: V1) -> Result<Profile, Fault> {
    let keys = key_rule(file.key)?;
    let usages = usages(file.usage, &keys)?;
    let (validity, backdate, lifetime) = validity(&file.validity)?;
    let subject = subject_rules(file.subject)?;
    let alt_names = file
        .san
        .into_iter()
        .enumerate()
        .map(|(n, table)| alt_name_rule(n, table))
        .collect::<Result<_, _>>()?;
    let profile = Profile {
        name,
        purpose: file.purpose,
        keys,
        subject,
        alt_names,
        validity,
        backdate,
        lifetime,
        usages,
        pointers: Pointers {
            crl: file.pointers.crl,
            ocsp: file.pointers.ocsp,
            ca_issuers: file.pointers.ca_issuers,
        },
    };
    check_names(&profile)?;
    check_purpose(&profile)?;
    Ok(profile)
}

//------ Keys and usages ----------------------------------------------------

/// `[key]`.
fn key_rule(table: KeyTable) -> Result<KeyRule, Fault> {
    if table.allowed.is_empty() {
        return Err(fault(
            "key.allowed",
            "it is empty: name at least one kind of key",
        ));
    }
    let sizes = 2048..=4096;
    for (key, bits) in [
        ("key.rsa_bits_min", table.rsa_bits_min),
        ("key.rsa_bits_max", table.rsa_bits_max),
    ] {
        if !sizes.contains(&bits) {
            return Err(fault(key, "RSA keys have 2048 to 4096 bits here"));
        }
    }
    if table.rsa_bits_min > table.rsa_bits_max {
        return Err(fault("key.rsa_bits_min", "it is above key.rsa_bits_max"));
    }
    Ok(KeyRule {
        allowed: table.allowed,
        rsa_bits: table.rsa_bits_min..=table.rsa_bits_max,
    })
}

/// `[usage]`.
fn usages(table: UsageTable, keys: &KeyRule) -> Result<Usages, Fault> {
    let key_usage = key_usages("usage.key_usage", &table.key_usage)?;
    let rsa_key_usage = match &table.rsa_key_usage {
        Some(names) => key_usages("usage.rsa_key_usage", names)?,
        None => key_usage.clone(),
    };
    let extended = oids(
        "usage.extended_key_usage",
        &table.extended_key_usage,
        |name| {
            EXTENDED_NAMES
                .iter()
                .find(|(_, known)| *known == name)
                .map(|(oid, _)| *oid)
        },
    )?;
    if extended.contains(&oid::ANY_EXTENDED_KEY_USAGE) {
        let problem = "anyExtendedKeyUsage says nothing: name the usages";
        return Err(fault("usage.extended_key_usage", problem));
    }
    for family in &keys.allowed {
        let (key, usages) = match (family, &table.rsa_key_usage) {
            (KeyFamily::Rsa, Some(_)) => ("usage.rsa_key_usage", &rsa_key_usage),
            _ => ("usage.key_usage", &key_usage),
        };
        if let Some(unfit) = usages.iter().find(|usage| !family.can(**usage)) {
            let (usage, family) = (usage::names_of([*unfit]), family.name());
            return Err(fault(
                key,
                format!("{usage} does not fit {family} keys, which are allowed"),
            ));
        }
        usage::check_extended(&extended, usages).map_err(|problem| fault(key, problem))?;
    }
    let policies = oids(
        "usage.certificate_policies",
        &table.certificate_policies,
        |_| None,
    )?;
    if policies.contains(&oid::ANY_POLICY) {
        let problem = "anyPolicy is for CA certificates: name the policies";
        return Err(fault("usage.certificate_policies", problem));
    }
    let mut usages = Usages {
        key_usage,
        rsa_key_usage,
        key_usage_critical: table.key_usage_critical.into(),
        extended,
        extended_critical: table.extended_key_usage_critical.into(),
        basic_constraints: table.basic_constraints,
        policies,
        ocsp_nocheck: match table.ocsp_nocheck {
            true => NoCheck::Present,
            false => NoCheck::Absent,
        },
        encoded: Default::default(),
    };
    usages.encode();
    Ok(usages)
}

impl From<bool> for Criticality {
    /// TOML's word for it.
    fn from(critical: bool) -> Self {
        match critical {
            true => Self::Critical,
            false => Self::NotCritical,
        }
    }
}

/// Key usages by their names in RFC 5280; keyCertSign and cRLSign are for CAs, which the ceremony makes.
fn key_usages(key: &str, names: &[String]) -> Result<Vec<KeyUsages>, Fault> {
    let mut usages = Vec::with_capacity(names.len());
    for name in names {
        let Some((usage, _)) = KEY_USAGE_NAMES.iter().find(|(_, known)| known == name) else {
            let known: Vec<&str> = KEY_USAGE_NAMES.iter().map(|(_, name)| *name).collect();
            let problem = format!("{name:?} is not one of {}", known.join(", "));
            return Err(fault(key, problem));
        };
        if usages.contains(usage) {
            return Err(fault(key, format!("{name} is there twice")));
        }
        usages.push(*usage);
    }
    if usages.is_empty() {
        return Err(fault(
            key,
            "it is empty: a certificate must say what its key is for",
        ));
    }
    Ok(usages)
}

/// OIDs, or names that `known` knows.
fn oids(
    key: &str,
    names: &[String],
    known: impl Fn(&str) -> Option<ObjectIdentifier>,
) -> Result<Vec<ObjectIdentifier>, Fault> {
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let oid = known(name).or_else(|| ObjectIdentifier::new(name).ok());
        let oid = oid.ok_or_else(|| fault(key, format!("{name:?} is neither known nor an OID")))?;
        if found.contains(&oid) {
            return Err(fault(key, format!("{name} is there twice")));
        }
        found.push(oid);
    }
    Ok(found)
}

//------ Validity -----------------------------------------------------------

/// `[validity]`.
fn validity(table: &ValidityTable) -> Result<(Validity, Duration, Lifetime), Fault> {
    let validity = match (&table.r#for, &table.until) {
        (Some(text), None) => {
            let duration = duration("validity.for", text)?;
            if duration < VALIDITY_MIN {
                return Err(fault("validity.for", "it is shorter than a minute"));
            }
            Validity::For(duration)
        }
        (None, Some(until)) if until == FOREVER => Validity::Forever,
        (None, Some(_)) => {
            let problem = format!("only {FOREVER:?} can stand here: use validity.for otherwise");
            return Err(fault("validity.until", problem));
        }
        _ => {
            return Err(fault(
                "validity",
                "it needs either for or until, and not both",
            ));
        }
    };
    let backdate = match &table.backdate {
        Some(text) => duration("validity.backdate", text)?,
        None => BACKDATE,
    };
    if backdate > limits::BACKDATE_MAX {
        return Err(fault("validity.backdate", "it is more than a day"));
    }
    let lifetime = match table.may_outlive_issuer {
        true => Lifetime::MayOutliveIssuer,
        false => Lifetime::WithinIssuer,
    };
    Ok((validity, backdate, lifetime))
}

/// A duration with units, in whole seconds.
fn duration(key: &str, text: &str) -> Result<Duration, Fault> {
    let duration = humantime::parse_duration(text).map_err(|e| {
        fault(
            key,
            format!("{text:?} is not a duration like \"90d\" or \"5m\": {e}"),
        )
    })?;
    if duration.subsec_nanos() != 0 {
        return Err(fault(key, "certificates know whole seconds only"));
    }
    Ok(duration)
}

//------ Names --------------------------------------------------------------

/// `[[subject]]`.
fn subject_rules(tables: Vec<SubjectTable>) -> Result<Vec<SubjectRule>, Fault> {
    let mut rules: Vec<SubjectRule> = Vec::with_capacity(tables.len());
    for (n, table) in tables.into_iter().enumerate() {
        let key = |name: &str| format!("subject[{n}].{name}");
        let attribute = table.attribute;
        let source = match (table.value, table.from_request) {
            (Some(value), None) => {
                refuse_limits(&key, &[table.max_chars], table.pattern.as_deref())?;
                let template = Template::parse(&value).map_err(|p| fault(key("value"), p))?;
                if let Some(fixed) = template.fixed() {
                    let checked = attribute.check(fixed);
                    checked.map_err(|problem| fault(key("value"), problem))?;
                }
                Source::Made {
                    template,
                    in_request: table.in_request.unwrap_or(Presence::Optional),
                }
            }
            (None, Some(presence)) => {
                if table.in_request.is_some() {
                    return Err(fault(
                        key("in_request"),
                        "it goes with value, not with from_request",
                    ));
                }
                let chars_max = table.max_chars.unwrap_or(limits::REQUEST_VALUE_CHARS);
                if table
                    .max_chars
                    .is_some_and(|max| max > attribute.chars_max())
                {
                    let problem = format!("at most {} fit (RFC 5280)", attribute.chars_max());
                    return Err(fault(key("max_chars"), problem));
                }
                Source::Request(RequestRule {
                    presence,
                    chars_max: chars_max.min(attribute.chars_max()),
                    pattern: pattern(&key("pattern"), table.pattern.as_deref())?,
                    count_max: 1,
                })
            }
            _ => {
                let problem = "it needs either value or from_request, and not both";
                return Err(fault(key("value"), problem));
            }
        };
        let twin = rules.iter().find(|rule| rule.attribute == attribute);
        if twin.is_some_and(|twin| !is_fixed(&twin.source) || !is_fixed(&source)) {
            let problem = "the same attribute can be there twice only with fixed values";
            return Err(fault(key("attribute"), problem));
        }
        rules.push(SubjectRule { attribute, source });
    }
    Ok(rules)
}

/// Whether a value is the same in all certificates.
fn is_fixed(source: &Source) -> bool {
    matches!(source, Source::Made { template, .. } if template.fixed().is_some())
}

/// Refuses keys that go with `from_request` beside `value`.
fn refuse_limits(
    key: &impl Fn(&str) -> String,
    numbers: &[Option<usize>],
    pattern: Option<&str>,
) -> Result<(), Fault> {
    if numbers.iter().any(Option::is_some) || pattern.is_some() {
        let problem = "max_chars, max_count and pattern go with from_request, not with value";
        return Err(fault(key("value"), problem));
    }
    Ok(())
}

/// A regular expression for whole values.
fn pattern(key: &str, text: Option<&str>) -> Result<Option<regex::Regex>, Fault> {
    let Some(text) = text else { return Ok(None) };
    // Alone first, so that it cannot close the group around it.
    let alone = RegexBuilder::new(text)
        .size_limit(PATTERN_BYTES_MAX)
        .build();
    alone
        .and_then(|_| {
            RegexBuilder::new(&format!(r"\A(?:{text})\z"))
                .size_limit(PATTERN_BYTES_MAX)
                .build()
        })
        .map(Some)
        .map_err(|e| fault(key, format!("it is not a regular expression: {e}")))
}

/// `[[san]]`.
fn alt_name_rule(n: usize, table: SanTable) -> Result<AltNameRule, Fault> {
    let key = |name: &str| format!("san[{n}].{name}");
    let kind = match table.r#type {
        SanType::Dns => AltNameKind::Dns,
        SanType::Uri => AltNameKind::Uri,
        SanType::Email => AltNameKind::Email,
        SanType::Ip => AltNameKind::Ip,
        SanType::HardwareModule => {
            let oid = table.hardware_type.as_deref().map(ObjectIdentifier::new);
            let Some(Ok(oid)) = oid else {
                let problem = "it must be the OID of the module's type, from your own arc";
                return Err(fault(key("hardware_type"), problem));
            };
            AltNameKind::HardwareModule(oid)
        }
        SanType::ServerNames => {
            let limits = [table.max_chars, table.max_count];
            refuse_limits(&key, &limits, table.pattern.as_deref())?;
            if table.value.is_some() || table.from_request.is_some() {
                let problem = "server-names has no value and no from_request";
                return Err(fault(key("type"), problem));
            }
            return Ok(AltNameRule::ServerNames);
        }
    };
    if table.hardware_type.is_some() && !matches!(kind, AltNameKind::HardwareModule(_)) {
        return Err(fault(
            key("hardware_type"),
            "it goes with type hardware-module",
        ));
    }
    Ok(AltNameRule::Of(kind, alt_name_source(kind, table, &key)?))
}

/// Where the names of a `[[san]]` table come from.
fn alt_name_source(
    kind: AltNameKind,
    table: SanTable,
    key: &impl Fn(&str) -> String,
) -> Result<Source, Fault> {
    match (table.value, table.from_request) {
        (Some(value), None) => {
            refuse_limits(
                key,
                &[table.max_chars, table.max_count],
                table.pattern.as_deref(),
            )?;
            let template = Template::parse(&value).map_err(|p| fault(key("value"), p))?;
            if let Some(fixed) = template.fixed() {
                kind.make(fixed)
                    .map_err(|problem| fault(key("value"), problem))?;
            }
            Ok(Source::Made {
                template,
                in_request: Presence::Optional,
            })
        }
        (None, Some(presence)) if !matches!(kind, AltNameKind::HardwareModule(_)) => {
            let count_max = table.max_count.unwrap_or(limits::SANS_FROM_REQUEST);
            if !(1..=limits::CSR_SANS_MAX).contains(&count_max) {
                let problem = format!("it must be 1 to {}", limits::CSR_SANS_MAX);
                return Err(fault(key("max_count"), problem));
            }
            Ok(Source::Request(RequestRule {
                presence,
                chars_max: table.max_chars.unwrap_or(limits::REQUEST_VALUE_CHARS),
                pattern: pattern(&key("pattern"), table.pattern.as_deref())?,
                count_max,
            }))
        }
        (None, Some(_)) => {
            let problem = "a hardware-module name is never taken from a request";
            Err(fault(key("from_request"), problem))
        }
        _ => {
            let problem = "it needs either value or from_request, and not both";
            Err(fault(key("value"), problem))
        }
    }
}

/// Refuses templates with fields that grants for the profile's purpose lack, and nameless certificates.
fn check_names(profile: &Profile) -> Result<(), Fault> {
    let purpose = profile.purpose;
    let mut names_holder = false;
    let subject = profile.subject.iter().enumerate();
    let subject = subject.map(|(n, rule)| (format!("subject[{n}].value"), &rule.source));
    let alt_names = profile.alt_names.iter().enumerate();
    let alt_names = alt_names.filter_map(|(n, rule)| match rule {
        AltNameRule::Of(_, source) => Some((format!("san[{n}].value"), source)),
        AltNameRule::ServerNames => None,
    });
    for (key, source) in subject.chain(alt_names) {
        let Source::Made { template, .. } = source else {
            continue;
        };
        for field in template.fields() {
            if !purpose.fields().contains(&field) {
                let problem = format!("grants for purpose {purpose} do not say that");
                return Err(fault(key, problem));
            }
            names_holder |= field == purpose.holder();
        }
    }
    let mut requests = profile
        .alt_names
        .iter()
        .enumerate()
        .filter_map(|(n, rule)| match rule {
            AltNameRule::Of(kind, Source::Request(_)) => Some((n, kind)),
            _ => None,
        });
    let mut seen = Vec::new();
    if let Some((n, _)) = requests.find(|(_, kind)| {
        let twice = seen.contains(kind);
        seen.push(*kind);
        twice
    }) {
        let problem = "one rule takes all names of a type from the request: set its max_count";
        return Err(fault(format!("san[{n}].from_request"), problem));
    }
    let server_names = profile
        .alt_names
        .iter()
        .position(|r| matches!(r, AltNameRule::ServerNames));
    match server_names {
        Some(n) if purpose != ProfilePurpose::Server => Err(fault(
            format!("san[{n}].type"),
            format!("grants for purpose {purpose} name no server"),
        )),
        None if !names_holder => Err(fault(
            "subject",
            format!("neither subject nor san say whose certificate it is: purpose {purpose}"),
        )),
        _ => Ok(()),
    }
}

/// Refuses what the purpose forbids.
fn check_purpose(profile: &Profile) -> Result<(), Fault> {
    let usages = &profile.usages;
    let signs_ocsp = usages.extended.contains(&oid::OCSP_SIGNING);
    let key = "usage.extended_key_usage";
    match profile.purpose {
        ProfilePurpose::OcspSigning => {
            // RFC 6960, 4.2.2.2; CA/B and browsers refuse it beside others.
            if usages.extended != [oid::OCSP_SIGNING] {
                return Err(fault(
                    key,
                    "purpose ocsp-signing has OCSPSigning and nothing else",
                ));
            }
            let short = matches!(profile.validity, Validity::For(d)
                if d <= limits::OCSP_SIGNING_VALIDITY_MAX);
            if !short {
                let problem =
                    "purpose ocsp-signing has at most 72h: nobody asks whether it is revoked";
                return Err(fault("validity.for", problem));
            }
        }
        _ if signs_ocsp => {
            return Err(fault(key, "OCSPSigning is for purpose ocsp-signing alone"));
        }
        ProfilePurpose::Line if !usages.extended.contains(&oid::CLIENT_AUTH) => {
            return Err(fault(
                key,
                "purpose line needs clientAuth: lines are TLS clients",
            ));
        }
        ProfilePurpose::Server if !usages.extended.contains(&oid::SERVER_AUTH) => {
            return Err(fault(key, "purpose server needs serverAuth"));
        }
        _ => {}
    }
    if usages.ocsp_nocheck == NoCheck::Present && profile.purpose != ProfilePurpose::OcspSigning {
        return Err(fault(
            "usage.ocsp_nocheck",
            "it is for purpose ocsp-signing alone",
        ));
    }
    Ok(())
}
