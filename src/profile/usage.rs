//! Key kinds, key usages and the extensions that are the same in all certificates of a profile.
//!
//! Owns which usages fit which key (RFC 3279, 5480, 8410) and which extended usages fit which usages (RFC
//! 5280, 4.2.1.12). Encodes once, when the profile is read. Failure is a sentence.

use certstatus::signature::KeyKind;
use der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::KeyUsages;

use super::encode::{self, Criticality};
use super::oid;

/// The key usages that an end entity can have, with their names in RFC 5280 and in profile files.
pub(super) const KEY_USAGE_NAMES: [(KeyUsages, &str); 5] = [
    (KeyUsages::DigitalSignature, "digitalSignature"),
    (KeyUsages::NonRepudiation, "nonRepudiation"),
    (KeyUsages::KeyEncipherment, "keyEncipherment"),
    (KeyUsages::DataEncipherment, "dataEncipherment"),
    (KeyUsages::KeyAgreement, "keyAgreement"),
];

/// The extended key usages that have a name, with it.
pub(super) const EXTENDED_NAMES: [(ObjectIdentifier, &str); 6] = [
    (oid::SERVER_AUTH, "serverAuth"),
    (oid::CLIENT_AUTH, "clientAuth"),
    (oid::CODE_SIGNING, "codeSigning"),
    (oid::EMAIL_PROTECTION, "emailProtection"),
    (oid::TIME_STAMPING, "timeStamping"),
    (oid::OCSP_SIGNING, "OCSPSigning"),
];

/// Key usages by their names, with commas between them.
pub(super) fn names_of(usages: impl IntoIterator<Item = KeyUsages>) -> String {
    let name = |usage| {
        let known = KEY_USAGE_NAMES.iter().find(|(known, _)| *known == usage);
        known.map_or_else(|| format!("{usage:?}"), |(_, name)| (*name).to_owned())
    };
    let names: Vec<String> = usages.into_iter().map(name).collect();
    names.join(", ")
}

/// A family of key kinds, as profile files name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub(super) enum KeyFamily {
    /// NIST P-256.
    #[serde(rename = "P-256")]
    P256,
    /// NIST P-384.
    #[serde(rename = "P-384")]
    P384,
    /// RSA.
    #[serde(rename = "RSA")]
    Rsa,
    /// Ed25519.
    #[serde(rename = "Ed25519")]
    Ed25519,
}

impl KeyFamily {
    /// The family of a kind.
    pub const fn of(kind: KeyKind) -> Self {
        match kind {
            KeyKind::P256 => Self::P256,
            KeyKind::P384 => Self::P384,
            KeyKind::Rsa(_) => Self::Rsa,
            KeyKind::Ed25519 => Self::Ed25519,
        }
    }

    /// The name in profile files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa => "RSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// Whether a key of this family can be used so.
    pub const fn can(self, usage: KeyUsages) -> bool {
        match usage {
            KeyUsages::DigitalSignature
            | KeyUsages::NonRepudiation
            | KeyUsages::KeyCertSign
            | KeyUsages::CRLSign => true,
            // RFC 3279, 2.3.1.
            KeyUsages::KeyEncipherment | KeyUsages::DataEncipherment => matches!(self, Self::Rsa),
            // RFC 5480, 3; not Ed25519: RFC 8410, 5.
            KeyUsages::KeyAgreement | KeyUsages::EncipherOnly | KeyUsages::DecipherOnly => {
                matches!(self, Self::P256 | Self::P384)
            }
        }
    }
}

/// The kinds of keys that a profile certifies.
#[derive(Clone, Debug)]
pub(super) struct KeyRule {
    /// The families.
    pub allowed: Vec<KeyFamily>,
    /// The sizes of RSA keys in bits.
    pub rsa_bits: std::ops::RangeInclusive<u32>,
}

impl KeyRule {
    /// Refuses other kinds.
    pub fn check(&self, kind: KeyKind) -> Result<(), String> {
        let size = match kind {
            KeyKind::Rsa(bits) => self.rsa_bits.contains(&bits),
            _ => true,
        };
        if size && self.allowed.contains(&KeyFamily::of(kind)) {
            return Ok(());
        }
        let names: Vec<String> = self.allowed.iter().map(|f| self.describe(*f)).collect();
        Err(format!(
            "it is {kind}, but the profile takes {} only",
            names.join(", ")
        ))
    }

    /// A family with its sizes.
    fn describe(&self, family: KeyFamily) -> String {
        let (least, most) = (self.rsa_bits.start(), self.rsa_bits.end());
        match family {
            KeyFamily::Rsa => format!("RSA of {least} to {most} bits"),
            other => other.name().to_owned(),
        }
    }
}

/// basicConstraints in an end entity's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BasicConstraintsForm {
    /// Left out: not a CA is the default.
    Absent,
    /// CA:FALSE, not critical.
    NotCritical,
    /// CA:FALSE, critical.
    Critical,
}

/// What is the same in all certificates of a profile (but for the kind of key).
#[derive(Clone, Debug)]
pub(super) struct Usages {
    /// keyUsage of all keys but RSA.
    pub key_usage: Vec<KeyUsages>,
    /// keyUsage of RSA keys.
    pub rsa_key_usage: Vec<KeyUsages>,
    /// Whether keyUsage is critical.
    pub key_usage_critical: Criticality,
    /// extendedKeyUsage; empty leaves the extension out.
    pub extended: Vec<ObjectIdentifier>,
    /// Whether extendedKeyUsage is critical.
    pub extended_critical: Criticality,
    /// basicConstraints.
    pub basic_constraints: BasicConstraintsForm,
    /// certificatePolicies; empty leaves the extension out.
    pub policies: Vec<ObjectIdentifier>,
    /// id-pkix-ocsp-nocheck.
    pub ocsp_nocheck: NoCheck,
    /// All of it encoded, for all keys but RSA and for RSA keys.
    pub encoded: (Vec<u8>, Vec<u8>),
}

/// Whether id-pkix-ocsp-nocheck stands in the certificates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoCheck {
    /// It does: the certificate's own status is not asked for.
    Present,
    /// It does not.
    Absent,
}

impl Usages {
    /// Encodes what does not depend on the request: call it when all else is set.
    pub fn encode(&mut self) {
        self.encoded = (
            self.encode_for(&self.key_usage),
            self.encode_for(&self.rsa_key_usage),
        );
    }

    /// The extensions for keys with these usages.
    fn encode_for(&self, key_usage: &[KeyUsages]) -> Vec<u8> {
        let mut der = encode::key_usage(key_usage, self.key_usage_critical);
        match self.basic_constraints {
            BasicConstraintsForm::Absent => {}
            BasicConstraintsForm::NotCritical => {
                der.extend(encode::not_a_ca(Criticality::NotCritical));
            }
            BasicConstraintsForm::Critical => der.extend(encode::not_a_ca(Criticality::Critical)),
        }
        if !self.extended.is_empty() {
            der.extend(encode::extended_key_usage(
                &self.extended,
                self.extended_critical,
            ));
        }
        if !self.policies.is_empty() {
            der.extend(encode::policies(&self.policies));
        }
        if self.ocsp_nocheck == NoCheck::Present {
            der.extend(encode::ocsp_nocheck());
        }
        der
    }

    /// The extensions for a kind of key.
    pub fn encoded(&self, kind: KeyKind) -> &[u8] {
        match KeyFamily::of(kind) {
            KeyFamily::Rsa => &self.encoded.1,
            _ => &self.encoded.0,
        }
    }

    /// keyUsage for a kind of key.
    pub fn of(&self, kind: KeyKind) -> &[KeyUsages] {
        match KeyFamily::of(kind) {
            KeyFamily::Rsa => &self.rsa_key_usage,
            _ => &self.key_usage,
        }
    }
}

/// Refuses an extended usage that none of the key usages serves (RFC 5280, 4.2.1.12).
pub(super) fn check_extended(
    extended: &[ObjectIdentifier],
    usages: &[KeyUsages],
) -> Result<(), String> {
    use KeyUsages as U;
    for purpose in extended {
        let served_by: &[U] = match *purpose {
            oid::SERVER_AUTH => &[U::DigitalSignature, U::KeyEncipherment, U::KeyAgreement],
            oid::CLIENT_AUTH => &[U::DigitalSignature, U::KeyAgreement],
            oid::CODE_SIGNING => &[U::DigitalSignature],
            oid::EMAIL_PROTECTION => &[
                U::DigitalSignature,
                U::NonRepudiation,
                U::KeyEncipherment,
                U::KeyAgreement,
            ],
            oid::TIME_STAMPING | oid::OCSP_SIGNING => &[U::DigitalSignature, U::NonRepudiation],
            _ => continue,
        };
        if !served_by.iter().any(|usage| usages.contains(usage)) {
            let known = EXTENDED_NAMES.iter().find(|(known, _)| known == purpose);
            return Err(format!(
                "the extended key usage {} needs one of the key usages {} (RFC 5280, 4.2.1.12)",
                known.map_or("", |(_, name)| name),
                names_of(served_by.iter().copied())
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_refused_by_family_and_size() {
        let rule = KeyRule {
            allowed: vec![KeyFamily::P256, KeyFamily::Rsa],
            rsa_bits: 3072..=4096,
        };
        assert_eq!(rule.check(KeyKind::P256), Ok(()));
        assert_eq!(rule.check(KeyKind::Rsa(3072)), Ok(()));
        assert_eq!(
            rule.check(KeyKind::Rsa(2048)).unwrap_err(),
            "it is RSA-2048, but the profile takes P-256, RSA of 3072 to 4096 bits only"
        );
        assert!(rule.check(KeyKind::P384).is_err());
        assert!(rule.check(KeyKind::Ed25519).is_err());
    }

    #[test]
    fn extended_usages_need_their_usages() {
        use KeyUsages as U;
        assert!(check_extended(&[oid::CLIENT_AUTH], &[U::DigitalSignature]).is_ok());
        assert!(check_extended(&[oid::CLIENT_AUTH], &[U::KeyEncipherment]).is_err());
        assert!(check_extended(&[oid::SERVER_AUTH], &[U::KeyEncipherment]).is_ok());
        assert!(check_extended(&[oid::OCSP_SIGNING], &[U::KeyAgreement]).is_err());
    }
}
