//! The rules that a profile is made of: which name, from where, how long.
//!
//! Owns the kinds of subject attributes and alternative names, the templates, and what is taken from a
//! request. Promises that a value that a rule makes has the syntax of its kind. Failure is a sentence
//! that the caller puts the field's name before.

use std::net::IpAddr;

use der::Tag;
use der::asn1::ObjectIdentifier;
use regex::Regex;

use super::syntax;

/// A kind of subject attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub(super) enum Attribute {
    /// commonName.
    #[serde(rename = "CN")]
    CommonName,
    /// serialNumber (of the device, not of the certificate).
    #[serde(rename = "serialNumber")]
    SerialNumber,
    /// organizationName.
    #[serde(rename = "O")]
    Organization,
    /// organizationalUnitName.
    #[serde(rename = "OU")]
    OrganizationalUnit,
    /// localityName.
    #[serde(rename = "L")]
    Locality,
    /// stateOrProvinceName.
    #[serde(rename = "ST")]
    StateOrProvince,
    /// countryName.
    #[serde(rename = "C")]
    Country,
    /// domainComponent.
    #[serde(rename = "DC")]
    DomainComponent,
    /// userId.
    #[serde(rename = "UID")]
    UserId,
    /// dnQualifier.
    #[serde(rename = "dnQualifier")]
    DnQualifier,
    /// title.
    #[serde(rename = "title")]
    Title,
}

impl Attribute {
    /// All kinds.
    pub const ALL: [Self; 11] = [
        Self::CommonName,
        Self::SerialNumber,
        Self::Organization,
        Self::OrganizationalUnit,
        Self::Locality,
        Self::StateOrProvince,
        Self::Country,
        Self::DomainComponent,
        Self::UserId,
        Self::DnQualifier,
        Self::Title,
    ];

    /// The kind with this OID.
    pub fn from_oid(oid: ObjectIdentifier) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.oid() == oid)
    }

    /// The OID (RFC 5280, appendix A.1; RFC 4519 for userId).
    pub const fn oid(self) -> ObjectIdentifier {
        ObjectIdentifier::new_unwrap(match self {
            Self::CommonName => "2.5.4.3",
            Self::SerialNumber => "2.5.4.5",
            Self::Country => "2.5.4.6",
            Self::Locality => "2.5.4.7",
            Self::StateOrProvince => "2.5.4.8",
            Self::Organization => "2.5.4.10",
            Self::OrganizationalUnit => "2.5.4.11",
            Self::Title => "2.5.4.12",
            Self::DnQualifier => "2.5.4.46",
            Self::UserId => "0.9.2342.19200300.100.1.1",
            Self::DomainComponent => "0.9.2342.19200300.100.1.25",
        })
    }

    /// The name in profile files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CommonName => "CN",
            Self::SerialNumber => "serialNumber",
            Self::Organization => "O",
            Self::OrganizationalUnit => "OU",
            Self::Locality => "L",
            Self::StateOrProvince => "ST",
            Self::Country => "C",
            Self::DomainComponent => "DC",
            Self::UserId => "UID",
            Self::DnQualifier => "dnQualifier",
            Self::Title => "title",
        }
    }

    /// The string type that RFC 5280 wants: UTF8String wherever there is a choice.
    pub const fn tag(self) -> Tag {
        match self {
            Self::SerialNumber | Self::Country | Self::DnQualifier => Tag::PrintableString,
            Self::DomainComponent => Tag::Ia5String,
            _ => Tag::Utf8String,
        }
    }

    /// The upper bound in characters (RFC 5280, appendix A.1; RFC 4524, 2.4 for userId; RFC 1034 for DC).
    pub const fn chars_max(self) -> usize {
        match self {
            Self::Country => 2,
            Self::DomainComponent => 63,
            Self::Locality | Self::StateOrProvince => 128,
            Self::UserId => 256,
            _ => 64,
        }
    }

    /// Refuses a value that an attribute of this kind cannot have.
    pub fn check(self, value: &str) -> Result<(), String> {
        let chars = value.chars().count();
        if chars == 0 {
            return Err("it is empty".to_owned());
        }
        if chars > self.chars_max() {
            let max = self.chars_max();
            return Err(format!(
                "it has {chars} characters, at most {max} fit (RFC 5280)"
            ));
        }
        if value.chars().any(char::is_control) {
            return Err("it has a control character".to_owned());
        }
        let problem = match self {
            Self::Country => !value.bytes().all(|c| c.is_ascii_uppercase()) || chars != 2,
            Self::DomainComponent => syntax::dns_label(value).is_err(),
            Self::SerialNumber | Self::DnQualifier => !value.bytes().all(syntax::is_printable),
            _ => false,
        };
        match (problem, self) {
            (false, _) => Ok(()),
            (true, Self::Country) => Err("it is not two capital letters (ISO 3166)".to_owned()),
            (true, Self::DomainComponent) => Err("it is not one label of a DNS name".to_owned()),
            (true, _) => Err(
                "it has a character other than letters, digits, space and '()+,-./:=? \
                 (PrintableString)"
                    .to_owned(),
            ),
        }
    }
}

/// An attribute of the subject.
#[derive(Clone, Debug)]
pub(super) struct SubjectRule {
    /// The kind.
    pub attribute: Attribute,
    /// Where its value comes from.
    pub source: Source,
}

/// Where a value comes from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// Made from what the grant says; the request may, or must, say the same.
    Made {
        /// What is made.
        template: Template,
        /// Whether the request must say the same.
        in_request: Presence,
    },
    /// Taken from the request, if it passes.
    Request(RequestRule),
}

/// Whether something must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Presence {
    /// It must.
    Required,
    /// It may.
    Optional,
}

/// What is taken from a request.
#[derive(Clone, Debug)]
pub(super) struct RequestRule {
    /// Whether the request must have it.
    pub presence: Presence,
    /// The longest value in characters.
    pub chars_max: usize,
    /// What the whole value must match.
    pub pattern: Option<Regex>,
    /// How many values at most (alternative names).
    pub count_max: usize,
}

impl RequestRule {
    /// Refuses a value that is too long or does not match.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let chars = value.chars().count();
        if chars > self.chars_max {
            let max = self.chars_max;
            return Err(format!(
                "it has {chars} characters, the profile takes at most {max}"
            ));
        }
        match &self.pattern {
            Some(pattern) if !pattern.is_match(value) => {
                Err(format!("it does not match the profile's pattern {pattern}"))
            }
            _ => Ok(()),
        }
    }
}

/// Something that the grant says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// `{device_id}`.
    DeviceId,
    /// `{order}`.
    Order,
    /// `{line}`.
    Line,
    /// `{server_name}`: the first of the server's names.
    ServerName,
    /// `{responder}`.
    Responder,
}

impl Field {
    /// All fields with their names in templates.
    pub const ALL: [(Self, &'static str); 5] = [
        (Self::DeviceId, "device_id"),
        (Self::Order, "order"),
        (Self::Line, "line"),
        (Self::ServerName, "server_name"),
        (Self::Responder, "responder"),
    ];
}

/// A text with fields in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

/// A part of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// As it stands.
    Text(String),
    /// What the grant says.
    Field(Field),
}

impl Template {
    /// Reads a text in which `{name}` stands for a field.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, end) = after
                .split_once('}')
                .ok_or_else(|| "a '{' has no '}'".to_owned())?;
            let known = Field::ALL.iter().find(|(_, known)| *known == name);
            let (field, _) = known.ok_or_else(|| {
                let names: Vec<String> =
                    Field::ALL.iter().map(|(_, n)| format!("{{{n}}}")).collect();
                format!("there is no {{{name}}}: write one of {}", names.join(", "))
            })?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Field(*field));
            rest = end;
        }
        if rest.contains('}')
            || parts
                .iter()
                .any(|p| matches!(p, Part::Text(t) if t.contains('}')))
        {
            return Err("a '}' has no '{'".to_owned());
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.is_empty() {
            return Err("it is empty".to_owned());
        }
        Ok(Self(parts))
    }

    /// The fields in it.
    pub fn fields(&self) -> impl Iterator<Item = Field> + '_ {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Field(field) => Some(*field),
        })
    }

    /// The text without fields, where there are none.
    pub fn fixed(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(text)] => Some(text),
            _ => None,
        }
    }

    /// The text, each field replaced by what `value_of` gives; none if it lacks one.
    pub fn fill<'a>(&self, value_of: impl Fn(Field) -> Option<&'a str>) -> Option<String> {
        self.0
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Field(field) => value_of(*field),
            })
            .collect()
    }
}

/// A kind of subject alternative name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AltNameKind {
    /// dNSName.
    Dns,
    /// uniformResourceIdentifier.
    Uri,
    /// rfc822Name.
    Email,
    /// iPAddress.
    Ip,
    /// otherName with id-on-hardwareModuleName (RFC 4108, 5) of this hwType.
    HardwareModule(ObjectIdentifier),
}

impl AltNameKind {
    /// The name in profile files and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dns => "dns",
            Self::Uri => "uri",
            Self::Email => "email",
            Self::Ip => "ip",
            Self::HardwareModule(_) => "hardware-module",
        }
    }

    /// Makes a name of this kind of a text.
    pub fn make(self, text: &str) -> Result<AltName, String> {
        match self {
            Self::Dns => syntax::dns_name(text).map(|()| AltName::Dns(text.to_owned())),
            Self::Uri => syntax::uri(text).map(|()| AltName::Uri(text.to_owned())),
            Self::Email => syntax::email(text).map(|()| AltName::Email(text.to_owned())),
            Self::Ip => text
                .parse()
                .map(AltName::Ip)
                .map_err(|_| "it is not an IP address"),
            Self::HardwareModule(hw_type) if !text.is_empty() => Ok(AltName::HardwareModule {
                hw_type,
                serial: text.as_bytes().to_vec(),
            }),
            Self::HardwareModule(_) => Err("it is empty"),
        }
        .map_err(str::to_owned)
    }
}

/// A subject alternative name whose syntax is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AltName {
    /// dNSName.
    Dns(String),
    /// uniformResourceIdentifier.
    Uri(String),
    /// rfc822Name.
    Email(String),
    /// iPAddress.
    Ip(IpAddr),
    /// otherName with id-on-hardwareModuleName.
    HardwareModule {
        /// hwType.
        hw_type: ObjectIdentifier,
        /// hwSerialNum.
        serial: Vec<u8>,
    },
}

/// Subject alternative names by one rule.
#[derive(Clone, Debug)]
pub(super) enum AltNameRule {
    /// One name, or what the request says.
    Of(AltNameKind, Source),
    /// All names of the server that the grant names, DNS names and IP addresses.
    ServerNames,
}

/// The name that a server's name makes: an address if it is one, a DNS name otherwise.
pub(super) fn server_name(name: &str) -> Result<AltName, String> {
    AltNameKind::Ip
        .make(name)
        .or_else(|_| AltNameKind::Dns.make(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_read_and_filled() {
        let template = Template::parse("urn:{line}:{device_id}.").unwrap();
        let value = |field| match field {
            Field::DeviceId => Some("d1"),
            Field::Line => Some("l1"),
            _ => None,
        };
        assert_eq!(template.fill(value).unwrap(), "urn:l1:d1.");
        assert_eq!(template.fixed(), None);
        assert_eq!(template.fields().count(), 2);
        assert_eq!(template.fill(|_| None), None);
        assert_eq!(Template::parse("ACME").unwrap().fixed(), Some("ACME"));
        for bad in [
            "",
            "{",
            "}",
            "a}b",
            "{}",
            "{serial}",
            "{device_id",
            "a}{line}",
            "{{line}}",
        ] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn attributes_know_their_bounds() {
        use Attribute as A;
        assert!(A::CommonName.check(&"ä".repeat(64)).is_ok());
        assert!(A::CommonName.check(&"a".repeat(65)).is_err());
        assert!(A::CommonName.check("").is_err());
        assert!(A::CommonName.check("a\nb").is_err());
        assert!(A::Country.check("DE").is_ok());
        assert!(A::Country.check("de").is_err());
        assert!(A::Country.check("D").is_err());
        assert!(A::SerialNumber.check("SN-1/2 (3)").is_ok());
        assert!(A::SerialNumber.check("SN_1").is_err());
        assert!(A::DomainComponent.check("example").is_ok());
        assert!(A::DomainComponent.check("example.com").is_err());
        for kind in A::ALL {
            assert_eq!(A::from_oid(kind.oid()), Some(kind));
        }
    }

    #[test]
    fn server_names_are_addresses_or_dns_names() {
        assert_eq!(
            server_name("::1"),
            Ok(AltName::Ip(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])))
        );
        assert_eq!(
            server_name("ca.example"),
            Ok(AltName::Dns("ca.example".to_owned()))
        );
        assert!(server_name("127.0.0.256").is_err());
        assert!(server_name("a b").is_err());
    }
}
