//! The names in final bytes: bounds, string types, syntax (RFC 5280, 4.1.2.6, 4.2.1.6, appendix A.1).

use der::asn1::OctetString;
use der::{Decode, Tagged};
use x509_cert::ext::pkix::name::{GeneralName, OtherName};
use x509_cert::name::Name;

use super::super::encode::Criticality;
use super::super::rule::Attribute;
use super::super::{oid, syntax};
use super::Read;
use crate::csr;

/// hardwareModuleName (RFC 4108, 5).
#[derive(der::Sequence)]
struct HardwareModuleName {
    /// hwType.
    _hw_type: der::asn1::ObjectIdentifier,
    /// hwSerialNum.
    hw_serial: OctetString,
}

/// The subject: known attributes, one in each RDN, within their bounds, in the right string type.
pub(super) fn subject(name: &Name) -> Result<(), String> {
    for rdn in name.iter_rdn() {
        if rdn.len() != 1 {
            return Err("the subject has an RDN with several attributes".to_owned());
        }
        for attribute in rdn.iter() {
            let kind = Attribute::from_oid(attribute.oid)
                .ok_or_else(|| format!("the subject has the attribute {}", attribute.oid))?;
            let value = csr::text(&attribute.value)
                .filter(|_| attribute.value.tag() == kind.tag())
                .ok_or_else(|| format!("the subject's {} is no {}", kind.name(), kind.tag()))?;
            kind.check(value)
                .map_err(|problem| format!("the subject's {}: {problem}", kind.name()))?;
        }
    }
    Ok(())
}

/// subjectAltName: not empty, there and critical if the subject is empty, each name in its syntax.
pub(super) fn alternatives(read: &Read) -> Result<(), String> {
    let subject_empty = read.tbs.subject().is_empty();
    let Some(names) = &read.alt_names else {
        return match subject_empty {
            true => Err("it has neither subject nor subjectAltName (RFC 5280, 4.1.2.6)".to_owned()),
            false => Ok(()),
        };
    };
    if names.value.is_empty() {
        return Err("subjectAltName is empty (RFC 5280, 4.2.1.6)".to_owned());
    }
    let expected = match subject_empty {
        true => Criticality::Critical,
        false => Criticality::NotCritical,
    };
    if names.criticality != expected {
        let problem = "subjectAltName is critical beside a subject, or not critical without one";
        return Err(format!("{problem} (RFC 5280, 4.2.1.6)"));
    }
    for (index, name) in names.value.iter().enumerate() {
        if names.value.iter().take(index).any(|other| other == name) {
            return Err("subjectAltName has the same name twice".to_owned());
        }
        alternative(name).map_err(|problem| format!("subjectAltName: {problem}"))?;
    }
    Ok(())
}

/// One subject alternative name.
fn alternative(name: &GeneralName) -> Result<(), &'static str> {
    match name {
        GeneralName::DnsName(text) => syntax::dns_name(text.as_str()),
        GeneralName::UniformResourceIdentifier(text) => syntax::uri(text.as_str()),
        GeneralName::Rfc822Name(text) => syntax::email(text.as_str()),
        GeneralName::IpAddress(octets) => match octets.as_bytes().len() {
            4 | 16 => Ok(()),
            _ => Err("an IP address has neither 4 nor 16 octets"),
        },
        GeneralName::OtherName(other) => hardware_module(other),
        _ => Err("a name is of a kind that no profile makes"),
    }
}

/// An otherName that must be a hardwareModuleName.
fn hardware_module(other: &OtherName) -> Result<(), &'static str> {
    if other.type_id != oid::HARDWARE_MODULE_NAME {
        return Err("an otherName is no hardwareModuleName");
    }
    let wrong = "a hardwareModuleName is not as RFC 4108, 5 wants it";
    let der = der::Encode::to_der(&other.value).map_err(|_| wrong)?;
    let module = HardwareModuleName::from_der(&der).map_err(|_| wrong)?;
    if module.hw_serial.as_bytes().is_empty() {
        return Err("a hardwareModuleName has no serial number");
    }
    Ok(())
}
