//! What a certificate is worth, and why it is worth nothing any more.
//!
//! Owns the reason codes of RFC 5280 and the three answers of RFC 6960. Never decides: the log does.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::UnixMillis;

/// Why a certificate is revoked: CRLReason (RFC 5280, 5.3.1), by its code. Code 7 is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum RevocationReason {
    /// No reason is told; CRLs leave the extension out.
    Unspecified = 0,
    /// The subject's private key is known to others.
    KeyCompromise = 1,
    /// A CA's private key is known to others.
    CaCompromise = 2,
    /// The subject's name or affiliation changed.
    AffiliationChanged = 3,
    /// Another certificate took its place.
    Superseded = 4,
    /// It is not needed any more.
    CessationOfOperation = 5,
    /// It does not count for now; the one reason that can be taken back.
    CertificateHold = 6,
    /// The hold is lifted: the certificate counts again. Never on a full CRL.
    RemoveFromCrl = 8,
    /// The subject may not any more what the certificate says.
    PrivilegeWithdrawn = 9,
    /// An attribute authority's key is known to others.
    AaCompromise = 10,
}

/// What OCSP answers for a serial (RFC 6960, 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CertStatus {
    /// Issued, and not revoked.
    Good,
    /// Revoked, on hold, or left unresolved.
    Revoked {
        /// Since when, whole seconds.
        at: UnixMillis,
        /// Why; none for an unresolved intent.
        reason: Option<RevocationReason>,
    },
    /// Never issued: no intent, an open one or an abandoned one.
    Unknown,
}

/// A text is not the name of a reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no reason for a revocation: one of {names} is", names = names())]
pub struct NotAReason(pub String);

/// The names of all reasons, for error texts and help.
fn names() -> String {
    RevocationReason::ALL.map(RevocationReason::name).join(", ")
}

impl RevocationReason {
    /// All of them, by code.
    pub const ALL: [Self; 10] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::CaCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
        Self::CertificateHold,
        Self::RemoveFromCrl,
        Self::PrivilegeWithdrawn,
        Self::AaCompromise,
    ];

    /// The RFC 5280 code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The reason with this code; none for 7 and for what is above 10.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.code() == code)
    }

    /// The name in commands, JSON and reports: `key-compromise`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::CaCompromise => "ca-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
            Self::CertificateHold => "certificate-hold",
            Self::RemoveFromCrl => "remove-from-crl",
            Self::PrivilegeWithdrawn => "privilege-withdrawn",
            Self::AaCompromise => "aa-compromise",
        }
    }
}

impl fmt::Display for RevocationReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::str::FromStr for RevocationReason {
    type Err = NotAReason;

    fn from_str(text: &str) -> Result<Self, NotAReason> {
        let named = Self::ALL.into_iter().find(|reason| reason.name() == text);
        named.ok_or_else(|| NotAReason(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_those_of_rfc_5280() {
        let codes: Vec<u8> = RevocationReason::ALL
            .iter()
            .map(|reason| reason.code())
            .collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6, 8, 9, 10]);
        for reason in RevocationReason::ALL {
            assert_eq!(RevocationReason::from_code(reason.code()), Some(reason));
            assert_eq!(reason.name().parse(), Ok(reason));
            let json = serde_json::to_string(&reason).unwrap();
            assert_eq!(json, format!("\"{reason}\""));
        }
        assert_eq!(RevocationReason::from_code(7), None);
        assert_eq!(RevocationReason::from_code(11), None);
        assert!("keyCompromise".parse::<RevocationReason>().is_err());
    }
}
