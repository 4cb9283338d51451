//! Readers: who may fetch what the appliance publishes, and to whom a peer certificate belongs at all.
//!
//! Owns the roles and what each may read. Never trusts a name in a certificate, as everywhere in `ra`.

use std::fmt;

use certstatus::log::entry::Slug;
use certstatus::{SerialNumber, UnixMillis};
use serde::{Deserialize, Serialize};

use super::{PartyCertificate, PartyState};

/// What a reader is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Follows the published log and tells others: an OCSP responder whose key operators approved. Reads `/public/`.
    Responder,
    /// Verifies all of it: reads `/public/`, and the details in `/private/`.
    Auditor,
}

/// A reader: its role and its name, which is its own within the role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reader {
    /// What for.
    pub role: Role,
    /// The name; a responder's is that of its approval.
    pub name: Slug,
}

/// A reader as the registry lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReaderRecord {
    /// Who.
    #[serde(flatten)]
    pub reader: Reader,
    /// Enabled or disabled.
    pub state: PartyState,
    /// Its certificates, newest last.
    pub certificates: Vec<PartyCertificate>,
}

/// Whose a certificate is, of those that the `access` issuer signs for clients.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Party {
    /// A line's.
    Line(Slug),
    /// A reader's.
    Reader(Reader),
}

/// Whom a peer certificate proved, at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proved {
    /// Who.
    pub party: Party,
    /// The certificate's serial.
    pub serial: SerialNumber,
    /// The end of its validity.
    pub not_after: UnixMillis,
}

/// A part of what is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// `public/`: the log's leaves, CRLs, CA and responder certificates.
    Public,
    /// `private/`: the entries' details, with device ids, orders and names.
    Private,
}

impl Area {
    /// Whether readers of a role may read it.
    #[must_use]
    pub const fn is_for(self, role: Role) -> bool {
        match (self, role) {
            (Self::Public, Role::Responder | Role::Auditor) | (Self::Private, Role::Auditor) => {
                true
            }
            (Self::Private, Role::Responder) => false,
        }
    }

    /// Whom it is for, as a refusal says it.
    pub(super) const fn audience(self) -> &'static str {
        match self {
            Self::Public => "only responders and auditors read /public/",
            Self::Private => "only auditors read /private/",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Responder => "responder",
            Self::Auditor => "auditor",
        })
    }
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line(line) => write!(f, "line {line}"),
            Self::Reader(reader) => reader.fmt(f),
        }
    }
}
